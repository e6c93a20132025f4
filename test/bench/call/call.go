// Package call is unary gRPC as a load: a server that answers every call with the bytes
// that it got, and callers that verify them.
//
// It knows no service definition: messages are bytes. It measures nothing; that is
// test/bench/loop's.
package call

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/rpc"
)

// Serve serves at address until ctx ends.
func Serve(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	s := rpc.Server()
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

// Dialer returns a loop.Request's Dial of which each callers share a connection.
func Dialer(each int) func(context.Context, load.Target, loop.Request) (loop.Exchanger, error) {
	d := &dialer{each: each, last: map[string]*shared{}}
	return d.dial
}

// dialer makes callers.
type dialer struct {
	each int
	mu   sync.Mutex         // guards last, and the callers of each
	last map[string]*shared // by address: the one that has room
}

// shared is a connection of several callers.
type shared struct {
	*grpc.ClientConn
	made, left int
}

func (d *dialer) dial(_ context.Context, target load.Target, r loop.Request) (loop.Exchanger, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.last[target.Address]
	if s == nil || s.made == d.each {
		conn, err := grpc.NewClient("passthrough:///"+target.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithAuthority(target.Host), grpc.WithDefaultCallOptions(grpc.ForceCodec(rpc.Codec{})), grpc.WithDisableServiceConfig())
		if err != nil {
			return nil, err
		}
		s = &shared{ClientConn: conn}
		d.last[target.Address] = s
	}
	s.made++
	s.left++
	c := &caller{d: d, conn: s, request: r}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// caller makes one call after another.
type caller struct {
	d       *dialer
	conn    *shared
	request loop.Request
	//nolint:containedctx // of all its calls: it ends with the caller
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

var errAnswer = errors.New("the answer is not what was sent")

// Exchange implements loop.Exchanger.
func (c *caller) Exchange() error {
	var got []byte
	if err := c.conn.Invoke(c.ctx, rpc.Unary, &c.request.Body, &got); err != nil {
		return err
	}
	if !bytes.Equal(got, c.request.Want) {
		return errAnswer
	}
	return nil
}

// SetDeadline implements loop.Exchanger.
func (c *caller) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(time.Until(t), c.cancel)
	return nil
}

// Close implements loop.Exchanger.
func (c *caller) Close() {
	c.cancel()
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.conn.left--; c.conn.left > 0 {
		return
	}
	_ = c.conn.ClientConn.Close() // nobody uses it any more
	for address, s := range c.d.last {
		if s == c.conn {
			delete(c.d.last, address)
		}
	}
}
