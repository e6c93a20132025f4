package link

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// large is a body of many frames and windows.
var large = pattern(3 << 20)

// exchanges are those of every kind: what the server does, and the client.
var exchanges = []struct {
	name   string
	handle func(*Stream)
	run    func(*testing.T, *Conn)
}{
	{"get", func(s *Stream) {
		if v, _ := s.Request().Fields.Get("X-One"); v != "1" || s.Length() != 0 || s.Request().Path != "/a?b" {
			s.Reset(http2.ErrCodeInternal)
			return
		}
		ok(s, "hello")
	}, func(t *testing.T, c *Conn) {
		h := get("/a?b")
		h.Fields = header.List{{Name: "x-oNe", Value: "1"}}
		got, body, _, err := exchange(c, h, nil)
		if err != nil || got.Status != 200 || string(body) != "hello" {
			t.Errorf("got %v %q %v", got, body, err)
		}
	}},
	{"post", echo, func(t *testing.T, c *Conn) {
		_, body, _, err := exchange(c, post("/"), []byte("small"))
		if err != nil || string(body) != "small" {
			t.Errorf("got %q %v", body, err)
		}
	}},
	{"big body in Open", echo, func(t *testing.T, c *Conn) {
		_, body, _, err := exchange(c, post("/"), large)
		if err != nil {
			t.Errorf("got error %v", err)
		}
		mustEqual(t, "body", body, large)
	}},
	{"big body in Respond", func(s *Stream) {
		_ = s.Respond(&Head{Status: 200}, large, true)
	}, func(t *testing.T, c *Conn) {
		_, body, _, err := exchange(c, get("/"), nil)
		if err != nil {
			t.Errorf("got error %v", err)
		}
		mustEqual(t, "body", body, large)
	}},
	{"big body both ways with trailers", echo, func(t *testing.T, c *Conn) {
		s, err := c.Open(post("/"), large[:100], false)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		sent := make(chan error, 1)
		go func() { sent <- sendAll(s, large[100:], header.List{{Name: "Sum", Value: "7"}}) }()
		_, body, trailers, err := answer(s)
		if err := errors.Join(err, <-sent); err != nil {
			t.Errorf("got error %v", err)
		}
		mustEqual(t, "body", body, large)
		if !slices.Equal(trailers, header.List{{Name: "Sum", Value: "7"}}) {
			t.Errorf("got trailers %v", trailers)
		}
	}},
	{"informational", func(s *Stream) {
		_ = s.Respond(&Head{Status: 100}, nil, false)
		_ = s.Respond(&Head{Status: 103, Fields: header.List{{Name: "Link", Value: "</x>"}}}, nil, false)
		ok(s, "done")
	}, func(t *testing.T, c *Conn) {
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		for _, want := range []int{100, 103, 200, 200} {
			if h, err := s.Response(); err != nil || h.Status != want {
				t.Errorf("got %v %v, want %d", h, err, want)
			}
		}
	}},
	{"head", func(s *Stream) {
		_ = s.Respond(&Head{Status: 200, Fields: header.List{{Name: "Content-Length", Value: "7"}}}, nil, true)
	}, func(t *testing.T, c *Conn) {
		h := get("/")
		h.Method = "HEAD"
		got, body, _, err := exchange(c, h, nil)
		if v, _ := got.Fields.Get("Content-Length"); err != nil || v != "7" || len(body) != 0 {
			t.Errorf("got %v %q %v", got, body, err)
		}
	}},
	{"complete", func(s *Stream) { ok(s, "whole") }, func(t *testing.T, c *Conn) {
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		if _, err := s.Response(); err != nil {
			t.Fatalf("response: %v", err)
		}
		eventually(t, "the whole body", func() bool {
			p, done := s.Complete()
			return done && string(p) == "whole"
		})
	}},
	{"complete but for trailers", func(s *Stream) {
		_ = s.Respond(&Head{Status: 200}, []byte("x"), false)
		_ = s.End(header.List{{Name: "Sum", Value: "7"}})
	}, func(t *testing.T, c *Conn) {
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		eventually(t, "the end", func() bool { return len(s.Trailers()) > 0 })
		if _, done := s.Complete(); done {
			t.Error("trailers would be missed")
		}
		if _, body, trailers, err := answer(s); err != nil || string(body) != "x" || len(trailers) != 1 {
			t.Errorf("got %q %v %v", body, trailers, err)
		}
	}},
	{"reset by the server", func(s *Stream) { s.Reset(http2.ErrCodeRefusedStream) }, func(t *testing.T, c *Conn) {
		_, _, _, err := exchange(c, get("/"), nil)
		var e *StreamError
		if !errors.As(err, &e) || !e.Remote || e.Code != http2.ErrCodeRefusedStream || !e.Replayable() {
			t.Errorf("got error %v", err)
		}
	}},
	{"handler returns nothing", func(*Stream) {}, func(t *testing.T, c *Conn) {
		_, _, _, err := exchange(c, get("/"), nil)
		var e *StreamError
		if !errors.As(err, &e) || e.Code != http2.ErrCodeInternal || e.Replayable() {
			t.Errorf("got error %v", err)
		}
	}},
	{"reset by the client", func(s *Stream) {
		gone := make(chan struct{})
		s.OnAbort(func() { close(gone) })
		_, err := s.Next()
		for errors.Is(err, io.EOF) || err == nil { // a clean end: never let go
			_, err = s.Next()
		}
		<-gone
	}, func(t *testing.T, c *Conn) {
		s, err := c.Open(post("/"), nil, false)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		go s.Reset(http2.ErrCodeCancel)
		if _, err := s.Response(); err == nil {
			t.Error("a response after the reset")
		}
		s.Close()
	}},
}

