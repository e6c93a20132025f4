package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// toMesh is the forwarder of a Gateway, an Outbound and the bridge: to the
// sidecar beside an instance of the chosen backend.
type toMesh struct {
	endpoints func(ctx context.Context, service string) *EndpointSet
	peers     *peers
	metrics   *metrics
}

var _ forwarder = (*toMesh)(nil)

// forward implements forwarder. It tries another endpoint, where there is one,
// as the rule's retry policy says.
func (f *toMesh) forward(ctx context.Context, x *exchange) (*upstream, error) {
	var tried []*Endpoint
	retry := x.decision.Rule.Retry
	for n := 0; ; n++ {
		set := f.endpoints(ctx, x.decision.Service)
		endpoint, err := Pick(set, x.decision.Subset, tried, rand.Uint64())
		if err != nil && n > 0 {
			// All were tried. The same one again is better than giving
			// up: it may be restarting.
			endpoint, err = Pick(set, x.decision.Subset, nil, rand.Uint64())
		}
		if err != nil {
			return nil, &failure{Refusal{http.StatusServiceUnavailable, CodeNoEndpoint, "no instance of the service is there"}, failedEndpoint, err}
		}
		tried = append(tried, endpoint)
		up, err := f.try(ctx, x, endpoint, retry.PerTryTimeout)
		reason, again := f.again(x, n, up, err)
		if !again {
			return up, err
		}
		if up != nil {
			up.done()
		}
		f.metrics.retries.WithLabelValues(x.decision.Service, reason).Inc()
		if err := retry.wait(ctx, n); err != nil {
			return nil, x.classify(ctx, err)
		}
	}
}

// again reports whether another try follows try n, and why.
func (f *toMesh) again(x *exchange, n int, up *upstream, err error) (reason string, again bool) {
	var failed *failure
	status := 0
	if errors.As(err, &failed) {
		reason = string(failed.kind)
		f.metrics.failed(x.decision.Service, failed)
	} else {
		status, reason = up.resp.StatusCode, "status"
	}
	retry := x.decision.Rule.Retry
	return reason, n < retry.Attempts && retry.wants(x, status, failed)
}

func (f *toMesh) try(ctx context.Context, x *exchange, endpoint *Endpoint, perTry time.Duration) (*upstream, error) {
	p, err := f.peers.acquire(peerKey{x.caller, endpoint.Service, endpoint.Node, endpoint.Address})
	if err != nil {
		return nil, x.classify(ctx, err)
	}
	rt := p.preferred
	if x.upgrade != nil {
		rt = p.http1
	}
	endpoint.Acquire()
	return x.try(ctx, rt, "https", endpoint.Address, perTry, func() {
		endpoint.Release()
		f.peers.release(p)
	})
}
