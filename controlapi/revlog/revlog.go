// Package revlog is the revision log of a control plane that stands alone: a
// bbolt file that holds every accepted change and the records that the changes
// add up to. The log decides what the configuration is; Redis only distributes
// it.
//
// It does not validate objects, does not publish, and serves one process: a
// second opener of the same file is refused.
//
// Invariant: when Append returns nil the change is on disk, and the stored
// records that are published have the digest that the stored head names.
package revlog

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The layout of the file. Keys of changes are big-endian revisions, so that a
// cursor walks them in order.
const (
	bucketMeta    = "meta"
	bucketRecords = "records"
	bucketChanges = "changes"

	keyFormat = "format"
	keyHead   = "head"

	format = "hedgerow revision log 1"
)

const (
	// lockTimeout is how long Open waits for another process to let go.
	// A restart under a supervisor needs a moment; more would only hide that
	// two control planes were started on one log.
	lockTimeout = 250 * time.Millisecond

	// maxChanges bounds the history. The oldest changes are dropped in the
	// transaction that appends; the records never depend on them.
	maxChanges = 10_000

	// maxChangesPage bounds what one call to Changes returns.
	maxChangesPage = 1000
)

// Log is an open revision log. Its methods may be called from several
// goroutines.
type Log struct {
	db   *bolt.DB
	path string

	mu     sync.Mutex  // guards what follows
	leaves mesh.Leaves // of the stored records that are published, if their head has this digest:
	digest string
}

// Open opens the log at path, creating it with mode 0600 if it is not there.
// It fails with kind Unavailable when another process has it open, and with
// kind Internal when the file is not a revision log or is damaged.
func Open(path string) (*Log, error) {
	const op = "revlog.Open"
	_, statErr := os.Stat(path)
	var db *bolt.DB
	err := guard(op, path, func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, mesh.Errorf(op, path, mesh.Unavailable, "another process has the revision log open").
			WithHint("stop the other control plane, or give this one a data directory of its own")
	case err != nil:
		return nil, err
	}
	l := &Log{db: db, path: path}
	if err := l.prepare(op); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if errors.Is(statErr, os.ErrNotExist) {
		// A new file outlives a power cut only once its directory entry does.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(mesh.Errorf(op, path, mesh.Internal, "sync the directory: %w", err), db.Close())
		}
	}
	return l, nil
}

// prepare makes the buckets of a new file, or checks those of an old one and
// that its records are what its head says.
func (l *Log) prepare(op string) error {
	err := l.update(op, func(tx *bolt.Tx) error {
		if meta := tx.Bucket([]byte(bucketMeta)); meta != nil {
			if got := meta.Get([]byte(keyFormat)); string(got) != format {
				return fmt.Errorf("the format is %.60q, this version reads %q", got, format)
			}
		}
		for _, name := range []string{bucketMeta, bucketRecords, bucketChanges} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyFormat), []byte(format))
	})
	if err != nil {
		return err
	}
	head, records, err := l.Load(context.Background())
	l.leaves, l.digest = records.Published().Leaves(), head.Digest
	return err
}

// Close closes the file. Calls under way finish first.
func (l *Log) Close() error {
	if err := l.db.Close(); err != nil {
		return mesh.Errorf("revlog.Close", l.path, mesh.Internal, "%w", err)
	}
	return nil
}

// Append stores c as the newest revision and returns once it is on disk. It
// fails with kind Stale when c is not the revision after the stored one
// (somebody else wrote first: load, decide again, retry), and with kind
// Internal when the records that c leads to do not have c's digest. After an
// error nothing is stored.
func (l *Log) Append(ctx context.Context, c mesh.Change) error {
	const op = "revlog.Append"
	if err := ctx.Err(); err != nil {
		return mesh.Errorf(op, l.path, mesh.Unavailable, "%w", err)
	}
	change, err := json.Marshal(c)
	if err != nil {
		return mesh.Errorf(op, l.path, mesh.Internal, "encode the change: %w", err)
	}
	head, err := json.Marshal(c.Head)
	if err != nil {
		return mesh.Errorf(op, l.path, mesh.Internal, "encode the head: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var leaves mesh.Leaves
	err = l.update(op, func(tx *bolt.Tx) error {
		stored, err := readHead(tx)
		if err != nil {
			return err
		}
		if c.Head.Revision != stored.Revision+1 || c.Head.Epoch < stored.Epoch {
			return mesh.Errorf(op, l.path, mesh.Stale, "revision %d.%d does not follow the stored %d.%d",
				c.Head.Epoch, c.Head.Revision, stored.Epoch, stored.Revision)
		}
		// A change whose storing failed at the last step may be there all the same.
		if leaves = l.leaves; stored.Digest != l.digest {
			leaves = readRecords(tx).Published().Leaves()
		}
		if err := applyRecords(tx, c); err != nil {
			return err
		}
		leaves = leaves.Next(c.Published())
		if got := leaves.Digest(); got != c.Head.Digest {
			return mesh.Errorf(op, l.path, mesh.Internal, "revision %d leads to digest %.16s, its head says %.16s", c.Head.Revision, got, c.Head.Digest)
		}
		if err := appendChange(tx, c.Head.Revision, change); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyHead), head)
	})
	if err == nil {
		l.leaves, l.digest = leaves, c.Head.Digest
	}
	return err
}

