package spool

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The layout of the file. Keys of messages and dead letters are their numbers, big
// endian, so that a cursor walks them in order.
const (
	fileName = "spool.db"

	bucketMeta     = "meta"
	bucketMessages = "messages"
	bucketDead     = "dead"
	bucketDamaged  = "damaged" // records whose sum is wrong, as they are

	keyFormat   = "format"
	keyEpoch    = "epoch"
	keyReopened = "reopened"

	format = "hedgerow spool 1"
)

// lockTimeout is how long Open waits for another process to let go.
const lockTimeout = 250 * time.Millisecond

// firstPages are two, of whatever size: bbolt takes the system's, 64 KiB at most.
const firstPages = 2 * 64 << 10

// Kept is a message that is on disk.
type Kept struct {
	Seq      uint64
	Client   string
	Topic    string
	Appended bool // now, by Append; else it was found, or replayed
}

// Open opens the spool in opts.Dir, or makes it, and calls each with every message
// that is kept, in the order in which they came: those that it finds before it returns,
// and later those that are appended or replayed. It must not block. A file that is damaged does not
// stop it: what can be read of it is kept, the rest is put aside and counted. It
// fails if another process has the spool, or the disk takes nothing.
func Open(opts Options, each func(Kept)) (*Spool, error) {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool.Open: %w", err)
	}
	s := &Spool{
		opts: opts, ops: make(chan *op, maxBatch), wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		sizes: map[uint64]int32{}, each: each,
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("spool.Open %s: %w", s.path(), errors.Join(err, s.shut()))
	}
	go s.commit()
	return s, nil
}

func (s *Spool) path() string { return filepath.Join(s.opts.Dir, fileName) }

// salvagedName is the file of a spool to which a damaged one is salvaged, until all of it is
// there.
func (s *Spool) salvagedName() string { return s.path() + ".salvaged" }

// start opens the file and reads all of it; a damaged one is replaced by what can be
// read of it.
func (s *Spool) start() error {
	// A crash between the two renames of replace leaves nothing under the name.
	if _, err := os.Stat(s.path()); errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(s.salvagedName(), s.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	var err error
	if s.db, err = openFile(s.path()); err == nil {
		err = s.read()
	}
	if err == nil || !isDamage(err) {
		return err
	}
	if err := s.replace(err); err != nil {
		return err
	}
	return s.read()
}

// replace puts a damaged file aside and in its place what can be read of it, once all of
// that is on disk: a disk that has no room for it now, or gives nothing, must not leave an
// empty spool.
func (s *Spool) replace(damage error) error {
	if err := s.shut(); err != nil {
		return err
	}
	s.sizes, s.bytes = map[uint64]int32{}, 0
	next, aside := s.salvagedName(), fmt.Sprintf("%s.damaged-%d", s.path(), time.Now().UnixNano())
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) { // of a try that failed
		return err
	}
	var err error
	if s.db, err = openFile(next); err != nil {
		return err
	}
	n, err := s.salvage(s.path())
	if err = errors.Join(err, s.shut()); err != nil {
		return fmt.Errorf("its file is damaged (%w), and what can be read of it cannot be written anew: %w", damage, err)
	}
	if err := os.Rename(s.path(), aside); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(next, s.path()), syncDir(s.opts.Dir)); err != nil {
		return err
	}
	s.opts.Log.Error().Err(damage).Str("file", aside).Int("messages", n).
		Msg("the spool's file is damaged: the messages that could be read of it are dead letters now, delivered ones among them; the file was put aside")
	s.db, err = openFile(s.path())
	return err
}

var (
	errBusy   = errors.New("another process has this spool open; stop it, or give this one a data directory of its own")
	errFormat = errors.New("its format is of another version")
	errKey    = errors.New("it holds messages that are encrypted, and not with the key that is given; nothing was changed")
)

// isDamage reports whether err is about what the file holds, and not about the disk,
// rights or somebody else.
func isDamage(err error) bool {
	var errno syscall.Errno
	for _, lost := range []string{"file resize error: ", "file sync error: ", "mmap allocate error: "} {
		if strings.Contains(err.Error(), lost) { // bbolt's, which wrap nothing
			return false
		}
	}
	return !errors.As(err, &errno) && !errors.Is(err, errBusy) && !errors.Is(err, errFormat) && !errors.Is(err, errKey)
}

// openFile opens a file of bbolt and makes what it needs in it.
func openFile(path string) (db *bolt.DB, err error) {
	info, statErr := os.Stat(path)
	if statErr == nil && info.Size() > 0 {
		if err := walk(path); err != nil {
			return nil, err
		}
	}
	err = guard(func() (err error) {
		// The freelist is found again by reading the file: it is not written each time.
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
		if err != nil {
			return err
		}
		if err := settle(path); err != nil {
			return err
		}
		return db.Update(prepare)
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, errBusy
	case err == nil && errors.Is(statErr, os.ErrNotExist):
		// A new file outlives a power cut only once its directory entry does.
		err = syncDir(filepath.Dir(path))
	}
	if err != nil && db != nil {
		err = errors.Join(err, guard(db.Close))
		db = nil
	}
	return db, err
}

// settle has the pages that say which transaction is the last one on the disk, as they
// were read. A sync of theirs that failed may have left them in the kernel's memory alone,
// which takes them for written and never tries again. Unless they are there the next
// transaction writes over pages of the one that the disk has for the last, and a power cut
// before its end leaves nothing. What they lead to was synced before they were written.
func settle(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // whose lock the caller has
	if err != nil {
		return err
	}
	first := make([]byte, firstPages)
	n, err := f.ReadAt(first, 0)
	if err == nil || errors.Is(err, io.EOF) {
		_, err = f.WriteAt(first[:n], 0)
	}
	if err == nil {
		err = syscall.Fdatasync(int(f.Fd()))
	}
	return errors.Join(err, f.Close())
}

// walk reads everything that the file leads to, without writing. Opening it for writing
// does so too, in a goroutine of bbolt's whose panic at a page that makes no sense nobody
// could catch.
func walk(path string) error {
	err := guard(func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true})
		if err != nil {
			return err
		}
		return errors.Join(db.View(walkAll), db.Close())
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return errBusy
	}
	return err
}

