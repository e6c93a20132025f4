package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// exchange is one request that was decided to be forwarded, with everything
// that forwarding needs to know of it.
type exchange struct {
	id       string // the Hedgerow-Decision
	request  Request
	decision Decision
	caller   *identity.Source // as whom endpoints are called; nil at an Inbound
	local    bool             // to our own workload: an Inbound

	// out is the request as it is sent, cleaned and filtered, without body and
	// with a URL that lacks the address. Tries share its header and trailer.
	out     *http.Request
	target  string // canonical path and query
	body    *bodySource
	upgrade *upgrade
	watch   *watch
}

// forwarder carries out a decision to forward. It is the seam behind which the
// way requests travel may be exchanged: what is above has decided, what is
// below decides nothing but which endpoint, and whether to try another.
type forwarder interface {
	// forward sends x and returns the response once its header is there. The
	// error is a *failure. ctx bounds the exchange up to the end of the body.
	forward(ctx context.Context, x *exchange) (*upstream, error)
}

// upstream is a response and what it holds until done is called: an endpoint's
// counter, a connection. done closes the body. It is called once.
type upstream struct {
	resp *http.Response
	done func()
}

// failureKind sorts failures by what may be done about them.
type failureKind string

// The kinds of failure; they are values of the label kind.
const (
	failedConnect  failureKind = "connect"  // nothing was sent
	failedReset    failureKind = "reset"    // it may have been processed
	failedTimeout  failureKind = "timeout"  // likewise
	failedClient   failureKind = "client"   // the client's fault
	failedGone     failureKind = "gone"     // the client does not wait any more
	failedEndpoint failureKind = "endpoint" // there is nowhere to send it
	failedUpgrade  failureKind = "upgrade"  // it switched to something else
)

// failure is why there is no response.
type failure struct {
	Refusal
	kind failureKind
	err  error
}

// Error implements error.
func (f *failure) Error() string { return fmt.Sprintf("%s: %v", f.Code, f.err) }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// try sends x once through rt to address and waits for the response's header.
// perTry bounds that wait; 0 does not. release is called when the try is over.
func (x *exchange) try(ctx context.Context, rt http.RoundTripper, scheme, address string, perTry time.Duration, release func()) (*upstream, error) {
	body, ok := x.body.open()
	if !ok {
		release()
		return nil, &failure{Refusal{http.StatusBadGateway, CodeReset, "the request could not be sent again"}, failedReset, errNotReplayable}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req := x.out.WithContext(ctx)
	req.URL = &url.URL{Scheme: scheme, Host: address, Opaque: x.target}
	if body != nil {
		req.Body = body
		// Transports ask for the body again only where nothing of it can
		// have been processed: a connection that went away while it was idle.
		req.GetBody = func() (io.ReadCloser, error) {
			if again, ok := x.body.open(); ok {
				return again, nil
			}
			return nil, errNotReplayable
		}
	}
	stop := func() bool { return true }
	if perTry > 0 {
		stop = time.AfterFunc(perTry, func() { cancel(errTryTimeout) }).Stop
	}
	resp, err := rt.RoundTrip(req) //nolint:bodyclose // upstream.done closes it
	stop()
	if err != nil {
		f := x.classify(ctx, err)
		cancel(errDone)
		release()
		return nil, f
	}
	withoutBody(resp)
	return &upstream{resp, func() {
		// First, because over HTTP/2 Close waits for the request's body, whose
		// client may be waiting for the end of this response.
		cancel(errDone)
		// Whether the rest of the body was fine is known to who read it.
		_ = resp.Body.Close()
		release()
	}}, nil
}

// withoutBody takes the body off responses that have none by their status (RFC
// 9110 section 6.4.1). A 304 may tell the length that a 200 would have (section
// 8.6), which over HTTP/2 the transport takes for a body that broke off; a 204
// may not.
func withoutBody(resp *http.Response) {
	switch resp.StatusCode {
	case http.StatusNoContent:
		resp.Header.Del("Content-Length")
	case http.StatusNotModified:
	default:
		return
	}
	_ = resp.Body.Close() // nothing was to be read
	resp.Body, resp.ContentLength = http.NoBody, 0
}

// classify says what err of a try means. The client comes first: what it broke
// off or sent malformed is not counted against the endpoint.
func (x *exchange) classify(ctx context.Context, err error) *failure {
	cause := context.Cause(ctx)
	clientErr := x.body.clientError()
	var connect *connectError
	switch {
	case errors.Is(cause, errClientSlow), errors.Is(clientErr, os.ErrDeadlineExceeded):
		return &failure{Refusal{http.StatusRequestTimeout, CodeClientTimeout, "the request body took too long"}, failedClient, errClientSlow}
	case errors.Is(cause, errTimeout), errors.Is(cause, errIdle), errors.Is(cause, errTryTimeout):
		return &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, cause}
	case cause != nil:
		return &failure{Refusal{http.StatusServiceUnavailable, "client_gone", ""}, failedGone, cause}
	case clientErr != nil:
		return &failure{Refusal{http.StatusBadRequest, CodeBadRequest, "the request body is malformed or incomplete"}, failedClient, clientErr}
	case errors.As(err, &connect):
		return &failure{Refusal{http.StatusServiceUnavailable, connect.code, "no connection to the service"}, failedConnect, err}
	case x.local:
		return &failure{Refusal{http.StatusBadGateway, CodeWorkloadReset, "the workload broke off before it answered"}, failedReset, err}
	default:
		return &failure{Refusal{http.StatusBadGateway, CodeReset, "the service broke off before it answered"}, failedReset, err}
	}
}

// wants reports whether p tries again after a response with status, or after
// failed, of x. No byte of a response has been given to the client by then.
// What may have been processed is sent again only if the client says that this
// does no harm: by the method (RFC 9110 section 9.2.2) or an Idempotency-Key.
func (p RetryPolicy) wants(x *exchange, status int, failed *failure) bool {
	if !x.body.replayable() {
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

func (x *exchange) idempotent() bool {
	switch x.out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return x.out.Header.Get("Idempotency-Key") != ""
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
