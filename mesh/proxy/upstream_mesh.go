package proxy

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// toMesh is the forwarder of a Gateway, an Outbound and the bridge: to the
// sidecar beside an instance of the chosen backend.
type toMesh struct {
	e *Engine
}

var _ forwarder = (*toMesh)(nil)

// forward implements forwarder. It tries another endpoint, where there is one,
// as the rule's retry policy says.
func (f *toMesh) forward(x *exchange) (answer, *failure) {
	set := f.e.endpoints(x, x.decision.Service)
	if set == nil {
		return nil, x.nowhere(ErrNoEndpoint)
	}
	breaker := &set.breaker
	if !breaker.request() {
		return nil, &failure{Refusal{http.StatusServiceUnavailable, CodeOverflow, "the service has as many requests under way as its circuit breaker allows"}, failedOverflow, errOverflow}
	}
	x.breaker = breaker
	a, failed := f.tries(x, set)
	if failed != nil {
		breaker.requests.Add(-1)
		return nil, failed
	}
	return a, nil // which ends the request
}

// nowhere is the failure of x when no endpoint could be picked.
func (x *exchange) nowhere(err error) *failure {
	if x.givenUp() != nil {
		return x.classify(err)
	}
	return &failure{Refusal{http.StatusServiceUnavailable, CodeNoEndpoint, "no instance of the service is there"}, failedEndpoint, err}
}

// tries sends x to one endpoint after another, as the rule's retry policy says.
func (f *toMesh) tries(x *exchange, set *EndpointSet) (answer, *failure) {
	retry := &x.decision.Rule.Retry
	if retry.Attempts > 0 {
		set.retries.request(x.began)
	}
	lot := set.lot(&x.request)
	for n := 0; ; n++ {
		lot.Draw = rand.Uint64()
		endpoint, err := Pick(set, x.decision.Subset, x.tried, lot)
		if err != nil && n > 0 {
			// All were tried. The same one again is better than giving
			// up: it may be restarting.
			endpoint, err = Pick(set, x.decision.Subset, nil, lot)
		}
		if err != nil {
			return nil, x.nowhere(err)
		}
		x.tried = append(x.tried, endpoint)
		if n > 0 && !set.breaker.retry() {
			return nil, &failure{Refusal{http.StatusServiceUnavailable, CodeOverflow, "the service has as many retries under way as its circuit breaker allows"}, failedOverflow, errOverflow}
		}
		var a answer
		var failed *failure
		hedges := 0
		if n == 0 && retry.HedgeAfter > 0 && x.mayHedge() {
			a, hedges, failed = f.tryHedged(x, set, endpoint, lot)
		} else {
			a, failed = f.tryNear(x, set, endpoint, lot)
		}
		if n > 0 {
			set.breaker.retries.Add(-1)
		}
		n += hedges
		reason, again := f.again(x, set, n, failed)
		if !again {
			return a, failed
		}
		if failed == nil {
			x.attach(nil)
			a.close()
			x.breaker.requests.Add(1) // which it gave back
		}
		f.e.metrics.retries.WithLabelValues(x.decision.Service, reason).Inc()
		if err := retry.wait(x.context(), n); err != nil {
			return nil, x.classify(err)
		}
		set = f.e.endpoints(x, x.decision.Service)
		if set == nil {
			return nil, x.nowhere(ErrNoEndpoint)
		}
	}
}

// tryNear is try, but that it goes on to other endpoints, where there are some, while
// no connection can be made: nothing was sent then, so that this is no retry.
func (f *toMesh) tryNear(x *exchange, set *EndpointSet, endpoint *Endpoint, lot Lot) (answer, *failure) {
	a, failed := f.try(x, set, endpoint)
	for range mostConnects - 1 {
		if failed == nil || failed.kind != failedConnect {
			break
		}
		lot.Draw = rand.Uint64()
		next, err := Pick(set, x.decision.Subset, x.tried, lot)
		if err != nil {
			break
		}
		x.tried = append(x.tried, next)
		f.e.metrics.failed(x.decision.Service, failed)
		f.e.metrics.retries.WithLabelValues(x.decision.Service, string(failedConnect)).Inc()
		a, failed = f.try(x, set, next)
	}
	return a, failed
}

// again reports whether another try follows try n, and why.
func (f *toMesh) again(x *exchange, set *EndpointSet, n int, failed *failure) (reason string, again bool) {
	reason = "status"
	if failed != nil {
		reason = string(failed.kind)
		f.e.metrics.failed(x.decision.Service, failed)
	}
	retry := &x.decision.Rule.Retry
	if n >= retry.Attempts || !retry.wants(x, x.effectiveStatus(), failed) {
		return reason, false
	}
	if !set.retries.retry(time.Now(), retry.Budget) {
		f.e.metrics.unretried.WithLabelValues(x.decision.Service).Inc()
		return reason, false
	}
	return reason, true
}

