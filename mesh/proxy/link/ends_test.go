package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestReplayable is RFC 9113 section 8.7.
func TestReplayable(t *testing.T) {
	t.Parallel()
	p, c := rawServer(t, Config{})
	p.flush()
	var streams []*Stream
	for range 5 {
		s, err := c.Open(post("/"), nil, false)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(s.Close)
		streams = append(streams, s)
	}
	p.await("HEADERS 9")
	_ = p.WriteRSTStream(1, http2.ErrCodeRefusedStream)
	_ = p.WriteRSTStream(3, http2.ErrCodeCancel)
	_ = p.WriteGoAway(7, http2.ErrCodeNo, nil)
	p.flush()
	for i, want := range []struct{ replayable, local bool }{{true, false}, {false, false}, {false, true}, {}, {true, false}} {
		if i == 3 {
			continue // goes on
		}
		if want.local {
			streams[i].Reset(http2.ErrCodeRefusedStream)
		}
		_, err := streams[i].Response()
		var e *StreamError
		if !errors.As(err, &e) || e.Replayable() != want.replayable {
			t.Errorf("stream %d: %v", 2*i+1, err)
		}
	}
	if _, err := c.Open(get("/"), nil, true); !errors.Is(err, ErrUnavailable) {
		t.Errorf("open after GOAWAY: %v", err)
	}
	p.headers(7, true, ":status", "204")
	p.flush()
	if h, err := streams[3].Response(); err != nil || h.Status != 204 {
		t.Errorf("the stream that goes on got %v %v", h, err)
	}
}

// TestUnavailable has every reason why no stream is opened.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	t.Run("limit of the peer", func(t *testing.T) {
		t.Parallel()
		p, c := rawServer(t, Config{})
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		p.flush()
		p.await("SETTINGS ACK")
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		if _, err := c.Open(get("/"), nil, true); !errors.Is(err, ErrUnavailable) || c.Available() {
			t.Errorf("second open: %v", err)
		}
		s.Close()
		if s, err = c.Open(get("/"), nil, true); err != nil {
			t.Fatalf("open after close: %v", err)
		}
		s.Close()
	})
	t.Run("ids used up", func(t *testing.T) {
		t.Parallel()
		_, c := rawServer(t, Config{})
		c.mu.Lock()
		c.nextID = maxWindow
		c.mu.Unlock()
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open the last: %v", err)
		}
		defer s.Close()
		if _, err := c.Open(get("/"), nil, true); !errors.Is(err, ErrUnavailable) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		_, c := rawServer(t, Config{})
		_ = c.Close()
		if _, err := c.Open(get("/"), nil, true); !errors.Is(err, ErrClosed) {
			t.Errorf("open: %v", err)
		}
	})
}

// TestReverse uses a link in both directions at once.
func TestReverse(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			name := func(n string) func(*Stream) {
				return func(s *Stream) { ok(s, n+s.Request().Path) }
			}
			c, s := links(t, tr.pair, Config{Reverse: true, Handle: name("client")}, Config{Handle: name("server")})
			eventually(t, "SETTINGS", s.Available)
			var wg sync.WaitGroup
			for _, end := range []struct {
				c    *Conn
				peer string
			}{{c, "server"}, {s, "client"}} {
				for range 20 {
					wg.Go(func() {
						for i := range 20 {
							path := fmt.Sprintf("/%d", i)
							_, body, _, err := exchange(end.c, get(path), nil)
							if err != nil || string(body) != end.peer+path {
								t.Errorf("got %q %v", body, err)
							}
						}
					})
				}
			}
			wg.Wait()
			s.Drain()
			_ = closed(t, c)
			_ = closed(t, s)
		})
	}
	c, s := links(t, tcpPair, Config{}, Config{Handle: func(s *Stream) { ok(s, "") }})
	if _, _, _, err := exchange(c, get("/"), nil); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Open(get("/"), nil, true); !errors.Is(err, ErrUnavailable) {
		t.Errorf("open without the setting: %v", err)
	}
}

