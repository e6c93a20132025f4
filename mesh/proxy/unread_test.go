package proxy

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
		"a length": "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: " + strconv.Itoa(len(inside)+5) + "\r\n\r\n" + inside,
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
