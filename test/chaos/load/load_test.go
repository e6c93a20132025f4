package load

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/workload"
)

// serve returns the target of a server that answers with h.
func serve(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Target{Address: s.Listener.Addr().String(), Host: "shop.mesh"}
}

// good returns the target of a workload without faults.
func good(t *testing.T) Target {
	t.Helper()
	w, err := workload.Serve("one")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return Target{Address: w.Addr, Host: "shop.mesh"}
}

// until polls ok for five seconds.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("waited five seconds in vain")
		}
		<-tick.C
	}
}

func TestRunVerifiesEveryAnswer(t *testing.T) {
	refused := httptest.NewServer(nil)
	refused.Close()
	for _, tt := range []struct {
		name   string
		target Target
		bad    bool
	}{
		{"a workload", good(t), false},
		{"a 500", serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }), true},
		{"a 404", serve(t, http.NotFound), true},
		{"the body of another request", serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "i=-1\n") }), true},
		{"a body that is too long", serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "i=%s\nmore", r.URL.Query().Get("i"))
		}), true},
		{"a body that breaks off", serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = fmt.Fprintf(w, "i=%s\n", r.URL.Query().Get("i"))
		}), true},
		{"nobody listens", Target{Address: refused.Listener.Addr().String(), Host: "x"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run := Start(t.Context(), Plan{Target: tt.target, Rate: 500})
			until(t, func() bool { return run.Report().Sent >= 30 })
			r := run.Stop()
			want := 0
			if tt.bad {
				want = r.Sent
			}
			if r.Failed != want || tt.bad != (len(r.Errors) > 0) {
				t.Errorf("%d of %d failed (%q), want %d", r.Failed, r.Sent, r.Errors, want)
			}
			if !tt.bad && (r.Instances["one"] != r.Sent || r.P99 == 0 || r.P50 > r.P99) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestRunKeepsItsRateWhileAnswersAreLate(t *testing.T) {
	release := make(chan struct{})
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		_, _ = fmt.Fprintf(w, "i=%s\n", r.URL.Query().Get("i"))
	})
	began := time.Now()
	run := Start(t.Context(), Plan{Target: target, Rate: 200, Timeout: 30 * time.Second})
	until(t, func() bool { return time.Since(began) > 500*time.Millisecond })
	if n := run.Report().Sent; n != 0 {
		t.Errorf("%d were answered", n)
	}
	close(release)
	r := run.Stop()
	if r.Sent < 90 { // at least half a second's; a closed loop would have sent few
		t.Errorf("only %d were sent", r.Sent)
	}
	if r.P99 < 300*time.Millisecond {
		t.Errorf("p99 is %v: not counted from the time when a request was due", r.P99)
	}
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, tt := range []struct {
		name string
		of   []time.Duration
		p    int
		want time.Duration
	}{
		{"of nothing", nil, 99, 0},
		{"of one", hundred[:1], 50, 1},
		{"the median", hundred, 50, 50},
		{"the 99th", hundred, 99, 99},
		{"the 99th of ten", hundred[:10], 99, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := percentile(tt.of, tt.p); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestStreamsNoticeThatTheyAreCut(t *testing.T) {
	lines := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, text) }
	}
	for _, tt := range []struct {
		name   string
		target Target
		want   string // part of what is said of the response
	}{
		{"an end", serve(t, lines("tick 0\ntick 1\n")), "after 2 lines: EOF"},
		{"a gap", serve(t, lines("tick 0\ntick 2\n")), `line 1 is "tick 2\n"`},
		{"a refusal", serve(t, http.NotFound), "status 404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := OpenStreams(t.Context(), tt.target, 1)
			s.all.Wait() // both have ended by themselves
			cuts := strings.Join(s.Close(), "\n")
			if strings.Count(cuts, "\n") != 1 || !strings.Contains(cuts, "response 0: "+tt.want) || !strings.Contains(cuts, "WebSocket 0: ") {
				t.Errorf("got %q", cuts)
			}
		})
	}
}

func TestStreamsThatStandAreNotCut(t *testing.T) {
	s := OpenStreams(t.Context(), good(t), 2)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	if cuts := s.Close(); len(cuts) != 0 {
		t.Errorf("got %q", cuts)
	}
}

func TestTransfersAreWholeOrBroken(t *testing.T) {
	t.Run("whole", func(t *testing.T) {
		s := OpenTransfers(t.Context(), good(t), 2, 2*tickEvery)
		until(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.finished >= 2
		})
		if finished, broken := s.Finish(); finished < 2 || len(broken) != 0 {
			t.Errorf("%d whole, broken %q", finished, broken)
		}
	})
	t.Run("one line short", func(t *testing.T) {
		target := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "tick 0\n") })
		s := OpenTransfers(t.Context(), target, 1, 2*tickEvery)
		until(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.broken) > 0
		})
		if finished, _ := s.Finish(); finished != 0 {
			t.Errorf("%d taken for whole", finished)
		}
	})
}
