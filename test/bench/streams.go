package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/cost"
	"github.com/hedgerow-mesh/hedgerow/test/bench/stream"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// streamBench: long bodies down and up the chain, one at a time.
func streamBench() bench {
	return bench{
		name:   "stream",
		pauses: "of the rest before and after each body",
		full:   settings{duration: time.Second, repeat: 5, only: programs, size: 1 << 30},
		brief:  settings{duration: 100 * time.Millisecond, repeat: 1, only: programs, size: 64 << 20},
		play:   playStream,
	}
}

// way is a direction of a long body.
type way struct {
	name string
	send func(context.Context, load.Target, int64) error
}

// transfer is one long body through one system.
type transfer struct {
	bytes               int64
	took, cost          time.Duration
	before, peak, after int64 // resident bytes of all processes together
}

func (t transfer) mibPerSecond() float64 { return mib(t.bytes) / t.took.Seconds() }
func (t transfer) gibPerCPU() float64    { return mib(t.bytes) / 1024 / t.cost.Seconds() }

// cpuPerGiB is the CPU time of a GiB, in seconds.
func (t transfer) cpuPerGiB() float64 { return 1 / t.gibPerCPU() }

// streamRSS are the columns of memory: before the first body, at the worst
// moment of all, after the last body.
func streamRSS(all []transfer) (before, peak, after float64) {
	for _, t := range all {
		peak = max(peak, mib(t.peak))
	}
	return mib(all[0].before), peak, mib(all[len(all)-1].after)
}

func playStream(w *world) (*report, error) {
	w.open()
	workload, err := w.streamWorkload()
	if err != nil {
		return nil, err
	}
	systems := w.chains(workload)
	r := &report{notes: []string{
		"CPU and RSS are those of both hops' processes together. Length and CRC-32C of each body are verified at its end.",
		"RSS is that before the first body, the most while any was sent (ten times a second), and that after the last.",
		"`ours/its` is the median over the rounds of Hedgerow's CPU by the peer's in the same round.",
	}}
	t := table{
		title: fmt.Sprintf("One body of %d MiB at a time, medians of the rounds", w.size>>20),
		head:  []string{"way", "proxy", "MiB/s", "GiB per CPU second", "CPU s/GiB", "ours/its", "RSS before MiB", "peak", "after"},
	}
	var voids []error
	var last, growth []string
	for _, way := range []way{{"down", stream.Down}, {"up", stream.Up}} {
		w.reachStream(systems, way)
		samples, err := rounds(w, way.name, systems, func(s *system) (transfer, error) { return w.transfer(s, way) })
		if err != nil {
			return nil, err
		}
		voids = append(voids, steady(way.name, systems, samples, transfer.cpuPerGiB))
		for i, s := range systems {
			by := "1"
			if i > 0 {
				by = decimal(ratio(samples[0], samples[i], transfer.cpuPerGiB), 2)
				last = append(last, fmt.Sprintf("ratio_cpu_%s_vs_%s=%s", way.name, s.name, by))
			}
			before, peak, after := streamRSS(samples[i])
			growth = append(growth, fmt.Sprintf("%s_%s_growth_mib=%s", way.name, s.name, decimal(peak-before, 1)))
			t.rows = append(t.rows, []string{
				way.name, s.name, decimal(middle(samples[i], transfer.mibPerSecond), 0), decimal(middle(samples[i], transfer.gibPerCPU), 2),
				decimal(middle(samples[i], transfer.cpuPerGiB), 2), by, decimal(before, 1), decimal(peak, 1), decimal(after, 1),
			})
		}
	}
	r.tables, r.lines = []table{t}, []string{strings.Join(growth, " ")}
	r.last = strings.Join(last, " ")
	if len(last) == 0 {
		r.last = measuredAlone
	}
	return r, errors.Join(voids...)
}

// streamWorkload starts the workload of long bodies, this program in a process
// of its own, and returns its address.
func (w *world) streamWorkload() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	address := w.mesh.Address()
	p := rig.Start(w.t, rig.Command{Name: "workload", Dir: w.mesh.Dir, Program: self, Args: []string{serveVerb, address}})
	p.Until(answerMost, "serves", func(ctx context.Context) error { return stream.Down(ctx, load.Target{Address: address}, 1) })
	return address, nil
}

// reachStream waits until each system passes a small body on.
func (w *world) reachStream(systems []*system, way way) {
	w.t.Helper()
	for _, s := range systems {
		s.processes[0].Until(answerMost, "answers", func(ctx context.Context) error { return way.send(ctx, s.target, 1<<20) })
	}
}

// transfer sends one body through a system. The pauses let it finish what it
// does after an exchange.
func (w *world) transfer(s *system, way way) (transfer, error) {
	t := transfer{bytes: w.size}
	w.t.Pause(w.duration)
	var err error
	if t.before, err = rss(s.pids()); err != nil {
		return t, err
	}
	meter, peaks := cost.NewMeter(s.pids()...), proc.PeakRSS(s.pids()...)
	spent, err := meter.Read()
	if err != nil {
		return t, err
	}
	began := time.Now()
	sendErr := way.send(w.t.Context(), s.target, w.size)
	t.took = time.Since(began)
	end, err := meter.Read()
	each, peakErr := peaks()
	if err := errors.Join(sendErr, err, peakErr); err != nil {
		return t, fmt.Errorf("%s: %w", s.name, err)
	}
	t.cost = end - spent
	for _, peak := range each {
		t.peak += peak
	}
	w.t.Pause(w.duration)
	t.after, err = rss(s.pids())
	return t, err
}
