package main

import (
	"fmt"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	// drainWithin is how long requests under way may take to finish.
	drainWithin = 30 * time.Second
	// transferLength is the length of a response that is under way when its
	// sidecar is told to end.
	transferLength = 3 * time.Second
	// transfers is how many of these are under way at a time.
	transfers = 12
	// underWay is how many requests a gateway has when it is told to end.
	underWay = 50
)

// playCalleeDrain ends and starts the sidecars of a service one after the other
// while the others serve. No request may fail, and what is under way finishes.
func playCalleeDrain(t *stage.T, r *row, s settings) {
	times := pick(s, 20, 3)
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	slow := load.OpenTransfers(t.Context(), m.Out(), transfers, transferLength)
	defer slow.Finish()
	var longest time.Duration
	var ends []string
	fewest := transfers // under way at a sidecar when it is told to end
	for i := range times {
		p := m.Shop[i%len(m.Shop)]
		t.Pause(time.Second) // so that it has requests of its own
		under, err := p.Admin.Sum(t.Context(), "hedgerow_requests_in_flight")
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		fewest = min(fewest, int(under))
		took, err := end(p)
		longest = max(longest, took)
		if err != nil {
			ends = append(ends, fmt.Sprintf("%s: %v; its output:\n%s", p.Name, err, p.Output()))
		}
		p.Start(stage.Limits{})
		m.Reached(m.Out())
	}
	finished, broken := slow.Finish()
	report := run.Stop()
	retries, err := m.Caller.Admin.Sum(t.Context(), "hedgerow_retries_total")
	if err != nil {
		t.Errorf("%v", err)
	}
	r.load(report)
	r.note("retries", int(retries))
	r.atLeast("drains", times-len(ends), times)
	r.blame("a drain", ends...)
	r.atMost("longest_drain", longest, drainWithin)
	r.atLeast("fewest_under_way", fewest, 1)
	r.atLeast("transfers_of_"+transferLength.String(), finished, times)
	r.zero("transfers_cut", len(broken))
	r.blame("a transfer was cut", broken...)
}

// end sends SIGTERM and waits. It returns how long the process took, and an
// error if its exit code was not 0.
func end(p *stage.Plane) (time.Duration, error) {
	began := time.Now()
	err := p.Stop()
	return time.Since(began), err
}

// playGatewayDrain ends a gateway that has requests under way. They finish, and
// it is gone at once after the last. Nobody else serves meanwhile, so that new
// requests are no measure.
func playGatewayDrain(t *stage.T, r *row, s settings) {
	times := pick(s, 20, 2)
	m := stage.New(t, stage.Options{Binaries: s.binaries, Gateway: true})
	ways := []struct {
		name   string
		target load.Target
	}{
		{"http1", m.Edge()}, {"https1", m.SecureEdge(false)}, {"h2", m.SecureEdge(true)},
	}
	var longest time.Duration
	whole, drained := 0, 0
	for range times {
		slow := make([]*load.Transfers, len(ways))
		for i, way := range ways {
			slow[i] = load.OpenTransfers(t.Context(), way.target, underWay/len(ways), transferLength)
		}
		t.Pause(transferLength / 3) // all have begun; none has ended
		for _, transfer := range slow {
			transfer.Stop() // so that none begins at a gateway that ends
		}
		took, err := end(m.Gateway)
		for i, transfer := range slow {
			finished, broken := transfer.Finish()
			whole += finished
			r.blame("a transfer over "+ways[i].name+" was cut", broken...)
		}
		longest = max(longest, took)
		if err != nil {
			r.blame("a drain", fmt.Sprintf("%v; its output:\n%s", err, m.Gateway.Output()))
		} else {
			drained++
		}
		m.Gateway.Start(stage.Limits{})
	}
	want := times * len(ways) * (underWay / len(ways))
	r.atLeast("drains", drained, times)
	r.limit("transfers_whole", fmt.Sprint(whole), fmt.Sprint(want), whole == want)
	r.atMost("longest_drain", longest, drainWithin)
	r.note("transfer", transferLength)
}
