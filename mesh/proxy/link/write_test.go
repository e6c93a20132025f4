package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// gate is a connection whose writes wait until it is open. It notes the largest.
type gate struct {
	net.Conn
	shut    chan struct{} // closed: open
	largest atomic.Int64
	writes  atomic.Int64
	flushes atomic.Int64
}

func (g *gate) Write(b []byte) (int, error) {
	g.largest.Store(max(g.largest.Load(), int64(len(b))))
	g.writes.Add(1)
	<-g.shut
	return g.Conn.Write(b)
}

func (g *gate) Flush() error {
	g.flushes.Add(1)
	return nil
}

// TestFairness sends bodies without end on one link, and has small requests, too
// large to go with their head, come through beside them.
func TestFairness(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			c, _ := links(t, tr.pair, Config{}, Config{StreamWindow: 8 << 20, Handle: func(s *Stream) {
				n, err := io.Copy(io.Discard, s)
				if err == nil {
					ok(s, fmt.Sprint(n))
				}
			}})
			if _, _, _, err := exchange(c, get("/"), nil); err != nil { // SETTINGS have come
				t.Fatalf("get: %v", err)
			}
			var stop atomic.Bool
			var sent atomic.Int64
			var wg sync.WaitGroup
			for range 2 {
				s, err := c.Open(post("/"), nil, false)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				wg.Go(func() {
					defer s.Close()
					for p := make([]byte, 4<<20); !stop.Load(); {
						n, err := s.Write(p)
						if err != nil {
							t.Errorf("write: %v", err)
							return
						}
						sent.Add(int64(n))
					}
				})
			}
			body := pattern(40 << 10)
			within(t, "small requests", func() {
				for range 10 {
					_, got, _, err := exchange(c, post("/"), body)
					if err != nil || string(got) != "40960" {
						t.Errorf("got %q %v", got, err)
					}
				}
			})
			stop.Store(true)
			within(t, "large requests", wg.Wait)
		})
	}
}

// TestTurns looks at the order and the size of DATA that waits together.
func TestTurns(t *testing.T) {
	t.Parallel()
	const streams, body = 6, 48 << 10
	a, b := tcpPair(t)
	g := &gate{Conn: b, shut: make(chan struct{})}
	c := Client(g, Config{})
	p := newRaw(t, a)
	_ = p.WriteSettings()
	_ = p.WriteWindowUpdate(0, 1<<20)
	p.flush()
	t.Cleanup(func() { p.close(c) })
	eventually(t, "credit", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.window > 1<<20
	})
	for range streams {
		s, err := c.Open(post("/"), pattern(body), true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(s.Close)
	}
	close(g.shut)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(a, preface); err != nil {
		t.Fatalf("read: %v", err)
	}
	p.listen()
	p.await(fmt.Sprintf("DATA %d 16384 END", 2*streams-1))
	turn := 0
	for _, line := range p.drainLines() {
		if strings.HasPrefix(line, "DATA") {
			if want := fmt.Sprintf("DATA %d 16384", 2*(turn%streams)+1); !strings.HasPrefix(line, want) {
				t.Fatalf("turn %d: got %s, want %s", turn, line, want)
			}
			turn++
		}
	}
	if n := g.largest.Load(); n > batchLimit+maxFrameBytes+frameHeaderBytes {
		t.Errorf("a batch of %d bytes", n)
	}
	if w, f := g.writes.Load(), g.flushes.Load(); w != f {
		t.Errorf("%d writes, %d flushes", w, f)
	}
}

// TestQueueBound has many send while the connection takes nothing.
func TestQueueBound(t *testing.T) {
	t.Parallel()
	a, b := tcpPair(t)
	g := &gate{Conn: b, shut: make(chan struct{})}
	c := Client(g, Config{})
	go func() { _, _ = io.Copy(io.Discard, a) }()
	t.Cleanup(func() {
		_ = a.Close()
		_ = c.Close()
		<-c.read
	})
	c.mu.Lock()
	c.peerStreams = 10_000
	c.mu.Unlock()
	h := get("/")
	h.Fields = header.List{{Name: "X-Large", Value: strings.Repeat("x", 8000)}}
	var wg sync.WaitGroup
	var opened atomic.Int64
	for range 200 {
		wg.Go(func() {
			s, err := c.Open(h, nil, true)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			opened.Add(1)
			s.Reset(http2.ErrCodeCancel)
			s.Close()
		})
	}
	queued := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.queued()
	}
	eventually(t, "a full queue", func() bool { return queued() > maxQueued })
	if n := queued(); n > maxQueued+10_000 {
		t.Errorf("%d bytes are queued", n)
	}
	if n := opened.Load(); n > 50 {
		t.Errorf("%d streams are open", n)
	}
	close(g.shut)
	within(t, "the others", wg.Wait)
}

