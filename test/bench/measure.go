package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/cost"
	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
)

// swingMost is how much more HAProxy may cost in the dearest round than in the
// cheapest. More means that the machine was not the same in each.
const swingMost = 1.4

// reference is the peer whose swing is watched.
const reference = "haproxy"

// sample is one measurement of one system.
type sample struct {
	loop.Report
	parts []time.Duration // the CPU time of each process
	rss   int64           // bytes, of all processes together, at the end
}

// micros is the CPU time of one request, in microseconds.
func (s sample) micros() float64 { return s.per(s.Cost) }

// per divides d by the requests, in microseconds.
func (s sample) per(d time.Duration) float64 {
	return float64(d) / float64(time.Microsecond) / float64(s.Requests)
}

// first is the CPU time that the first process spent on one request.
func (s sample) first() float64 { return s.per(s.parts[0]) }

func (s sample) perSecond() float64 { return s.PerSecond() }
func (s sample) p50() float64       { return float64(s.P50) / float64(time.Millisecond) }
func (s sample) p99() float64       { return float64(s.P99) / float64(time.Millisecond) }
func (s sample) late() float64      { return float64(s.Late) / float64(time.Millisecond) }
func (s sample) rssMiB() float64    { return mib(s.rss) }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// measure sends requests through a system for the duration of a measurement.
// Any that fails is an error. label names the point in the names of files.
func (w *world) measure(s *system, label string, plan loop.Plan) (sample, error) {
	meter := cost.NewMeter(s.pids()...)
	plan.Target, plan.Cost, plan.Length = s.target, meter.Read, w.duration
	// A peer makes its mutual TLS connections in this time: what is measured is
	// their use.
	plan.Warm = max(w.duration/4, time.Second)
	profiled := w.profile(s, label, plan.Warm)
	r, err := loop.Run(w.t.Context(), plan)
	if err := errors.Join(err, profiled()); err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	if r.Failed > 0 || r.Requests == 0 {
		return sample{}, fmt.Errorf("%s answered %d requests well and %d not: %s", s.name, r.Requests, r.Failed, strings.Join(r.Errors, "; "))
	}
	held, err := rss(s.pids())
	return sample{r, meter.Each(), held}, err
}

// rss is the resident memory of processes together.
func rss(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		n, err := proc.RSS(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// rounds measures all systems in turn, and that again for each round. Who
// begins changes with the round. It returns the samples by system and round.
func rounds[S any](w *world, what string, systems []*system, measure func(*system) (S, error)) ([][]S, error) {
	samples := make([][]S, len(systems))
	for round := range w.repeat {
		w.say("%s: round %d of %d", what, round+1, w.repeat)
		for i := range systems {
			n := (i + round) % len(systems)
			s, err := measure(systems[n])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			samples[n] = append(samples[n], s)
		}
	}
	return samples, nil
}

// steady reports a reference whose cost differs too much between rounds.
func steady[S any](what string, systems []*system, samples [][]S, cost func(S) float64) error {
	for i, s := range systems {
		if s.program != reference {
			continue
		}
		all := values(samples[i], cost)
		if low, high := slices.Min(all), slices.Max(all); high > low*swingMost {
			return fmt.Errorf("%s: %s cost %.1f in one round and %.1f in another, %.1f %% more; at most %.0f %% are allowed",
				what, s.name, low, high, (high/low-1)*100, (swingMost-1)*100)
		}
	}
	return nil
}

func values[S any](samples []S, of func(S) float64) []float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	return all
}

// middle is the median of something over the rounds.
func middle[S any](samples []S, of func(S) float64) float64 { return median(values(samples, of)) }

// ratio is the median over the rounds of ours by theirs in the same round.
func ratio[S any](ours, theirs []S, of func(S) float64) float64 {
	var all []float64
	for i := range ours {
		all = append(all, of(ours[i])/of(theirs[i]))
	}
	return median(all)
}

// median is the middle of what is not empty, or the mean of the two in the
// middle.
func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
