package spool

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/quick"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens the spool in dir until the test ends, and returns what it kept.
func open(t *testing.T, dir string, change ...func(*Options)) (*Spool, []Kept) {
	t.Helper()
	opts := Options{Dir: dir, Log: zerolog.Nop()}
	for _, c := range change {
		c(&opts)
	}
	var kept []Kept
	s, err := Open(opts, func(k Kept) { kept = append(kept, k) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, s) })
	return s, kept
}

func closed(t *testing.T, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func record(topic, payload string) *Record {
	return &Record{
		Received: time.UnixMicro(1_700_000_000_000_001), QoS: 1, ID: "n/1", Client: "d1", Topic: topic, Rule: "topicRules/t",
		Headers: []string{"traceparent", "00-x"}, Payload: []byte(payload),
	}
}

func appended(t *testing.T, s *Spool, r *Record) uint64 {
	t.Helper()
	seq, err := s.Append(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func loaded(t *testing.T, s *Spool, seq uint64) Record {
	t.Helper()
	r, err := s.Load(seq)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsKeptOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s, kept := open(t, dir)
	if len(kept) != 0 {
		t.Fatalf("a new spool keeps %v", kept)
	}
	first, second := appended(t, s, record("a", "one")), appended(t, s, record("b", "two"))
	gone := appended(t, s, record("c", "three"))
	want := loaded(t, s, second)
	if want.Epoch != s.Epoch() || want.Number != second {
		t.Errorf("it is named %d/%d", want.Epoch, want.Number)
	}
	s.Remove(gone)
	s.Remove(gone) // twice is once
	closed(t, s)

	s, kept = open(t, dir)
	if got := fmt.Sprint(kept); got != fmt.Sprint([]Kept{{Seq: first, Client: "d1", Topic: "a"}, {Seq: second, Client: "d1", Topic: "b"}}) {
		t.Errorf("kept are %s", got)
	}
	if got := loaded(t, s, second); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v came back, %+v was kept", got, want)
	}
	if _, err := s.Load(gone); !errors.Is(err, ErrGone) {
		t.Errorf("what was removed: %v", err)
	}
	if next := appended(t, s, record("d", "four")); next <= gone {
		t.Errorf("number %d comes after %d", next, gone)
	}
	if st := s.Stats(); st.Messages != 3 || st.Bytes <= 0 {
		t.Errorf("%+v", st)
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	s, _ := open(t, t.TempDir())
	same := func(client, topic, rule string, payload []byte, qos uint8, headers map[string]string, at uint32) bool {
		r := &Record{Received: time.UnixMicro(int64(at)), QoS: qos, Client: client, Topic: topic, Rule: rule, Payload: payload}
		for name, value := range headers {
			r.Headers = append(r.Headers, name, value)
		}
		if at%2 == 0 {
			r.Expires = r.Received.Add(time.Hour)
		}
		if len(r.Headers) > maxHeaders {
			return true
		}
		b, err := s.encode(r)
		if err != nil {
			return false
		}
		number(b, 7, 9)
		got, err := s.decode(b)
		r.Epoch, r.Number = 7, 9
		if r.Payload == nil {
			r.Payload = []byte{}
		}
		return err == nil && reflect.DeepEqual(got, *r)
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

func TestSharedTransactions(t *testing.T) {
	var transactions atomic.Int64
	slow := func(o *Options) {
		o.Fault = func() error { transactions.Add(1); return nil }
	}
	dir := t.TempDir()
	s, _ := open(t, dir, slow)
	const publishers, each = 50, 40
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Append(t.Context(), record(fmt.Sprintf("t%d", p), fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := transactions.Load(); n >= publishers*each/2 {
		t.Errorf("%d transactions for %d records: they are not shared", n, publishers*each)
	}
	closed(t, s)
	s, kept := open(t, dir)
	at := map[string]int{}
	for _, k := range kept {
		if got := string(loaded(t, s, k.Seq).Payload); got != fmt.Sprint(at[k.Topic]) {
			t.Fatalf("%s: %s came where %d should", k.Topic, got, at[k.Topic])
		}
		at[k.Topic]++
	}
	if len(kept) != publishers*each {
		t.Errorf("%d are kept", len(kept))
	}
}

func TestFull(t *testing.T) {
	s, _ := open(t, t.TempDir(), func(o *Options) { o.MaxBytes = 4000 })
	var seqs []uint64
	for {
		seq, err := s.Append(t.Context(), record("a", strings.Repeat("x", 500)))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, seq)
	}
	if len(seqs) < 3 || len(seqs) > 8 {
		t.Errorf("%d of 500 bytes fit into 4000", len(seqs))
	}
	if err := s.Bury(t.Context(), seqs[0], "http_400"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), record("a", strings.Repeat("x", 500))); !errors.Is(err, ErrFull) {
		t.Errorf("a dead letter makes room: %v", err)
	}
	s.Remove(seqs[1])
	appended(t, s, record("a", strings.Repeat("x", 500)))
	if _, err := s.Append(t.Context(), &Record{Topic: "a", Payload: make([]byte, maxPayload+1)}); err == nil || errors.Is(err, ErrFull) {
		t.Errorf("a payload over the limit: %v", err)
	}
}

func TestAFailingDiskPromisesNothing(t *testing.T) {
	var broken atomic.Bool
	dir := t.TempDir()
	s, _ := open(t, dir, func(o *Options) {
		o.Fault = func() error {
			if broken.Load() {
				return syscall.EIO
			}
			return nil
		}
	})
	before := appended(t, s, record("a", "before"))
	removed := appended(t, s, record("a", "removed"))
	broken.Store(true)
	s.Remove(removed)
	if _, err := s.Append(t.Context(), record("a", "during")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("an append while the disk fails: %v", err)
	}
	if st := s.Stats(); st.Failed == nil || st.Messages != 1 {
		t.Errorf("%+v", st)
	}
	if _, err := s.Append(t.Context(), record("a", "during")); !errors.Is(err, ErrFailed) {
		t.Errorf("an append after the disk failed: %v", err)
	}
	broken.Store(false)
	deadline := time.Now().Add(5 * time.Second) // F30's
	for s.Stats().Failed != nil {
		if time.Now().After(deadline) {
			t.Fatal("it does not come back")
		}
		<-time.After(10 * time.Millisecond)
	}
	after := appended(t, s, record("a", "after"))
	if got := loaded(t, s, before); string(got.Payload) != "before" {
		t.Errorf("%q", got.Payload)
	}
	closed(t, s)
	_, kept := open(t, dir)
	if len(kept) != 2 || kept[0].Seq != before || kept[1].Seq != after {
		t.Errorf("kept are %v", kept)
	}
}

func TestAnUnwrittenRemovalComesAgain(t *testing.T) {
	dir := t.TempDir()
	var broken atomic.Bool
	s, _ := open(t, dir, func(o *Options) {
		o.Fault = func() error {
			if broken.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	seq := appended(t, s, record("a", "x"))
	broken.Store(true)
	s.Remove(seq)
	closed(t, s)
	if _, kept := open(t, dir); len(kept) != 1 {
		t.Errorf("kept are %v", kept)
	}
}

func TestDeadLetters(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	r := record("a", "poison")
	r.Expires = time.Now().Add(-time.Hour)
	first := appended(t, s, r)
	for _, payload := range []string{"two", "three"} {
		if err := s.Bury(t.Context(), appended(t, s, record("b", payload)), "http_422"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Bury(t.Context(), first, "expired"); err != nil {
		t.Fatal(err)
	}
	if err := s.Bury(t.Context(), first, "expired"); !errors.Is(err, ErrGone) {
		t.Errorf("buried twice: %v", err)
	}
	closed(t, s)
	var last Kept
	var mu sync.Mutex
	s, err := Open(Options{Dir: dir, Log: zerolog.Nop()}, func(k Kept) { mu.Lock(); last = k; mu.Unlock() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, s) })
	told := func() Kept { // it is told a moment after Replay returns
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
			mu.Lock()
			k := last
			mu.Unlock()
			if k.Seq != 0 {
				return k
			}
		}
		return Kept{}
	}
	if st := s.Stats(); st.Messages != 0 || st.Dead != 3 {
		t.Fatalf("%+v", st)
	}
	dead, err := s.Dead(0, 2)
	if err != nil || len(dead) != 2 || dead[0].ID != first || dead[0].Reason != "expired" || string(dead[0].Payload) != "poison" {
		t.Fatalf("%+v, %v", dead, err)
	}
	if err := s.Replay(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	again := told()
	got := loaded(t, s, again.Seq)
	if got.Number != first || got.Epoch != s.Epoch() || !got.Expires.IsZero() || again.Seq <= first || string(got.Payload) != "poison" {
		t.Errorf("%+v was replayed as %+v", got, again)
	}
	if err := s.Replay(t.Context(), first); !errors.Is(err, ErrGone) {
		t.Errorf("replayed twice: %v", err)
	}
	rest, err := s.Dead(first, 0)
	if err != nil || len(rest) != 2 {
		t.Fatalf("%+v, %v", rest, err)
	}
	if n, err := s.Purge(t.Context(), rest[0].ID, 999); n != 1 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if n, err := s.Purge(t.Context()); n != 1 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	s.Remove(again.Seq)
	if st := s.Stats(); st.Dead != 0 || st.Messages != 0 || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSealed(t *testing.T) {
	dir := t.TempDir()
	sealed := func(key byte) func(*Options) {
		block, err := aes.NewCipher([]byte(strings.Repeat(string(rune(key)), 32)))
		if err != nil {
			t.Fatal(err)
		}
		seal, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		return func(o *Options) { o.Seal = seal }
	}
	plain, _ := open(t, dir)
	appended(t, plain, record("a", "in the clear"))
	closed(t, plain)
	s, kept := open(t, dir, sealed('k'))
	if len(kept) != 1 {
		t.Errorf("what was kept before: %v", kept)
	}
	seq := appended(t, s, record("secret-topic", "secret-payload"))
	if got := loaded(t, s, seq); string(got.Payload) != "secret-payload" {
		t.Errorf("%q", got.Payload)
	}
	closed(t, s)
	content, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "secret-") {
		t.Error("it can be read on the disk")
	}
	for name, change := range map[string]func(*Options){"no key": func(*Options) {}, "another key": sealed('x')} {
		if s, err := Open(Options{Dir: dir, Log: zerolog.Nop(), Seal: optionsOf(change).Seal}, func(Kept) {}); err == nil {
			closed(t, s)
			t.Errorf("%s: the spool opens, and would give up what it cannot read", name)
		}
	}
	if _, kept := open(t, dir, sealed('k')); len(kept) != 2 {
		t.Errorf("with the key again: %v", kept)
	}
}

func optionsOf(change func(*Options)) Options {
	var o Options
	change(&o)
	return o
}

// damage writes junk over every byte of the file that is not within a record.
func TestADamagedFileGivesUpNothingItStillHas(t *testing.T) {
	for name, ruin := range map[string]func([]byte){
		"both first pages": func(b []byte) { clear(b[:8192]) },
		"a page in the middle": func(b []byte) {
			for i := range b {
				if i%4096 < 16 && i > 8192 {
					b[i] = 0xff
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := open(t, dir)
			const n = 200
			for i := range n {
				appended(t, s, record("a", fmt.Sprintf("payload %d", i)))
			}
			closed(t, s)
			file := filepath.Join(dir, fileName)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			ruin(content)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, kept := open(t, dir)
			dead, err := s.Dead(0, 0)
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]bool{}
			for _, d := range dead {
				found[string(d.Payload)] = true
			}
			for _, k := range kept {
				found[string(loaded(t, s, k.Seq).Payload)] = true
			}
			if len(found) < n-5 { // the records that the junk went through
				t.Errorf("%d of %d are found again", len(found), n)
			}
			if aside, _ := filepath.Glob(file + ".damaged-*"); len(aside) != 1 {
				t.Errorf("the damaged file was put aside as %v", aside)
			}
			appended(t, s, record("a", "new"))
		})
	}
}

// What is salvaged needs room that the disk may not have. Until it has, the damaged file is
// what there is, and no empty one.
func TestADamagedFileIsLeftUntilItIsSalvaged(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	appended(t, s, record("a", "one"))
	appended(t, s, record("a", "two"))
	closed(t, s)
	file := filepath.Join(dir, fileName)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	clear(content[:8192])
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		full := Options{Dir: dir, Log: zerolog.Nop(), Fault: func() error { return syscall.ENOSPC }}
		if s, err := Open(full, func(Kept) {}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("opened on a full disk: %v, %v", s, err)
		}
	}
	salvaged := func() {
		t.Helper()
		s, kept := open(t, dir)
		if dead, err := s.Dead(0, 0); err != nil || len(dead)+len(kept) != 2 {
			t.Errorf("%d messages are dead letters, %d are kept: %v", len(dead), len(kept), err)
		}
		closed(t, s)
	}
	salvaged()
	// A crash between the two renames.
	if err := os.Rename(file, file+".salvaged"); err != nil {
		t.Fatal(err)
	}
	salvaged()
	if aside, _ := filepath.Glob(file + ".damaged-*"); len(aside) != 1 {
		t.Errorf("put aside as %v", aside)
	}
}

func TestWhatIsNoDamage(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.EIO:                              false,
		errors.New("file sync error: EIO"):       false,
		errors.New("file resize error: no room"): false,
		errors.New("both meta pages are wrong"):  true,
	} {
		if got := isDamage(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}

func TestARecordThatIsNotWhatWasWrittenIsPutAside(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	appended(t, s, record("a", "good one"))
	appended(t, s, record("a", "rotten"))
	appended(t, s, record("a", "good two"))
	closed(t, s)
	file := filepath.Join(dir, fileName)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content = []byte(strings.ReplaceAll(string(content), "rotten", "fallen"))
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays counted
		s, kept := open(t, dir)
		if st := s.Stats(); len(kept) != 2 || st.Damaged != 1 {
			t.Errorf("%v, %+v", kept, st)
		}
		closed(t, s)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(Options{Dir: dir, Log: zerolog.Nop()}, func(Kept) {}); !errors.Is(err, errBusy) {
		t.Errorf("%v", err)
	}
}

func TestCallsAfterCloseFail(t *testing.T) {
	s, _ := open(t, t.TempDir())
	closed(t, s)
	if _, err := s.Append(t.Context(), record("a", "x")); !errors.Is(err, ErrFailed) {
		t.Errorf("%v", err)
	}
	if err := s.Bury(t.Context(), 1, "x"); !errors.Is(err, ErrFailed) {
		t.Errorf("%v", err)
	}
	if _, err := s.Load(1); !errors.Is(err, ErrFailed) {
		t.Errorf("%v", err)
	}
}

func TestAppendIsNotWaitedForForEver(t *testing.T) {
	hold := make(chan struct{})
	s, _ := open(t, t.TempDir(), func(o *Options) { o.Fault = func() error { <-hold; return nil } })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := s.Append(ctx, record("a", "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(hold)
}

func FuzzUnframe(f *testing.F) {
	s := &Spool{}
	b, err := s.encode(record("a", "x"))
	if err != nil {
		f.Fatal(err)
	}
	number(b, 1, 2)
	f.Add(b)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := s.decode(b)
		if err != nil {
			return
		}
		again, err := s.encode(&r)
		if err != nil {
			t.Fatal(err)
		}
		number(again, r.Epoch, r.Number)
		if got, err := s.decode(again); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
		_, _ = parseBody(b[rand.IntN(len(b)):])
	})
}
