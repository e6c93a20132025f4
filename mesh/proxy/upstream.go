package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// connectError is a connection that could not be made: nothing of the request
// was sent. Its code says whose fault it is.
type connectError struct {
	code string // CodeUnreachable, CodeIdentity or CodeNoCertificate
	err  error
}

// Error implements error.
func (e *connectError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *connectError) Unwrap() error { return e.err }

// staleError is a connection that died before a byte of the response came.
type staleError struct {
	// unprocessed: the other side says, or the protocol does, that it has done
	// nothing with the request, so any request may be sent again. Otherwise the
	// connection was one that had waited in a pool, and the request has to be
	// one that may be sent twice.
	unprocessed bool
	err         error
}

// Error implements error.
func (e *staleError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *staleError) Unwrap() error { return e.err }

// mostStale bounds how often a try is begun anew because its connection was stale.
const mostStale = 3

// try sends x by t and waits for the head of the response. perTry bounds that
// wait; 0 does not.
func (x *exchange) try(t transport, perTry time.Duration) (answer, *failure) {
	for n := 0; ; n++ {
		if err := x.givenUp(); err != nil {
			return nil, x.classify(err)
		}
		if !x.replayable() {
			return nil, &failure{Refusal{http.StatusBadGateway, CodeReset, "the request could not be sent again"}, failedReset, errNotReplayable}
		}
		a, err := t.send(x, n > 0)
		if err == nil {
			x.attach(a)
			if err = x.await(a, perTry); err == nil {
				return a, nil
			}
			x.attach(nil)
			a.close()
		}
		var stale *staleError
		if n < mostStale && errors.As(err, &stale) && (stale.unprocessed || x.idempotent()) && x.replayable() && x.givenUp() == nil {
			continue
		}
		return nil, x.classify(err)
	}
}

// await waits for the final head of a, and hands informational ones on.
func (x *exchange) await(a answer, perTry time.Duration) error {
	if perTry > 0 {
		expired, came := false, false
		timer := time.AfterFunc(perTry, func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			if !came { // of this try: another may have begun
				expired = true
				a.interrupt()
			}
		})
		err := x.heads(a)
		x.mu.Lock()
		defer x.mu.Unlock()
		came = true
		timer.Stop()
		if expired {
			return errTryTimeout
		}
		return err
	}
	return x.heads(a)
}

func (x *exchange) heads(a answer) error {
	for {
		if err := a.head(&x.resp); err != nil {
			return err
		}
		if x.resp.status >= 200 || x.resp.status == http.StatusSwitchingProtocols {
			return nil
		}
		if x.in.http1 && x.in.minor == 0 {
			continue // HTTP/1.0 knows none (RFC 9110 section 15.2)
		}
		head := x.resp
		head.fields = cleanResponse(x.respKept[:0], x.resp.fields, x.local() || x.leaves())
		if !x.watch.inform(true) {
			return errDone // as its cause says
		}
		err := x.client.inform(&head)
		x.watch.inform(false)
		if err != nil {
			x.abort(errClientGone) // it is not the endpoint that failed
			return err
		}
	}
}

// sink is where an upload goes. Its write and end block as the endpoint takes
// it; they fail once the try is closed.
type sink interface {
	write(p []byte) error
	end(trailers header.List) error
	// breakOff ends a body that did not come to its end, so that the endpoint
	// does not take it for all.
	breakOff()
}

// upload sends the client's body to to while the response is waited for.
func (x *exchange) upload(to sink) error {
	body, ok := x.body.open()
	if !ok {
		return errNotReplayable
	}
	ended := make(chan struct{})
	x.uploaded = ended
	x.uploads.Go(func() {
		defer close(ended)
		defer func() { _ = body.Close() }()
		buf := x.s.e.buffer()
		defer x.s.e.buffers.Put(buf)
		for {
			n, err := body.Read(buf[:])
			if n > 0 && to.write(buf[:n]) != nil {
				return // the try is over, or its end is seen where it is read
			}
			if errors.Is(err, io.EOF) {
				_ = to.end(x.trailers()) // likewise
				return
			}
			if err != nil {
				to.breakOff()
				return
			}
		}
	})
	return nil
}

// trailers returns those of the request that may be sent on.
func (x *exchange) trailers() header.List {
	out := cleanTrailer(nil, x.client.bodyTrailers())
	return slices.DeleteFunc(out, func(f header.Field) bool { return isIdentity(x.decision.identity, f.Name) })
}

// uploadGrace is how long an upload may go on after its response: who answered
// early mostly takes the rest too, and the connections on both sides can be kept.
const uploadGrace = 250 * time.Millisecond

// lastBytes waits a moment for an upload that is under way.
func (x *exchange) lastBytes() {
	if x.uploaded == nil {
		return
	}
	select {
	case <-x.uploaded:
		return
	default:
	}
	timer := time.NewTimer(uploadGrace)
	defer timer.Stop()
	select {
	case <-x.uploaded:
	case <-timer.C:
	}
}

// copyBytes is the size of a copy buffer: what one upload holds in memory
// besides the buffers of its connections.
const copyBytes = 32 << 10

func (e *Engine) buffer() *[copyBytes]byte {
	if b, ok := e.buffers.Get().(*[copyBytes]byte); ok {
		return b
	}
	return new([copyBytes]byte)
}

// wants reports whether p tries again after a response with status, or after
// failed, of x. No byte of a response has been given to the client by then.
// What may have been processed is sent again only if the client says that this
// does no harm.
func (p RetryPolicy) wants(x *exchange, status int, failed *failure) bool {
	if !x.replayable() {
		return false
	}
	if failed == nil {
		gateway := status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
		return x.idempotent() && (p.OnGatewayError && gateway || p.OnTooMany && status == http.StatusTooManyRequests)
	}
	switch failed.kind {
	case failedConnect:
		return p.OnConnectFailure
	case failedReset:
		return p.OnReset && x.idempotent()
	case failedTimeout: // of one try: Envoy answers 504 for it, which is a gateway error
		return p.OnGatewayError && x.idempotent() && errors.Is(failed.err, errTryTimeout)
	default:
		return false
	}
}

// wait sleeps before the try after try n (the first is 0): a random part of an
// exponentially growing time, so that clients do not come back together.
func (p RetryPolicy) wait(ctx context.Context, n int) error {
	ceiling := p.BackoffBase << min(n, 16)
	if ceiling > p.BackoffMax {
		ceiling = p.BackoffMax
	}
	if ceiling <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(rand.N(ceiling))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
