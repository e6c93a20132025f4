package revlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// childEnv makes the test binary the child of TestKilledWhileAppending.
const childEnv = "REVLOG_TEST_APPEND_TO"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(appendUntilKilled(path))
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "revisions.db") }

// next returns the change that leads from head and records by puts and deletes,
// and the records after it.
func next(head mesh.Head, records mesh.Records, puts mesh.Records, deletes ...string) (mesh.Change, mesh.Records) {
	c := mesh.Change{Puts: puts, Deletes: deletes, Actor: "test"}
	after := maps.Clone(records)
	if after == nil {
		after = mesh.Records{}
	}
	after.Apply(c)
	c.Head = mesh.Head{Epoch: max(head.Epoch, 1), Revision: head.Revision + 1, Digest: after.Digest(), Time: time.Unix(1767323045, 0).UTC()}
	return c, after
}

func mustAppend(t *testing.T, l *Log, c mesh.Change) {
	t.Helper()
	if err := l.Append(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// fill appends n revisions, each of which puts one record of its own.
func fill(t *testing.T, l *Log, n int) (mesh.Head, mesh.Records) {
	t.Helper()
	head, records, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		var c mesh.Change
		c, records = next(head, records, mesh.Records{fmt.Sprintf("services/s%d", head.Revision+1): []byte("{}")})
		mustAppend(t, l, c)
		head = c.Head
	}
	return head, records
}

func expect(t *testing.T, l *Log, head mesh.Head, records mesh.Records) {
	t.Helper()
	gotHead, got, err := l.Load(t.Context())
	if err != nil || gotHead != head {
		t.Errorf("Load: %+v, %v; want %+v", gotHead, err, head)
	}
	if !maps.EqualFunc(got, records, bytes.Equal) {
		t.Errorf("Load: records %q, want %q", got, records)
	}
}

func TestNewLogIsEmpty(t *testing.T) {
	l := open(t, newPath(t))
	expect(t, l, mesh.Head{}, mesh.Records{})
	if got, err := l.Changes(t.Context(), 0, 0); err != nil || len(got) != 0 {
		t.Errorf("Changes: %v, %v", got, err)
	}
}

func TestAppendIsThereAfterReopening(t *testing.T) {
	path := newPath(t)
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	first, records := next(mesh.Head{}, nil, mesh.Records{"services/a": []byte(`{"a":1}`), "services/b": []byte("{}")})
	mustAppend(t, l, first)
	second, records := next(first.Head, records, mesh.Records{"services/a": []byte(`{"a":2}`)}, "services/b", "services/never")
	mustAppend(t, l, second)
	expect(t, l, second.Head, records)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	expect(t, l, second.Head, records)
	changes, err := l.Changes(t.Context(), 0, 0)
	if err != nil || len(changes) != 2 || changes[1].Head != second.Head || changes[1].Actor != "test" || string(changes[0].Puts["services/a"]) != `{"a":1}` {
		t.Errorf("Changes: %+v, %v", changes, err)
	}
}

func TestAppendRefuses(t *testing.T) {
	good, _ := next(mesh.Head{Epoch: 2, Revision: 3}, mesh.Records{}, mesh.Records{"services/x": []byte("{}")})
	cases := []struct {
		name string
		edit func(c *mesh.Change)
		kind mesh.Kind
	}{
		{"a revision that is stored", func(c *mesh.Change) { c.Head.Revision = 3 }, mesh.Stale},
		{"an older revision", func(c *mesh.Change) { c.Head.Revision = 1 }, mesh.Stale},
		{"a revision too far ahead", func(c *mesh.Change) { c.Head.Revision = 5 }, mesh.Stale},
		{"an older epoch", func(c *mesh.Change) { c.Head.Epoch = 0 }, mesh.Stale},
		{"another digest", func(c *mesh.Change) { c.Head.Digest = strings.Repeat("0", 64) }, mesh.Internal},
		{"an empty record name", func(c *mesh.Change) { c.Puts = mesh.Records{"": []byte("{}")} }, mesh.Internal},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			l := open(t, newPath(t))
			head, records := fill(t, l, 3)
			c := good
			c.Head.Epoch = head.Epoch
			tc.edit(&c)
			if err := l.Append(t.Context(), c); err == nil || mesh.KindOf(err) != tc.kind {
				t.Errorf("Append: %v, want kind %v", err, tc.kind)
			}
			expect(t, l, head, records)
			if changes, err := l.Changes(t.Context(), 0, 0); err != nil || len(changes) != 3 {
				t.Errorf("%d changes are stored, want 3 (%v)", len(changes), err)
			}
		})
	}
}

