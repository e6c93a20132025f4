package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/rpc"
)

// kind is what an exchange is.
type kind uint8

const (
	get kind = iota
	post
	call    // of gRPC
	message // on a WebSocket, and back
)

// kind is that of exchange n: of a mixed load half are GETs, and a sixth is each of the others.
func (p Plan) kind(n int) kind {
	switch {
	case n%3 != 2 && (!p.Mixed || n%6 != 4):
		return get
	case p.Mixed && n%6 == 4:
		return call
	case p.Mixed && n%6 == 5:
		return message
	}
	return post
}

// calls are unary calls of gRPC, over one connection and now and then over one of their own.
type calls struct {
	target Target

	mu   sync.Mutex // guards conn
	conn *grpc.ClientConn
}

// dial makes a connection in clear text. It tries no call again but what was not processed.
func (c *calls) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+c.target.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(c.target.Host), grpc.WithDefaultCallOptions(grpc.ForceCodec(rpc.Codec{})), grpc.WithDisableServiceConfig())
}

// send makes call n and returns who answered it.
func (c *calls) send(ctx context.Context, plan Plan, n int, alone bool) (instance string, err error) {
	conn, err := c.connection(alone)
	if err != nil {
		return "", err
	}
	if alone {
		defer conn.Close() //nolint:errcheck // torn down anyway
	}
	ctx, cancel := context.WithTimeout(ctx, plan.Timeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "idempotency-key", fmt.Sprintf("%s-%d", c.target.Address, n))
	want := payload(n, plan.Body)
	var got []byte
	var header metadata.MD
	if err := conn.Invoke(ctx, rpc.Unary, &want, &got, grpc.Header(&header)); err != nil {
		return "", fmt.Errorf("call %d: %w", n, err)
	}
	if !bytes.Equal(got, want) {
		return "", fmt.Errorf("call %d: %.60q, want %.60q", n, got, want)
	}
	if of := header.Get("x-instance"); len(of) == 1 {
		return of[0], nil
	}
	return "", fmt.Errorf("call %d: nobody says that they answered it", n)
}

// Call makes one call at target, on a connection of its own, and returns who answered it.
func Call(ctx context.Context, target Target) (instance string, err error) {
	c := calls{target: target}
	return c.send(ctx, Plan{Timeout: 5 * time.Second, Body: 16}, 0, true)
}

// connection returns the one that calls share, or another one.
func (c *calls) connection(alone bool) (*grpc.ClientConn, error) {
	if alone {
		return c.dial()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return nil, err
		}
		c.conn = conn
	}
	return c.conn, nil
}

func (c *calls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close() // torn down anyway
	}
}

// answeredWithin is how long a message may take on a WebSocket before that counts as cut.
const answeredWithin = time.Second

// standing is how many WebSockets stand at least: some at each instance.
const standing = 12

// sockets are WebSockets that stand, each of which has one message under way at a time: as many
// as that takes, or standing.
type sockets struct {
	target Target
	note   func(dialled, refused bool, cut string)

	mu   sync.Mutex // guards what follows
	idle []*websocket.Conn
	open int
}

// send has message n echoed by a WebSocket that stands. If that turns out to be cut, a new one has
// to connect at once and take the message.
func (s *sockets) send(ctx context.Context, n int) (cut bool, err error) {
	if conn := s.take(standing); conn != nil {
		err := echoed(conn, n)
		if err == nil {
			s.give(conn)
			return false, nil
		}
		s.drop(conn)
		how := seenAs(err)
		if how == "" {
			return false, fmt.Errorf("message %d: %w", n, err)
		}
		s.note(false, false, how)
		cut = true
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return cut, fmt.Errorf("message %d: %w", n, err)
	}
	if err := echoed(conn, n); err != nil {
		s.drop(conn)
		return cut, fmt.Errorf("message %d on a new WebSocket: %w", n, err)
	}
	s.give(conn)
	return cut, nil
}

// dial connects a WebSocket.
func (s *sockets) dial(ctx context.Context) (*websocket.Conn, error) {
	conn, err := dialSocket(ctx, s.target, "/talk")
	s.note(true, err != nil, "")
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open++
	}
	return conn, err
}

// dialSocket connects a WebSocket at path of target.
func dialSocket(ctx context.Context, target Target, path string) (*websocket.Conn, error) {
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second, NetDialContext: (&net.Dialer{}).DialContext}
	scheme := "ws"
	if target.TLS != nil {
		scheme, d.TLSClientConfig = "wss", target.TLS.Clone()
		d.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	conn, resp, err := d.DialContext(ctx, scheme+"://"+target.Address+path, http.Header{"Host": {target.Host}}) //nolint:bodyclose // the library has read what there is of it
	if err != nil && resp != nil {
		return nil, &refusedSocket{resp.StatusCode, err}
	}
	return conn, err
}

// refusedSocket is a handshake that was answered otherwise.
type refusedSocket struct {
	status int
	err    error
}

// Error implements error.
func (r *refusedSocket) Error() string { return fmt.Sprintf("%v: %d", r.err, r.status) }

// echoed sends message n and waits for it to come back.
func echoed(conn *websocket.Conn, n int) error {
	want := fmt.Sprintf("message %d", n)
	if err := conn.SetReadDeadline(time.Now().Add(answeredWithin)); err != nil {
		return err
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(want)); err != nil {
		return err
	}
	_, got, err := conn.ReadMessage()
	if err == nil && string(got) != want {
		err = fmt.Errorf("it came back as %.60q", got)
	}
	return err
}

// seenAs says how a client sees that a WebSocket was cut; "" is something else.
func seenAs(err error) string {
	var closed *websocket.CloseError
	var late net.Error
	switch {
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return fmt.Sprintf("close_%d", closed.Code)
	case errors.As(err, &late) && late.Timeout(): // the library hides what it is
		return "silent"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.As(err, &closed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "end"
	}
	return ""
}

// take returns one that is idle, or nil if there is to be another one.
func (s *sockets) take(least int) *websocket.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) == 0 || s.open < least {
		return nil
	}
	conn := s.idle[0] // in turn, so that each shows whether it stands
	s.idle = s.idle[1:]
	return conn
}

func (s *sockets) give(conn *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, conn)
}

func (s *sockets) drop(conn *websocket.Conn) {
	_ = conn.Close() // torn down anyway
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

func (s *sockets) standing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// close says goodbye on all that stand, and waits for the answer.
func (s *sockets) close() {
	for conn := s.take(0); conn != nil; conn = s.take(0) {
		goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		if conn.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(answeredWithin)) == nil && conn.SetReadDeadline(time.Now().Add(answeredWithin)) == nil {
			_, _, _ = conn.ReadMessage() // whatever comes is the end
		}
		s.drop(conn)
	}
}