// TestExchanges does each kind of exchange over each kind of connection.
func TestExchanges(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		for _, test := range exchanges {
			t.Run(tr.name+" "+test.name, func(t *testing.T) {
				t.Parallel()
				c, _ := links(t, tr.pair, Config{}, Config{Handle: test.handle})
				within(t, test.name, func() {
					test.run(t, c)
					if n := c.Streams(); n != 0 {
						t.Errorf("%d streams are open", n)
					}
				})
			})
		}
	}
}

// TestDrainAndClose ends links in each way.
func TestDrainAndClose(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		for _, end := range []struct {
			name string
			f    func(c, s *Conn)
			kept bool // the stream under way gets its answer
		}{
			{"server drains", func(_, s *Conn) { s.Drain() }, true},
			{"client drains", func(c, _ *Conn) { c.Drain() }, true},
			{"both drain", func(c, s *Conn) { c.Drain(); s.Drain() }, true},
			{"server closes", func(_, s *Conn) { _ = s.Close() }, false},
			{"client closes", func(c, _ *Conn) { _ = c.Close() }, false},
		} {
			t.Run(tr.name+" "+end.name, func(t *testing.T) {
				t.Parallel()
				begun, release := make(chan struct{}), make(chan struct{})
				var ended atomic.Int64
				count := func(c *Conn) {
					if c.Err() != nil {
						ended.Add(1)
					}
				}
				c, s := links(t, tr.pair, Config{Ended: count}, Config{Ended: count, Handle: func(s *Stream) {
					close(begun)
					<-release
					ok(s, "late")
				}})
				st, err := c.Open(get("/"), nil, true)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				<-begun
				end.f(c, s)
				eventually(t, "no new streams", func() bool { return !c.Available() })
				if _, err := c.Open(get("/"), nil, true); err == nil {
					t.Error("a stream was opened")
				}
				close(release)
				within(t, "the answer", func() {
					_, body, _, err := answer(st)
					if end.kept != (err == nil && string(body) == "late") {
						t.Errorf("got %q %v", body, err)
					}
				})
				st.Close()
				_ = closed(t, c)
				_ = closed(t, s)
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				eventually(t, "both to be told", func() bool { return ended.Load() == 2 })
			})
		}
	}
}
