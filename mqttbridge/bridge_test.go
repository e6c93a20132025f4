package mqttbridge

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const topic = "devices/d1/telemetry"

func message(payload string) Message {
	return Message{Topic: topic, Payload: []byte(payload), QoS: 1, Client: "d1", PacketID: 1}
}

// times makes a RoundTripper that answers with the statuses in turn, the last
// one for ever, and notes when it was asked.
func times(asked *[]time.Time, statuses ...int) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		*asked = append(*asked, time.Now())
		status := statuses[min(len(*asked), len(statuses))-1]
		if status == 0 {
			return nil, errors.New("connection reset")
		}
		return answer(status, nil), nil
	}
}

func TestDeliverTriesUntilTheServiceAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := start(t, times(&asked, 503, 0, 429, 408, 425, 500, 200), telemetry())
		if err := b.Deliver(t.Context(), message("x")); err != nil {
			t.Fatal(err)
		}
		if len(asked) != 7 {
			t.Fatalf("%d attempts, want 7", len(asked))
		}
		// Full jitter: each wait is at most base * 2^n and never over the maximum.
		for i := 1; i < len(asked); i++ {
			if wait, most := asked[i].Sub(asked[i-1]), min(500*time.Millisecond<<(i-1), time.Minute); wait > most+time.Millisecond {
				t.Errorf("wait %d was %v, at most %v", i, wait, most)
			}
		}
		if s := checkSum(t, b); s.Delivered != 1 || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBackoff(t *testing.T) {
	for attempt := range 200 {
		for range 20 {
			d := backoff(500*time.Millisecond, time.Minute, attempt)
			most := time.Minute
			if attempt < 7 {
				most = min(most, 500*time.Millisecond<<attempt)
			}
			if d <= 0 || d > most {
				t.Fatalf("backoff(%d) = %v, want within (0, %v]", attempt, d, most)
			}
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, test := range []struct {
		name, header string
		least, most  time.Duration
	}{
		{"seconds", "90", 90 * time.Second, 91 * time.Second},
		{"a date", "Sat, 01 Jan 2000 00:02:00 GMT", 120 * time.Second, 121 * time.Second}, // synctest begins at 2000-01-01
		{"at most ten minutes", "86400", 10 * time.Minute, 10*time.Minute + time.Second},
		{"not a negative one", "-5", 0, time.Second},
		{"not nonsense", "soon", 0, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Time
				b := start(t, roundTripper(func(*http.Request) (*http.Response, error) {
					if asked = append(asked, time.Now()); len(asked) == 1 {
						return answer(503, http.Header{"Retry-After": {test.header}}), nil
					}
					return answer(204, nil), nil
				}), telemetry())
				if err := b.Deliver(t.Context(), message("x")); err != nil {
					t.Fatal(err)
				}
				if wait := asked[1].Sub(asked[0]); wait < test.least || wait > test.most {
					t.Errorf("waited %v, want %v to %v", wait, test.least, test.most)
				}
			})
		})
	}
}

func TestTheMessageIDIsConstantAcrossAttemptsAndNeverRepeats(t *testing.T) {
	s := newService(func(n int, _ received) int {
		if n%3 != 0 {
			return 503
		}
		return 200
	})
	b := start(t, s, telemetry(fast))
	for _, payload := range []string{"one", "two"} {
		if err := b.Deliver(t.Context(), message(payload)); err != nil {
			t.Fatal(err)
		}
	}
	ids := map[string]string{}
	for _, r := range s.all() {
		id := r.Header.Get(HeaderMessageID)
		if !strings.HasPrefix(id, "edge7/") || id != r.Header.Get("Idempotency-Key") {
			t.Errorf("id %q, key %q", id, r.Header.Get("Idempotency-Key"))
		}
		if body, ok := ids[id]; ok && body != r.Body {
			t.Errorf("id %q is that of %q and of %q", id, body, r.Body)
		}
		ids[id] = r.Body
	}
	if len(ids) != 2 || len(s.all()) != 6 {
		t.Errorf("%d ids in %d requests, want 2 in 6", len(ids), len(s.all()))
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		status       int
		edit         func(*mesh.TopicRule)
		topic        string
	}{
		{name: "the service refuses the message", status: 422, reason: "http_422"},
		{name: "the mesh denies the bridge", status: 403, reason: "http_403"},
		{name: "a redirect is not followed", status: 308, reason: "http_308"},
		{name: "the rule is held", status: 200, edit: func(r *mesh.TopicRule) { r.When = "true" }, reason: ReasonBadRule},
		{name: "the topic can be no path", status: 200, topic: "devices/../telemetry", reason: ReasonBadCapture},
	} {
		t.Run(test.name, func(t *testing.T) {
			edit, m := test.edit, message("x")
			if edit == nil {
				edit = fast
			}
			if test.topic != "" {
				m.Topic = test.topic
			}
			s := newService(func(int, received) int { return test.status })
			b := start(t, s, telemetry(edit))
			refusal := asRefusal(b.Deliver(t.Context(), m))
			if refusal == nil || refusal.Reason != test.reason {
				t.Fatalf("%v, want reason %s", refusal, test.reason)
			}
			if s := checkSum(t, b); s.Refused[test.reason] != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestDeliverWithoutARule(t *testing.T) {
	s := newService(nil)
	b := start(t, s, telemetry())
	m := message("x")
	m.Topic = "other"
	if err := b.Deliver(t.Context(), m); !errors.Is(err, ErrUnrouted) {
		t.Errorf("%v, want ErrUnrouted", err)
	}
	if b.Offer(m) {
		t.Error("Offer says that a rule matches")
	}
	if s := checkSum(t, b); s.Unrouted != 2 || s.Received != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDeliverEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := start(t, times(&asked, 503), telemetry())
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if r := asRefusal(b.Deliver(ctx, message("x"))); r == nil || r.Reason != ReasonTimeout || r.Status != 503 {
			t.Errorf("%+v, want a timeout after a 503", r)
		}
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("took %v", took)
		}
		gone, cancel2 := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel2)
		if r := asRefusal(b.Deliver(gone, message("y"))); r == nil || r.Reason != ReasonSenderGone {
			t.Errorf("%v, want sender_gone", r)
		}
		checkSum(t, b)
	})
}

func TestAnAttemptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		b := start(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			if n.Add(1) > 1 {
				return answer(200, nil), nil
			}
			<-r.Context().Done() // hangs
			return nil, r.Context().Err()
		}), telemetry())
		begin := time.Now()
		if err := b.Deliver(t.Context(), message("x")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %v, want 10s and a short pause", took)
		}
		if v := testutil.ToFloat64(b.metrics.attempts.WithLabelValues(ReasonTimeout)); v != 1 {
			t.Errorf("%v attempts counted as timeouts", v)
		}
	})
}

func TestOneTopicIsInOrderAndOthersDoNotWait(t *testing.T) {
	release := make(chan struct{})
	s := newService(func(_ int, r received) int {
		if strings.Contains(r.URL, "stuck") && r.Body == "1" {
			select {
			case <-release:
			default:
				return 503
			}
		}
		return 200
	})
	b := start(t, s, telemetry(fast))
	results := make(chan error, 3)
	send := func(device, payload string) {
		m := Message{Topic: "devices/" + device + "/telemetry", Payload: []byte(payload), QoS: 1}
		it, err := b.item(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		it.done = []func(error){func(err error) { results <- err }}
		if err := b.admit(context.Background(), it); err != nil {
			t.Fatal(err)
		}
	}
	for _, payload := range []string{"1", "2", "3"} {
		send("stuck", payload)
	}
	if err := b.Deliver(t.Context(), Message{Topic: "devices/free/telemetry", Payload: []byte("x"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	close(release)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	var order []string
	for _, r := range s.all() {
		if strings.Contains(r.URL, "stuck") && !slices.Contains(order, r.Body) {
			order = append(order, r.Body)
		}
	}
	if !slices.Equal(order, []string{"1", "2", "3"}) {
		t.Errorf("order %v", order)
	}
	checkSum(t, b)
}

func TestARefusedMessageIsKeptWhereItsFaceCannotRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := start(t, times(&asked, 400, 400, 400, 200), telemetry())
		it, err := b.item(t.Context(), message("x"))
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		it.done = []func(error){func(err error) { result <- err }}
		if err := b.admit(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(asked); i++ {
			if wait := asked[i].Sub(asked[i-1]); wait < 30*time.Second || wait > time.Minute {
				t.Errorf("wait %d was %v, want the slowest pace, 30s to 60s", i, wait)
			}
		}
	})
}

func TestARepairedRuleIsUsedAtOnceByWaitingMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []string
		b := start(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			if paths = append(paths, r.URL.Path); r.URL.Path == "/right" {
				return answer(200, nil), nil
			}
			return answer(404, nil), nil
		}), telemetry(func(r *mesh.TopicRule) { r.To.Path = "/wrong" }))
		it, err := b.item(t.Context(), message("x"))
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		it.done = []func(error){func(err error) { result <- err }}
		if err := b.admit(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.Update(snapshot(filterRule("other", "other"))) // without a rule it keeps its last one
		synctest.Wait()
		begin := time.Now()
		b.Update(snapshot(telemetry(func(r *mesh.TopicRule) { r.To.Path = "/right" })))
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the repair was noticed after %v", took)
		}
		if !slices.Equal(paths, []string{"/wrong", "/right"}) {
			t.Errorf("paths %v", paths)
		}
	})
}

func TestQoS0IsDroppedWithAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := start(t, times(&asked, 503), telemetry())
		if !b.Offer(message("x")) {
			t.Error("Offer says that no rule matches")
		}
		time.Sleep(9 * time.Second)
		if s := checkSum(t, b); s.InFlight != 1 {
			t.Errorf("given up too early: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := checkSum(t, b); s.Dropped[ReasonTimeout] != 1 || s.InFlight != 0 {
			t.Errorf("%+v, want one dropped by timeout", s)
		}
	})
}

func TestQoS0IsDroppedWhenThereIsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b, err := New(Options{
			RoundTripper: times(&asked, 503), Node: "n", MaxPendingBytes: 8 * messageOverhead,
			Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		b.Update(snapshot(telemetry()))
		b.Offer(message("1"))
		b.Offer(message("2"))
		if s := checkSum(t, b); s.Dropped[ReasonOverloaded] != 1 || s.InFlight != 1 {
			t.Errorf("%+v", s)
		}
		// QoS 1 has its own room.
		short, cancel2 := context.WithTimeout(t.Context(), time.Minute)
		defer cancel2()
		if r := asRefusal(b.Deliver(short, message("3"))); r == nil || r.Reason != ReasonTimeout {
			t.Errorf("%v, want it to wait for the service", r)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestADuplicateJoinsTheMessageThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := start(t, times(&asked, 503, 503, 503, 200), telemetry())
		gone, leave := context.WithCancel(t.Context())
		results := make(chan error, 3)
		go func() { results <- b.Deliver(gone, message("x")) }()
		synctest.Wait()
		dup := message("x")
		dup.Duplicate = true
		go func() { results <- b.Deliver(t.Context(), dup) }()
		synctest.Wait()
		leave() // the first connection ends; the second one waits on
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if s := checkSum(t, b); s.Received != 1 || s.Delivered != 1 || s.Duplicates != 1 {
			t.Errorf("%+v", s)
		}
		// Afterwards the packet id may be another message's: it is delivered.
		if err := b.Deliver(t.Context(), dup); err != nil || len(asked) != 5 {
			t.Errorf("%v after %d attempts, want a new delivery", err, len(asked))
		}
		other := message("y")
		other.Duplicate = true
		if err := b.Deliver(t.Context(), other); err != nil || len(asked) != 6 {
			t.Errorf("%v after %d attempts, want a delivery of its own", err, len(asked))
		}
	})
}

func TestRunEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var n atomic.Int32
		b, stop := startStoppable(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			n.Add(1)
			select {
			case <-hang:
				return answer(200, nil), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}), telemetry())
		results := make(chan error, 3)
		deliver := func(device string) {
			results <- b.Deliver(context.Background(), Message{Topic: "devices/" + device + "/telemetry", QoS: 1})
		}
		go deliver("a")
		go deliver("a") // waits behind the first
		synctest.Wait()
		time.AfterFunc(4*time.Second, func() { close(hang) })
		begin := time.Now()
		stop()
		if took := time.Since(begin); took != 4*time.Second {
			t.Errorf("Run ended after %v, want the attempt under way to finish", took)
		}
		var delivered, refused int
		for range 2 {
			if err := <-results; err == nil {
				delivered++
			} else if asRefusal(err).Reason == ReasonShutdown {
				refused++
			}
		}
		if delivered != 1 || refused != 1 || n.Load() != 1 {
			t.Errorf("%d delivered, %d refused, %d attempts", delivered, refused, n.Load())
		}
		if r := asRefusal(b.Deliver(t.Context(), message("late"))); r == nil || r.Reason != ReasonShutdown {
			t.Errorf("after Run: %v", r)
		}
		checkSum(t, b)
	})
}

func TestRunCutsAttemptsAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := startStoppable(t, roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), telemetry())
		result := make(chan error, 1)
		go func() { result <- b.Deliver(context.Background(), message("x")) }()
		synctest.Wait()
		begin := time.Now()
		stop()
		if took := time.Since(begin); took != DefaultGrace {
			t.Errorf("Run ended after %v, want %v", took, DefaultGrace)
		}
		if r := asRefusal(<-result); r == nil || r.Reason != ReasonShutdown {
			t.Errorf("%v", r)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no RoundTripper": {Node: "n", Registerer: prometheus.NewRegistry()},
		"no node":         {RoundTripper: newService(nil), Registerer: prometheus.NewRegistry()},
		"no registerer":   {RoundTripper: newService(nil), Node: "n"},
	} {
		if _, err := New(o); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMetricsAddUpInEveryScrape(t *testing.T) {
	reg := prometheus.NewRegistry()
	b, err := New(Options{RoundTripper: newService(nil), Node: "n", Log: zerolog.Nop(), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	b.Update(snapshot(telemetry(fast)))
	if err := b.Deliver(t.Context(), message("x")); err != nil {
		t.Error(err)
	}
	want := `
# HELP hedgerow_bridge_messages_delivered_total Messages that the service accepted with a 2xx.
# TYPE hedgerow_bridge_messages_delivered_total counter
hedgerow_bridge_messages_delivered_total 1
# HELP hedgerow_bridge_messages_inflight Messages that are neither on disk nor done with.
# TYPE hedgerow_bridge_messages_inflight gauge
hedgerow_bridge_messages_inflight 0
# HELP hedgerow_bridge_messages_received_total Messages that a topic rule matches.
# TYPE hedgerow_bridge_messages_received_total counter
hedgerow_bridge_messages_received_total 1
`
	err = testutil.GatherAndCompare(reg, strings.NewReader(want), "hedgerow_bridge_messages_delivered_total",
		"hedgerow_bridge_messages_inflight", "hedgerow_bridge_messages_received_total")
	if err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
