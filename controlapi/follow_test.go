package controlapi

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// sharedLog is a log in memory that several control planes write.
type sharedLog struct {
	memoryLog
	always bool // another one is always first
}

func (l *sharedLog) Newer(_ context.Context, head mesh.Head) (bool, error) {
	return l.revision() > head.Revision, nil
}

func (l *sharedLog) Append(ctx context.Context, c mesh.Change) error {
	if l.always {
		return mesh.Errorf("log", "", mesh.Stale, "another control plane has written revision %d", c.Head.Revision)
	}
	return l.memoryLog.Append(ctx, c)
}

// Who loses a race decides again on what the other one wrote: its conditions too.
func TestALostRaceIsDecidedAgain(t *testing.T) {
	log := &sharedLog{}
	use := func(o *Options) { o.Log = log }
	a, b := newAPI(t, use), newAPI(t, use)
	a.must("PUT", "/v1/services/orders", `{}`)
	b.must("PUT", "/v1/services/billing", `{}`) // b knew of no revision
	if n := log.revision(); n != 2 {
		t.Fatalf("revision %d after two writes", n)
	}
	// a has not seen revision 2.
	if got := a.do("PUT", "/v1/services/billing", `{"labels":{"a":"b"}}`, "If-None-Match", "*"); got.status != http.StatusPreconditionFailed {
		t.Errorf("a service that is there by now: %d %s", got.status, got.body)
	}
	b.must("PUT", "/v1/services/orders", `{"labels":{"a":"b"}}`)
	if got := a.do("PUT", "/v1/services/orders", `{"labels":{"a":"c"}}`, "If-Match", `"1"`); got.status != http.StatusPreconditionFailed {
		t.Errorf("a version that is past by now: %d %s", got.status, got.body)
	}
	var wg sync.WaitGroup
	for _, w := range []*api{a, b} {
		wg.Go(func() {
			for i := range 50 {
				if got := w.do("PUT", "/v1/services/"+w.addr[len("127.0.0.1:"):]+"-"+strconv.Itoa(i), `{}`); got.status != http.StatusOK {
					t.Errorf("write %d: %d %s", i, got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	if n := log.revision(); n != 103 || len(log.changes) != 103 {
		t.Errorf("revision %d, want 103: every write is there once", n)
	}
}

func TestARaceThatIsAlwaysLostEnds(t *testing.T) {
	log := &sharedLog{always: true}
	a := newAPI(t, func(o *Options) { o.Log = log })
	got := a.do("PUT", "/v1/services/orders", `{}`)
	if got.status != http.StatusServiceUnavailable || got.code() != "unavailable" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A control plane that does not write serves what another one has written.
func TestOthersRevisionsAreFollowed(t *testing.T) {
	log := &sharedLog{}
	use := func(o *Options) { o.Log = log }
	a, b := newAPI(t, use), newAPI(t, use)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.RunFollowing(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	a.must("PUT", "/v1/services/orders", `{}`)
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for b.do("GET", "/v1/services/orders", "").status != http.StatusOK {
		select {
		case <-deadline:
			t.Fatal("it is not served within 20 s")
		case <-tick.C:
		}
	}
}
