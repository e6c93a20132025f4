package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// settledWithin is how long a data plane may take to count the last of a load.
const settledWithin = 5 * time.Second

// ledger compares what data planes count with what the load's client and the workloads saw. It
// is opened before the load, and closed after it.
type ledger struct {
	t      *stage.T
	m      *stage.Mesh
	pages  []page
	before []tally
	got    int // requests at the workloads
}

// page is where a load enters, and by which route.
type page struct {
	plane *stage.Plane
	face  string
	route string
}

// tally is what a data plane has counted.
type tally struct {
	answered, switched, other int // requests of the page's route: 2xx, 1xx, and the rest
	tries                     int // that were sent to the workloads' sidecars, of all routes
	lost                      int // of which nobody knows whether they arrived
}

// open begins the comparison.
func open(t *stage.T, m *stage.Mesh, pages ...page) *ledger {
	l := &ledger{t: t, m: m, pages: pages, got: m.Received()}
	for _, p := range pages {
		before, err := p.tally(t.Context())
		if err != nil {
			t.Fatalf("read the metrics: %v", err)
		}
		l.before = append(l.before, before)
	}
	return l
}

// byShop is the page of requests to the host that is called as its route.
func byShop(m *stage.Mesh, route string) page { return page{m.Caller, "outbound", "routes/" + route} }

func (p page) tally(ctx context.Context) (tally, error) {
	var out tally
	var failed error
	sum := func(metric string, labels ...string) int {
		n, err := p.plane.Admin.Sum(ctx, metric, labels...)
		if err != nil {
			failed = err
		}
		return int(n)
	}
	route := func(class ...string) int {
		return sum("hedgerow_route_requests_total", append(class, fmt.Sprintf("face=%q", p.face), fmt.Sprintf("route=%q", p.route))...)
	}
	out.answered, out.switched = route(`code_class="2xx"`), route(`code_class="1xx"`)
	out.other = route() - out.answered - out.switched
	for _, service := range []string{`service="shop"`, `service="shop-rpc"`} {
		out.tries += sum("hedgerow_requests_total", service, fmt.Sprintf("face=%q", p.face)) + sum("hedgerow_retries_total", service) -
			sum("hedgerow_upstream_failures_total", service, `kind="connect"`) - sum("hedgerow_upstream_failures_total", service, `kind="endpoint"`)
		out.lost += sum("hedgerow_upstream_failures_total", service, `kind="reset"`) + sum("hedgerow_upstream_failures_total", service, `kind="timeout"`)
	}
	return out, failed
}

// less is what was counted since before.
func (t tally) less(before tally) tally {
	return tally{t.answered - before.answered, t.switched - before.switched, t.other - before.other, t.tries - before.tries, t.lost - before.lost}
}

// close compares the pages with what went by each, in their order, and all of them with the workloads.
// underWay is how much was when what carried it was ended: of that nobody knows whether it arrived
// before.
func (l *ledger) close(r *row, underWay int, reports ...load.Report) {
	tries := 0
	planes := map[*stage.Plane]bool{}
	for i, p := range l.pages {
		got := l.settled(p, l.before[i], reports[i])
		seen := reports[i]
		r.equal("counted_"+p.face+"_"+p.route[len("routes/"):], got.answered+got.switched+got.other, seen.Requests())
		r.equal("of_them_2xx", got.answered, seen.Answered())
		r.equal("of_them_101", got.switched, seen.Dialled-seen.Refused)
		if planes[p.plane] { // which counts by services, whatever the route
			continue
		}
		planes[p.plane] = true
		tries += got.tries
		underWay += got.lost
	}
	received := l.m.Received() - l.got
	r.limit("counted_tries", fmt.Sprint(tries), fmt.Sprintf("%d received, and up to %d under way", received, underWay), tries >= received-underWay && tries <= received+underWay)
}

// settled waits a moment until p has counted what was seen, and returns what it has.
func (l *ledger) settled(p page, before tally, seen load.Report) tally {
	var got tally
	deadline := time.Now().Add(settledWithin)
	for {
		now, err := p.tally(l.t.Context())
		if err != nil {
			l.t.Fatalf("read the metrics: %v", err)
		}
		if got = now.less(before); got.answered+got.switched+got.other == seen.Requests() || time.Now().After(deadline) {
			return got
		}
		l.t.Pause(50 * time.Millisecond)
	}
}
