package proxy

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// A tunnel carries what nobody decides about: the 101 has to be the answer to
// the client's own handshake.
func TestSwitchingIsTheAnswerToTheHandshake(t *testing.T) {
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455 section 1.3
	const acceptNothing = "Kfh9QIsMVZcl6xEPYxPHzW8SZ8w="                           // of the empty key
	for _, tt := range []struct {
		name, key string
		fields    header.List
		ok        bool
	}{
		{"the answer", key, header.List{{Name: "Upgrade", Value: "WebSocket"}, {Name: "Sec-WebSocket-Accept", Value: accept}}, true},
		{"without being asked", "", header.List{{Name: "Upgrade", Value: "websocket"}, {Name: "Sec-WebSocket-Accept", Value: acceptNothing}}, false},
		{"to another protocol", key, header.List{{Name: "Upgrade", Value: "h2c"}, {Name: "Sec-WebSocket-Accept", Value: accept}}, false},
		{"to two protocols", key, header.List{{Name: "Upgrade", Value: "websocket"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Sec-WebSocket-Accept", Value: accept}}, false},
		{"to none", key, header.List{{Name: "Sec-WebSocket-Accept", Value: accept}}, false},
		{"another answer", key, header.List{{Name: "Upgrade", Value: "websocket"}, {Name: "Sec-WebSocket-Accept", Value: acceptNothing}}, false},
		{"two answers", key, header.List{{Name: "Upgrade", Value: "websocket"}, {Name: "Sec-WebSocket-Accept", Value: accept}, {Name: "Sec-WebSocket-Accept", Value: "x"}}, false},
		{"no answer", key, header.List{{Name: "Upgrade", Value: "websocket"}}, false},
	} {
		if err := (upgrade{key: tt.key}).accepted(&responseHead{status: 101, fields: tt.fields}); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// half is one end of a pipe that can be half closed.
type half struct {
	net.Conn
	ended chan struct{}
}

func (h *half) CloseWrite() error {
	close(h.ended)
	return nil
}

func TestTunnelEndsWhenNothingMoves(t *testing.T) {
	for moves, want := range map[int]time.Duration{0: time.Minute, 3: 3 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			client, clientEnd := net.Pipe()
			upstream, upstreamEnd := net.Pipe()
			ts := tunnels{open: map[*tunnel]struct{}{}}
			begin := time.Now()
			go func() {
				for range moves { // the time begins anew
					time.Sleep(40 * time.Second)
					_, _ = io.WriteString(client, "x")
					_, _ = io.ReadFull(upstream, make([]byte, 1))
				}
			}()
			ts.run(&tunnel{client: &half{clientEnd, make(chan struct{})}, upstream: &half{upstreamEnd, make(chan struct{})}, idle: time.Minute}, nil, nil)
			if took := time.Since(begin); took != want {
				t.Errorf("ended after %v, want %v", took, want)
			}
			if len(ts.list()) > 0 {
				t.Error("a tunnel that is over is on the list")
			}
		})
	}
}

// The time of all is up while one is being made.
func TestTunnelThatComesTooLateIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, clientEnd := net.Pipe()
		_, upstreamEnd := net.Pipe()
		ts := tunnels{open: map[*tunnel]struct{}{}}
		ts.cutAll()
		begin := time.Now()
		ts.run(&tunnel{client: &half{clientEnd, make(chan struct{})}, upstream: &half{upstreamEnd, make(chan struct{})}, idle: time.Hour}, nil, nil)
		if took := time.Since(begin); took != 0 {
			t.Errorf("it lasted for %v", took)
		}
	})
}

func TestTunnelHandsOnTheEndOfOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, clientEnd := net.Pipe()
		upstream, upstreamEnd := net.Pipe()
		in, out := &half{clientEnd, make(chan struct{})}, &half{upstreamEnd, make(chan struct{})}
		ts := tunnels{open: map[*tunnel]struct{}{}}
		over := make(chan struct{})
		go func() {
			defer close(over)
			ts.run(&tunnel{client: in, upstream: out, idle: time.Minute}, []byte("early"), nil)
		}()
		if got, err := io.ReadAll(io.LimitReader(upstream, 5)); err != nil || string(got) != "early" {
			t.Errorf("got %q, %v", got, err)
		}
		_ = client.Close()
		select {
		case <-out.ended:
		case <-time.After(time.Second):
			t.Error("the upstream does not learn that the client has said all")
		}
		_ = upstream.Close()
		<-over
		if _, err := clientEnd.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the client's connection is open: %v", err)
		}
	})
}
