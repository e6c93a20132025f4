package auditlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func write(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(Entry{Time: time.Unix(1_800_000_000, 0), Outcome: Accepted, Who: "tokens/ci", Call: "PutRoute", Objects: []string{fmt.Sprintf("routes/r%d", i)}}, true); err != nil {
			t.Fatal(err)
		}
	}
}

func opened(t *testing.T, path string, most int64) *Log {
	t.Helper()
	l, err := open(path, most)
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

// filled returns a file with five entries.
func filled(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	l := opened(t, path, maxFile)
	write(t, l, 5)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestEveryChangedByteIsFound(t *testing.T) {
	_, content := filled(t)
	if tail, err := Verify(bytes.NewReader(content), Tail{}); err != nil || tail.Seq != 5 {
		t.Fatalf("%v %v", tail, err)
	}
	for i := range content {
		for _, with := range []byte{content[i] ^ 1, content[i] ^ 0x20, '\n', 0} {
			changed := bytes.Clone(content)
			if changed[i] = with; bytes.Equal(changed, content) {
				continue
			}
			if _, err := Verify(bytes.NewReader(changed), Tail{}); err == nil {
				t.Fatalf("byte %d may be %q", i, with)
			}
		}
	}
}

func TestEveryLineThatIsMissingMovedOrAddedIsFound(t *testing.T) {
	_, content := filled(t)
	lines := strings.SplitAfter(string(content), "\n")[:5]
	check := func(what string, with ...string) {
		t.Helper()
		if _, err := Verify(strings.NewReader(strings.Join(with, "")), Tail{}); err == nil {
			t.Errorf("nobody sees %s", what)
		}
	}
	for i := 1; i < 4; i++ {
		check(fmt.Sprintf("that line %d is gone", i), append(append([]string{}, lines[:i]...), lines[i+1:]...)...)
		check(fmt.Sprintf("that line %d is there twice", i), append(append([]string{}, lines[:i+1]...), lines[i:]...)...)
	}
	check("two lines in the other order", lines[1], lines[0], lines[2])
	// A forger can make a line, and not the ones after it.
	other := filepath.Join(t.TempDir(), "audit.log")
	write(t, opened(t, other, maxFile), 1)
	l := opened(t, filepath.Join(t.TempDir(), "audit.log"), maxFile)
	write(t, l, 1)
	if err := l.Append(Entry{Outcome: Refused, Who: "forger"}, true); err != nil {
		t.Fatal(err)
	}
	forged, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	check("a forged line", lines[0], strings.SplitAfter(string(forged), "\n")[1], lines[2])
	if tail, err := Verify(strings.NewReader(strings.Join(lines[:3], "")), Tail{}); err != nil || tail.Seq != 3 {
		t.Errorf("what is cut off shows in where the chain ends alone: %v %v", tail, err)
	}
	if _, err := Verify(strings.NewReader(lines[3]), Tail{Seq: 3, Hash: strings.Repeat("0", hashSize)}); err == nil {
		t.Error("a file that does not continue the one before")
	}
}

func TestTheChainGoesOnAfterARestartAndARotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for range 3 {
		l, err := open(path, 600)
		if err != nil {
			t.Fatal(err)
		}
		write(t, l, 4)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit-*.log"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	var tail Tail
	for _, name := range append(files, path) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
		if tail, err = Verify(f, tail); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if tail.Seq != 12 {
		t.Errorf("%d entries, of 12", tail.Seq)
	}
}

func TestHalfALineAtTheEndIsCutOff(t *testing.T) {
	_, content := filled(t)
	last := bytes.LastIndexByte(content[:len(content)-1], '\n') + 1
	for cut := last + 1; cut < len(content); cut++ {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, opened(t, path, maxFile), 1)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if tail, err := Verify(bytes.NewReader(raw), Tail{}); err != nil || tail.Seq != 6 || !strings.Contains(string(raw), Recovered) {
			t.Fatalf("cut at %d: %v %v", cut, tail, err)
		}
	}
}

func TestAChangedLogIsNotContinued(t *testing.T) {
	path, content := filled(t)
	content[100] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); mesh.KindOf(err) != mesh.Invalid || mesh.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// /dev/full is a disk without room.
func TestAFullDiskIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := opened(t, path, maxFile)
	write(t, l, 1)
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
	l.file = full
	if err := l.Append(Entry{Outcome: Accepted}, true); mesh.KindOf(err) != mesh.Unavailable || !strings.Contains(mesh.HintOf(err), "room") {
		t.Errorf("%v", err)
	}
	write(t, l, 1) // there is room again
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if tail, err := Verify(bytes.NewReader(raw), Tail{}); err != nil || tail.Seq != 2 {
		t.Errorf("%v %v", tail, err)
	}
}

// A disk that fails as a file is rotated away fails that one entry, and no others.
func TestARotationThatFailsIsMadeUpFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := opened(t, path, 600)
	for l.size < l.max {
		write(t, l, 1)
	}
	seq := l.tail.Seq
	if err := l.file.Close(); err != nil { // so that it cannot be synced
		t.Fatal(err)
	}
	if err := l.Append(Entry{Outcome: Accepted}, true); mesh.KindOf(err) != mesh.Unavailable {
		t.Fatal(err)
	}
	write(t, l, 1)
	if l.tail.Seq != seq+1 {
		t.Errorf("entry %d follows %d", l.tail.Seq, seq)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if again := opened(t, path, 600); again.tail.Seq != seq+1 {
		t.Errorf("opened again it ends at %d, not %d", again.tail.Seq, seq+1)
	}
}

// What an operator has moved away, as a damaged log is to be, is not of the chain.
func TestFilesBesideTheLogAreNotOfIt(t *testing.T) {
	path, content := filled(t)
	content[100] ^= 1
	for _, name := range []string{"audit-damaged.log", "audit-20261130.log", "audit-999999999999x.log"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if l := opened(t, path, maxFile); l.tail.Seq != 5 {
		t.Errorf("it ends at entry %d", l.tail.Seq)
	}
}

// Two control planes in one directory would make two chains of one file.
func TestOneProcessWritesTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := opened(t, path, 600)
	for range 2 {
		if other, err := Open(path); mesh.KindOf(err) != mesh.Unavailable || mesh.HintOf(err) == "" {
			t.Errorf("opened twice: %v %v", other, err)
		}
		write(t, l, 4) // which is another file by now
	}
}