// TestDeafFlood has peers provoke answers that they never read.
func TestDeafFlood(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		frame func(p *raw, id uint32)
	}{
		{"PING", func(p *raw, _ uint32) { _ = p.WritePing(false, [8]byte{}) }},
		{"SETTINGS", func(p *raw, _ uint32) { _ = p.WriteSettings() }},
		{"refused streams", func(p *raw, id uint32) { p.request(id, true, "GET", "/stay") }},
		{"malformed requests", func(p *raw, id uint32) { p.request(id, true, "GET", "no path") }},
		{"large requests", func(p *raw, id uint32) {
			p.request(id, true, "GET", "/", strings.Fields(strings.Repeat("x y ", 21))...)
		}},
		{"streams that are reset here", func(p *raw, id uint32) { p.request(id, true, "GET", "/reset") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				stop := make(chan struct{})
				cfg := hostileConfig(func(s *Stream) {
					if s.Request().Path == "/stay" {
						<-stop
					}
					s.Reset(http2.ErrCodeEnhanceYourCalm)
				})
				s := Server(b, cfg)
				p := newRaw(t, a)
				p.out.WriteString(http2.ClientPreface)
				_ = p.WriteSettings()
				p.flush()
				most, start := 0, time.Now()
				for id := uint32(1); id < 40_000; id += 2 {
					test.frame(p, id)
					p.flush()
					synctest.Wait()
					s.mu.Lock()
					most = max(most, len(s.control)+s.queued())
					ended := s.err != nil
					s.mu.Unlock()
					if ended {
						break
					}
				}
				if time.Since(start) > 0 {
					t.Errorf("only the clock ended it, after %v", time.Since(start))
				}
				var e *ConnError
				if err := s.Err(); !errors.As(err, &e) || e.Code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("the link ended with %v", err)
				}
				if most > maxControl+4096 {
					t.Errorf("%d bytes of answers were kept", most)
				}
				close(stop)
				_ = a.Close()
				<-s.read
			})
		})
	}
}

// TestAnsweredFlood has peers that take the answers they provoke, without end.
func TestAnsweredFlood(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string]func(p *raw){
		"PING":     func(p *raw) { _ = p.WritePing(false, [8]byte{}) },
		"SETTINGS": func(p *raw) { _ = p.WriteSettings() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s := Server(b, Config{Handle: sixty})
				go func() { _, _ = io.Copy(io.Discard, a) }()
				p := newRaw(t, a)
				p.out.WriteString(http2.ClientPreface)
				_ = p.WriteSettings()
				for range 250 { // 25,000 at the same time
					for range 100 {
						frame(p)
					}
					p.flush()
					synctest.Wait()
				}
				var e *ConnError
				if err := closed(t, s); !errors.As(err, &e) || e.Code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("the link ended with %v", err)
				}
				_ = a.Close()
				<-s.read
			})
		})
	}
}

// TestReaderNeverWrites has a peer that reads nothing still be heard.
func TestReaderNeverWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		aborted := make(chan struct{})
		s := Server(b, Config{Handle: func(s *Stream) {
			s.OnAbort(func() { close(aborted) })
			<-aborted
		}})
		p := newRaw(t, a)
		p.out.WriteString(http2.ClientPreface)
		_ = p.WriteSettings()
		p.request(1, true, "GET", "/")
		go p.flush()
		for range 2 { // what greets, and SETTINGS ACK
			if _, err := a.Read(make([]byte, 1<<10)); err != nil {
				t.Fatalf("read: %v", err)
			}
		}
		synctest.Wait()
		start := time.Now()
		_ = p.WritePing(false, [8]byte{}) // the answer is not read
		p.flush()
		synctest.Wait()
		_ = p.WriteRSTStream(1, http2.ErrCodeCancel)
		p.flush()
		<-aborted
		if d := time.Since(start); d > 0 {
			t.Errorf("heard after %v", d)
		}
		_ = a.Close()
		_ = s.Close()
		<-s.read
	})
}

// TestCloseWhileWriting closes links in the middle of everything.
func TestCloseWhileWriting(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			for i := range 12 {
				c, s := links(t, tr.pair, Config{}, Config{Handle: echo})
				var wg sync.WaitGroup
				for j := range 8 {
					wg.Go(func() {
						for {
							_, _, _, err := exchange(c, post("/"), pattern(j*10_000))
							if err != nil {
								return
							}
						}
					})
				}
				time.AfterFunc(time.Duration(i)*time.Millisecond, func() {
					switch i % 4 {
					case 0:
						_ = c.Close()
					case 1:
						_ = s.Close()
					case 2:
						s.Drain()
					case 3:
						c.Drain()
					}
				})
				within(t, "the end", wg.Wait)
				within(t, "the end of both", func() { <-c.Done(); <-s.Done() })
			}
		})
	}
}
