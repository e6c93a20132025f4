package link

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// script is a connection that gives what a peer says, takes everything, and then is
// at its end.
type script struct {
	net.Conn // nil
	in       *bytes.Reader
	chunk    int
}

func (s *script) Read(b []byte) (int, error)       { return s.in.Read(b[:min(len(b), s.chunk)]) }
func (s *script) Write(b []byte) (int, error)      { return len(b), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// consume takes all of a message.
func consume(s *Stream) {
	_, _ = io.Copy(io.Discard, s)
	_ = s.Trailers()
	_, _ = s.Complete()
}

// seeds are the frames of the tables of tests, without what waits for answers.
func seeds(f *testing.F, add func(frames []byte)) {
	gather := func(send func(p *raw)) {
		p := newRaw(f, nil)
		send(p)
		if p.out.Len() < 4<<10 {
			add(p.out.Bytes())
		}
	}
	for _, path := range []string{"/", "/read"} {
		gather(func(p *raw) {
			p.request(1, false, "POST", path, "cookie", "a", "cookie", "b", "content-length", "3")
			_ = p.WriteData(1, false, []byte("abc"))
			p.headers(1, true, "sum", "1")
			p.request(3, true, "GET", path)
			_ = p.WriteRSTStream(1, http2.ErrCodeCancel)
			_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1})
			_ = p.WriteWindowUpdate(3, 10)
			_ = p.WritePing(false, [8]byte{})
			_ = p.WriteGoAway(1, http2.ErrCodeNo, nil)
		})
	}
	for _, test := range responses {
		if test.name != "end of the connection within the body" {
			gather(test.send)
		}
	}
}

// FuzzServerBytes has clients say anything.
func FuzzServerBytes(f *testing.F) {
	seeds(f, func(frames []byte) { f.Add(frames, uint16(100)) })
	greeting := append([]byte(http2.ClientPreface), appendSettings(nil)...)
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		in := append(bytes.Clone(greeting), data...)
		cfg := hostileConfig(func(s *Stream) {
			consume(s)
			_ = s.Respond(&Head{Status: 200}, []byte("x"), false)
			_ = s.End(s.Trailers())
		})
		asked := int(chunk)
		cfg.Refuse = func() *Head {
			if asked++; asked%3 == 0 {
				return &Head{Status: 503}
			}
			return nil
		}
		fuzzed(t, Server(&script{in: bytes.NewReader(in), chunk: int(chunk) + 1}, cfg))
	})
}

// FuzzClientBytes has servers say anything.
func FuzzClientBytes(f *testing.F) {
	seeds(f, func(frames []byte) { f.Add(frames, uint16(100)) })
	greeting := appendSettings(nil)
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		in := append(bytes.Clone(greeting), data...)
		cfg := hostileConfig(func(s *Stream) { consume(s) })
		cfg.Reverse = chunk%2 == 0
		wait := make(chan struct{})
		c := newConn(&script{in: bytes.NewReader(in), chunk: int(chunk) + 1}, cfg, true)
		c.nextID = 1
		for range 3 {
			s, err := c.Open(post("/"), []byte("abc"), false)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			go func() {
				defer func() { wait <- struct{}{} }()
				defer s.Close()
				for i := 0; i < 10; i++ {
					if h, err := s.Response(); err != nil || h.Status >= 200 {
						break
					}
				}
				consume(s)
				_ = s.End(nil)
			}()
		}
		go c.receive(false)
		for range 3 {
			<-wait
		}
		fuzzed(t, c)
	})
}

// fuzzed checks what must hold after anything.
func fuzzed(t *testing.T, c *Conn) {
	t.Helper()
	<-c.read
	<-c.Done()
	eventually(t, "the end of all streams", func() bool { return c.streams.len() == 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d streams are counted", n)
	}
	if c.err == nil || c.ring.first != nil || c.out != nil {
		t.Error("the link is not at its end")
	}
}
