package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/xid"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// incoming is a request as its client sent it, over whichever protocol. Its
// strings may be views of the client's buffer, valid to the end of the exchange.
type incoming struct {
	method string
	target string // as sent: usually path and query
	host   string // Host, or the authority that overrules it
	fields header.List
	length int64 // of the body; -1 is unknown
	http1  bool
	minor  int    // of HTTP/1
	asks   bool   // for another protocol: Connection: upgrade, or CONNECT with one over HTTP/2
	secure bool   // over TLS
	remote string // the client's IP address; "" if it has none
	// peer and clientCert are the verified caller at an Inbound and the
	// X-Forwarded-Client-Cert that tells of it.
	peer       mesh.ID
	clientCert string
	graced     bool // the connection is one of identity.Grace
}

// outgoing is a request as it is sent to an endpoint: cleaned and filtered.
// Tries share it.
type outgoing struct {
	method string
	target string // canonical path and query
	host   string
	fields header.List
	length int64 // of the body; -1 is unknown
}

// responseHead is the head of a response: of the final one, or of an
// informational one before it.
type responseHead struct {
	status int
	reason string
	fields header.List
	length int64 // of the body; -1 is unknown, 0 is none
}

// client is who sent a request, and is to be answered. Its methods are called by
// one goroutine at a time, but for the interrupts, which wake who is in another
// with an error, now and later, and may be called at any time.
type client struct {
	asker
	responder
	switcher
}

// asker is the request's side of a client.
type asker interface {
	// Read reads the request's body, decoded.
	Read(p []byte) (int, error)
	// bodyTrailers returns the request's trailers once Read returned io.EOF.
	bodyTrailers() header.List
	// interruptRead is for Read.
	interruptRead()
}

// responder is the response's side of a client.
type responder interface {
	// inform sends an informational response (1xx).
	inform(head *responseHead) error
	// begin sends the response's head with the first bytes of its body. If end
	// is true that is all of it.
	begin(head *responseHead, first []byte, end bool) error
	// write sends more of the body.
	write(p []byte) error
	// end ends the body.
	end(trailers header.List) error
	// interruptWrite is for the others.
	interruptWrite()
}

// switcher hands the connection over after a 101 with these fields.
type switcher interface {
	hijack(fields header.List) (conn halfCloser, early []byte, err error)
}

// answer is the response of one try, while it is read.
type answer interface {
	// head waits for the next head: informational ones come first.
	head(*responseHead) error
	// body returns its body, once head returned the final head.
	body() answerBody
	// tunnel takes the connection over after a 101.
	tunnel() (conn halfCloser, early []byte, err error)
	// interrupt wakes who waits for the response or sends the request. It may
	// be called at any time before close.
	interrupt()
	// close ends the try: what it holds is given back or broken off.
	close()
}

// answerBody is the body of an answer.
type answerBody interface {
	// next returns more of it, valid until the next call.
	next() ([]byte, error)
	// complete returns the whole body if it has arrived already.
	complete() ([]byte, bool)
	// trailers returns those of the body once next returned io.EOF.
	trailers() header.List
}

// transport sends requests to one endpoint.
type transport interface {
	// send sends the head of x.out and begins to send its body. fresh asks for
	// a connection that was never used.
	send(x *exchange, fresh bool) (answer, error)
}

// exchange is one request and its response. Exchanges are reused: reset begins a
// new one.
type exchange struct {
	s      *server
	client client
	in     incoming

	request  Request
	decision Decision
	began    time.Time
	traced   traced
	code     string           // of an answer of our own
	failedBy string           // its cause
	draw     float64          // in [0,1), by which what is left to chance is decided
	caller   *identity.Source // as whom endpoints are called; nil at an Inbound
	out      outgoing
	altered  header.List // room for its fields, where the rule changes them
	wish     upgrade     // what the client asks to upgrade to

	whole    []byte // the request's body, if all of it is there
	isWhole  bool
	small    *[]byte     // where a short body was gathered; nil if none was
	body     *bodySource // or where it is read from; nil if there is none
	uploads  sync.WaitGroup
	uploaded chan struct{} // closed when the last upload has ended; nil if there was none
	watch    watch
	breaker  *breaker // of the service; nil at an Inbound
	cost     int64    // bytes that it takes of overload's room
	resp     responseHead
	sent     responseHead // what the client gets of it
	respKept header.List  // room for its fields
	tried    []*Endpoint
	held     held
	overLink linkAnswer // of the try under way, if it is over a link
	digits   [20]byte   // of a length

	deadline     time.Duration // that the caller gave; 0 if none
	hurried      bool          // it is shorter than what the route would give
	deadlineText [24]byte
	grpc         bool // the request is one of gRPC

	decisionID string
	parent     context.Context //nolint:containedctx // of a client that has one: a handler's or a caller's

	// mu guards what follows.
	mu      sync.Mutex
	current answer
	cause   error           // why the exchange was given up
	ctx     context.Context //nolint:containedctx // made when first asked for
	cancel  context.CancelCauseFunc
}

// reset makes x ready for a request of c at s.
func (x *exchange) reset(s *server, c client) {
	x.s, x.client = s, c
	x.in = incoming{fields: x.in.fields[:0]}
	x.request, x.decision = Request{}, Decision{}
	x.caller, x.cost, x.breaker = nil, 0, nil
	x.out = outgoing{fields: x.out.fields[:0]}
	x.wish = upgrade{}
	x.whole, x.isWhole, x.small, x.body, x.uploaded = nil, false, nil, nil, nil
	x.resp, x.sent = responseHead{}, responseHead{}
	x.respKept = x.respKept[:0]
	x.tried = x.tried[:0]
	x.held, x.overLink = held{}, linkAnswer{}
	x.decisionID, x.parent = "", nil
	x.deadline, x.hurried, x.grpc = 0, false, false
	x.began, x.traced, x.code, x.failedBy = time.Time{}, traced{}, "", ""
	x.current, x.cause, x.ctx, x.cancel = nil, nil, nil, nil
}

