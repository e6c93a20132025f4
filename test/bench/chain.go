package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
)

// openConnections is how many connections the open loop has: more than are ever
// busy, so that its rate and not their number is what it measures with.
const openConnections = 64

// ofMeasurement is what the duration is for where the load has a length.
const ofMeasurement = "of one measurement, after a warm-up of a quarter of it or 1 s"

// chainBench: caller, sidecar, mutual TLS, sidecar, workload.
func chainBench() bench {
	return bench{
		name:   "chain",
		pauses: ofMeasurement,
		full:   settings{duration: 4 * time.Second, repeat: 5, connections: numbers{1, 8, 32, 128}, methods: words{"GET", "POST"}, only: programs, rate: 2000},
		brief:  settings{duration: time.Second, repeat: 2, connections: numbers{32, 128}, methods: words{"GET", "POST"}, only: programs, rate: 500},
		play:   playChain,
	}
}

func playChain(w *world) (*report, error) {
	w.open()
	systems := w.chains(w.workload())
	r := &report{notes: []string{
		"CPU and RSS are those of both hops' processes together, two of each program.",
		"Hedgerow routes, checks a policy, counts requests and names the caller; the peers verify certificates, forward and name the caller.",
		"`ours/its` is the median over the rounds of Hedgerow's CPU by the peer's in the same round.",
	}}
	closed, found, err := w.closedLoops(systems, column{name: "CPU µs/request", key: "cpu", of: sample.micros})
	if closed == nil {
		return nil, err
	}
	r.tables = append(r.tables, *closed)
	if w.rate > 0 {
		t, line, openErr := w.openLoop(systems)
		if openErr != nil {
			return nil, errors.Join(err, openErr)
		}
		r.tables = append(r.tables, *t)
		if line != "" {
			r.lines = append(r.lines, line)
		}
	}
	r.lines = slices.Concat(r.lines, found.lines(get), found.lines(post))
	r.last = found.last()
	return r, err
}

// column is a cost that a bench looks at.
type column struct {
	name string
	key  string // in the names of ratios
	of   func(sample) float64
}

// requests are those of the methods that were asked for.
func (w *world) requests() []loop.Request {
	var all []loop.Request
	for _, method := range w.methods {
		switch method {
		case get.Method:
			all = append(all, get)
		case methodUnary:
			all = append(all, unary())
		default:
			all = append(all, post)
		}
	}
	return all
}

// closedLoops measures each system under each load. The ratios in the table are
// of the first of costs. The error says why it does not count; without a table
// it could not be measured at all.
func (w *world) closedLoops(systems []*system, costs ...column) (*table, *findings, error) {
	t := &table{title: "Closed loop, medians of the rounds", head: []string{"load", "proxy", "requests/s"}}
	for _, c := range costs {
		t.head = append(t.head, c.name)
	}
	t.head = append(t.head, "ours/its", "p50 ms", "p99 ms", "RSS MiB")
	found := &findings{}
	var voids []error
	for _, request := range w.requests() {
		w.reach(systems, request)
		for _, n := range w.connections {
			what := fmt.Sprintf("%s, %s", named(request), of(request, n))
			samples, err := rounds(w, what, systems, func(s *system) (sample, error) {
				return w.measure(s, fmt.Sprintf("%s-%d", request.Method, n), loop.Plan{Request: request, Connections: n})
			})
			if err != nil {
				return nil, nil, err
			}
			voids = append(voids, steady(what, systems, samples, costs[0].of))
			for i, s := range systems {
				by := "1"
				if i > 0 {
					by = decimal(ratio(samples[0], samples[i], costs[0].of), 2)
					for _, c := range costs {
						found.add(finding{request.Method, c.key, n, s.name, ratio(samples[0], samples[i], c.of)})
					}
				}
				row := []string{what, s.name, decimal(middle(samples[i], sample.perSecond), 0)}
				for _, c := range costs {
					row = append(row, decimal(middle(samples[i], c.of), 1))
				}
				t.rows = append(t.rows, append(row, by, decimal(middle(samples[i], sample.p50), 2),
					decimal(middle(samples[i], sample.p99), 2), decimal(middle(samples[i], sample.rssMiB), 1)))
			}
		}
	}
	return t, found, errors.Join(voids...)
}

// openLoop measures the latency of each system at a fixed rate, and returns the
// table and a line of the ratios.
func (w *world) openLoop(systems []*system) (*table, string, error) {
	what := fmt.Sprintf("GET, %d requests/s", w.rate)
	t := &table{
		title: "Open loop, medians of the rounds; latency from when a request was due",
		head:  []string{"load", "proxy", "p50 ms", "p99 ms", "ours/its p99", "sent late p99 ms", "CPU µs/request"},
	}
	w.reach(systems, get)
	samples, err := rounds(w, what, systems, func(s *system) (sample, error) {
		return w.measure(s, fmt.Sprintf("open-%d", w.rate), loop.Plan{Request: get, Connections: openConnections, Rate: w.rate})
	})
	if err != nil {
		return nil, "", err
	}
	var ratios []string
	for i, s := range systems {
		by := "1"
		if i > 0 {
			by = decimal(ratio(samples[0], samples[i], sample.p99), 2)
			ratios = append(ratios, fmt.Sprintf("ratio_p99_%d_vs_%s=%s", w.rate, s.name, by))
		}
		t.rows = append(t.rows, []string{
			what, s.name, decimal(middle(samples[i], sample.p50), 2), decimal(middle(samples[i], sample.p99), 2), by,
			decimal(middle(samples[i], sample.late), 2), decimal(middle(samples[i], sample.micros), 1),
		})
	}
	return t, strings.Join(ratios, " "), nil
}

// of says how many of a request are under way at a time: each on a connection of its
// own, but for calls.
func of(r loop.Request, n int) string {
	what := "connection"
	if r.Method == methodUnary {
		what = "call"
	}
	if n > 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// named says what a request is, in a word or two.
func named(r loop.Request) string {
	switch {
	case r.Body == nil:
		return r.Method
	case r.Method == methodUnary:
		return fmt.Sprintf("unary %d B", len(r.Body))
	}
	return fmt.Sprintf("%s %d KiB", r.Method, len(r.Body)>>10)
}
