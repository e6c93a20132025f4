// Package load is the external client of the fault tests: an open loop of small
// requests whose answers are verified, and long-lived streams that must not be
// cut. It sees what any client would see.
//
// It does not know the mesh, starts no process and injects no fault. It does
// not try again: what a net/http client repeats by itself on a kept connection
// that the server closed meanwhile (RFC 9110 section 9.2.2) is all.
//
// Every request is idempotent, GET or with an Idempotency-Key, so that each
// failure counts. Of a mixed load a sixth each are calls of gRPC and messages on
// WebSockets that stand: one of those that is cut is no failure, as nobody can take
// it over, but that a new one does not connect at once is.
package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
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
	// Mixed has gRPC and WebSockets too.
	Mixed bool
}

// Run is an open loop under way.
type Run struct {
	plan    Plan
	cancel  context.CancelFunc
	done    chan struct{}
	calls   calls
	sockets sockets

	mu     sync.Mutex // guards what follows
	report Report
	took   []time.Duration
	under  int // exchanges
}

// Report is what an open loop saw.
type Report struct {
	Sent      int
	Failed    int            // no answer, another status than 200, or another body
	Errors    []string       // the first few of the failures
	Instances map[string]int // answers by the instance that gave them, messages apart
	P50, P99  time.Duration  // of the good answers, from the time a request was due

	// Of a mixed load; Sent and Failed have them too.
	Calls, Messages  int
	Dialled, Refused int            // WebSockets that were asked for, and not got
	Cuts             map[string]int // of WebSockets that stood, by how the client saw it
}

// Requests is how many requests went out: a WebSocket is one, whatever goes over it.
func (r Report) Requests() int { return r.Sent - r.Messages + r.Dialled }

// Answered is how many of them, WebSockets apart, had the answer that was due.
func (r Report) Answered() int {
	n := 0
	for _, of := range r.Instances {
		n += of
	}
	return n
}

// And is what r and other saw together; of latencies it is the higher.
func (r Report) And(other Report) Report {
	r.Sent, r.Failed, r.Errors = r.Sent+other.Sent, r.Failed+other.Failed, append(r.Errors, other.Errors...)
	r.P50, r.P99 = max(r.P50, other.P50), max(r.P99, other.P99)
	r.Calls, r.Messages = r.Calls+other.Calls, r.Messages+other.Messages
	r.Dialled, r.Refused = r.Dialled+other.Dialled, r.Refused+other.Refused
	r.Instances, r.Cuts = sum(r.Instances, other.Instances), sum(r.Cuts, other.Cuts)
	return r
}

func sum(a, b map[string]int) map[string]int {
	out := maps.Clone(a)
	for k, n := range b {
		out[k] += n
	}
	return out
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
	r := &Run{plan: plan, cancel: cancel, done: make(chan struct{}), report: Report{Instances: map[string]int{}, Cuts: map[string]int{}}}
	r.calls.target, r.sockets.target, r.sockets.note = plan.Target, plan.Target, r.noteSocket
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
	out.Instances, out.Cuts = maps.Clone(r.report.Instances), maps.Clone(r.report.Cuts)
	sorted := slices.Sorted(slices.Values(r.took))
	out.P50, out.P99 = percentile(sorted, 50), percentile(sorted, 99)
	return out
}

// UnderWay is how many exchanges have begun and not ended, and WebSockets that stand.
func (r *Run) UnderWay() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.under + r.sockets.standing()
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
	defer r.calls.close()
	defer r.sockets.close()
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
			alone := r.plan.Fresh > 0 && n%r.plan.Fresh == 0
			if alone {
				client = fresh
			}
			select {
			case waiting <- struct{}{}:
			default:
				r.add(sent{due: due}, fmt.Errorf("request %d not sent: %d wait for an answer", n, maxWaiting))
				continue
			}
			r.begin()
			under.Go(func() {
				// Without ctx: what was sent before Stop is still waited for.
				r.one(context.WithoutCancel(ctx), client, number, alone, due)
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

// sent is an exchange that has ended.
type sent struct {
	due      time.Time
	kind     kind
	instance string // that answered; "" is not known
	cut      bool   // on a WebSocket that did not stand to its end: nothing of its time is told
}

// one carries out exchange n.
func (r *Run) one(ctx context.Context, client *http.Client, n int, alone bool, due time.Time) {
	s := sent{due: due, kind: r.plan.kind(n)}
	var err error
	switch s.kind {
	case call:
		s.instance, err = r.calls.send(ctx, r.plan, n, alone)
	case message:
		s.cut, err = r.sockets.send(ctx, n)
	default:
		s.instance, err = r.send(ctx, client, s.kind == post, n)
	}
	r.add(s, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.under--
}

func (r *Run) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.under++
}

func (r *Run) add(s sent, err error) {
	took := time.Since(s.due)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Sent++
	switch s.kind {
	case call:
		r.report.Calls++
	case message:
		r.report.Messages++
	case get, post:
	}
	if err != nil {
		r.report.Failed++
		if len(r.report.Errors) < 5 {
			r.report.Errors = append(r.report.Errors, err.Error())
		}
		return
	}
	if s.kind != message {
		r.report.Instances[s.instance]++
	}
	if !s.cut {
		r.took = append(r.took, took)
	}
}

// noteSocket counts a WebSocket that was asked for, and one that was cut.
func (r *Run) noteSocket(dialled, refused bool, cut string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if dialled {
		r.report.Dialled++
	}
	if refused {
		r.report.Refused++
	}
	if cut != "" {
		r.report.Cuts[cut]++
	}
}

// send sends request n and returns who answered it.
func (r *Run) send(ctx context.Context, client *http.Client, posts bool, n int) (instance string, err error) {
	method, path, want := http.MethodGet, fmt.Sprintf("/echo?i=%d", n), fmt.Appendf(nil, "i=%d\n", n)
	var body io.Reader
	if posts {
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
