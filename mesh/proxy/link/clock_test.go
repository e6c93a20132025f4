package link

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// deaf is a connection whose peer reads everything and says nothing more after
// what it said first.
func deaf(t *testing.T, first []byte) net.Conn {
	t.Helper()
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	if len(first) > 0 {
		go func() { _, _ = b.Write(first) }()
	}
	t.Cleanup(func() { _ = b.Close() })
	return a
}

// TestNoSettings ends links whose peer does not begin.
func TestNoSettings(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(net.Conn, Config) *Conn{"client": Client, "server": Server} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := begin(deaf(t, nil), Config{})
				start := time.Now()
				var e *ConnError
				if err := closed(t, c); !errors.As(err, &e) || e.Code != http2.ErrCodeSettingsTimeout {
					t.Errorf("ended with %v", err)
				}
				if d := time.Since(start); d < 10*time.Second || d > 12*time.Second {
					t.Errorf("ended after %v", d)
				}
			})
		})
	}
}

// TestPing probes a silent peer while streams are open, and only then.
func TestPing(t *testing.T) {
	t.Parallel()
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := Client(deaf(t, appendSettings(nil)), Config{})
			start := time.Now()
			s, err := c.Open(get("/"), nil, true)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			if _, err = s.Response(); !errors.Is(err, errPingTimeout) {
				t.Errorf("the stream got %v", err)
			}
			s.Close()
			if d := time.Since(start); d < 15*time.Second || d > 18*time.Second {
				t.Errorf("ended after %v", d)
			}
		})
	})
	t.Run("no answer, long after the last stream", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := Client(deaf(t, appendSettings(nil)), Config{IdleTimeout: time.Hour})
			time.Sleep(10 * time.Minute)
			start := time.Now()
			s, err := c.Open(get("/"), nil, true)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			if _, err = s.Response(); !errors.Is(err, errPingTimeout) {
				t.Errorf("the stream got %v", err)
			}
			s.Close()
			if d := time.Since(start); d > 18*time.Second {
				t.Errorf("ended after %v", d)
			}
		})
	})
	t.Run("answered", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, _ := links(t, pipePair, Config{}, Config{Handle: func(s *Stream) {
				time.Sleep(time.Hour)
				ok(s, "late")
			}})
			if _, body, _, err := exchange(c, get("/"), nil); err != nil || string(body) != "late" {
				t.Errorf("got %q %v", body, err)
			}
		})
	})
	t.Run("no streams, no frames, no timers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, s := links(t, pipePair, Config{}, Config{Handle: func(s *Stream) { ok(s, "") }})
			for range 3 {
				if _, _, _, err := exchange(c, get("/"), nil); err != nil {
					t.Fatalf("get: %v", err)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				for _, end := range []*Conn{c, s} {
					if !isQuiet(end) {
						t.Error("the clock still runs, or the buffer is held")
					}
					if _, _, workers := end.streams.activity(); workers != 0 {
						t.Errorf("%d workers wait", workers)
					}
				}
				reads := s.clock.reads.Load() + c.clock.reads.Load()
				time.Sleep(24 * time.Hour)
				if n := s.clock.reads.Load() + c.clock.reads.Load(); n != reads {
					t.Error("frames on an idle link")
				}
			}
		})
	})
}

// TestStalledFrame ends a link without streams whose peer holds memory by a frame
// that it does not complete.
func TestStalledFrame(t *testing.T) {
	t.Parallel()
	for name, part := range map[string][]byte{
		"frame":        {0, 0, 8},
		"header block": {0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				first := append([]byte(http2.ClientPreface), appendSettings(nil)...)
				s := Server(deaf(t, append(first, part...)), Config{})
				start := time.Now()
				if err := closed(t, s); !errors.Is(err, errStalled) {
					t.Errorf("ended with %v", err)
				}
				if d := time.Since(start); d > 15*time.Second {
					t.Errorf("ended after %v", d)
				}
			})
		})
	}
}

// TestIdleTimeout ends links without streams, and no others.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	handle := func(s *Stream) { // in a bubble
		<-time.After(5 * time.Minute)
		ok(s, "late")
	}
	for name, cfg := range map[string][2]Config{
		"client":         {{IdleTimeout: time.Minute}, {Handle: handle}},
		"server":         {{}, {Handle: handle, IdleTimeout: time.Minute}},
		"reverse client": {{IdleTimeout: time.Minute, Reverse: true, Handle: handle}, {Handle: handle}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, s := links(t, pipePair, cfg[0], cfg[1])
				if _, body, _, err := exchange(c, get("/"), nil); err != nil || string(body) != "late" {
					t.Errorf("got %q %v", body, err)
				}
				start := time.Now()
				<-c.Done()
				<-s.Done()
				// The stream may have ended up to a tick after the last look.
				if d := time.Since(start); d < 59*time.Second || d > 65*time.Second {
					t.Errorf("ended after %v", d)
				}
				for _, end := range []*Conn{c, s} {
					var e *ConnError
					if err := end.Err(); !errors.Is(err, ErrClosed) && (!errors.As(err, &e) || !e.Remote || e.Code != http2.ErrCodeNo) {
						t.Errorf("ended with %v", err)
					}
				}
			})
		})
	}
}

// TestWriteTimeout ends a link whose peer does not read.
func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Conn){
		"streams": func(*Conn) {},
		"Drain":   func(c *Conn) { c.Drain() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer func() { _ = b.Close() }()
				c := Client(a, Config{})
				if _, err := b.Write(appendSettings(nil)); err != nil {
					t.Fatalf("write: %v", err)
				}
				s, err := c.Open(post("/"), nil, false)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				start := time.Now()
				if name == "Drain" {
					s.Close()
				}
				end(c)
				if err := closed(t, c); !errors.Is(err, errWriteTimeout) && name == "streams" {
					t.Errorf("ended with %v", err)
				}
				if name == "streams" {
					if _, err := s.Response(); err == nil {
						t.Error("the stream lives")
					}
					s.Close()
				}
				if d := time.Since(start); d > 12*time.Second {
					t.Errorf("ended after %v", d)
				}
			})
		})
	}
}

// patient is a connection whose reader may wait without a buffer.
type patient struct {
	net.Conn
	waits chan struct{} // a token for each Wait that has ended
	more  chan struct{} // a token for each that may end
}

func (p *patient) Wait() error {
	<-p.more
	p.waits <- struct{}{}
	return nil
}

// TestWait has a quiet link wait before it reads, and not otherwise.
func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		p := &patient{Conn: b, waits: make(chan struct{}, 100), more: make(chan struct{}, 100)}
		c, s := Client(a, Config{}), Server(p, Config{Handle: sixty})
		for range 2 {
			p.more <- struct{}{}
			for range 10 {
				if err := roundTrip(c, typical(0)); err != nil {
					t.Fatalf("get: %v", err)
				}
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if n := len(p.waits); n != 1 {
				t.Errorf("waited %d times", n)
			}
			<-p.waits
		}
		_ = c.Close()
		close(p.more)
		_ = s.Close()
		<-c.read
		<-s.read
	})
}

// TestSilentDrain is a server that drains while the client does not answer PING.
func TestSilentDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := append([]byte(http2.ClientPreface), appendSettings(nil)...)
		s := Server(deaf(t, first), Config{})
		synctest.Wait()
		start := time.Now()
		s.Drain()
		_ = closed(t, s)
		if d := time.Since(start); d > 13*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}
