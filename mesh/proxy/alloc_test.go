package proxy_test

import (
	"bytes"
	"net"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// rawWorkload answers every request without a body on its connections, and
// allocates nothing for one.
func rawWorkload(t *testing.T, reply string) string {
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

// chain starts gateway, sidecar and workload and returns a function that sends
// one request and reads its response.
func chain(t *testing.T, request, reply string, options ...option) func() {
	t.Helper()
	w := newWorld(t)
	w.sidecar("orders", "n1", rawWorkload(t, reply), nil)
	w.route("orders", nil)
	en := w.gatewayWith(overH1, proxy.EdgeLimits(), 0, options...)
	w.publish()
	conn, err := net.Dial("tcp", en.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	buf, tail, asked := make([]byte, 64<<10), []byte(reply[len(reply)-8:]), []byte(request)
	return func() {
		if _, err := conn.Write(asked); err != nil {
			t.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], tail); {
			m, err := conn.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
}

// The whole way from a client over gateway, mTLS and sidecar to a workload, in
// this process: what is counted is everybody's. crypto/tls makes an allocation
// for each record that it reads, one a request and one a response; there is no
// way around it. Over a link, HPACK's decoder makes the strings of fields that the
// link has not seen often. The engine makes none.
func TestForwardingAllocatesNothing(t *testing.T) {
	const reply = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\nhello from the orders"
	requests := map[string]string{
		"GET":  "GET /orders/7?a=b HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
		"POST": "POST /orders HTTP/1.1\r\nHost: shop.test\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhello\r\n\r\n",
	}
	for _, way := range []struct {
		name    string
		options []option
		most    float64
	}{
		{"pooled HTTP/1.1", []option{pooled}, tlsAllocs},
		{"link", nil, linkAllocs},
	} {
		for method, request := range requests {
			t.Run(way.name+"/"+method, func(t *testing.T) {
				turn := chain(t, request, reply[:len(reply)-1], way.options...)
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
