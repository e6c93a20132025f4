package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// rawWorkload answers every request without a body on its connections, and
// allocates nothing for one.
func rawWorkload(t testing.TB, reply string) string {
	t.Helper()
	end, answer := []byte("\r\n\r\n"), []byte(reply)
	return accepting(t, func(conn net.Conn) {
		buf := make([]byte, 16<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil || !bytes.Contains(buf[:n], end) {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
}

// chain starts gateway, sidecar and workload and returns a function that makes a
// client: a function that sends one request and reads its response.
func chain(t testing.TB, request, reply string, options ...option) (client func() func()) {
	t.Helper()
	w := newWorld(t)
	w.sidecar("orders", "n1", rawWorkload(t, reply), nil)
	w.route("orders", nil)
	en := w.gatewayWith(overH1, proxy.EdgeLimits(), 0, options...)
	w.publish()
	return func() func() {
		conn, err := net.Dial("tcp", en.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		buf, tail, asked := make([]byte, 64<<10), []byte(reply[len(reply)-8:]), []byte(request)
		return func() {
			if _, err := conn.Write(asked); err != nil {
				t.Error(err)
				return
			}
			for n := 0; !bytes.HasSuffix(buf[:n], tail); {
				m, err := conn.Read(buf[n:])
				if err != nil {
					t.Error(err)
					return
				}
				n += m
			}
		}
	}
}

// What the tests and benchmarks here send and get.
const (
	chainReply = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nhello from the order"
	chainGet   = "GET /orders/7?a=b HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"
	chainPost  = "POST /orders HTTP/1.1\r\nHost: shop.test\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhello\r\n\r\n"
)

// ways are how the two proxies of a chain speak to each other, and what that
// allocates.
func ways() []way {
	return []way{{"pooled", []option{pooled}, tlsAllocs}, {"link", []option{linked}, linkAllocs}, {"default", []option{either}, linkAllocs}}
}

type way struct {
	name    string
	options []option
	most    float64
}

// The whole way from a client over gateway, mTLS and sidecar to a workload, in
// this process: what is counted is everybody's. crypto/tls makes an allocation
// for each record that it reads, one a request and one a response; there is no
// way around it. Over a link, HPACK's decoder makes the strings of fields that the
// link has not seen often. The engine makes none.
func TestForwardingAllocatesNothing(t *testing.T) {
	for _, way := range ways() {
		for method, request := range map[string]string{"GET": chainGet, "POST": chainPost} {
			t.Run(way.name+"/"+method, func(t *testing.T) {
				turn := chain(t, request, chainReply, way.options...)()
				for range 200 {
					turn()
				}
				n := testing.AllocsPerRun(2000, turn)
				t.Logf("%v allocations per request over two proxies", n)
				if n > way.most {
					t.Errorf("%v allocations, want at most %v", n, way.most)
				}
			})
		}
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkChain measures the same way with several clients at a time, everything
// in this process: clients and workload take their part of it.
func BenchmarkChain(b *testing.B) {
	for _, way := range ways() {
		for _, clients := range []int{1, 8, 32, 128} {
			b.Run(fmt.Sprintf("%s/clients=%d", way.name, clients), func(b *testing.B) {
				client := chain(b, chainGet, chainReply, way.options...)
				turns := make(chan struct{}, clients)
				var wg sync.WaitGroup
				for range clients {
					turn := client()
					wg.Go(func() {
						for range turns {
							turn()
						}
					})
				}
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					turns <- struct{}{}
				}
				close(turns)
				wg.Wait()
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1000, "cpu-us/op")
			})
		}
	}
}
