package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	manyRoutes   = 10_000
	changesEvery = 10 * time.Millisecond // one each
	// appliedWithin is how long a change may take from the API's answer to a data
	// plane's first response by it.
	appliedWithin = time.Second
	// addedLatency is how much higher the p99 of requests may be.
	addedLatency = 5 * time.Millisecond
	tableMemory  = 150 << 20 // bytes of RSS of a data plane
	// probeHost is that of the route whose changes are timed.
	probeHost = "probe.mesh"
)

// playManyChanges writes a hundred routes a second where there are ten thousand, under
// load. No request notices, and each change is in force soon.
func playManyChanges(t *stage.T, r *row, s settings) {
	n := pick(s, manyRoutes, manyRoutes/10)
	m := stage.New(t, stage.Options{Binaries: s.binaries, Gateway: true})
	const chunk = 1000
	for first := 0; first < n; first += chunk {
		objects := make([]any, 0, chunk)
		for i := range min(chunk, n-first) {
			objects = append(objects, oneOfMany(first+i, 0))
		}
		if err := m.Write(t.Context(), http.MethodPost, "/v1:apply", map[string]any{"objects": objects}); err != nil {
			t.Fatalf("store the routes: %v", err)
		}
	}
	faces := []load.Target{{Address: m.Caller.Outbound, Host: probeHost}, {Address: m.Gateway.Public, Host: probeHost}}
	for _, face := range faces {
		if _, err := applied(t.Context(), m, face, "before"); err != nil {
			t.Fatalf("%v", err)
		}
	}
	planes := append([]*stage.Plane{m.Caller, m.Gateway}, m.Shop...)
	var pids []int
	for _, p := range planes {
		pids = append(pids, p.Pid())
	}
	l := open(t, m, byShop(m, "shop"), page{m.Gateway, "gateway", "routes/shop"})
	quiet := bothWays(t, m, s, pick(s, time.Minute, 5*time.Second), nil)
	peaks := proc.PeakRSS(pids...)
	w := &writes{m: m, routes: n, faces: faces}
	both := bothWays(t, m, s, pick(s, time.Minute, 8*time.Second), w)
	calm, busy := quiet[0].And(quiet[1]), both[0].And(both[1])
	peak, err := peaks()
	if err != nil {
		t.Fatalf("memory: %v", err)
	}
	r.note("routes", n)
	r.load(busy)
	r.zero("websockets_cut", cuts(calm.And(busy)))
	l.close(r, 0, quiet[0].And(both[0]), quiet[1].And(both[1]))
	r.note("p99_without_changes", short(calm.P99))
	if added := max(busy.P99-calm.P99, 0); s.short { // too short to judge by
		r.note("added_p99", short(added))
	} else {
		r.atMost("added_p99", added, addedLatency)
	}
	r.limit("changes", fmt.Sprint(w.done), fmt.Sprintf(">=%d", w.due*95/100), w.done >= w.due*95/100)
	r.blame("a change", w.failed...)
	r.atLeast("changes_timed", len(w.took), 10)
	slices.Sort(w.took)
	if len(w.took) > 0 {
		r.note("applied_after_p50", short(w.took[len(w.took)/2]))
		r.atMost("applied_after_p99", w.took[(len(w.took)*99+99)/100-1], appliedWithin)
	}
	most := slices.Max(peak)
	r.limit("peak_rss", mib(most), "<="+mib(tableMemory), most <= tableMemory)
}

// oneOfMany is the i-th route, of which each revision is another one.
func oneOfMany(i, revision int) map[string]any {
	match := map[string]any{"path": map[string]any{"prefix": fmt.Sprintf("/area-%d", i%10)}}
	if i%3 == 1 {
		match["headers"] = []any{map[string]any{"name": "x-canary", "exact": fmt.Sprint(revision)}}
	}
	return map[string]any{
		"name": fmt.Sprintf("routes/many-%d", i), "targets": []string{"MESH", "GATEWAY"}, "hostnames": []string{fmt.Sprintf("site-%d.mesh", i/10)},
		"labels": map[string]string{"revision": fmt.Sprint(revision)},
		"rules":  []any{map[string]any{"matches": []any{match}, "backends": []any{map[string]any{"service": "shop"}}}},
	}
}

// bothWays sends half of the load through the gateway and half through the caller's
// sidecar, while w writes, unless it is nil.
func bothWays(t *stage.T, m *stage.Mesh, s settings, length time.Duration, w *writes) [2]load.Report {
	runs := []*load.Run{
		load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate / 2, Mixed: true}),
		load.Start(t.Context(), load.Plan{Target: m.Edge(), Rate: s.rate / 2, Mixed: true}),
	}
	if w != nil {
		w.run(t.Context(), length)
	} else {
		t.Pause(length)
	}
	return [2]load.Report{runs[0].Stop(), runs[1].Stop()}
}

// writes are the changes of a run.
type writes struct {
	m      *stage.Mesh
	routes int
	faces  []load.Target

	due int

	mu     sync.Mutex // guards what follows
	done   int
	failed []string
	took   []time.Duration
}

// run writes a route each changesEvery, and now and then one whose effect it times.
func (w *writes) run(ctx context.Context, length time.Duration) {
	w.due = int(length / changesEvery)
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var under sync.WaitGroup
	defer under.Wait()
	under.Go(func() { w.timed(ctx) })
	waiting := make(chan struct{}, 32)
	began := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		if !wait(ctx, time.Until(began.Add(time.Duration(i)*changesEvery))) {
			break
		}
		select {
		case waiting <- struct{}{}:
		case <-ctx.Done():
			return
		}
		under.Go(func() {
			defer func() { <-waiting }()
			route := oneOfMany(i*7%w.routes, i+1)
			err := w.m.Write(context.WithoutCancel(ctx), http.MethodPut, "/v1/"+route["name"].(string), route)
			w.note(err, 0)
		})
	}
}

// timed changes a route again and again, and waits for each change at every face in turn.
func (w *writes) timed(ctx context.Context) {
	for i := 0; wait(ctx, 200*time.Millisecond); i++ {
		took, err := applied(context.WithoutCancel(ctx), w.m, w.faces[i%len(w.faces)], fmt.Sprintf("change %d", i))
		w.note(err, took)
	}
}

func (w *writes) note(err error, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.failed = append(w.failed, err.Error())
	case took > 0:
		w.took = append(w.took, took)
	default:
		w.done++
	}
}

// applied has a route answer text, and returns how long that took to be so at face from
// when the API answered.
func applied(ctx context.Context, m *stage.Mesh, face load.Target, text string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	route := map[string]any{
		"name": "routes/probe", "targets": []string{"MESH", "GATEWAY"}, "hostnames": []string{probeHost},
		"rules": []any{map[string]any{"filters": []any{map[string]any{"respond": map[string]any{"status": 200, "body": text}}}}},
	}
	if err := m.Write(ctx, http.MethodPut, "/v1/routes/probe", route); err != nil {
		return 0, err
	}
	began := time.Now()
	client := face.Client(5*time.Second, 1)
	defer client.CloseIdleConnections()
	for {
		req, err := face.Request(ctx, http.MethodGet, "/", nil)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, fmt.Errorf("%q at %s: %w", text, face.Address, err)
		}
		got, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
		_ = resp.Body.Close()
		if err == nil && strings.TrimSpace(string(got)) == text {
			return time.Since(began), nil
		}
		if !wait(ctx, 5*time.Millisecond) {
			return 0, fmt.Errorf("%q is not in force at %s after %s", text, face.Address, time.Since(began).Round(time.Millisecond))
		}
	}
}
