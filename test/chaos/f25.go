package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/workload"
)

// playBreaks asks for answers that break off, by every protocol that a client
// may use. The client must be able to tell each from a whole one.
func playBreaks(t *stage.T, r *row, s settings) {
	each := pick(s, 100, 5)
	m := stage.New(t, stage.Options{Binaries: s.binaries, Gateway: true, Broken: true})
	out, edge := m.Out(), m.Edge()
	https1, h2 := m.SecureEdge(false), m.SecureEdge(true)
	ways := []struct {
		name   string
		target load.Target
	}{
		{"sidecar", out}, {"gateway-http1", edge}, {"gateway-https1", https1}, {"gateway-h2", h2},
	}
	asked, detected, controls, reached := 0, 0, 0, 0
	for _, way := range ways {
		way.target.Host = stage.Broken
		m.Answers(way.target, "/break/whole-length")
		for _, b := range workload.Breaks() {
			hits := m.Breaker.Hits(b.Name)
			whole := askBroken(t.Context(), way.target, b.Name, each)
			if t.Context().Err() != nil {
				t.Fatalf("given up")
			}
			// A proxy may fail a request that is not idempotent before it gets
			// there, on a kept connection that the last answer has broken. That
			// is no whole answer either, but few are enough to ask what happened.
			seen := m.Breaker.Hits(b.Name) - hits
			reached += seen
			if seen*10 < each*9 {
				r.blame("void", fmt.Sprintf("%s of %s: only %d of %d requests reached the workload", b.Name, way.name, seen, each))
			}
			if b.Whole {
				controls += whole
				continue
			}
			asked += each
			detected += each - whole
			if whole > 0 {
				r.blame("taken for a whole 200", fmt.Sprintf("%s over %s: %d of %d", b.Name, way.name, whole, each))
			}
		}
	}
	r.limit("detected", fmt.Sprintf("%d/%d", detected, asked), "100%", detected == asked)
	want := len(ways) * each * 2
	r.limit("whole_answers", fmt.Sprintf("%d/%d", controls, want), "100%", controls == want)
	r.note("reached_the_workload", fmt.Sprintf("%d/%d", reached, asked+want))
	r.note("ways_to_break", len(workload.Breaks())-2)
	r.note("protocols", len(ways))
}

// atOnce bounds the requests that wait for an answer that breaks off.
const atOnce = 25

// askBroken asks n times for an answer that breaks off as name says, and
// returns how many a client would have taken for whole. At most
// atOnce are under way at a time.
func askBroken(ctx context.Context, target load.Target, name string, n int) int {
	client := target.Client(20*time.Second, atOnce)
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	var mu sync.Mutex // guards whole
	whole := 0
	slots := make(chan struct{}, atOnce)
	for range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if looksWhole(ctx, client, target, "/break/"+name) {
				mu.Lock()
				whole++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return whole
}

// looksWhole reports whether the answer is a 200 whose body ends as it should.
func looksWhole(ctx context.Context, client *http.Client, target load.Target, path string) bool {
	// Not a GET, which a client may repeat by itself.
	req, err := target.Request(ctx, http.MethodPost, path, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
