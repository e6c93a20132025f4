package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// slowMode is one kind of slow client, as slowhttptest plays it.
type slowMode struct {
	flag, title string
	path        string
	more        []string
}

// slowActs are the rows of the slow clients.
func slowActs() []act {
	var all []act
	for _, mode := range []slowMode{
		{"-H", "slow headers (slowhttptest -H)", "/echo?i=0", []string{"-x", "24", "-t", "GET"}},
		{"-B", "slow bodies (slowhttptest -B)", "/echo", []string{"-s", "8192", "-x", "10"}},
		{"-X", "slow reading (slowhttptest -X)", "/bytes?n=4000000", []string{"-w", "512", "-y", "1024", "-n", "1", "-z", "32"}},
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
	for _, way := range []struct {
		name   string
		target load.Target
	}{{"gateway", m.Edge()}, {"sidecar", m.Out()}} {
		playSlowAt(t, r, s, mode, way.name, way.target)
	}
}

func playSlowAt(t *stage.T, r *row, s settings, mode slowMode, name string, target load.Target) {
	length := pick(s, time.Minute, 6*time.Second)
	plan := load.Plan{Target: target, Rate: s.rate}
	// The first seconds make connections, and are nobody's usual.
	warm := load.Start(t.Context(), plan)
	t.Pause(2 * time.Second)
	r.blame(name+" before", warm.Stop().Errors...)

	calm := load.Start(t.Context(), plan)
	t.Pause(pick(s, 20*time.Second, 5*time.Second))
	before := calm.Stop()
	r.blame(name+" before", before.Errors...)

	run := load.Start(t.Context(), plan)
	attack, err := attackFor(t.Context(), mode, target, length, pick(s, 1000, 300))
	during := run.Stop()
	if err != nil {
		r.blame(name, err.Error())
		return
	}
	r.zero(name+"_errors", during.Failed)
	r.blame("a request at the "+name+" failed", during.Errors...)
	ratio := float64(during.P99) / float64(max(before.P99, 1))
	r.limit(name+"_p99", fmt.Sprintf("%s/%s=%.2fx", short(during.P99), short(before.P99), ratio), "<=2x", ratio <= worseMost)
	r.limit(name+"_available", fmt.Sprintf("%d/%d", attack.available, attack.available+attack.away), "always", attack.away == 0 && attack.available > 0)
	r.atLeast(name+"_slow_clients", attack.connected, 1)
	r.note(name+"_closed", attack.closed)
}

// attack is what slowhttptest says of one or more runs.
type attack struct {
	available, away   int // of its own probes
	connected, closed int // the most of one run
}

// attackFor runs slowhttptest, again and again if the far side gets rid of all
// its connections early.
func attackFor(ctx context.Context, mode slowMode, target load.Target, length time.Duration, conns int) (attack, error) {
	var a attack
	for end := time.Now().Add(length); ; {
		left := time.Until(end).Round(time.Second)
		if left < time.Second {
			return a, nil
		}
		args := []string{
			mode.flag, "-v", "1", "-c", strconv.Itoa(conns), "-r", "500", "-i", "1", "-p", "3",
			"-l", strconv.Itoa(int(left / time.Second)),
			"-u", "http://" + target.Host + mode.path, "-d", target.Address, "-e", target.Address,
		}
		out, err := runTool(ctx, left+time.Minute, "slowhttptest", append(args, mode.more...)...)
		if err != nil {
			return a, err
		}
		if err := a.read(out); err != nil {
			return a, err
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
