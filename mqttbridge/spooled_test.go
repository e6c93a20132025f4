package mqttbridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// sink is a service that notes what it accepted, by topic's device, and the ids.
type sink struct {
	mu     sync.Mutex
	status func(device, payload string) int // nil accepts
	got    map[string][]string
	ids    map[string]string // by device and payload
}

func newSink() *sink { return &sink{got: map[string][]string{}, ids: map[string]string{}} }

func (s *sink) answer(status func(device, payload string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *sink) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	device := r.Header.Get(HeaderDevice)
	if id, key := r.Header.Get(HeaderMessageID), device+" "+string(body); s.ids[key] == "" {
		s.ids[key] = id
	} else if s.ids[key] != id {
		return nil, fmt.Errorf("%s is called %s and %s", key, s.ids[key], id)
	}
	if s.status != nil {
		if status := s.status(device, string(body)); status != 204 {
			return answer(status, nil), nil
		}
	}
	s.got[device] = append(s.got[device], string(body))
	return answer(204, nil), nil
}

func (s *sink) of(device string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got[device])
}

func down(string, string) int { return 503 }

func spoolingRule(edit ...func(*mesh.TopicRule)) *mesh.TopicRule {
	return telemetry(append([]func(*mesh.TopicRule){fast, func(r *mesh.TopicRule) { r.Ack = mesh.AckSpooled }}, edit...)...)
}

func from(device, payload string) Message {
	return Message{Topic: "devices/" + device + "/telemetry", Payload: []byte(payload), QoS: 1, Client: device, PacketID: 1}
}

func delivered(t *testing.T, b *Bridge, m Message) {
	t.Helper()
	if err := b.Deliver(t.Context(), m); err != nil {
		t.Fatalf("%s: %v", m.Topic, err)
	}
}

// eventually waits until ok, at most 10 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestSpooledMessagesAreDeliveredAfterARestartInOrder(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	s.answer(down)
	b, stop := startSpooling(t, dir, s, spoolingRule())
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
		for _, device := range []string{"d1", "d2"} {
			delivered(t, b, from(device, want[i]))
		}
	}
	if st := checkSum(t, b); st.Spooled != 100 || st.Delivered != 0 {
		t.Errorf("%+v", st)
	}
	stop()
	s.answer(nil)
	b, stop = startSpooling(t, dir, s, spoolingRule())
	defer stop()
	eventually(t, "delivered", func() bool { return b.Stats().Delivered == 100 })
	for _, device := range []string{"d1", "d2"} {
		if got := s.of(device); !slices.Equal(got, want) {
			t.Errorf("%s: %v", device, got)
		}
	}
	if st := checkSum(t, b); st.Recovered != 100 || st.Spooled != 0 {
		t.Errorf("%+v", st)
	}
}

func TestNothingIsDeliveredTwiceWithoutACrash(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	b, stop := startSpooling(t, dir, s, spoolingRule())
	for i := range 20 {
		delivered(t, b, from("d1", fmt.Sprint(i)))
	}
	eventually(t, "delivered", func() bool { return b.Stats().Delivered == 20 })
	stop()
	b, stop = startSpooling(t, dir, s, spoolingRule())
	defer stop()
	if st := checkSum(t, b); st.Recovered != 0 || len(s.of("d1")) != 20 {
		t.Errorf("%+v, %d arrived", st, len(s.of("d1")))
	}
}

func TestWhatAServiceRefusesForGoodHoldsUpNobody(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	s.answer(func(_, payload string) int {
		switch payload {
		case "bad":
			return 422
		case "moved":
			return 301
		}
		return 204
	})
	b, stop := startSpooling(t, dir, s, spoolingRule())
	defer stop()
	for _, payload := range []string{"one", "bad", "two", "moved", "three"} {
		delivered(t, b, from("d1", payload))
	}
	eventually(t, "delivered", func() bool { return b.Stats().Delivered == 3 })
	if got := s.of("d1"); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("%v", got)
	}
	if st := checkSum(t, b); st.Dead["http_422"] != 1 || st.Dead["http_301"] != 1 {
		t.Errorf("%+v", st)
	}
	dead, err := b.spool.Dead(0, 0)
	if err != nil || len(dead) != 2 || string(dead[0].Payload) != "bad" || dead[0].Reason != "http_422" {
		t.Fatalf("%+v, %v", dead, err)
	}
	s.answer(nil)
	if err := b.spool.Replay(t.Context(), dead[0].ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "replayed", func() bool { return slices.Contains(s.of("d1"), "bad") })
	eventually(t, "counted", func() bool { return b.Stats().Delivered == 4 })
	checkSum(t, b)
}