func walkAll(tx *bolt.Tx) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		var last []byte
		return b.ForEach(func(k, v []byte) error {
			if v == nil || bytes.Compare(last, k) >= 0 {
				return fmt.Errorf("the keys of %.20q are out of order", name)
			}
			last = k
			return nil
		})
	})
}

// prepare makes the buckets of a new file, or checks that this version reads it.
func prepare(tx *bolt.Tx) error {
	if meta := tx.Bucket([]byte(bucketMeta)); meta != nil {
		if got := meta.Get([]byte(keyFormat)); string(got) != format {
			return fmt.Errorf("%w: it is %.60q, this version reads %q", errFormat, got, format)
		}
	}
	for _, name := range []string{bucketMeta, bucketMessages, bucketDead, bucketDamaged} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if meta.Get([]byte(keyEpoch)) == nil {
		var epoch [8]byte
		if _, err := rand.Read(epoch[:]); err != nil {
			return err
		}
		if err := meta.Put([]byte(keyEpoch), epoch[:]); err != nil {
			return err
		}
	}
	return meta.Put([]byte(keyFormat), []byte(format))
}

// read walks what is kept. Records that are not what was written are put aside.
func (s *Spool) read() error {
	var bad [][]byte
	var found []Kept
	err := s.view(func(tx *bolt.Tx) error {
		s.epoch = binary.LittleEndian.Uint64(tx.Bucket([]byte(bucketMeta)).Get([]byte(keyEpoch)))
		messages := tx.Bucket([]byte(bucketMessages))
		s.last.Store(messages.Sequence())
		cursor := messages.Cursor()
		for k, raw := cursor.First(); k != nil; k, raw = cursor.Next() {
			r, err := s.decode(raw)
			if errors.Is(err, errKey) {
				return err
			}
			if err != nil {
				bad = append(bad, append([]byte{}, k...))
				s.opts.Log.Error().Err(err).Hex("key", k).Msg("a message in the spool is not what was written: it was put aside")
				continue
			}
			seq := binary.BigEndian.Uint64(k)
			s.sizes[seq] = int32(len(raw) + recordOverhead)
			s.bytes += int64(len(raw) + recordOverhead)
			found = append(found, Kept{Seq: seq, Client: r.Client, Topic: r.Topic})
		}
		s.countRest(tx)
		return nil
	})
	if err == nil && len(bad) > 0 {
		s.damaged += len(bad)
		err = s.update(func(tx *bolt.Tx) error { return setAside(tx, bad) })
	}
	if err != nil {
		return err
	}
	for _, k := range found { // only now: a file that fails halfway is read again
		s.each(k)
	}
	return nil
}

// countRest counts what is no message that waits.
func (s *Spool) countRest(tx *bolt.Tx) {
	s.damaged = tx.Bucket([]byte(bucketDamaged)).Stats().KeyN
	cursor := tx.Bucket([]byte(bucketDead)).Cursor()
	for k, raw := cursor.First(); k != nil; k, raw = cursor.Next() {
		s.dead++
		s.bytes += int64(len(raw) + recordOverhead)
	}
}

// setAside moves messages into the bucket of what cannot be read.
func setAside(tx *bolt.Tx, keys [][]byte) error {
	messages, damaged := tx.Bucket([]byte(bucketMessages)), tx.Bucket([]byte(bucketDamaged))
	for _, k := range keys {
		if err := damaged.Put(k, messages.Get(k)); err != nil {
			return err
		}
		if err := messages.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// get returns a copy of a record's bytes.
func (s *Spool) get(bucket string, seq uint64) (raw []byte, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		raw = append(raw, tx.Bucket([]byte(bucket)).Get(key(seq))...)
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFailed, err)
	case raw == nil:
		return nil, ErrGone
	}
	return raw, nil
}

// do has the committer make a change, and waits for it. kept is a message that it
// adds, if its Seq is set by then. after is called, with s.mu held, once it is on disk.
func (s *Spool) do(ctx context.Context, change func(tx *bolt.Tx, kept *Kept) error, after func()) error {
	result := make(chan error, 1)
	o := &op{done: func(_ uint64, err error) {
		if err == nil {
			s.mu.Lock()
			after()
			s.mu.Unlock()
		}
		result <- err
	}}
	o.change = func(tx *bolt.Tx) error { return change(tx, &o.kept) }
	if err := s.submit(ctx, o); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