// rest gives back what x holds between requests that are far apart.
func (x *exchange) rest() {
	x.in, x.out, x.request, x.decision = incoming{}, outgoing{}, Request{}, Decision{}
	x.altered = nil
	x.resp, x.sent, x.respKept = responseHead{}, responseHead{}, nil
	x.whole, x.body, x.tried, x.overLink = nil, nil, nil, linkAnswer{}
}

// detach makes x independent of its client's buffer, which is given back. Only what
// is told of x at its end is kept.
func (x *exchange) detach() {
	state, ok := x.in.fields.Get(traceState)
	if x.in = (incoming{fields: x.in.fields[:0]}); ok {
		x.in.fields = x.in.fields.Add(traceState, strings.Clone(state))
	}
	r := &x.request
	x.request = Request{Method: strings.Clone(r.Method), Host: strings.Clone(r.Host), Path: strings.Clone(r.Path), Peer: r.Peer}
	x.out = outgoing{fields: x.out.fields[:0]}
	x.resp, x.sent = responseHead{}, responseHead{}
}

// local reports whether x goes to our own workload.
func (x *exchange) local() bool { return x.s.local != nil }

// id returns the Hedgerow-Decision of x. Only answers of our own carry it.
func (x *exchange) id() string {
	if x.decisionID == "" {
		x.decisionID = xid.New().String()
	}
	return x.decisionID
}

// context returns a context that ends when x is given up or over. The hot path
// does without.
func (x *exchange) context() context.Context {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ctx == nil {
		parent := x.parent
		if parent == nil {
			parent = context.Background()
		}
		x.ctx, x.cancel = context.WithCancelCause(parent)
		if x.cause != nil {
			x.cancel(x.cause)
		}
	}
	return x.ctx
}

// abort gives x up: whoever waits for the upstream is woken. The first cause
// stays.
func (x *exchange) abort(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause != nil {
		return
	}
	x.cause = cause
	if x.current != nil {
		x.current.interrupt()
	}
	if x.cancel != nil {
		x.cancel(cause)
	}
}

// onDone gives x up when ctx ends, until stop is called.
func (x *exchange) onDone(ctx context.Context) (stop func() bool) {
	if ctx.Err() != nil {
		x.abort(context.Cause(ctx))
	}
	return context.AfterFunc(ctx, func() { x.abort(context.Cause(ctx)) })
}

// attach makes a the answer that abort interrupts.
func (x *exchange) attach(a answer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.current = a
	if x.cause != nil && a != nil {
		a.interrupt()
	}
}

// givenUp returns why x was given up, or nil.
func (x *exchange) givenUp() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cause
}

// over ends the context of x, if it has one.
func (x *exchange) over() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.current = nil
	if x.cancel != nil {
		x.cancel(errDone)
	}
}

// replayable reports whether the body can be sent from its start.
func (x *exchange) replayable() bool { return x.isWhole || x.body.replayable() }

// idempotent reports whether the client says, by the method (RFC 9110 section
// 9.2.2) or an Idempotency-Key, that sending x twice does no harm.
func (x *exchange) idempotent() bool {
	switch x.out.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	key, _ := x.out.fields.Get("Idempotency-Key")
	return key != ""
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
	failedLimit    failureKind = "limit"    // over a rate limit
	failedFault    failureKind = "fault"    // on purpose
	failedOverflow failureKind = "overflow" // the circuit breaker's bound
	failedDenied   failureKind = "denied"   // by the policies of an external service
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

// classify says what err of a try means. The client comes first: what it broke
// off or sent malformed is not counted against the endpoint.
func (x *exchange) classify(err error) *failure {
	cause := x.givenUp()
	if cause == nil && x.parent != nil {
		cause = context.Cause(x.parent)
	}
	clientErr := x.body.clientError()
	var connect *connectError
	switch {
	case errors.Is(cause, errClientSlow), errors.Is(clientErr, os.ErrDeadlineExceeded):
		return &failure{Refusal{http.StatusRequestTimeout, CodeClientTimeout, "the request body took too long"}, failedClient, errClientSlow}
	case errors.Is(cause, errTimeout), errors.Is(cause, errIdle), errors.Is(err, errTryTimeout):
		return &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, errors.Join(cause, err)}
	case cause != nil:
		return &failure{Refusal{http.StatusServiceUnavailable, "client_gone", ""}, failedGone, cause}
	case errors.Is(clientErr, errBodyTooLong):
		return &failure{Refusal{http.StatusRequestEntityTooLarge, CodeTooLarge, "the request body is too long"}, failedClient, clientErr}
	case clientErr != nil:
		return &failure{Refusal{http.StatusBadRequest, CodeBadRequest, "the request body is malformed or incomplete"}, failedClient, clientErr}
	case errors.Is(err, errOverflow):
		return &failure{Refusal{http.StatusServiceUnavailable, CodeOverflow, "as many requests wait for a connection to the service as its circuit breaker allows"}, failedOverflow, err}
	case errors.As(err, &connect):
		return &failure{Refusal{http.StatusServiceUnavailable, connect.code, "no connection to the service"}, failedConnect, err}
	case x.local():
		return &failure{Refusal{http.StatusBadGateway, CodeWorkloadReset, "the workload broke off before it answered"}, failedReset, err}
	default:
		return &failure{Refusal{http.StatusBadGateway, CodeReset, "the service broke off before it answered"}, failedReset, err}
	}
}