// TestDrainAnnounces is RFC 9113 section 6.8: streams that were on their way when
// the server said GOAWAY first are still taken, those after the second are not.
func TestDrainAnnounces(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p, s := rawClient(t, Config{Handle: func(s *Stream) {
		<-release
		ok(s, "x")
	}})
	p.request(1, true, "GET", "/")
	p.sync()
	s.Drain()
	p.await("GOAWAY 2147483647 NO_ERROR")
	p.await("PING hr-drain")
	p.request(3, true, "GET", "/")
	_ = p.WritePing(true, [8]byte([]byte("hr-drain")))
	p.flush()
	p.await("GOAWAY 3 NO_ERROR")
	p.request(5, true, "GET", "/")
	p.sync()
	close(release)
	p.await("DATA 1 1 END")
	p.await("DATA 3 1 END")
	p.await("END")
	if p.has("HEADERS 5") || p.has("RST 5") {
		t.Error("a stream above the last one was answered")
	}
	if err := closed(t, s); !errors.Is(err, ErrClosed) {
		t.Errorf("the link ended with %v", err)
	}
}

// TestFirstBytes is about peers that do not begin as they must.
func TestFirstBytes(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{
		"other protocol":     "GET / HTTP/1.1\r\n\r\n",
		"preface cut":        http2.ClientPreface[:10] + strings.Repeat("x", 30),
		"no SETTINGS":        http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"SETTINGS ACK first": http2.ClientPreface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := tcpPair(t)
			s := Server(b, Config{})
			p := newRaw(t, a)
			p.listen()
			t.Cleanup(func() { p.close(s) })
			for _, c := range []byte(begin) { // in the smallest pieces
				p.out.WriteByte(c)
				p.flush()
			}
			p.await("GOAWAY 0 PROTOCOL_ERROR")
			var e *ConnError
			if err := closed(t, s); !errors.As(err, &e) || e.Code != http2.ErrCodeProtocol {
				t.Errorf("the link ended with %v", err)
			}
		})
	}
}

// TestFramesInPieces sends every frame byte by byte.
func TestFramesInPieces(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: echo})
	p.request(1, false, "POST", "/")
	_ = p.WriteData(1, false, []byte("abc"))
	p.headers(1, true, "sum", "7")
	all := p.out.Bytes()
	for i := range all {
		if _, err := p.conn.Write(all[i : i+1]); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	p.await("DATA 1 3")
	p.await("HEADERS 1 sum=7 END")
}

// TestInterrupt has Reset end whatever waits on a stream.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		wait func(*Stream) error
	}{
		{"StopReading", func(s *Stream) error {
			s.StopReading()
			if _, err := s.Response(); !errors.Is(err, errStopped) {
				return err
			}
			if _, err := s.Write([]byte("still sends")); err != nil {
				return err
			}
			_, err := s.Write(make([]byte, 1<<20))
			return err
		}},
		{"Response", func(s *Stream) error {
			_, err := s.Response()
			return err
		}},
		{"Read", func(s *Stream) error {
			_, err := s.Read(make([]byte, 1))
			return err
		}},
		{"Write", func(s *Stream) error {
			_, err := s.Write(make([]byte, 1<<20))
			return err
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, c := rawServer(t, Config{})
			p.flush()
			s, err := c.Open(post("/"), nil, false)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			defer s.Close()
			time.AfterFunc(20*time.Millisecond, func() { s.Reset(http2.ErrCodeCancel) })
			within(t, test.name, func() { err = test.wait(s) })
			var e *StreamError
			if !errors.As(err, &e) || e.Code != http2.ErrCodeCancel || e.Remote {
				t.Errorf("got %v", err)
			}
			p.await("RST 1 CANCEL")
		})
	}
}

// TestPrefaceComesFirst has control frames be due before anything was sent.
func TestPrefaceComesFirst(t *testing.T) {
	t.Parallel()
	for range 50 {
		a, b := net.Pipe()
		c := Client(b, Config{})
		c.mu.Lock()
		c.sendPing(alivePing)
		c.mu.Unlock()
		got := make([]byte, len(http2.ClientPreface)+frameHeaderBytes)
		if _, err := io.ReadFull(a, got); err != nil {
			t.Fatalf("read: %v", err)
		}
		if !strings.HasPrefix(string(got), http2.ClientPreface+"\x00\x00\x18\x04") {
			t.Fatalf("the link begins with %q", got)
		}
		_ = a.Close()
		_ = c.Close()
		<-c.read
	}
}