// learn takes what became of a try at endpoint, which began at start. That the time ran
// out which a caller gave is held against no endpoint: else any caller could have them
// ejected.
func (f *toMesh) learn(x *exchange, set *EndpointSet, endpoint *Endpoint, start time.Time, failed *failure) {
	if endpoint.external != nil { // there is no other
		return
	}
	ejected, status := false, 0
	if failed == nil {
		status = x.effectiveStatus()
	}
	late := status == http.StatusGatewayTimeout || failed != nil && failed.kind == failedTimeout && !errors.Is(failed.err, errTryTimeout)
	switch {
	case late && x.hurried:
		return
	case status == http.StatusTooManyRequests:
		set.avoid(endpoint, time.Now().Add(retryAfterOf(&x.resp)).UnixNano())
	case status >= 500 && x.resp.fields.Count(overloadHeader) > 0:
		return
	case status >= 500:
		ejected = set.ejections.serverError(endpoint, time.Now())
	case failed == nil:
		set.ejections.good(endpoint)
	case failed.kind == failedConnect:
		ejected = set.ejections.connectFailure(endpoint, time.Now())
	case failed.kind == failedReset, failed.kind == failedTimeout:
		ejected = set.ejections.serverError(endpoint, time.Now())
	}
	if ejected {
		f.e.ejected(endpoint)
	}
	if !start.IsZero() && (failed == nil || failed.kind == failedTimeout) {
		now := time.Now()
		endpoint.latency.observe(now.Sub(start), now.UnixNano())
	}
}

// ejected counts and logs an endpoint that was taken out.
func (e *Engine) ejected(endpoint *Endpoint) {
	e.metrics.ejections.WithLabelValues(endpoint.Service).Inc()
	e.opt.Log.Warn().Str("service", endpoint.Service).Str("instance", endpoint.Instance).Str("address", endpoint.Address).
		Time("until", time.Unix(0, endpoint.outlier.until.Load())).Msg("an endpoint that fails was taken out")
}

// Bounds of how long an endpoint is avoided that answered 429 (Linkerd's).
const (
	avoidDefault = 5 * time.Second
	avoidMost    = 300 * time.Second
)

// retryAfterOf returns how long the response asks to be left alone.
func retryAfterOf(head *responseHead) time.Duration {
	value, _ := head.fields.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, avoidMost)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), avoidMost)
	}
	return avoidDefault
}

// lot returns by what an endpoint is picked for r, but for the draw.
func (s *EndpointSet) lot(r *Request) Lot {
	if s.balancing.key == nil {
		return Lot{}
	}
	value, ok := hashValue(s.balancing.key, r)
	if !ok {
		return Lot{}
	}
	return Lot{Key: hashOf(value), Keyed: true}
}

// try sends x to the endpoint. What it holds is given back when the answer is
// closed, or here if there is none.
func (f *toMesh) try(x *exchange, set *EndpointSet, endpoint *Endpoint) (answer, *failure) {
	key := peerKey{caller: x.caller, service: endpoint.Service, node: endpoint.Node, address: endpoint.Address}
	if endpoint.external != nil {
		if failed := f.leave(x, endpoint); failed != nil {
			return nil, failed
		}
		key.caller, key.external = nil, endpoint.external
	}
	if state := f.e.state.Load(); state.grace != nil {
		key.grace = state.grace.routes[x.decision.Route]
	}
	p, underWay, err := f.e.peers.acquire(key)
	if err != nil {
		return nil, x.classify(err)
	}
	if failed := x.passDeadline(); failed != nil {
		f.e.peers.release(p)
		return nil, failed
	}
	endpoint.Acquire()
	var t transport = &p.links
	few := underWay <= f.e.opt.Limits.PooledRequests
	if endpoint.external != nil { // which speaks what its service says
		few = !f.e.overHTTP2(endpoint.Service)
		x.out.fields = x.out.fields.Del(deadlineHeader)
	}
	if x.wish.wanted() || few {
		t = p.http1
	}
	var start time.Time
	if set.balancing.policy == mesh.PeakEWMA {
		start = time.Now()
	}
	a, failed := x.try(t, x.decision.Rule.Retry.PerTryTimeout)
	f.learn(x, set, endpoint, start, failed)
	if failed != nil {
		endpoint.Release()
		f.e.peers.release(p)
		return nil, failed
	}
	x.held = held{a, endpoint, f.e.peers, p, x.breaker}
	x.attach(&x.held)
	return &x.held, nil
}

// held is an answer that holds an endpoint's counter and a peer until it is closed.
type held struct {
	answer
	endpoint *Endpoint
	peers    *peers
	peer     *peer
	breaker  *breaker
}

// close implements answer.
func (h *held) close() {
	h.answer.close()
	h.endpoint.Release()
	h.breaker.requests.Add(-1)
	h.peers.release(h.peer)
}

var errProxyClosed = errors.New("the proxy is closed")