func TestATopicThatWaitsHoldsUpNoOther(t *testing.T) {
	s := newSink()
	s.answer(func(device, _ string) int {
		if device == "slow" {
			return 503
		}
		return 204
	})
	b, stop := startSpooling(t, t.TempDir(), s, spoolingRule())
	defer stop()
	for i := range 200 { // more than there are workers
		delivered(t, b, from("slow", fmt.Sprint(i)))
	}
	delivered(t, b, from("fast", "x"))
	eventually(t, "delivered", func() bool { return len(s.of("fast")) == 1 })
	if got := s.of("slow"); len(got) != 0 {
		t.Errorf("%v", got)
	}
	checkSum(t, b)
}

func TestARuleWithoutOrderDeliversPastWhatWaits(t *testing.T) {
	s := newSink()
	s.answer(func(_, payload string) int {
		if payload == "first" {
			return 503
		}
		return 204
	})
	b, stop := startSpooling(t, t.TempDir(), s, spoolingRule(func(r *mesh.TopicRule) { r.Ordering = mesh.NoOrder }))
	defer stop()
	for _, payload := range []string{"first", "second"} {
		delivered(t, b, from("d1", payload))
	}
	eventually(t, "delivered", func() bool { return slices.Equal(s.of("d1"), []string{"second"}) })
	s.answer(nil)
	eventually(t, "delivered", func() bool { return slices.Equal(s.of("d1"), []string{"second", "first"}) })
}

func TestASpoolThatIsFullTakesNothing(t *testing.T) {
	s := newSink()
	s.answer(down)
	b, stop := startSpooling(t, t.TempDir(), s, spoolingRule())
	defer stop()
	kept := 0
	for ; ; kept++ {
		m := from("d1", fmt.Sprint(kept)+strings.Repeat("x", 100_000))
		err := b.Deliver(t.Context(), m)
		if err == nil {
			continue
		}
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != ReasonSpoolFull || r.Permanent() {
			t.Fatal(err)
		}
		break
	}
	if st := checkSum(t, b); kept < 5 || kept > 10 || st.Spooled != uint64(kept) || st.Refused[ReasonSpoolFull] != 1 {
		t.Errorf("%d of 100,000 bytes fit into 1 MiB: %+v", kept, st)
	}
	s.answer(nil)
	eventually(t, "drained", func() bool { return b.Stats().Spooled == 0 })
	delivered(t, b, from("d1", "again"))
}

func TestAMessageThatAsksForDeliveryIsSpooledAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		s.answer(down)
		b, stop := startSpooling(t, t.TempDir(), s, telemetry(fast))
		defer stop()
		start := time.Now()
		delivered(t, b, from("d1", "one"))
		if took := time.Since(start); took < deliveredWait || took > deliveredWait+time.Second {
			t.Errorf("acknowledged after %v", took)
		}
		start = time.Now()
		delivered(t, b, from("d1", "two")) // behind one that is spooled
		if took := time.Since(start); took > time.Second {
			t.Errorf("the second one waited %v", took)
		}
		if st := checkSum(t, b); st.Spooled != 2 {
			t.Errorf("%+v", st)
		}
		s.answer(nil)
		for len(s.of("d1")) < 2 {
			time.Sleep(time.Second)
		}
		if got := s.of("d1"); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("%v", got)
		}
		checkSum(t, b)
	})
}

func TestWhoIsToldOfARefusalKeepsItsMessage(t *testing.T) {
	s := newSink()
	s.answer(func(string, string) int { return 422 })
	b, stop := startSpooling(t, t.TempDir(), s, telemetry(fast))
	defer stop()
	told := from("d1", "told")
	told.Told = true
	if r, ok := errors.AsType[*Refusal](b.Deliver(t.Context(), told)); !ok || r.Status != 422 {
		t.Errorf("%v", r)
	}
	delivered(t, b, from("d1", "not told"))
	eventually(t, "dead", func() bool { return b.Stats().Dead["http_422"] == 1 })
	if st := checkSum(t, b); st.Refused["http_422"] != 1 {
		t.Errorf("%+v", st)
	}
}

func TestOldMessagesBecomeDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		s.answer(down)
		b, stop := startSpooling(t, t.TempDir(), s, spoolingRule(func(r *mesh.TopicRule) { r.Retry.MaxAge = mesh.Seconds(60) }))
		defer stop()
		delivered(t, b, from("d1", "x"))
		time.Sleep(59 * time.Second)
		if st := checkSum(t, b); st.Spooled != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(2 * time.Second)
		if st := checkSum(t, b); st.Dead[reasonExpired] != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A gateway that starts in 1970 spools before its clock is set. By the right time all of that
// would be too old.
func TestMessagesOfAWrongClockAreNotOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		s.answer(down)
		b, stop := startSpooling(t, t.TempDir(), s, spoolingRule(func(r *mesh.TopicRule) { r.Retry.MaxAge = mesh.Seconds(60) }))
		defer stop()
		b.opts.Clock = func() error { return errors.New("it shows 1970") }
		delivered(t, b, from("d1", "x"))
		time.Sleep(2 * time.Minute) // the clock is set
		s.answer(nil)
		time.Sleep(time.Hour)
		if st := checkSum(t, b); st.Delivered != 1 || len(st.Dead) != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestMessagesWaitForTheirRule(t *testing.T) {
	s := newSink()
	s.answer(down)
	b, stop := startSpooling(t, t.TempDir(), s, spoolingRule())
	defer stop()
	delivered(t, b, from("d1", "x"))
	b.Update(snapshot())
	s.answer(nil)
	if err := b.Deliver(t.Context(), from("d1", "y")); !errors.Is(err, ErrUnrouted) {
		t.Errorf("%v", err)
	}
	b.Update(snapshot(spoolingRule()))
	eventually(t, "delivered", func() bool { return slices.Equal(s.of("d1"), []string{"x"}) })
	checkSum(t, b)
}

func TestManyPublishersWhileItRestarts(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	const devices, each = 20, 60
	acked := make([]int, devices)
	for round := range 3 {
		b, stop := startSpooling(t, dir, s, spoolingRule())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				for acked[d] < (round+1)*each && ctx.Err() == nil {
					if b.Deliver(ctx, from(fmt.Sprintf("d%d", d), fmt.Sprint(acked[d]))) == nil {
						acked[d]++
					}
				}
			})
		}
		if round < 2 {
			eventually(t, "some", func() bool { return b.Stats().Received > devices*each/3 })
		} else {
			wg.Wait()
		}
		cancel()
		stop()
		wg.Wait()
		checkSum(t, b)
	}
	b, stop := startSpooling(t, dir, s, spoolingRule())
	defer stop()
	eventually(t, "drained", func() bool { return b.Stats().Spooled == 0 })
	for d := range devices {
		got := s.of(fmt.Sprintf("d%d", d))
		for i := range acked[d] {
			if !slices.Contains(got, fmt.Sprint(i)) {
				t.Errorf("d%d: %d was acknowledged and is lost", d, i)
			}
		}
	}
}

// What rots on disk while the bridge runs holds up nothing that came after it.
func TestAMessageThatRotsHoldsUpNobody(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	s.answer(down)
	b, stop := startSpooling(t, dir, s, spoolingRule())
	defer stop()
	delivered(t, b, from("d1", "what will rot"))
	delivered(t, b, from("d1", "what will not"))
	f, err := os.OpenFile(filepath.Join(dir, "spool.db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // what counts was written
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; at++ { // pages of before may have it too
		i := bytes.Index(content[at:], []byte("will rot"))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte("has gone"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "put aside", func() bool { return b.Stats().Dead["damaged"] == 1 })
	s.answer(nil)
	eventually(t, "delivered", func() bool { return slices.Contains(s.of("d1"), "what will not") })
	if st := checkSum(t, b); st.Delivered != 1 || st.Spooled != 0 {
		t.Errorf("%+v", st)
	}
	if st := b.spool.Stats(); st.Damaged != 1 || st.Messages != 0 {
		t.Errorf("%+v", st)
	}
}
