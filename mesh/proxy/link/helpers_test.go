package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait bounds what a test waits for.
const wait = 20 * time.Second

// tcpPair returns both ends of a loopback connection.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer func() { _ = l.Close() }()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	return a, b
}

// pipePair returns both ends of a connection without any buffer.
func pipePair(testing.TB) (a, b net.Conn) { return net.Pipe() }

// transports are what links run over in tests.
var transports = []struct {
	name string
	pair func(testing.TB) (a, b net.Conn)
}{
	{"tcp", tcpPair},
	{"pipe", pipePair},
}

// links joins a client and a server.
func links(t testing.TB, pair func(testing.TB) (a, b net.Conn), client, server Config) (*Conn, *Conn) {
	t.Helper()
	a, b := pair(t)
	c, s := Client(a, client), Server(b, server)
	t.Cleanup(func() {
		_ = c.Close()
		_ = s.Close()
		<-c.read
		<-s.read
	})
	return c, s
}

// get is the head of a simple request.
func get(path string) *Head {
	return &Head{Method: "GET", Scheme: "http", Authority: "orders.example", Path: path}
}

func post(path string) *Head {
	h := get(path)
	h.Method = "POST"
	return h
}

// exchange sends a request and returns the final response with its body.
func exchange(c *Conn, head *Head, body []byte) (*Head, []byte, header.List, error) {
	s, err := c.Open(head, body, true)
	if err != nil {
		return nil, nil, nil, err
	}
	defer s.Close()
	return answer(s)
}

// answer returns the final response with its body, as copies.
func answer(s *Stream) (*Head, []byte, header.List, error) {
	h, err := s.Response()
	for err == nil && h.Status < 200 {
		h, err = s.Response()
	}
	if err != nil {
		return nil, nil, nil, err
	}
	got := *h
	got.Fields = h.Fields.Clone()
	b, err := io.ReadAll(s)
	return &got, b, s.Trailers().Clone(), err
}

// pattern returns n bytes in which a displaced part would be seen.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// ok answers 200 with body.
func ok(s *Stream, body string) { _ = s.Respond(&Head{Status: 200}, []byte(body), true) }

// echo answers with the request's body and trailers.
func echo(s *Stream) {
	if err := s.Respond(&Head{Status: 200}, nil, false); err != nil {
		return
	}
	for {
		p, err := s.Next()
		if errors.Is(err, io.EOF) {
			_ = s.End(s.Trailers())
			return
		}
		if err != nil {
			return
		}
		if _, err := s.Write(p); err != nil {
			return
		}
	}
}

// within fails the test if f does not return.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(wait):
		t.Fatalf("%s: not within %v", what, wait)
	}
}

// closed waits until the link has ended, and returns why.
func closed(t testing.TB, c *Conn) error {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(wait):
		t.Fatalf("the link did not end within %v", wait)
	}
	return c.Err()
}

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, wait)
		}
		<-tick.C
	}
}

// sendAll sends b as a body of many writes, and ends with trailers.
func sendAll(s *Stream, b []byte, trailers header.List) error {
	for len(b) > 0 {
		n, err := s.Write(b[:min(len(b), 50_000)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return s.End(trailers)
}

func mustEqual(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes, want %d, or they differ", what, len(got), len(want))
	}
}

// counter counts, and knows the most at once.
type counter struct {
	mu               sync.Mutex
	now, most, total int
}

func (c *counter) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.total++
	c.most = max(c.most, c.now)
}

func (c *counter) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
}

func (c *counter) counts() (now, most, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.most, c.total
}
