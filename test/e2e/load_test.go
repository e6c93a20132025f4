package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// result counts the requests of one load.
type result struct {
	mu     sync.Mutex // guards everything below
	sent   int
	failed int
	errs   []string // the first few
}

func (r *result) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	if err != nil {
		r.failed++
		if len(r.errs) < 5 {
			r.errs = append(r.errs, err.Error())
		}
	}
}

// String prints "sent=3000 failed=0" and the first errors, if any.
func (r *result) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := fmt.Sprintf("sent=%d failed=%d", r.sent, r.failed)
	if len(r.errs) > 0 {
		s += ": " + strings.Join(r.errs, "; ")
	}
	return s
}

// openLoop sends n GET requests to url at rate a second whether or not earlier
// ones were answered, every fifth on a connection of its own, and waits for
// all. A request fails unless it is answered 200 with a body that has want.
func openLoop(ctx context.Context, url, host, want string, n, rate int) *result {
	shared := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	fresh := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	defer shared.CloseIdleConnections()
	var r result
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range n {
		client := shared
		if i%5 == 0 {
			client = fresh
		}
		wg.Go(func() { r.add(get(ctx, client, url, host, want)) })
		<-tick.C
	}
	wg.Wait()
	return &r
}

// get sends one request and reports what is wrong with its answer.
func get(ctx context.Context, client *http.Client, url, host, want string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
		return fmt.Errorf("%d %.200s", resp.StatusCode, body)
	}
	return nil
}
