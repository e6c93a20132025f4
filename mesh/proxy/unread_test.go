package proxy

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// pipeConn is a pipe that can be half closed.
type pipeConn struct{ net.Conn }

func (pipeConn) CloseWrite() error { return nil }

// unread answers every request at once and reads no body.
type unread struct{ seen []string }

func (u *unread) forward(x *exchange) (answer, *failure) {
	u.seen = append(u.seen, strings.Clone(x.out.target))
	x.resp = responseHead{status: 200}
	return early{}, nil
}

// early is an answer that is over when it begins.
type early struct{ answered }

func (early) interrupt() {}
func (early) close()     {}

// The rest of a body that nobody reads is not the next request.
func TestRestOfABodyIsNoRequest(t *testing.T) {
	const inside = "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	for name, in := range map[string]string{
		"a length": "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: " + strconv.Itoa(len(inside)+gatherBytes) + "\r\n\r\n" + inside,
		"chunks":   "POST /a HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(len(inside)+5), 16) + "\r\n" + inside,
	} {
		t.Run(name, func(t *testing.T) {
			f := &unread{}
			s := edgeServer(t, f)
			near, far := net.Pipe()
			if err := far.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			var leave atomic.Bool
			c := newH1Client(s, pipeConn{near}, near, callerInfo{}, &leave)
			served := make(chan struct{})
			go func() {
				defer close(served)
				c.serve()
			}()
			if _, err := io.WriteString(far, in); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(far)
			if err != nil || strings.Count(string(got), "HTTP/1.1 200") != 1 {
				t.Errorf("got %q, %v", got, err)
			}
			<-served
			if strings.Join(f.seen, " ") != "/a" {
				t.Errorf("forwarded were %q", f.seen)
			}
		})
	}
}

// trailed is a client whose body has trailers.
type trailed struct {
	io.Reader
	client
	trailers header.List
}

func (c trailed) Read(p []byte) (int, error) { return c.Reader.Read(p) }
func (c trailed) bodyTrailers() header.List  { return c.trailers }
func (c trailed) interruptRead()             {}

// A short body that was awaited is sent with the head, unless trailers follow it.
func TestTrailersOfAShortBody(t *testing.T) {
	for _, trailers := range []header.List{nil, {{Name: "X-Sum", Value: "7"}}} {
		var x exchange
		c := trailed{Reader: strings.NewReader("0123456789"), trailers: trailers}
		x.reset(edgeServer(t, &unread{}), client{asker: c})
		x.in.length, x.out.length = 10, 10
		x.takeBody()
		if err := x.gather(); err != nil {
			t.Fatal(err)
		}
		if x.isWhole != (trailers == nil) || x.isWhole && string(x.whole) != "0123456789" {
			t.Errorf("with trailers %v: %v %q", trailers, x.isWhole, x.whole)
		}
		body, ok := x.body.open()
		if !ok {
			t.Fatal("the body cannot be read")
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != "0123456789" {
			t.Errorf("got %q, %v", got, err)
		}
		x.finish()
		if got, err := io.ReadAll(body); err == nil {
			t.Errorf("when it is over, who is late gets %q", got)
		}
	}
}

// A body that is longer than its client says is not taken.
func TestShortBodyThatIsLonger(t *testing.T) {
	var x exchange
	x.reset(edgeServer(t, &unread{}), client{asker: trailed{Reader: strings.NewReader(strings.Repeat("x", 64<<10))}})
	x.in.length = 10
	x.takeBody()
	if err := x.gather(); !errors.Is(err, errBodyTooLong) {
		t.Errorf("got %v", err)
	}
	x.finish()
}

// A buffer for a short body is about as long as the body.
func TestShortBuffers(t *testing.T) {
	var s shortBuffers
	for length, want := range map[int]int{1: 1 << 10, 1<<10 - 1: 1 << 10, 1 << 10: 2 << 10, 4096: 8 << 10, gatherBytes: 32 << 10} {
		b := s.get(length + 1)
		if len(*b) != want {
			t.Errorf("%d bytes for %d", len(*b), length)
		}
		s.put(b)
	}
}
