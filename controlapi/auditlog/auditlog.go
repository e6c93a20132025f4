// Package auditlog is the audit log of a control plane: one line for every write that was
// accepted or refused, and for failed authentications, each with the hash of the line before.
//
// It does not decide what is written to it, keeps nothing in memory, and deletes nothing:
// files that were rotated away are the operator's.
//
// Invariant: a line that Append has synced is in the file, whole, and follows the line before
// it: Verify finds any byte of it that is changed, and any line that is taken out, but for the
// last ones. For those, compare what Verify returns with a copy that is kept elsewhere.
package auditlog

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Outcomes of what was asked for.
const (
	Accepted        = "ACCEPTED"        // written before the revision is stored; a FAILED follows if that fails
	Refused         = "REFUSED"         // nothing was stored
	Failed          = "FAILED"          // what was accepted could not be stored
	Unauthenticated = "UNAUTHENTICATED" // nobody knows who asked
	Recovered       = "RECOVERED"       // half a line at the end of the file was cut off at the start
)

// Entry is what one line says. Seq and Prev are set by Append.
type Entry struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Outcome  string    `json:"outcome"`
	Who      string    `json:"who,omitempty"`
	From     string    `json:"from,omitempty"`   // the address
	Call     string    `json:"call,omitempty"`   // the RPC
	Target   string    `json:"target,omitempty"` // the path, or the object
	Objects  []string  `json:"objects,omitempty"`
	Code     string    `json:"code,omitempty"` // of the problem
	Revision uint32    `json:"revision,omitempty"`
	// Suppressed counts failed authentications since the last entry of one that got none.
	Suppressed int    `json:"suppressed,omitempty"`
	Prev       string `json:"prev"` // the hash of the line before, "" of the first
}

const (
	// maxFile is when another file is begun.
	maxFile = 64 << 20
	// maxLine bounds a line; entries are bounded by who appends them.
	maxLine  = 64 << 10
	hashSize = 2 * sha256.Size // in hex
)

// Tail is where a chain of lines ends.
type Tail struct {
	Seq  uint64
	Hash string
}

// Log is an open audit log. Its methods may be called from several goroutines.
type Log struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File // nil after a failure: it is opened again
	size int64
	tail Tail
}

// Open opens the log at path, making it with mode 0600 if it is not there. It verifies what is
// there, and fails with kind Invalid if somebody has changed it. Half a line at the end, as a
// power cut leaves it, was answered to nobody and is cut off.
func Open(path string) (*Log, error) { return open(path, maxFile) }

func open(path string, most int64) (*Log, error) {
	l := &Log{path: path, max: most}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l, l.reopen()
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// reopen opens the file and goes to its end.
func (l *Log) reopen() error {
	const op = "auditlog.Open"
	if l.file != nil {
		_ = l.file.Close() // it has failed already
		l.file = nil
	}
	tail, err := l.before()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return &mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}
	}
	if err := lock(f); err != nil {
		return errors.Join((&mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}).
			WithHint("does another control plane use this data directory?"), f.Close())
	}
	whole, tail, err := verify(f, tail)
	if err != nil && !errors.Is(err, errTorn) {
		return errors.Join((&mesh.Error{Op: op, Name: l.path, Kind: mesh.Invalid, Err: err}).
			WithHint("somebody has changed the audit log; keep it as evidence, and move it away to begin another"), f.Close())
	}
	torn := err != nil
	if torn {
		err = f.Truncate(whole)
	}
	if err := errors.Join(err, syncDir(filepath.Dir(l.path))); err != nil {
		return errors.Join(&mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}, f.Close())
	}
	l.file, l.size, l.tail = f, whole, tail
	if torn {
		return l.append(Entry{Outcome: Recovered, Time: time.Now()}, true)
	}
	return nil
}

// before returns where the chain stands that the file continues: the end of the newest file
// that was rotated away, if that is still there.
func (l *Log) before() (Tail, error) {
	const op = "auditlog.Open"
	older, err := l.older()
	if err != nil {
		return Tail{}, &mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}
	}
	if len(older) == 0 {
		return Tail{}, nil
	}
	f, err := os.Open(older[len(older)-1])
	if err != nil {
		return Tail{}, &mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}
	}
	defer f.Close() //nolint:errcheck // only read from
	tail, err := Verify(f, Tail{})
	if err != nil {
		return tail, &mesh.Error{Op: op, Name: f.Name(), Kind: mesh.Invalid, Err: err}
	}
	return tail, nil
}

// Files returns the log at path after those that were rotated away and are still beside it, in
// the order in which they continue each other.
func Files(path string) ([]string, error) {
	older, err := (&Log{path: path}).older()
	return append(older, path), err
}

// older returns the files that were rotated away, the oldest first.
func (l *Log) older() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(l.path))
	var files []string
	for _, e := range entries { // sorted, as the numbers in their names are
		if l.rotated(e.Name()) {
			files = append(files, filepath.Join(filepath.Dir(l.path), e.Name()))
		}
	}
	return files, err
}

