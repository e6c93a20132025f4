package call_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/call"
	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

func TestCallsAreAnsweredAndVerified(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- call.Serve(ctx, address) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}()
	request := loop.Request{Method: "UNARY", Body: []byte("hello"), Want: []byte("hello"), Dial: call.Dialer(2)}
	deadline := time.Now().Add(10 * time.Second)
	var r loop.Report
	for r.Requests == 0 && time.Now().Before(deadline) { // until it listens
		if r, err = loop.Run(t.Context(), loop.Plan{Target: load.Target{Address: address, Host: "calls.mesh"}, Request: request, Connections: 5, Length: 50 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	if r.Requests < 5 || r.Failed != 0 {
		t.Errorf("%d calls were good, %d failed: %v", r.Requests, r.Failed, r.Errors)
	}
	request.Want = []byte("something else")
	r, err = loop.Run(t.Context(), loop.Plan{Target: load.Target{Address: address}, Request: request, Connections: 1, Length: 50 * time.Millisecond})
	if err != nil || r.Failed != 1 || r.Requests != 0 {
		t.Errorf("an answer that is another: %+v, %v", r, err)
	}
}

func TestCallsEndWithTheRun(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("given up"))
	defer cancel()
	began := time.Now()
	_, err = loop.Run(ctx, loop.Plan{
		Target: load.Target{Address: silent.Addr().String()}, Request: loop.Request{Dial: call.Dialer(8)}, Connections: 3, Length: time.Minute,
	})
	if err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("it ended after %v with %v", time.Since(began), err)
	}
}
