package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	// forgottenWithin is a lease's 15 s, and one more.
	forgottenWithin = 16 * time.Second
	// perTry is the per-try timeout of the route shop.mesh/impatient.
	perTry = 500 * time.Millisecond
	// budgetWindow is longer than requests count for a budget of retries.
	budgetWindow = 11 * time.Second
	// plainHost has a route without retries.
	plainHost = "plain.mesh"
	// impatientHost has a route that waits for perTry and tries again.
	impatientHost = "impatient.mesh"
)

// playCrash kills one of three sidecars. Whoever may retry sees nothing of it.
func playCrash(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	l := open(t, m, byShop(m, "shop"), byShop(m, "plain"))
	with := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate / 2, Mixed: true})
	without := load.Start(t.Context(), load.Plan{Target: load.Target{Address: m.Caller.Outbound, Host: plainHost}, Rate: s.rate / 2, Mixed: true})
	t.Pause(pick(s, 5*time.Second, time.Second))
	victim := m.Shop[0]
	began, underWay := time.Now(), with.UnderWay()+without.UnderWay()
	if err := victim.Kill(); err != nil {
		t.Fatalf("%v", err)
	}
	forgotten := time.Duration(0)
	m.Caller.Until(forgottenWithin+30*time.Second, "forgets the instance", func(ctx context.Context) error {
		known, err := m.Caller.Admin.Endpoints(ctx, "shop")
		if err != nil {
			return err
		}
		if len(known) != len(m.Shop)-1 {
			return fmt.Errorf("it knows %v", known)
		}
		forgotten = time.Since(began)
		return nil
	})
	t.Pause(pick(s, 10*time.Second, time.Second))
	plain, report := without.Stop(), with.Stop()
	r.load(report)
	r.note("sent_without_retries", plain.Sent)
	r.limit("errors_without_retries", fmt.Sprint(plain.Failed), "<=1", plain.Failed <= 1)
	if plain.Failed > 1 {
		r.blame("a request without retries failed", plain.Errors...)
	}
	r.atMost("forgotten_after", forgotten, forgottenWithin)
	r.atLeast("websockets_cut", cuts(report.And(plain)), 1)
	l.close(r, underWay, report, plain)
}

// playHang stops one of three sidecars, which then takes connections and answers
// nothing. Tries end in time, it is taken out, and the service is not asked much more.
func playHang(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	before, l := m.Received(), open(t, m, byShop(m, "impatient"))
	run := load.Start(t.Context(), load.Plan{Target: load.Target{Address: m.Caller.Outbound, Host: impatientHost}, Rate: s.rate, Mixed: true})
	t.Pause(pick(s, 5*time.Second, time.Second))
	victim := m.Shop[0]
	underWay := run.UnderWay()
	if err := syscall.Kill(victim.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatalf("%v", err)
	}
	t.Pause(pick(s, 50*time.Second, 8*time.Second))
	report := run.Stop()
	if err := syscall.Kill(victim.Pid(), syscall.SIGCONT); err != nil {
		t.Fatalf("%v", err)
	}
	r.load(report)
	r.atMost("p99", report.P99, perTry*11/10)
	r.atLeast("websockets_cut", cuts(report), 1)
	l.close(r, underWay, report)
	amplified(r, m.Received()-before, report.Requests())
}

// cuts is how many WebSockets were cut.
func cuts(l load.Report) int {
	n := 0
	for _, of := range l.Cuts {
		n += of
	}
	return n
}

// amplified adds how many tries a load became.
func amplified(r *row, received, sent int) {
	factor := float64(received) / float64(max(sent, 1))
	r.limit("tries_by_requests", fmt.Sprintf("%.4f", factor), "<=1.2", factor <= 1.2)
}

// playAllDown ends all three sidecars. The caller says so at once.
func playAllDown(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	for _, p := range m.Shop {
		if err := p.Kill(); err != nil {
			t.Fatalf("%v", err)
		}
	}
	m.Caller.Until(time.Minute, "forgets the instances", func(ctx context.Context) error {
		for _, service := range []string{"shop", "shop-rpc"} {
			known, err := m.Caller.Admin.Endpoints(ctx, service)
			if err == nil && len(known) > 0 {
				err = fmt.Errorf("it knows %v", known)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	const refusals = "hedgerow_refusals_total"
	n := pick(s, 2000, 200)
	counted := func() int {
		sum, err := m.Caller.Admin.Sum(t.Context(), refusals, `face="outbound"`, `code="no_healthy_endpoint"`)
		if err != nil {
			t.Fatalf("read the metrics: %v", err)
		}
		return int(sum)
	}
	before := counted()
	took, wrong := load.Refused(t.Context(), m.Out(), n, 503, "no_healthy_endpoint")
	r.note("requests", n)
	r.zero("answered_otherwise", len(wrong))
	r.blame("an answer", wrong...)
	r.atMost("p99", took, 5*time.Millisecond)
	r.equal("counted_refusals", counted()-before, n)
}

// playAmplification has a service that answers 503, and a caller that would try each
// request three times more.
func playAmplification(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	t.Pause(budgetWindow) // so that what made sure of the mesh gives it no budget
	counted := func() int {
		sum, err := m.Caller.Admin.Sum(t.Context(), "hedgerow_retries_total", `reason="status"`)
		if err != nil {
			t.Fatalf("read the metrics: %v", err)
		}
		return int(sum)
	}
	before, retries := m.Received(), counted()
	n := pick(s, 20_000, 4000)
	_, wrong := load.Refused(t.Context(), load.Target{Address: m.Caller.Outbound, Host: "eager.mesh"}, n, 503, "")
	r.note("requests", n)
	r.zero("answered_otherwise", len(wrong))
	r.blame("an answer", wrong...)
	received := m.Received() - before
	amplified(r, received, n)
	r.equal("counted_retries", counted()-retries, received-n)
}

const (
	// readyWithin is how long a sidecar may take after a SIGKILL.
	readyWithin = 2 * time.Second
)

// playKill kills one of three sidecars again and again, and starts it at once, as a
// supervisor does. At most what it had under way is lost.
func playKill(t *stage.T, r *row, s settings) {
	times := pick(s, 20, 3)
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	l := open(t, m, byShop(m, "shop"))
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate, Mixed: true})
	var longest time.Duration
	underWay := 0
	for i := range times {
		n := i % len(m.Shop)
		victim := m.Shop[n]
		t.Pause(time.Second)
		underWay += run.UnderWay()
		if err := victim.Kill(); err != nil {
			t.Fatalf("%v", err)
		}
		began := time.Now()
		victim.Start(stage.Limits{})
		longest = max(longest, time.Since(began))
		m.ReachedAt(load.Target{Address: m.Caller.Outbound, Host: plainHost}, n)
	}
	report := run.Stop()
	r.load(report)
	r.atLeast("websockets_cut", cuts(report), times)
	l.close(r, underWay, report)
	r.atLeast("kills", times, times)
	r.atMost("longest_until_ready", longest, readyWithin)
}
