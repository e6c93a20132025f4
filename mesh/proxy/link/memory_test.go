package link

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// typical is a request with eight fields, one of which differs each time.
func typical(i int) *Head {
	h := get("/api/orders/17")
	h.Fields = header.List{
		{Name: "User-Agent", Value: "curl/8.5.0"}, {Name: "Accept", Value: "application/json"},
		{Name: "Accept-Encoding", Value: "gzip"}, {Name: "X-Request-Id", Value: strconv.Itoa(1_000_000 + i)},
		{Name: "Traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{Name: "X-Forwarded-For", Value: "10.0.0.1"}, {Name: "X-Forwarded-Proto", Value: "https"},
		{Name: "Authorization", Value: "Bearer abcdefghijklmnopqrstuvwxyz"},
	}
	return h
}

var (
	sixtyHead = &Head{Status: 200, Fields: header.List{
		{Name: "Content-Type", Value: "application/json"}, {Name: "Content-Length", Value: "60"}, {Name: "Server", Value: "orders"},
	}}
	sixtyBytes = make([]byte, 60)
)

// sixty answers with 60 bytes.
func sixty(s *Stream) { _ = s.Respond(sixtyHead, sixtyBytes, true) }

// held is a connection that seems to be idle when its other end has gone.
type held struct {
	net.Conn
	alone   atomic.Bool
	release chan struct{}
}

func (h *held) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if err != nil && h.alone.Load() {
		<-h.release
	}
	return n, err
}

// memory returns the heap and the stacks that are in use.
func memory() (heap, stacks uint64) {
	for range 3 { // what is in pools goes with the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}

// idleCost returns what one end of an idle link takes that was used before: bytes of
// heap without the connection, bytes of stacks, and goroutines.
func idleCost(t testing.TB, client bool) (heap, stacks, goroutines float64) {
	t.Helper()
	const n = 1000
	release := make(chan struct{})
	ours, others := make([]*held, n), make([]net.Conn, n)
	for i := range n {
		a, b := net.Pipe()
		ours[i], others[i] = &held{Conn: a, release: release}, b
	}
	conns := make([]*Conn, n)
	var known sync.WaitGroup
	start := make(chan struct{})
	for range 5 * n { // what the runtime keeps of goroutines for ever is not counted
		known.Go(func() { <-start })
	}
	close(start)
	known.Wait()
	heapBefore, stacksBefore := memory()
	routines := runtime.NumGoroutine()
	for i := range n {
		// The pace of the clock decides how soon the ends are quiet.
		cfg := Config{PingAfter: 200 * time.Millisecond, Handle: sixty}
		var c *Conn
		if client {
			c = Client(ours[i], cfg)
			conns[i] = c
			Server(others[i], cfg)
		} else {
			c = Client(others[i], cfg)
			conns[i] = Server(ours[i], cfg)
		}
		var wg sync.WaitGroup
		for j := range 10 {
			wg.Go(func() {
				if _, _, _, err := exchange(c, typical(j), nil); err != nil {
					t.Errorf("get: %v", err)
				}
			})
		}
		wg.Wait()
	}
	for i := range n {
		eventually(t, "silence", func() bool { return isQuiet(conns[i]) })
		ours[i].alone.Store(true)
		_ = others[i].Close()
		others[i] = nil
	}
	eventually(t, "the others' end", func() bool { return runtime.NumGoroutine() <= routines+n+5 })
	heapAfter, stacksAfter := memory()
	goroutines = float64(runtime.NumGoroutine()-routines) / n
	heap, stacks = float64(heapAfter)-float64(heapBefore), float64(stacksAfter)-float64(stacksBefore)
	close(release)
	for _, c := range conns {
		_ = c.Close()
		<-c.read
	}
	return heap / n, stacks / n, goroutines
}

var bothEnds = []struct {
	name   string
	client bool
}{{"client", true}, {"server", false}}

// TestIdleMemory bounds what an idle end holds. It does not run beside other tests.
func TestIdleMemory(t *testing.T) {
	for _, end := range bothEnds {
		heap, stacks, goroutines := idleCost(t, end.client)
		t.Logf("%s: %.0f bytes of heap, %.0f of stacks, %.3f goroutines", end.name, heap, stacks, goroutines)
		if heap > 6<<10 || goroutines > 1.01 {
			t.Errorf("%s: %.0f bytes of heap and %.3f goroutines", end.name, heap, goroutines)
		}
	}
}

func BenchmarkIdle(b *testing.B) {
	for _, end := range bothEnds {
		b.Run(end.name, func(b *testing.B) {
			for b.Loop() {
				heap, stacks, goroutines := idleCost(b, end.client)
				b.ReportMetric(heap, "B/conn")
				b.ReportMetric(stacks, "stackB/conn")
				b.ReportMetric(goroutines, "goroutines/conn")
			}
		})
	}
}

// roundTrip does one exchange as a proxy would.
func roundTrip(c *Conn, h *Head) error {
	s, err := c.Open(h, nil, true)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Response(); err != nil {
		return err
	}
	for {
		if _, done := s.Complete(); done {
			return nil
		}
		if _, err := s.Next(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// TestRoundTripAllocates holds that a round trip, both ends of it, allocates nothing
// but the values that are in no table. It does not run beside other tests. What a link
// remembers of fields is found by a hash with a seed of its own, so that on one in a
// hundred or fewer three fields keep each other out: the best of some links tells.
func TestRoundTripAllocates(t *testing.T) {
	n := math.Inf(1)
	for range 5 {
		c, _ := links(t, tcpPair, Config{}, Config{Handle: sixty})
		h := typical(0)
		n = min(n, testing.AllocsPerRun(1000, func() {
			if err := roundTrip(c, h); err != nil {
				t.Fatalf("get: %v", err)
			}
		}))
	}
	if n > roundTripAllocs {
		t.Errorf("%v allocations, want %d", n, roundTripAllocs)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, parallel := range []int{1, 32, 128} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			c, _ := links(b, tcpPair, Config{}, Config{Handle: sixty})
			if err := roundTrip(c, typical(0)); err != nil {
				b.Fatalf("get: %v", err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for i := range parallel {
				wg.Go(func() {
					h := typical(i)
					for left.Add(-1) >= 0 {
						if err := roundTrip(c, h); err != nil {
							b.Errorf("get: %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkBody sends bodies of 16 MiB.
func BenchmarkBody(b *testing.B) {
	for _, parallel := range []int{1, 8} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			const size = 16 << 20
			c, _ := links(b, tcpPair, Config{}, Config{Handle: func(s *Stream) {
				if _, err := io.Copy(io.Discard, s); err == nil {
					sixty(s)
				}
			}})
			if err := roundTrip(c, typical(0)); err != nil {
				b.Fatalf("get: %v", err)
			}
			part := make([]byte, 64<<10)
			b.SetBytes(size * int64(parallel))
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						s, err := c.Open(post("/"), nil, false)
						if err != nil {
							b.Errorf("open: %v", err)
							return
						}
						defer s.Close()
						for range size / len(part) {
							if _, err := s.Write(part); err != nil {
								b.Errorf("write: %v", err)
								return
							}
						}
						if err := s.End(nil); err != nil {
							b.Errorf("end: %v", err)
						}
						if _, err := s.Response(); err != nil {
							b.Errorf("response: %v", err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}
