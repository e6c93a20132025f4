package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// An endpoint does not wait for a short body that its client sends slowly, and gets
// it in one piece with the head. It sees nothing of one that never comes.
func TestShortBodiesAreAwaited(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", way.options...)
			const head = "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n"
			leaves, stays := dial(t, en.addr), dial(t, en.addr)
			say(t, leaves, head+"01234")
			say(t, stays, head+"01234")
			eventually(t, "both are under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 2 })
			_ = leaves.Close()
			eventually(t, "one is noticed to have left", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 1 })
			if got := rec.bytes.String(); got != "" {
				t.Errorf("the workload got %q", got)
			}
			say(t, stays, "56789")
			resp, err := http.ReadResponse(bufio.NewReader(stays), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("got %v, %v", resp, err)
			}
			if got := rec.bytes.String(); strings.Count(got, "HTTP/1.1") != 1 || !strings.HasSuffix(got, "\r\n\r\n0123456789") {
				t.Errorf("the workload got %q", got)
			}
		})
	}
}

// What is not short, or not of known length, goes on as it comes.
func TestOtherBodiesAreNotAwaited(t *testing.T) {
	for name, in := range map[string]string{
		"long":           "Content-Length: 16385\r\n\r\n01234",
		"unknown length": "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			conn := dial(t, en.addr)
			say(t, conn, "POST /a HTTP/1.1\r\nHost: shop.test\r\n"+in)
			eventually(t, "the workload got what came", func() bool { return strings.Contains(rec.bytes.String(), "01234") })
		})
	}
}

// Who pipelines behind a short body does not change it, however long the service takes.
func TestShortBodyIsNotWhatFollowsIt(t *testing.T) {
	for name, apart := range map[string]bool{"with the head": false, "behind the head": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var bodies syncBuffer
			var tries atomic.Int32
			w.sidecar("orders", "n1", accepting(t, func(conn net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				body, _ := io.ReadAll(req.Body)
				_, _ = bodies.Write(append(body, ' '))
				if tries.Add(1) == 1 {
					<-time.After(600 * time.Millisecond) // the client is looked after meanwhile
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			}), nil)
			w.route("orders", func(r *mesh.RouteRule) {
				r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnGatewayError}}
			})
			en := w.gateway(overH1)
			w.publish()
			conn := dial(t, en.addr)
			say(t, conn, "POST /a HTTP/1.1\r\nHost: shop.test\r\nIdempotency-Key: k\r\nContent-Length: 7\r\n\r\n")
			if apart {
				<-time.After(20 * time.Millisecond)
			}
			say(t, conn, `{"t":1}`)
			<-time.After(350 * time.Millisecond)
			say(t, conn, `{"t":9}`+strings.Repeat("x", 1000))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("got %v, %v", resp, err)
			}
			if got := bodies.String(); got != `{"t":1} {"t":1} ` {
				t.Errorf("the workload got %s", got)
			}
		})
	}
}

// Who sends a short body too slowly is told so, and costs the workload nothing.
func TestSlowShortBodyIsAnswered408(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		rec := w.recorder("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		w.sidecar("orders", "n1", rec.addr, nil)
		w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.3) })
		en := w.gateway(m)
		w.publish()
		switch m {
		case overH1:
			conn := dial(t, en.addr)
			say(t, conn, "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n01234")
			if got := rest(t, conn); statusOf(t, got) != http.StatusRequestTimeout {
				t.Errorf("got %q", got)
			}
		case overH2:
			conn := dialH2(t, en.addr)
			conn.headers(1, false, ":method", "POST", ":scheme", "https", ":path", "/", ":authority", "shop.test", "content-length", "10")
			if got := conn.outcome(1); got != "408" {
				t.Errorf("got %s", got)
			}
		}
		if got := rec.bytes.String(); got != "" {
			t.Errorf("the workload got %q", got)
		}
	})
}
