package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// errHedged is why a try is given up: another one was answered.
var errHedged = errors.New("another try was answered")

// mayHedge reports whether a second try of x may begin while the first is under way:
// sending twice does no harm, and all of it is here.
func (x *exchange) mayHedge() bool { return x.isWhole && x.idempotent() && !x.wish.wanted() }

// fork is one of several tries of a request that are under way together: an exchange of
// its own, whose client is nobody. It ends before the exchange whose request it reads.
type fork struct {
	exchange
	hedge bool // it is not the first
}

var _ = client{(*fork)(nil), (*fork)(nil), (*fork)(nil)}

func (*fork) Read([]byte) (int, error)                       { return 0, io.EOF }
func (*fork) bodyTrailers() header.List                      { return nil }
func (*fork) inform(*responseHead) error                     { return nil }
func (*fork) begin(*responseHead, []byte, bool) error        { return errNotHere }
func (*fork) write([]byte) error                             { return errNotHere }
func (*fork) end(header.List) error                          { return errNotHere }
func (*fork) hijack(header.List) (halfCloser, []byte, error) { return nil, nil, errNotHere }
func (*fork) interruptRead()                                 {}
func (*fork) interruptWrite()                                {}

// fork returns a try of x at endpoint, to be carried out apart.
func (x *exchange) fork(endpoint *Endpoint, hedge bool) *fork {
	y := &fork{hedge: hedge}
	y.reset(x.s, client{y, y, y})
	y.request, y.decision, y.caller, y.breaker = x.request, x.decision, x.caller, x.breaker
	y.began, y.traced, y.grpc, y.hurried = x.began, x.traced, x.grpc, x.hurried
	y.in.method, y.in.http1, y.in.minor = x.in.method, x.in.http1, x.in.minor
	y.out = x.out
	y.out.fields = slices.Grow(slices.Clone(x.out.fields), 3)
	y.whole, y.isWhole = x.whole, true
	y.watch.epoch = x.watch.epoch
	y.watch.until.Store(x.watch.until.Load())
	y.tried = append(y.tried, endpoint)
	return y
}

// forked is what became of a fork.
type forked struct {
	*fork
	a      answer
	failed *failure
}

// run carries y out, unless ctx, that of the exchange, ends. Nobody interrupts the
// answer through y any more when it returns.
func (f *toMesh) run(ctx context.Context, y *fork, set *EndpointSet, lot Lot) forked {
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		y.abort(context.Cause(ctx))
	})
	a, failed := f.tryNear(&y.exchange, set, y.tried[0], lot)
	if !stop() {
		<-aborted
	}
	y.over()
	return forked{y, a, failed}
}

// tryHedged is tryNear, but that another endpoint is tried too if the first has not
// begun to answer after a while. The first good answer counts, and the other try is
// given up. It is a retry in all that bounds these; hedges is how many there were.
func (f *toMesh) tryHedged(x *exchange, set *EndpointSet, endpoint *Endpoint, lot Lot) (a answer, hedges int, failed *failure) {
	retry := &x.decision.Rule.Retry
	ctx := x.context()
	results := make(chan forked, 2)
	start := func(y *fork) {
		x.uploads.Go(func() { results <- f.run(ctx, y, set, lot) })
	}
	first := x.fork(endpoint, false)
	start(first)
	forks := []*fork{first}
	timer := time.NewTimer(retry.HedgeAfter)
	defer timer.Stop()
	for under := 1; ; {
		select {
		case <-timer.C:
			if y := f.hedge(x, set, lot); y != nil {
				forks = append(forks, y)
				start(y)
				under++
			}
		case r := <-results:
			under--
			good := r.failed == nil && !retry.wants(&r.exchange, r.effectiveStatus(), nil)
			if !good && under > 0 {
				f.settle(r, set)
				continue
			}
			for _, y := range forks {
				if y != r.fork {
					y.abort(errHedged)
				}
			}
			x.uploads.Go(func() {
				for range under {
					f.settle(<-results, set)
				}
			})
			a, failed = f.adopt(x, r, set)
			return a, len(forks) - 1, failed
		}
	}
}

// hedge returns another try of x, or nil if there may be none.
func (f *toMesh) hedge(x *exchange, set *EndpointSet, lot Lot) *fork {
	lot.Draw = rand.Uint64()
	endpoint, err := Pick(set, x.decision.Subset, x.tried, lot)
	if err != nil {
		return nil
	}
	if !set.retries.retry(time.Now(), x.decision.Rule.Retry.Budget) {
		f.e.metrics.unretried.WithLabelValues(x.decision.Service).Inc()
		return nil
	}
	if !set.breaker.retry() {
		return nil
	}
	if !set.breaker.request() {
		set.breaker.retries.Add(-1)
		return nil
	}
	x.tried = append(x.tried, endpoint)
	f.e.metrics.retries.WithLabelValues(x.decision.Service, "hedge").Inc()
	return x.fork(endpoint, true)
}

// settle ends a try that does not count: with it its place among the requests.
func (f *toMesh) settle(r forked, set *EndpointSet) {
	if r.hedge {
		set.breaker.retries.Add(-1)
	}
	if r.failed == nil {
		r.a.close()
		return
	}
	f.e.metrics.failed(r.decision.Service, r.failed)
	set.breaker.requests.Add(-1)
}

// adopt makes what became of a fork that of x.
func (f *toMesh) adopt(x *exchange, r forked, set *EndpointSet) (answer, *failure) {
	if r.hedge {
		set.breaker.retries.Add(-1)
	}
	// The last one tried is the one that counts, to whoever looks at x.
	if last := r.tried[len(r.tried)-1]; last != x.tried[len(x.tried)-1] {
		x.tried = append(slices.DeleteFunc(x.tried, func(e *Endpoint) bool { return e == last }), last)
	}
	x.decision.Authorization = r.decision.Authorization
	if r.failed != nil {
		return nil, r.failed
	}
	x.resp = r.resp
	x.attach(r.a)
	return r.a, nil
}
