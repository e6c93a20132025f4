// Package loop sends one HTTP/1.1 request over and over on kept connections and
// verifies each answer: status, framing and every byte of the body. A closed
// loop sends the next request when the answer is there; an open loop sends at a
// fixed rate and measures from the time a request was due.
//
// It is light, so that it takes little of the cores from the proxies that are
// measured: a request is one write of bytes made beforehand, an answer is
// compared in place. It is no HTTP client: no chunked bodies, no interim
// answers, no redirects, no second try. One failed exchange ends its connection.
package loop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

const (
	// dialMost bounds connecting, handshake included.
	dialMost = 10 * time.Second
	// grace is how much longer than planned the last answers may take.
	grace = 10 * time.Second
	// errorsKept is how many failures are told in words.
	errorsKept = 5
)

// Request is what is sent and what must come back, with status 200.
type Request struct {
	Method, Path string
	Body         []byte // with a Content-Length, if not nil
	Want         []byte // the answer's body
	// Dial connects for a load of another kind; nil is HTTP/1.1.
	Dial func(context.Context, load.Target, Request) (Exchanger, error)
}

// Exchanger sends a request and verifies its answer, again and again. It is for one
// goroutine, but for SetDeadline.
type Exchanger interface {
	// Exchange is of no use any more after an error.
	Exchange() error
	// SetDeadline sets when exchanges fail for taking too long, also one under way.
	SetDeadline(time.Time) error
	Close()
}

// Connect returns an Exchanger for r at target. The caller closes it.
func (r Request) Connect(ctx context.Context, target load.Target) (Exchanger, error) {
	if r.Dial != nil {
		return r.Dial(ctx, target, r)
	}
	return Dial(ctx, target, r)
}

// Plan is one run.
type Plan struct {
	Target      load.Target
	Request     Request
	Connections int // open all the time
	// Rate is the requests a second of an open loop; 0 is a closed loop.
	Rate   int
	Warm   time.Duration // comes before what is measured
	Length time.Duration // of what is measured
	// Cost is read at the begin and at the end of what is measured. If nil,
	// Report.Cost is 0.
	Cost func() (time.Duration, error)
}

// Report is what was measured.
type Report struct {
	Requests int      // answered well: in a closed loop within Length, in an open one due within it
	Failed   int      // since the start, warming included
	Errors   []string // the first few of the failures
	Elapsed  time.Duration
	Cost     time.Duration // by Plan.Cost
	P50, P99 time.Duration // of an answer; in an open loop from when it was due
	// Late is the 99th percentile of how late an open loop sent, which P99
	// contains: no connection was free, or the generator did not run.
	Late time.Duration
}

// PerSecond is the throughput, in requests.
func (r Report) PerSecond() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// CostEach is the cost of one request.
func (r Report) CostEach() time.Duration {
	return r.Cost / time.Duration(max(r.Requests, 1))
}

// run is a Plan under way.
type run struct {
	plan Plan

	mu        sync.Mutex // guards what follows; nothing blocks under it
	measuring bool
	over      bool
	report    Report
	took      []time.Duration
	late      []time.Duration
}

// Run connects, warms up, measures and reports. The error is about the run
// itself: connections that could not be made, ctx that ended. Exchanges that
// failed are in the Report.
func Run(ctx context.Context, plan Plan) (Report, error) {
	conns, err := connect(ctx, plan)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	if err != nil {
		return Report{}, err
	}
	// Nothing outlives the plan by more than grace, nor ctx at all.
	end := time.Now().Add(plan.Warm + plan.Length + grace)
	for _, c := range conns {
		if err := c.SetDeadline(end); err != nil {
			return Report{}, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		for _, c := range conns {
			_ = c.SetDeadline(time.Unix(1, 0)) // one that is closed has ended too
		}
	})()
	r := &run{plan: plan}
	if plan.Rate > 0 {
		err = r.open(ctx, cancel, conns)
	} else {
		err = r.closed(ctx, cancel, conns)
	}
	return r.finish(), err
}

// connect opens the plan's connections. What it returns is to be closed, also
// with an error.
func connect(ctx context.Context, plan Plan) ([]Exchanger, error) {
	var conns []Exchanger
	for range plan.Connections {
		c, err := plan.Request.Connect(ctx, plan.Target)
		if err != nil {
			return conns, fmt.Errorf("connect to %s: %w", plan.Target.Address, err)
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// closed is the closed loop. It calls giveUp only with an error.
func (r *run) closed(ctx context.Context, giveUp func(), conns []Exchanger) error {
	var workers sync.WaitGroup
	for _, c := range conns {
		workers.Go(func() {
			for {
				began := time.Now()
				err := c.Exchange()
				if done := r.answered(time.Since(began), err); done || err != nil {
					return
				}
			}
		})
	}
	err := r.phases(func(d time.Duration) error { return wait(ctx, d) })
	if err != nil {
		giveUp()
	}
	workers.Wait()
	return err
}

// answered notes an exchange of a closed loop, and reports whether it is over.
func (r *run) answered(took time.Duration, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.failedLocked(err)
	case r.measuring:
		r.took = append(r.took, took)
	}
	return r.over
}

// phases goes through warming and measuring; pass lets a time pass.
func (r *run) phases(pass func(time.Duration) error) error {
	if err := pass(r.plan.Warm); err != nil {
		return err
	}
	began, before, err := r.turn(true)
	if err != nil {
		return err
	}
	err = pass(r.plan.Length)
	ended, after, costErr := r.turn(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Elapsed, r.report.Cost = ended.Sub(began), after-before
	return errors.Join(err, costErr)
}

// turn begins or ends what is measured, and returns the time and cost then.
func (r *run) turn(measuring bool) (time.Time, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measuring, r.over = measuring, !measuring
	var cost time.Duration
	var err error
	if r.plan.Cost != nil {
		cost, err = r.plan.Cost()
	}
	return time.Now(), cost, err
}

// wait waits for d.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failedLocked notes a failure. r.mu is held.
func (r *run) failedLocked(err error) {
	r.report.Failed++
	if len(r.report.Errors) < errorsKept {
		r.report.Errors = append(r.report.Errors, err.Error())
	}
}

// finish returns the report, when all has ended.
func (r *run) finish() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Requests = len(r.took)
	slices.Sort(r.took)
	slices.Sort(r.late)
	r.report.P50, r.report.P99 = percentile(r.took, 50), percentile(r.took, 99)
	r.report.Late = percentile(r.late, 99)
	return r.report
}

// percentile returns the nearest-rank percentile p of sorted, 0 of nothing.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