// nameAfter returns what the file is called once it was rotated away, whose last entry is seq.
func (l *Log) nameAfter(seq uint64) string {
	return fmt.Sprintf("%s-%012d.log", strings.TrimSuffix(l.path, ".log"), seq)
}

// rotated reports whether name is one of nameAfter's. Others beside the log are the operator's.
func (l *Log) rotated(name string) bool {
	_, digits, _ := strings.Cut(strings.TrimSuffix(name, ".log"), strings.TrimSuffix(filepath.Base(l.path), ".log")+"-")
	seq, err := strconv.ParseUint(digits, 10, 64)
	return err == nil && filepath.Base(l.nameAfter(seq)) == name
}

// lock has f written by this process alone, until it is closed.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// Append writes e as the next line. With sync it returns once that is on disk. After an error
// the entry is not to be relied on, and the next Append tries anew.
func (l *Log) Append(e Entry, sync bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	return l.append(e, sync)
}

func (l *Log) append(e Entry, sync bool) error {
	const op = "auditlog.Append"
	failed := func(err error) error {
		return (&mesh.Error{Op: op, Name: l.path, Kind: mesh.Unavailable, Err: err}).
			WithHint("writes are refused while they cannot be audited: make room on the disk of the audit log")
	}
	if l.size >= l.max {
		if err := l.rotate(); err != nil {
			return failed(err)
		}
	}
	e.Seq, e.Prev, e.Time = l.tail.Seq+1, l.tail.Hash, e.Time.UTC().Truncate(time.Millisecond)
	raw, err := json.Marshal(e)
	if err != nil {
		return failed(err)
	}
	if len(raw) > maxLine-hashSize-2 {
		return failed(fmt.Errorf("the entry has %d bytes", len(raw)))
	}
	sum := sha256.Sum256(raw)
	hash := hex.EncodeToString(sum[:])
	line := append([]byte(hash+" "), append(raw, '\n')...)
	if _, err := l.file.Write(line); err != nil {
		// A part of it may be there, and the next line must not follow that.
		if undo := l.file.Truncate(l.size); undo != nil {
			err = errors.Join(err, undo, l.file.Close())
			l.file = nil
		}
		return failed(err)
	}
	l.size += int64(len(line))
	l.tail = Tail{e.Seq, hash}
	if !sync {
		return nil
	}
	if err := l.file.Sync(); err != nil {
		// What a second fsync of the same file would say means nothing.
		err = errors.Join(err, l.file.Close())
		l.file = nil
		return failed(err)
	}
	return nil
}

// rotate moves the file away and begins another, which continues the chain.
func (l *Log) rotate() error {
	err := l.file.Sync()
	if err == nil {
		err = os.Rename(l.path, l.nameAfter(l.tail.Seq))
	}
	var f *os.File
	if err == nil {
		if f, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|os.O_EXCL, 0o600); err == nil {
			err = lock(f)
		}
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil // and with an error the next Append looks at what is there
	if err == nil {
		l.file, l.size, err = f, 0, syncDir(filepath.Dir(l.path))
	} else if f != nil {
		err = errors.Join(err, f.Close())
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errTorn says that the last line has no end.
var errTorn = errors.New("the last line is cut off")

// Verify reads the lines of a file, which follow after. If that is zero, the file may begin
// anywhere in a chain. It returns where the chain ends, or an error that names the line.
func Verify(r io.Reader, after Tail) (Tail, error) {
	_, tail, err := verify(r, after)
	return tail, err
}

// verify also returns how many bytes are whole lines.
func verify(r io.Reader, after Tail) (whole int64, tail Tail, err error) {
	lines := bufio.NewReaderSize(r, maxLine)
	tail = after
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return whole, tail, nil
		case errors.Is(err, io.EOF):
			return whole, tail, fmt.Errorf("line %d: %w", n, errTorn)
		case err != nil:
			return whole, tail, fmt.Errorf("line %d: %w", n, err)
		}
		if tail, err = follow(line[:len(line)-1], tail); err != nil {
			return whole, tail, fmt.Errorf("line %d: %w", n, err)
		}
		whole += int64(len(line))
	}
}

// follow checks one line, which follows after.
func follow(line []byte, after Tail) (Tail, error) {
	if len(line) < hashSize+2 || line[hashSize] != ' ' {
		return after, errors.New("it is no hash and entry")
	}
	hash, raw := string(line[:hashSize]), line[hashSize+1:]
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != hash {
		return after, errors.New("it does not have the hash that it begins with")
	}
	var e Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return after, err
	}
	if after.Seq != 0 && (e.Seq != after.Seq+1 || e.Prev != after.Hash) {
		return after, fmt.Errorf("entry %d does not follow entry %d: what was between them is gone, or was changed", e.Seq, after.Seq)
	}
	return Tail{e.Seq, hash}, nil
}
