package proxy

import (
	"errors"
	"math/rand/v2"
	"net/http"
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
	retry := x.decision.Rule.Retry
	for n := 0; ; n++ {
		set := f.e.endpoints(x, x.decision.Service)
		endpoint, err := Pick(set, x.decision.Subset, x.tried, rand.Uint64())
		if err != nil && n > 0 {
			// All were tried. The same one again is better than giving
			// up: it may be restarting.
			endpoint, err = Pick(set, x.decision.Subset, nil, rand.Uint64())
		}
		if err != nil {
			if x.givenUp() != nil {
				return nil, x.classify(err)
			}
			return nil, &failure{Refusal{http.StatusServiceUnavailable, CodeNoEndpoint, "no instance of the service is there"}, failedEndpoint, err}
		}
		x.tried = append(x.tried, endpoint)
		a, failed := f.try(x, endpoint)
		reason, again := f.again(x, n, failed)
		if !again {
			return a, failed
		}
		if failed == nil {
			x.attach(nil)
			a.close()
		}
		f.e.metrics.retries.WithLabelValues(x.decision.Service, reason).Inc()
		if err := retry.wait(x.context(), n); err != nil {
			return nil, x.classify(err)
		}
	}
}

// again reports whether another try follows try n, and why.
func (f *toMesh) again(x *exchange, n int, failed *failure) (reason string, again bool) {
	reason = "status"
	if failed != nil {
		reason = string(failed.kind)
		f.e.metrics.failed(x.decision.Service, failed)
	}
	retry := &x.decision.Rule.Retry
	return reason, n < retry.Attempts && retry.wants(x, x.resp.status, failed)
}

// try sends x to the endpoint. What it holds is given back when the answer is
// closed, or here if there is none.
func (f *toMesh) try(x *exchange, endpoint *Endpoint) (answer, *failure) {
	p, underWay, err := f.e.peers.acquire(peerKey{x.caller, endpoint.Service, endpoint.Node, endpoint.Address})
	if err != nil {
		return nil, x.classify(err)
	}
	endpoint.Acquire()
	var t transport = &p.links
	if x.wish.wanted() || underWay <= f.e.opt.Limits.PooledRequests {
		t = p.http1
	}
	a, failed := x.try(t, x.decision.Rule.Retry.PerTryTimeout)
	if failed != nil {
		endpoint.Release()
		f.e.peers.release(p)
		return nil, failed
	}
	x.held = held{a, endpoint, f.e.peers, p}
	x.attach(&x.held)
	return &x.held, nil
}

// held is an answer that holds an endpoint's counter and a peer until it is closed.
type held struct {
	answer
	endpoint *Endpoint
	peers    *peers
	peer     *peer
}

// close implements answer.
func (h *held) close() {
	h.answer.close()
	h.endpoint.Release()
	h.peers.release(h.peer)
}

var errProxyClosed = errors.New("the proxy is closed")
