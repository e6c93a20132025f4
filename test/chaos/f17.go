package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	// clockToldWithin is how soon a process says that its clock is wrong.
	clockToldWithin = time.Second
	// skewed is how far off a clock may be, less what its being moved takes.
	skewed = 4*time.Minute + 50*time.Second
)

// playClock starts a sidecar on a machine that has lost its clock, puts that right, and
// then moves it by as much as clocks may differ. Its program is built with the tag
// clockhook, as nothing else moves the clock of a Go program.
func playClock(t *stage.T, r *row, s settings) {
	program := filepath.Join(s.binaries, "clockhook", "hedgerow-edge")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run `make e2e-identity`", err)
	}
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	file := filepath.Join(t.TempDir(), "clock")
	move := func(by time.Duration) {
		if err := os.WriteFile(file+".next", []byte(by.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".next", file); err != nil {
			t.Fatal(err)
		}
	}
	p := m.Shop[0]
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	if err := p.Stop(); err != nil {
		t.Fatalf("%v", err)
	}
	move(-time.Since(time.Unix(0, 0)))
	began := time.Now()
	p.Launch(program, "HEDGEROW_TEST_CLOCK="+file)
	p.Until(time.Minute, "says that its clock is wrong", func(ctx context.Context) error {
		status, text, err := p.Admin.Readiness(ctx)
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(text, "the clock shows 19")) {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
	told := time.Since(began)
	served := 0
	const tries = 20
	for range tries {
		if _, err := dialLeaf(t.Context(), p.Inbound, "shop."+p.Name+".default"); err == nil {
			served++
		}
		t.Pause(100 * time.Millisecond)
	}
	move(0)
	began = time.Now()
	p.Until(time.Minute, "is ready once its clock is right", p.Admin.Ready)
	recovered := time.Since(began)
	m.Reached(m.Out())
	for _, by := range []time.Duration{skewed, -skewed} {
		move(by)
		t.Pause(pick(s, 20*time.Second, 3*time.Second))
		p.Until(time.Minute, "is ready though its clock is off", p.Admin.Ready)
		if _, err := dialLeaf(t.Context(), p.Inbound, "shop."+p.Name+".default"); err != nil {
			r.blame(fmt.Sprintf("%v off", by), err.Error())
		}
	}
	report := run.Stop()
	r.load(report)
	r.atLeast("answers_of_the_one_with_the_clock", report.Instances[p.Name], 1)
	r.atMost("said_after", told, clockToldWithin)
	r.zero("handshakes_in_1970", served)
	r.atMost("recovered_after", recovered, recoveredWithin)
	r.note("then_off_by", skewed)
}