// Load returns the newest head and every record, whose digest it has checked.
// An empty log has the zero Head (and no digest) and no records. The caller
// owns what it gets.
func (l *Log) Load(ctx context.Context) (mesh.Head, mesh.Records, error) {
	const op = "revlog.Load"
	if err := ctx.Err(); err != nil {
		return mesh.Head{}, nil, mesh.Errorf(op, l.path, mesh.Unavailable, "%w", err)
	}
	var head mesh.Head
	records := mesh.Records{}
	err := l.view(op, func(tx *bolt.Tx) error {
		var err error
		if head, err = readHead(tx); err != nil {
			return err
		}
		for name, raw := range readRecords(tx) {
			records[name] = append([]byte{}, raw...) // the file's memory ends with tx
		}
		return nil
	})
	if err != nil {
		return mesh.Head{}, nil, err
	}
	if head.Revision == 0 && len(records) == 0 {
		return head, records, nil
	}
	if got := records.Published().Digest(); got != head.Digest {
		return mesh.Head{}, nil, damaged(op, l.path, fmt.Errorf("the records have digest %.16s, head %d says %.16s", got, head.Revision, head.Digest))
	}
	return head, records, nil
}

// Changes returns the changes after the given revision, oldest first, at most
// limit of them (1000 if limit is not positive or greater). The history is
// bounded: the first may be later than after+1.
func (l *Log) Changes(ctx context.Context, after uint32, limit int) ([]mesh.Change, error) {
	const op = "revlog.Changes"
	if err := ctx.Err(); err != nil {
		return nil, mesh.Errorf(op, l.path, mesh.Unavailable, "%w", err)
	}
	if limit <= 0 || limit > maxChangesPage {
		limit = maxChangesPage
	}
	if after == ^uint32(0) {
		return nil, nil
	}
	var out []mesh.Change
	err := l.view(op, func(tx *bolt.Tx) error {
		cursor := tx.Bucket([]byte(bucketChanges)).Cursor()
		for k, raw := cursor.Seek(revisionKey(after + 1)); k != nil && len(out) < limit; k, raw = cursor.Next() {
			var c mesh.Change
			if err := json.Unmarshal(raw, &c); err != nil {
				return fmt.Errorf("decode change %x: %w", k, err)
			}
			out = append(out, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func readHead(tx *bolt.Tx) (mesh.Head, error) {
	var head mesh.Head
	raw := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyHead))
	if raw == nil {
		return head, nil
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return head, fmt.Errorf("decode the head: %w", err)
	}
	return head, nil
}

// readRecords returns the stored records; their bytes are valid until tx ends.
func readRecords(tx *bolt.Tx) mesh.Records {
	records := mesh.Records{}
	cursor := tx.Bucket([]byte(bucketRecords)).Cursor()
	for k, raw := cursor.First(); k != nil; k, raw = cursor.Next() {
		records[string(k)] = raw
	}
	return records
}

func applyRecords(tx *bolt.Tx, c mesh.Change) error {
	records := tx.Bucket([]byte(bucketRecords))
	for _, name := range c.Deletes {
		if err := records.Delete([]byte(name)); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	for name, raw := range c.Puts {
		if err := records.Put([]byte(name), raw); err != nil {
			return fmt.Errorf("put %s: %w", name, err)
		}
	}
	return nil
}

// appendChange stores a change and drops those that the bound leaves no room for.
func appendChange(tx *bolt.Tx, revision uint32, change []byte) error {
	changes := tx.Bucket([]byte(bucketChanges))
	if err := changes.Put(revisionKey(revision), change); err != nil {
		return fmt.Errorf("append change %d: %w", revision, err)
	}
	if revision <= maxChanges {
		return nil
	}
	oldest := revisionKey(revision - maxChanges + 1)
	cursor := changes.Cursor()
	for k, _ := cursor.First(); k != nil && string(k) < string(oldest); k, _ = cursor.First() {
		if err := cursor.Delete(); err != nil {
			return fmt.Errorf("drop the oldest change: %w", err)
		}
	}
	return nil
}

func revisionKey(revision uint32) []byte {
	return binary.BigEndian.AppendUint32(nil, revision)
}

func (l *Log) view(op string, fn func(*bolt.Tx) error) error {
	return guard(op, l.path, func() error { return l.db.View(fn) })
}

func (l *Log) update(op string, fn func(*bolt.Tx) error) error {
	return guard(op, l.path, func() error { return l.db.Update(fn) })
}

// guard runs a call of bbolt. bbolt panics on pages that make no sense, and a
// file that was cut short faults in its memory map; both become errors here,
// because a damaged file is input and not a defect of the program.
func guard(op, path string, call func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = damaged(op, path, fmt.Errorf("%v", p))
		}
	}()
	err = call()
	var known *mesh.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return damaged(op, path, err)
}

func damaged(op, path string, err error) error {
	return mesh.Errorf(op, path, mesh.Internal, "the revision log cannot be used: %w", err).
		WithHint("if the file is damaged, restore it from a backup; a new log would start again at revision 1")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
