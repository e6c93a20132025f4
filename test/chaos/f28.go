package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	memoryLimit = 128 << 20
	// shedFrom is the share of the limit, in percent, from which new requests
	// are refused.
	shedFrom = 85
	// softLimit is what Go's collector is told (GOMEMLIMIT): a tenth less than
	// the hard limit, as is usual for what the collector does not count.
	softLimit = "115MiB"
	// recoverWithin is how soon after a burst requests are served again.
	recoverWithin = 5 * time.Second
)

// playMemory drives a gateway that has little memory to its limit. It refuses
// new requests instead of dying.
func playMemory(t *stage.T, r *row, s settings) {
	length := pick(s, time.Minute, 8*time.Second)
	m := stage.New(t, stage.Options{Binaries: s.binaries, Gateway: true})
	group, err := proc.NewMemoryGroup(fmt.Sprintf("hedgerow-chaos-%d", os.Getpid()), memoryLimit)
	if err != nil {
		t.Fatal(err)
	}
	// Registered after the mesh, so that it would run first: the group's
	// process has to be gone by then.
	t.Cleanup(func() {
		if err := m.Gateway.Kill(); err != nil {
			t.Errorf("%v", err)
		}
		if err := group.Remove(); err != nil {
			t.Errorf("%v", err)
		}
	})
	restart(t, m.Gateway, stage.Limits{Group: group.Procs(), Env: []string{"GOMEMLIMIT=" + softLimit}})
	m.Reached(m.Edge())

	peaks := proc.PeakRSS(m.Gateway.Pid())
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	seen := make(chan shed, 1)
	go func() { seen <- probe(probing, m.SecureEdge(false)) }()
	out, err := burst(t, m.SecureEdge(true), length)
	stop()
	answers := <-seen
	answers.burst = serverErrors(out)
	r.note("limit", "128MiB")
	running := m.Gateway.Running()
	r.limit("running", fmt.Sprint(running), "true", running)
	kills, killsErr := group.Kills()
	if killsErr != nil {
		t.Fatal(killsErr)
	}
	r.zero("oom_kills", int(kills))
	peak, peakErr := peaks()
	held, heldErr := group.Peak()
	if heldErr != nil {
		t.Fatal(heldErr)
	}
	r.note("peak_rss", mib(peak[0]))
	r.note("peak_of_the_group", mib(held))
	r.judgeShed(answers, held)
	r.note("h2load", strings.ReplaceAll(out, " ", "_"))
	if err != nil {
		r.blame("h2load", err.Error())
	}
	if !running || peakErr != nil {
		r.blame("the gateway ended", fmt.Sprintf("%v; its output:\n%s", m.Gateway.Stop(), m.Gateway.Output()))
		return
	}
	if strings.HasPrefix(out, "0 2xx") {
		r.blame("void", "h2load was never served")
	}
	r.atMost("serves_again_after", resumes(t, m.Gateway, func(ctx context.Context) error {
		return get(ctx, m.Edge().Client(0, 0), m.Edge(), "/echo?i=0")
	}), recoverWithin)
}

func mib(n int64) string { return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20)) }

// serverErrors reads the number of 5xx in the line that burst returns.
func serverErrors(line string) int {
	var ok, moved, wrong, failed int
	if _, err := fmt.Sscanf(line, "%d 2xx, %d 3xx, %d 4xx, %d 5xx", &ok, &moved, &wrong, &failed); err != nil {
		return 0 // burst has said what is wrong with it
	}
	return failed
}

// shed is how a gateway's answers went while it was under pressure: those to the
// probes, and how many 5xx the burst got.
type shed struct {
	served, refused, bare, other int // bare: 503 without Retry-After
	burst                        int
	firstBare                    string
}

func (r *row) judgeShed(a shed, held int64) {
	threshold := int64(memoryLimit) * shedFrom / 100
	r.note("probes_served", a.served)
	r.note("probes_unanswered", a.other)
	r.note("probes_shed", a.refused+a.bare)
	if held > threshold {
		r.atLeast("shed", a.refused+a.bare+a.burst, 1)
	} else {
		r.note("shed", a.refused+a.bare+a.burst)
	}
	r.limit("shed_without_retry_after", fmt.Sprint(a.bare), "0", a.bare == 0)
	if a.bare > 0 {
		r.blame("a 503 without Retry-After", a.firstBare)
	}
}

// probe asks ten times a second, each time on a new connection and without
// waiting for earlier answers, until ctx ends.
func probe(ctx context.Context, target load.Target) shed {
	var out shed
	var mu sync.Mutex // guards out
	var all sync.WaitGroup
	client := target.Client(5*time.Second, 0) // so that at most 50 wait
	for wait(ctx, 100*time.Millisecond) {
		all.Go(func() {
			req, err := target.Request(ctx, http.MethodGet, "/echo?i=0", nil)
			var resp *http.Response
			if err == nil {
				resp, err = client.Do(req)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				out.count(resp)
				_ = resp.Body.Close()
			case ctx.Err() == nil: // else it was given up
				out.other++
			}
		})
	}
	all.Wait()
	return out
}

func (s *shed) count(resp *http.Response) {
	switch {
	case resp.StatusCode == http.StatusOK:
		s.served++
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		s.refused++
	case resp.StatusCode == http.StatusServiceUnavailable:
		s.bare++
		if s.firstBare == "" {
			s.firstBare = fmt.Sprint(resp.Header)
		}
	default:
		s.other++
	}
}

// burst runs h2load: 3200 requests at any time, each with 24 KB of header and
// 64 KiB of body, and two seconds until its answer. Admitted together they would
// hold more than twice the limit. It returns the line that says how the answers
// went.
func burst(t *stage.T, target load.Target, length time.Duration) (string, error) {
	t.Helper()
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-c", "100", "-m", "32", "-D", fmt.Sprint(int(length / time.Second)), "-d", body,
		"--connect-to", target.Address,
	}
	for i := range 3 {
		args = append(args, "-H", fmt.Sprintf("x-large-%d: %s", i, strings.Repeat("v", 8000)))
	}
	out, err := runTool(t.Context(), length+time.Minute, "h2load", append(args, "https://"+target.Host+"/hold?for=2s")...)
	summary := ""
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "status codes: "); ok {
			summary = strings.TrimSpace(rest)
		}
	}
	if err == nil && summary == "" {
		err = fmt.Errorf("no status codes in its output:\n%s", out)
	}
	return summary, err
}