func TestAppendRaceHasOneWinner(t *testing.T) {
	l := open(t, newPath(t))
	head, records := fill(t, l, 1)
	var won, stale atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		c, _ := next(head, records, mesh.Records{"services/mine": fmt.Append(nil, i)})
		wg.Go(func() {
			switch err := l.Append(t.Context(), c); {
			case err == nil:
				won.Add(1)
			case mesh.KindOf(err) == mesh.Stale:
				stale.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || stale.Load() != 7 {
		t.Errorf("%d won and %d were stale, want 1 and 7", won.Load(), stale.Load())
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	l := open(t, newPath(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ := next(mesh.Head{}, nil, mesh.Records{"services/a": []byte("{}")})
	if err := l.Append(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Append: %v", err)
	}
	expect(t, l, mesh.Head{}, mesh.Records{})
}

func TestChangesPages(t *testing.T) {
	l := open(t, newPath(t))
	fill(t, l, 5)
	for _, tc := range []struct {
		after uint32
		limit int
		want  string
	}{
		{0, 0, "1 2 3 4 5"}, {0, 2, "1 2"}, {2, 2, "3 4"}, {4, 9, "5"}, {5, 9, ""}, {^uint32(0), 9, ""}, {0, -1, "1 2 3 4 5"},
	} {
		changes, err := l.Changes(t.Context(), tc.after, tc.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, strconv.Itoa(int(c.Head.Revision)))
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("Changes(%d, %d) = %v, want %s", tc.after, tc.limit, got, tc.want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	path := newPath(t)
	l := open(t, path)
	head, records := fill(t, l, 1)
	// Pretend that the log is as long as it may be.
	head.Revision = maxChanges + 5
	if err := l.db.Update(func(tx *bolt.Tx) error {
		for _, revision := range []uint32{3, 4, 7} {
			if err := tx.Bucket([]byte(bucketChanges)).Put(revisionKey(revision), []byte(`{"head":{}}`)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyHead), fmt.Appendf(nil, `{"epoch":1,"revision":%d,"digest":%q}`, head.Revision, records.Digest()))
	}); err != nil {
		t.Fatal(err)
	}
	c, records := next(head, records, mesh.Records{"services/new": []byte("{}")})
	mustAppend(t, l, c)
	changes, err := l.Changes(t.Context(), 0, 0)
	if err != nil || len(changes) != 2 || changes[1].Head.Revision != maxChanges+6 {
		t.Errorf("kept %+v, %v; want revisions 7 and %d", changes, err, maxChanges+6)
	}
	expect(t, l, c.Head, records)
}

func TestFileIsPrivate(t *testing.T) {
	path := newPath(t)
	open(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestSecondOpenerIsRefusedAtOnce(t *testing.T) {
	path := newPath(t)
	open(t, path)
	began := time.Now()
	l, err := Open(path)
	if err == nil {
		t.Fatal(errors.Join(errors.New("opened twice"), l.Close()))
	}
	if mesh.KindOf(err) != mesh.Unavailable || mesh.HintOf(err) == "" || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Open: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestOpenRefusesWhatIsNoLog(t *testing.T) {
	other := newPath(t)
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucketMeta))
		if err != nil {
			return err
		}
		return b.Put([]byte(keyFormat), []byte("hedgerow revision log 9"))
	}), db.Close()); err != nil {
		t.Fatal(err)
	}
	text := newPath(t)
	if err := os.WriteFile(text, bytes.Repeat([]byte("not a log\n"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a later format": other, "a text file": text, "a directory": t.TempDir(), "no such folder": filepath.Join(t.TempDir(), "a", "b")} {
		l, err := Open(path)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = l.Close()
			continue
		}
		if mesh.KindOf(err) != mesh.Internal || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamageIsNoticed damages the file in many ways: what comes back is an
// error on one line or exactly what was stored; never a crash, never something
// else.
func TestDamageIsNoticed(t *testing.T) {
	path := newPath(t)
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	head, records := fill(t, l, 40)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seeded := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for i := range 120 {
		damaged := bytes.Clone(whole)
		switch i % 3 {
		case 0: // cut short
			damaged = damaged[:seeded.IntN(len(damaged))]
		case 1: // a few bytes changed
			for range 20 {
				damaged[seeded.IntN(len(damaged))] ^= byte(1 + seeded.IntN(255))
			}
		case 2: // a page overwritten
			page := seeded.IntN(len(damaged)/4096) * 4096
			for j := range 4096 {
				damaged[page+j] = byte(seeded.IntN(256))
			}
		}
		if tryDamaged(t, damaged, head, records) {
			refused++
		}
	}
	t.Logf("%d of 120 damaged files were refused, the others were whole where it matters", refused)
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

func tryDamaged(t *testing.T, file []byte, head mesh.Head, records mesh.Records) (refused bool) {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path)
	if err != nil {
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("not one line: %q", err)
		}
		return true
	}
	got, gotRecords, err := l.Load(context.Background())
	// An empty log is what a file cut to nothing is, and what bbolt's two meta
	// pages may fall back to is an earlier revision: both hold together.
	if err == nil && got == head && !maps.EqualFunc(gotRecords, records, bytes.Equal) {
		t.Errorf("the head stands and the records do not")
	}
	if _, err := l.Changes(context.Background(), 0, 0); err != nil {
		refused = true
	}
	_ = l.Close() // may fail as well
	return refused || err != nil
}

// appendUntilKilled prints each revision once Append has returned.
func appendUntilKilled(path string) int {
	l, err := Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	head, records, err := l.Load(context.Background())
	for err == nil {
		var c mesh.Change
		c, records = next(head, records, mesh.Records{fmt.Sprintf("services/s%d", head.Revision%50): fmt.Append(nil, head.Revision)})
		if err = l.Append(context.Background(), c); err == nil {
			head = c.Head
			fmt.Println(head.Revision)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestKilledWhileAppending(t *testing.T) {
	path := newPath(t)
	var acknowledged uint64
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 20 + 7*round {
			if !lines.Scan() {
				t.Fatal("the child ended by itself")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for {
			if acknowledged, err = strconv.ParseUint(lines.Text(), 10, 32); err != nil {
				t.Fatal(err)
			}
			if !lines.Scan() {
				break
			}
		}
		_ = cmd.Wait() // it was killed

		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		head, _, err := l.Load(t.Context())
		if err != nil || uint64(head.Revision) < acknowledged || uint64(head.Revision) > acknowledged+1 {
			t.Errorf("round %d: revision %d was acknowledged, the log has %d (%v)", round, acknowledged, head.Revision, err)
		}
		changes, err := l.Changes(t.Context(), 0, 0)
		if err != nil || len(changes) != int(head.Revision) {
			t.Errorf("round %d: %d changes up to revision %d (%v)", round, len(changes), head.Revision, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed 5 times, %d revisions acknowledged and there", acknowledged)
}

// A commit can fail at the very last step, when what it wrote is visible all the same:
// what follows it is stored.
func TestAppendAfterOneThatFailedButIsThere(t *testing.T) {
	l := open(t, newPath(t))
	first, records := next(mesh.Head{}, nil, mesh.Records{"services/a": []byte("{}")})
	if err := l.Append(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	leaves, digest := l.leaves, l.digest
	second, records := next(first.Head, records, mesh.Records{"services/b": []byte("{}")})
	if err := l.Append(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	l.leaves, l.digest = leaves, digest // as an error leaves them
	third, records := next(second.Head, records, mesh.Records{"services/c": []byte("{}")}, "services/a")
	if err := l.Append(t.Context(), third); err != nil {
		t.Errorf("the change after it: %v", err)
	}
	if head, got, err := l.Load(t.Context()); err != nil || head.Revision != 3 || !maps.EqualFunc(got, records, bytes.Equal) {
		t.Errorf("stored are %v at %d, %v", got, head.Revision, err)
	}
}
