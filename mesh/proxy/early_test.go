package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A workload that answers before it has read the request's body costs nobody a
// connection, if the body comes.
func TestEarlyAnswersKeepConnections(t *testing.T) {
	const turns, size = 500, 20 << 10 // shorter ones are awaited first
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			var connections, bodies atomic.Int32
			w := newWorld(t)
			w.sidecar("orders", "n1", accepting(t, func(conn net.Conn) {
				connections.Add(1)
				r := bufio.NewReader(conn)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
						return
					}
					if n, err := io.Copy(io.Discard, req.Body); n != size || err != nil {
						return
					}
					bodies.Add(1)
				}
			}), nil)
			w.route("orders", nil)
			en := w.gateway(overH1, way.options...)
			w.publish()
			conn := dial(t, en.addr)
			replies := bufio.NewReader(conn)
			head, body := "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n", strings.Repeat("a", size)
			for turn := range turns {
				say(t, conn, head)
				if turn%50 == 0 { // the answer is there before the body
					if _, err := replies.Peek(1); err != nil {
						t.Fatal(err)
					}
				}
				say(t, conn, body)
				if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(replies, nil)
				if err != nil {
					t.Fatalf("turn %d: %v", turn, err)
				}
				if got := read(t, &http.Response{Body: resp.Body}); got.body != "ok" || resp.StatusCode != 200 {
					t.Fatalf("turn %d: %d %q", turn, resp.StatusCode, got.body)
				}
			}
			// A body that takes longer than it may costs a connection; that is seldom.
			eventually(t, "the bodies have come", func() bool { return bodies.Load() >= turns*9/10 })
			if n := connections.Load(); n > turns/10 {
				t.Errorf("%d connections to the workload", n)
			}
		})
	}
}
