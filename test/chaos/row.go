package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

// row is the result of one fault: its measures against what is allowed, and
// what went wrong.
type row struct {
	id, title string
	measures  []string
	failures  []string
}

// limit adds a measure that passes if ok; allowed is what it passes with.
func (r *row) limit(name, measured, allowed string, ok bool) {
	text := fmt.Sprintf("%s=%s allowed=%s", name, measured, allowed)
	r.measures = append(r.measures, text)
	if !ok {
		r.failures = append(r.failures, fmt.Sprintf("%s is %s, allowed is %s", name, measured, allowed))
	}
}

// zero adds a count of what may not happen.
func (r *row) zero(name string, n int) { r.limit(name, fmt.Sprint(n), "0", n == 0) }

// atLeast adds a count of what must happen.
func (r *row) atLeast(name string, n, least int) {
	r.limit(name, fmt.Sprint(n), fmt.Sprintf(">=%d", least), n >= least)
}

// equal adds a count that must be want.
func (r *row) equal(name string, n, want int) {
	r.limit(name, fmt.Sprint(n), fmt.Sprint(want), n == want)
}

// atMost adds a time that is bounded.
func (r *row) atMost(name string, d, most time.Duration) {
	r.limit(name, short(d), "<="+short(most), d <= most)
}

// short prints d to three digits or so.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// note adds a measure that is only of interest.
func (r *row) note(name string, value any) {
	r.measures = append(r.measures, fmt.Sprintf("%s=%v", name, value))
}

// blame adds details of what went wrong, which fail the row.
func (r *row) blame(what string, details ...string) {
	for _, d := range details {
		r.failures = append(r.failures, what+": "+d)
	}
}

// passed reports whether nothing is wrong.
func (r *row) passed() bool { return len(r.failures) == 0 }

// load adds what an open loop saw.
func (r *row) load(l load.Report) {
	r.note("sent", l.Sent)
	r.zero("errors", l.Failed)
	r.blame("a request failed", l.Errors...)
	if l.Calls > 0 {
		r.note("calls", l.Calls)
		r.note("messages", l.Messages)
		r.note("websockets", l.Dialled)
		r.note("websockets_cut_by", l.Cuts)
	}
	r.note("p50", short(l.P50))
	r.note("p99", short(l.P99))
	if l.Sent == 0 {
		r.blame("void", "no request was sent")
	}
}

// print writes the row's line, and below it why it failed.
func (r *row) print(w io.Writer) error {
	verdict := "PASS"
	if !r.passed() {
		verdict = "FAIL"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s\n", r.id, r.title, strings.Join(append(r.measures, verdict), " "))
	const most = 20
	for i, f := range r.failures {
		if i == most {
			fmt.Fprintf(&b, "  and %d more\n", len(r.failures)-most)
			break
		}
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(strings.TrimSpace(f), "\n", "\n    "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
