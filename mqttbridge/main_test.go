package mqttbridge

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(childBroker); address != "" {
		os.Exit(runChild(address))
	}
	goleak.VerifyTestMain(m)
}

// received is one request as the service saw it.
type received struct {
	Method, URL, Body string
	Header            http.Header
}

// service is the mesh and the service behind it: it answers with what answer
// returns for the n-th request, counted from 1; 204 if answer is nil.
type service struct {
	answer func(n int, r received) int

	mu       sync.Mutex
	requests []received
	changed  chan struct{} // closed and replaced at every request
}

func newService(answer func(n int, r received) int) *service {
	return &service{answer: answer, changed: make(chan struct{})}
}

func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r := received{req.Method, req.URL.String(), string(body), req.Header.Clone()}
	s.mu.Lock()
	s.requests = append(s.requests, r)
	n := len(s.requests)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	status := http.StatusNoContent
	if s.answer != nil {
		status = s.answer(n, r)
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func (s *service) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.requests...)
}

// await returns the requests once there are n, or fails after a long while.
func (s *service) await(t *testing.T, n int) []received {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		have, changed := append([]received(nil), s.requests...), s.changed
		s.mu.Unlock()
		if len(have) >= n {
			return have
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d requests, want %d", len(have), n)
		}
	}
}

// roundTripper is a function as http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, header http.Header) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: http.NoBody}
}

// telemetry is the rule of most tests; edit may change it.
func telemetry(edit ...func(*mesh.TopicRule)) *mesh.TopicRule {
	one := uint32(1)
	r := &mesh.TopicRule{
		Meta:      mesh.Meta{Name: "topicRules/telemetry"},
		Filter:    "devices/{device}/telemetry",
		QoS:       &one,
		Direction: mesh.Uplink,
		Device:    "{device}",
		To: &mesh.TopicTo{
			Service: "telemetry", Method: "POST", Path: "/v1/devices/{device}/telemetry",
			Headers: map[string]string{"content-type": "application/json"},
		},
		Encoding: mesh.EncodingRaw,
		Ordering: mesh.PerTopic,
		Ack:      mesh.AckDelivered,
	}
	for _, e := range edit {
		e(r)
	}
	return r
}

// fast makes the rule try again at once.
func fast(r *mesh.TopicRule) {
	r.Retry = &mesh.TopicRetry{Backoff: &mesh.Backoff{Base: mesh.Seconds(0.001), Max: mesh.Seconds(0.005)}}
}

func snapshot(rules ...*mesh.TopicRule) *mesh.Snapshot {
	c := mesh.NewConfig()
	for _, r := range rules {
		c.Put(r)
	}
	return &mesh.Snapshot{Config: c}
}

// start runs a bridge with the rules until the test ends.
func start(t *testing.T, rt http.RoundTripper, rules ...*mesh.TopicRule) *Bridge {
	t.Helper()
	b, stop := startStoppable(t, rt, rules...)
	t.Cleanup(stop)
	return b
}

func startStoppable(t *testing.T, rt http.RoundTripper, rules ...*mesh.TopicRule) (b *Bridge, stop func()) {
	t.Helper()
	return startSpooling(t, "", rt, rules...)
}

// startSpooling runs a bridge with a spool in dir.
func startSpooling(t *testing.T, dir string, rt http.RoundTripper, rules ...*mesh.TopicRule) (b *Bridge, stop func()) {
	t.Helper()
	b, err := New(Options{
		RoundTripper: rt, Node: "edge7", Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(),
		Spool: spool.Options{Dir: dir, MaxBytes: 1 << 20, Log: zerolog.Nop()},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	b.Update(snapshot(rules...))
	return b, func() {
		cancel()
		<-done
	}
}

// checkSum fails if the counts of b do not add up.
func checkSum(t *testing.T, b *Bridge) Stats {
	t.Helper()
	s := b.Stats()
	sum := s.Delivered + s.InFlight + s.Spooled
	for _, n := range s.Dead {
		sum += n
	}
	for _, n := range s.Refused {
		sum += n
	}
	for _, n := range s.Dropped {
		sum += n
	}
	if sum != s.Received+s.Recovered {
		t.Errorf("received %d, recovered %d, accounted for %d: %+v", s.Received, s.Recovered, sum, s)
	}
	return s
}
