package vaultpki

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// openLog is a control plane's log, with a login of its own.
func (s *setUp) openLog(t *testing.T) *Log {
	t.Helper()
	l, err := openVault(t, s.control.access).Log(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// next returns the change after head and records that puts one record.
func next(head mesh.Head, records mesh.Records, name string, value []byte) mesh.Change {
	c := mesh.Change{Puts: mesh.Records{name: value}, Actor: "test"}
	after := maps.Clone(records)
	after.Apply(c)
	c.Head = mesh.Head{Epoch: 1, Revision: head.Revision + 1, Digest: after.Digest(), Time: time.Unix(1767323045, 0).UTC()}
	return c
}

// put appends a record to what is there, as often as it takes, and returns the races lost.
func put(t *testing.T, l *Log, name string, value []byte) (lost int) {
	t.Helper()
	for ; ; lost++ {
		head, records, err := l.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = l.Append(t.Context(), next(head, records, name, value))
		if err == nil {
			return lost
		}
		if mesh.KindOf(err) != mesh.Stale {
			t.Fatal(err)
		}
	}
}

// Two control planes write as fast as they can: every write is there once, one revision
// after another, and both have the same history.
func TestRealVaultLogRace(t *testing.T) {
	s := newMesh(t)
	const each = 200
	var races atomic.Int32
	var wg sync.WaitGroup
	logs := []*Log{s.openLog(t), s.openLog(t)}
	for at, l := range logs {
		wg.Go(func() {
			for i := range each {
				races.Add(int32(put(t, l, fmt.Sprintf("services/w%d-%d", at, i), []byte("{}"))))
			}
		})
	}
	wg.Wait()
	head, records, err := s.openLog(t).Load(t.Context())
	if err != nil || head.Revision != 2*each || len(records) != 2*each {
		t.Fatalf("revision %d with %d records, %v; want %d", head.Revision, len(records), err, 2*each)
	}
	for _, l := range logs {
		if got, same, err := l.Load(t.Context()); err != nil || got != head || !maps.EqualFunc(same, records, bytes.Equal) {
			t.Errorf("a control plane has %+v, %v; a new one %+v", got, err, head)
		}
	}
	heads, err := s.control.list(t.Context(), "test", strings.TrimSuffix(kvLogMeta, "/"))
	if err != nil || len(heads) != 2*each {
		t.Errorf("%d revisions in Vault, %v", len(heads), err)
	}
	t.Logf("%d writes, %d races lost", 2*each, races.Load())
	if races.Load() == 0 {
		t.Error("nobody lost a race: nothing was tried")
	}
}

// cut is a transport that ends after some requests, as a process does that is killed: the
// last one is not sent, or its answer is not seen.
type cut struct {
	http.RoundTripper
	left   atomic.Int32
	answer bool // it is sent
}

var errKilled = errors.New("killed")

func (c *cut) RoundTrip(r *http.Request) (*http.Response, error) {
	left := c.left.Add(-1)
	if left < 0 && (!c.answer || left < -1) {
		return nil, errKilled
	}
	res, err := c.RoundTripper.RoundTrip(r)
	if left < 0 && err == nil {
		return nil, errors.Join(errKilled, res.Body.Close())
	}
	return res, err
}

// Killed at each request of an append, sent or not, the log is the one before or after, and
// goes on.
func TestRealVaultLogKilledMidAppend(t *testing.T) {
	s := newMesh(t)
	whole := bytes.Repeat([]byte("x"), 2*chunkBytes) // some chunks
	done := 0
	for step := range 40 {
		l := s.openLog(t)
		head, records, err := l.Load(t.Context())
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		c := next(head, records, "services/big", fmt.Appendf(nil, `{"step":%d,"x":%q}`, step, whole))
		dying := &cut{RoundTripper: l.v.http.Transport, answer: step%2 == 1}
		dying.left.Store(int32(step / 2))
		l.v.http.Transport = dying
		err = l.Append(t.Context(), c)

		fresh := s.openLog(t)
		now, after, loadErr := fresh.Load(t.Context())
		if loadErr != nil {
			t.Fatalf("step %d: %v", step, loadErr)
		}
		switch {
		case err == nil && now != c.Head:
			t.Errorf("step %d: it was acknowledged and is not there", step)
		case now != head && now != c.Head:
			t.Errorf("step %d: revision %+v, neither the one before nor the one after", step, now)
		}
		if now.Revision > 0 && after.Digest() != now.Digest {
			t.Errorf("step %d: the records are not the head's", step)
		}
		put(t, fresh, "services/other", fmt.Append(nil, step))
		if err == nil {
			done++
		}
		if done == 2 { // nothing is left to cut
			t.Logf("%d steps", step)
			return
		}
	}
	t.Error("an append has no end")
}

// A write whose answer is lost, and which is sent again, is one write.
func TestRealVaultLogCreateIsRepeatable(t *testing.T) {
	s := newMesh(t)
	l := s.openLog(t)
	for range 2 {
		if err := l.create(t.Context(), headPath(1), "a"); err != nil {
			t.Error(err)
		}
	}
	checkError(t, l.create(t.Context(), headPath(1), "b"), mesh.Stale, "there already", false)
}

func TestRealVaultLogSnapshots(t *testing.T) {
	s := newMesh(t)
	l := s.openLog(t)
	sleeper := s.openLog(t)
	put(t, sleeper, "services/first", []byte("{}"))
	l.every, l.keep = 5, 8
	for i := range 40 {
		put(t, l, fmt.Sprintf("services/s%d", i%7), fmt.Append(nil, i))
		if err := l.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	head, records, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reads := func() float64 { return counted(t, s.control, "log") }
	before := reads()
	fresh, err := s.control.Log(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	got, same, err := fresh.Load(t.Context())
	if err != nil || got != head || !maps.EqualFunc(same, records, bytes.Equal) {
		t.Errorf("a new control plane has %+v, %v; want %+v", got, err, head)
	}
	if n := reads() - before; n > 15 {
		t.Errorf("%v reads for 41 revisions", n)
	}
	if names, err := s.control.list(t.Context(), "test", kvLogMeta+"10"); err != nil || len(names) != 1 || names[0] != headName {
		t.Errorf("of revision 10 are left %v, %v", names, err)
	}

	// Who slept through all that finds its chunks gone, and that every revision is taken.
	c := next(sleeper.head, sleeper.records, "services/late", []byte("{}"))
	checkError(t, sleeper.Append(t.Context(), c), mesh.Stale, "has written revision 2", false)
	if got, _, err := sleeper.Load(t.Context()); err != nil || got != head {
		t.Errorf("it wakes up with %+v, %v", got, err)
	}
	if newer, err := sleeper.Newer(t.Context(), mesh.Head{Revision: 3}); err != nil || !newer {
		t.Errorf("newer than revision 3: %v, %v", newer, err)
	}
	if newer, err := sleeper.Newer(t.Context(), head); err != nil || newer {
		t.Errorf("newer than the newest: %v, %v", newer, err)
	}
}

// counted returns how many requests of an operation there were, whatever came of them.
func counted(t *testing.T, v *Vault, operation string) float64 {
	t.Helper()
	sum := 0.0
	for _, result := range []string{"ok", "not found", "invalid", "denied"} {
		sum += testutil.ToFloat64(v.metrics.requests.WithLabelValues(operation, result))
	}
	return sum
}

func TestRealVaultLogRefuses(t *testing.T) {
	s := newMesh(t)
	_, err := s.control.Log(t.Context(), "other")
	checkError(t, err, mesh.Invalid, "is that of mesh default", true)
	l := s.openLog(t)
	put(t, l, "services/a", []byte("{}"))
	head, records, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		edit func(*mesh.Change)
		kind mesh.Kind
	}{
		"a revision that is stored": {func(c *mesh.Change) { c.Head.Revision = 1 }, mesh.Stale},
		"a revision too far ahead":  {func(c *mesh.Change) { c.Head.Revision = 3 }, mesh.Stale},
		"an older epoch":            {func(c *mesh.Change) { c.Head.Epoch = 0 }, mesh.Stale},
		"another digest":            {func(c *mesh.Change) { c.Head.Digest = strings.Repeat("0", 64) }, mesh.Internal},
	} {
		c := next(head, records, "services/b", []byte("{}"))
		tt.edit(&c)
		if err := l.Append(t.Context(), c); err == nil || mesh.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A chunk that is another's is noticed.
	names, err := s.control.list(t.Context(), "test", kvLogMeta+"1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != headName {
			must(t, s.VaultServer, http.MethodPost, kvLog+"1/"+name, map[string]any{"data": map[string]any{"value": "e30="}})
		}
	}
	_, _, err = s.openLog(t).Load(t.Context())
	checkError(t, err, mesh.Internal, "revision 1 cannot be used", true)
	s.Seal()
	checkError(t, l.Append(t.Context(), next(head, records, "services/b", []byte("{}"))), mesh.Unavailable, "Vault is sealed", true)
	s.Unseal()
}
