package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// slowMode is one kind of slow client, as slowhttptest plays it.
type slowMode struct {
	flag, title string
	path        string
	counted     bool // the proxy takes such a client's request for one under way
	clients     int  // in the full form
	rate        int  // new clients a second
	more        []string
}

// slowActs are the rows of the slow clients.
func slowActs() []act {
	var all []act
	for _, mode := range []slowMode{
		{"-H", "slow headers (slowhttptest -H)", "/echo?i=0", false, 1000, 50, []string{"-x", "24", "-t", "GET"}},
		{"-B", "slow bodies (slowhttptest -B)", "/echo", true, 1000, 50, []string{"-s", "8192", "-x", "10"}},
		// The kernel's buffers take some megabytes of each answer before a proxy
		// has to wait: fewer clients, and a workload that sends 4 MiB/s as one on
		// a network would, so that copying at the speed of memory is not what is
		// measured.
		{"-X", "slow reading (slowhttptest -X)", "/bytes?n=6000000&mib=4", true, 200, 10, []string{"-w", "512", "-y", "1024", "-n", "1", "-z", "32"}},
	} {
		all = append(all, act{"slow", "slow", mode.title, func(t *stage.T, r *row, s settings) { playSlow(t, r, s, mode) }})
	}
	return all
}

// worseMost is how much longer the 99th percentile of others may take while
// slow clients are there.
const worseMost = 2.0

// playSlow lets slow clients loose on a gateway and on a sidecar's outbound,
// one after the other, while others ask as before.
func playSlow(t *stage.T, r *row, s settings, mode slowMode) {
	m := stage.New(t, stage.Options{Binaries: s.binaries, Gateway: true})
	playSlowAt(t, r, s, mode, slowPlace{"gateway", m.Gateway, m.Edge()})
	playSlowAt(t, r, s, mode, slowPlace{"sidecar", m.Caller, m.Out()})
}

// followUp is after how many seconds a slow client sends its next few bytes. All
// do so at the same moment: more often than this, and a thousand of them are a
// burst of requests' worth of work and not slow. The program's own default is 10.
const followUp = "5"

// slowRounds is how often calm and attack alternate. The median of their ratios
// counts, as a machine's other work may fall into any one of them.
const slowRounds = 3

// slowPlace is where slow clients and others meet.
type slowPlace struct {
	name   string
	plane  *stage.Plane
	target load.Target
}

func playSlowAt(t *stage.T, r *row, s settings, mode slowMode, at slowPlace) {
	name, target := at.name, at.target
	plan := load.Plan{Target: target, Rate: s.rate}
	// The first seconds make connections, and are nobody's usual.
	warm := load.Start(t.Context(), plan)
	t.Pause(2 * time.Second)
	r.blame(name+" before", warm.Stop().Errors...)

	var a attack
	var ratios []float64
	var pairs []string
	failed, held := 0, 0
	for range slowRounds {
		t.Pause(2 * time.Second) // until what slow clients left behind is cleared away
		calm := load.Start(t.Context(), plan)
		t.Pause(pick(s, 10*time.Second, 3*time.Second))
		before := calm.Stop()
		r.blame(name+" before", before.Errors...)

		run := load.Start(t.Context(), plan)
		most := mostInFlight(t.Context(), at.plane)
		err := a.run(t.Context(), mode, target, pick(s, 20*time.Second, 6*time.Second), pick(s, mode.clients, mode.clients/4))
		during := run.Stop()
		held = max(held, most())
		if err != nil {
			r.blame(name, err.Error())
			return
		}
		failed += during.Failed
		r.blame("a request at the "+name+" failed", during.Errors...)
		ratios = append(ratios, float64(during.P99)/float64(max(before.P99, 1)))
		pairs = append(pairs, short(during.P99)+"/"+short(before.P99))
	}
	slices.Sort(ratios)
	ratio := ratios[len(ratios)/2]
	r.zero(name+"_errors", failed)
	r.limit(name+"_p99", fmt.Sprintf("%.2fx", ratio), "<=2x", ratio <= worseMost)
	r.note(name+"_p99_pairs", strings.Join(pairs, ","))
	r.limit(name+"_available", fmt.Sprintf("%d/%d", a.available, a.available+a.away), "always", a.away == 0 && a.available > 0)
	r.atLeast(name+"_slow_clients", a.connected, 1)
	if mode.counted {
		// Otherwise the kernel has swallowed what was to be slow.
		r.atLeast(name+"_in_flight", held, pick(s, mode.clients, mode.clients/4)/4)
	}
	r.note(name+"_closed", a.closed)
}

// mostInFlight looks how many requests a proxy has under way until it is called,
// and then returns the most that it saw.
func mostInFlight(ctx context.Context, p *stage.Plane) func() int {
	ctx, stop := context.WithCancel(ctx)
	most := make(chan int, 1)
	go func() {
		n := 0
		for wait(ctx, 500*time.Millisecond) {
			// A scrape that fails is one that saw nothing.
			if now, err := p.Admin.Sum(ctx, "hedgerow_requests_in_flight"); err == nil {
				n = max(n, int(now))
			}
		}
		most <- n
	}()
	return func() int {
		stop()
		return <-most
	}
}

// attack is what slowhttptest says of one or more runs.
type attack struct {
	available, away   int // of its own probes
	connected, closed int // the most of one run
}

// run runs slowhttptest, again and again if the far side gets rid of all its
// clients early, and adds what it says to a.
func (a *attack) run(ctx context.Context, mode slowMode, target load.Target, length time.Duration, clients int) error {
	for end := time.Now().Add(length); ; {
		left := time.Until(end).Round(time.Second)
		if left < time.Second {
			return nil
		}
		args := []string{
			mode.flag, "-v", "1", "-c", strconv.Itoa(clients), "-r", strconv.Itoa(mode.rate), "-i", followUp, "-p", "3",
			"-l", strconv.Itoa(int(left / time.Second)),
			"-u", "http://" + target.Host + mode.path, "-d", target.Address,
		}
		out, err := runTool(ctx, left+time.Minute, "slowhttptest", append(args, mode.more...)...)
		if err != nil {
			return err
		}
		if err := a.read(out); err != nil {
			return err
		}
	}
}

// Parts of what slowhttptest prints, its colours left out.
var (
	colour    = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
	available = regexp.MustCompile(`service available:\s*(YES|NO)`)
	counted   = regexp.MustCompile(`(connected|closed):\s*(\d+)`)
)

// read adds what one run printed.
func (a *attack) read(out string) error {
	text := colour.ReplaceAllString(out, "")
	states := available.FindAllStringSubmatch(text, -1)
	if len(states) == 0 {
		return fmt.Errorf("slowhttptest does not say whether the service was available:\n%s", last([]byte(text), 2000))
	}
	for _, s := range states {
		if s[1] == "YES" {
			a.available++
		} else {
			a.away++
		}
	}
	for _, c := range counted.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(c[2])
		if err != nil {
			return err
		}
		if c[1] == "connected" {
			a.connected = max(a.connected, n)
		} else {
			a.closed = max(a.closed, n)
		}
	}
	return nil
}
