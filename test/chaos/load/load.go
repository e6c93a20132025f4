// Package load is the external client of the fault tests: an open loop of small
// requests whose answers are verified, and long-lived streams that must not be
// cut. It sees what any client would see.
//
// It does not know the mesh, starts no process and injects no fault. It does
// not try again: what a net/http client repeats by itself on a kept connection
// that the server closed meanwhile (RFC 9110 section 9.2.2) is all.
//
// Every request is idempotent, GET or with an Idempotency-Key, so that each
// failure counts.
package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxWaiting bounds the requests that wait for an answer at one time. More
// means that the far side has stopped: they count as failed, unsent.
const maxWaiting = 4000

// Target is where to send requests, and as which host.
type Target struct {
	Address string      // "127.0.0.1:15001"
	Host    string      // the Host field: "shop.mesh"
	TLS     *tls.Config // nil: clear text
	HTTP2   bool        // over TLS: HTTP/2; else HTTP/1.1
}

// Client returns a client that reaches t under any URL of t. conns is how many
// idle connections it keeps; 0 makes a connection for each request.
func (t Target) Client(timeout time.Duration, conns int) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!t.HTTP2)
	protocols.SetHTTP2(t.HTTP2)
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig:     t.TLS.Clone(),
			TLSHandshakeTimeout: 5 * time.Second,
			Protocols:           &protocols,
			MaxIdleConnsPerHost: conns,
			DisableKeepAlives:   conns == 0,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Request returns a request for t; path begins with "/".
func (t Target) Request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	scheme := "http"
	if t.TLS != nil {
		scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, method, scheme+"://"+t.Address+path, body)
	if err != nil {
		return nil, err
	}
	r.Host = t.Host
	return r, nil
}

// Plan is an open loop.
type Plan struct {
	Target  Target
	Rate    int           // requests a second
	Timeout time.Duration // of one request; 10 s if 0
	// Body is the size of a POST's body in bytes; 256 if 0.
	Body int
	// Fresh makes every so-manieth request use a connection of its own; 10 if
	// 0, negative for none.
	Fresh int
}

// Run is an open loop under way.
type Run struct {
	plan   Plan
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	report Report
	took   []time.Duration
}

// Report is what an open loop saw.
type Report struct {
	Sent      int
	Failed    int            // no answer, another status than 200, or another body
	Errors    []string       // the first few of the failures
	Instances map[string]int // answers by the instance that gave them
	P50, P99  time.Duration  // of the good answers, from the time a request was due
}

// Start begins an open loop: requests go out at the plan's rate whether or not
// earlier ones were answered, until Stop or the end of ctx. Two of three are
// GETs. The caller calls Stop.
func Start(ctx context.Context, plan Plan) *Run {
	if plan.Timeout == 0 {
		plan.Timeout = 10 * time.Second
	}
	if plan.Body == 0 {
		plan.Body = 256
	}
	if plan.Fresh == 0 {
		plan.Fresh = 10
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Run{plan: plan, cancel: cancel, done: make(chan struct{}), report: Report{Instances: map[string]int{}}}
	go func() {
		defer close(r.done)
		r.loop(ctx)
	}()
	return r
}

// Stop sends nothing more, waits for what is under way and reports.
func (r *Run) Stop() Report {
	r.cancel()
	<-r.done
	return r.Report()
}

// Report says what was seen so far.
func (r *Run) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.report
	out.Errors = slices.Clone(r.report.Errors)
	out.Instances = map[string]int{}
	for k, v := range r.report.Instances {
		out.Instances[k] = v
	}
	sorted := slices.Sorted(slices.Values(r.took))
	out.P50, out.P99 = percentile(sorted, 50), percentile(sorted, 99)
	return out
}

// percentile returns the nearest-rank percentile p of sorted, 0 of nothing.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func (r *Run) loop(ctx context.Context) {
	kept, fresh := r.plan.Target.Client(r.plan.Timeout, 512), r.plan.Target.Client(r.plan.Timeout, 0)
	defer kept.CloseIdleConnections()
	var under sync.WaitGroup
	defer under.Wait()
	waiting := make(chan struct{}, maxWaiting)
	start, gap := time.Now(), time.Second/time.Duration(r.plan.Rate)
	tick := time.NewTicker(max(gap, time.Millisecond))
	defer tick.Stop()
	for n := 0; ; {
		// What a late tick missed is made up for: the rate is the promise.
		for ; ctx.Err() == nil && time.Since(start) >= time.Duration(n)*gap; n++ {
			client, number, due := kept, n, start.Add(time.Duration(n)*gap)
			if r.plan.Fresh > 0 && n%r.plan.Fresh == 0 {
				client = fresh
			}
			select {
			case waiting <- struct{}{}:
			default:
				r.add(due, "", fmt.Errorf("request %d not sent: %d wait for an answer", n, maxWaiting))
				continue
			}
			under.Go(func() {
				// Without ctx: what was sent before Stop is still waited for.
				instance, err := r.send(context.WithoutCancel(ctx), client, number)
				r.add(due, instance, err)
				<-waiting
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Run) add(due time.Time, instance string, err error) {
	took := time.Since(due)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Sent++
	if err != nil {
		r.report.Failed++
		if len(r.report.Errors) < 5 {
			r.report.Errors = append(r.report.Errors, err.Error())
		}
		return
	}
	r.report.Instances[instance]++
	r.took = append(r.took, took)
}

// send sends request n and returns who answered it.
func (r *Run) send(ctx context.Context, client *http.Client, n int) (instance string, err error) {
	method, path, want := http.MethodGet, fmt.Sprintf("/echo?i=%d", n), fmt.Appendf(nil, "i=%d\n", n)
	var body io.Reader
	if n%3 == 2 {
		method, path, want = http.MethodPost, "/echo", payload(n, r.plan.Body)
		body = bytes.NewReader(want)
	}
	req, err := r.plan.Target.Request(ctx, method, path, body)
	if err != nil {
		return "", err
	}
	if body != nil {
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", r.plan.Target.Address, n))
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, int64(len(want))+1000))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s %s: %d, then %w", method, path, resp.StatusCode, err)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s %s: %d %.200s", method, path, resp.StatusCode, got)
	case !bytes.Equal(got, want):
		return "", fmt.Errorf("%s %s: %.60q, want %.60q", method, path, got, want)
	}
	return resp.Header.Get("X-Instance"), nil
}

// payload is the body of request n: n bytes that no other request has.
func payload(n, size int) []byte {
	text := fmt.Sprintf("body %d ", n)
	return []byte(strings.Repeat(text, size/len(text)+1)[:size])
}
