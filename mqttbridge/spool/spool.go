// Package spool keeps messages on disk from the moment that their sender is told
// they are safe until somebody says that they were delivered. What cannot be
// delivered is kept as a dead letter, until it is replayed or purged.
//
// It does not know MQTT, rules or services, and delivers nothing: it says in which
// order what is kept came, and forgets what it is told to.
//
// Invariant: when Append has returned nil, the record is returned by every Open
// until Remove or Bury was called for it, however the process or the machine ends,
// provided that the disk keeps what fdatasync told it to. What is returned is what
// was appended, or is counted as damaged.
//
// It is a bbolt file. Appends share transactions: whoever comes while one is being
// synced is in the next. Removals ride along, or wait a second at most, so that a
// crash brings at most a second's, or maxRemovals, deliveries again.
package spool

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// Defaults and limits.
const (
	DefaultMaxBytes = 1 << 30

	// One transaction takes at most this much.
	maxBatch      = 128
	maxBatchBytes = 256 << 10

	// Removals are written when there are so many, or the first is so old.
	maxRemovals  = 1000
	removalDelay = time.Second

	// reopenAfter is how long a file that failed is left alone.
	reopenAfter = time.Second

	// recordOverhead is what bbolt needs for one record beside its bytes, roughly.
	recordOverhead = 64
)

// Errors of Append and Load.
var (
	// ErrFull says that there is no room now. The sender must not be told that its
	// message is safe; there is room again when something was delivered.
	ErrFull = errors.New("the spool is full")
	// ErrFailed says that the disk did not take or give what it should. Nothing that
	// was kept is lost by it; the spool opens its file anew by itself.
	ErrFailed = errors.New("the spool's disk fails")
	// ErrGone says that no such record is kept.
	ErrGone = errors.New("no such message is kept")
	// ErrTooLarge says that the record is larger than any that is kept.
	ErrTooLarge = errors.New("the message is too large to be kept")

	errClosed = fmt.Errorf("%w: it is closed", ErrFailed)
)

// Options configure a Spool. Dir is needed.
type Options struct {
	Dir string // made if it is not there, 0700
	// MaxBytes bounds what is kept, dead letters included. Default 1 GiB.
	MaxBytes int64
	// Seal encrypts what is kept, if set: AES-GCM with a nonce of 12 bytes.
	// Records that were kept before stay as they are.
	Seal cipher.AEAD
	Log  zerolog.Logger
	// Fault is called before each transaction is written, for tests. An error is
	// taken for one of the disk.
	Fault func() error
}

// Spool is an open spool. Its methods are safe for concurrent use.
type Spool struct {
	opts  Options
	epoch uint64
	last  atomic.Uint64
	ops   chan *op
	wake  chan struct{} // has the committer look at removed
	stop  chan struct{} // closed by Close
	done  chan struct{} // closed when the committer has ended
	once  sync.Once
	each  func(Kept)

	entering sync.RWMutex // held by who hands over, and to close

	// file guards db: it is replaced after a failure, while nobody reads.
	file sync.RWMutex
	db   *bolt.DB // nil while it is not open

	// mu guards what follows. Nothing is called under it.
	mu       sync.Mutex
	bytes    int64
	sizes    map[uint64]int32 // of messages, by number; gone once removed
	removed  []uint64         // not written yet
	removeAt time.Time        // when removed must be written; zero if it is empty
	dead     int
	damaged  int
	failed   error // why the disk does not work
}

// Stats is what a Spool holds.
type Stats struct {
	Messages int   // kept and not removed
	Bytes    int64 // of all records, dead letters included
	Max      int64
	Dead     int
	Damaged  int   // records that could not be read; they are kept aside
	Failed   error // nil if the disk works
}

// op is something for the committer to write.
type op struct {
	record []byte // framed but for its number; nil if something else is to be done
	kept   Kept   // of the record, with its number once written
	size   int64
	change func(tx *bolt.Tx) error // instead of a record; its error is the disk's
	done   func(seq uint64, err error)
}

// Stats returns what is kept now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Messages: len(s.sizes), Bytes: s.bytes, Max: s.opts.MaxBytes, Dead: s.dead, Damaged: s.damaged, Failed: s.failed}
}

// Last returns a number that no later record has.
func (s *Spool) Last() uint64 { return s.last.Load() }

// Epoch is random and made with the file. With a record's number it is unique for ever.
func (s *Spool) Epoch() uint64 { return s.epoch }

// Append keeps r and returns its number once it is on disk. Numbers grow. It fails
// with ErrFull or ErrFailed; then, or when ctx has ended, the sender must not be told
// that r is safe. It may be kept all the same, and be delivered.
func (s *Spool) Append(ctx context.Context, r *Record) (seq uint64, err error) {
	result := make(chan error, 1)
	if err := s.Start(ctx, r, func(n uint64, err error) { seq = n; result <- err }); err != nil {
		return 0, err
	}
	select {
	case err := <-result:
		return seq, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Start is Append that does not wait for the disk, but until r has its place in the
// order: done is told what became of it, and must not block. After an error done is
// not called.
func (s *Spool) Start(ctx context.Context, r *Record, done func(seq uint64, err error)) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("spool.Append: %w: %w", ErrTooLarge, err)
	}
	b, err := s.encode(r)
	if err != nil {
		return err
	}
	size := int64(len(b)) + recordOverhead
	if err := s.reserve(size); err != nil {
		return err
	}
	err = s.submit(ctx, &op{record: b, kept: Kept{Client: r.Client, Topic: r.Topic, Appended: true}, size: size, done: done})
	if err != nil {
		s.release(size)
	}
	return err
}

// reserve takes room before anything is written, so that what is being written
// counts too.
func (s *Spool) reserve(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return fmt.Errorf("%w: %w", ErrFailed, s.failed)
	case s.bytes+size > s.opts.MaxBytes:
		return ErrFull
	}
	s.bytes += size
	return nil
}

func (s *Spool) release(size int64) {
	s.mu.Lock()
	s.bytes -= size
	s.mu.Unlock()
}

// submit hands o to the committer, which will say how it went.
func (s *Spool) submit(ctx context.Context, o *op) error {
	s.entering.RLock() // so that the committer ends only when nobody is about to hand over
	defer s.entering.RUnlock()
	select {
	case <-s.stop:
		return errClosed
	default:
	}
	select {
	case s.ops <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Remove forgets a message that was delivered. It is written soon: what a crash
// leaves unwritten is returned once more by the next Open.
func (s *Spool) Remove(seq uint64) {
	s.mu.Lock()
	size, ok := s.sizes[seq]
	if !ok {
		s.mu.Unlock()
		return
	}
	delete(s.sizes, seq)
	s.bytes -= int64(size)
	s.removed = append(s.removed, seq)
	full := len(s.removed) == maxRemovals
	first := s.removeAt.IsZero()
	if first {
		s.removeAt = time.Now().Add(removalDelay)
	}
	s.mu.Unlock()
	if first || full {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Load returns a message that is kept. It fails with ErrGone, or ErrFailed.
func (s *Spool) Load(seq uint64) (Record, error) {
	raw, err := s.get(bucketMessages, seq)
	if err != nil {
		return Record{}, err
	}
	return s.decode(raw)
}

// Close writes what is to be written and closes the file. Appends that wait then
// fail, or succeed.
func (s *Spool) Close() error {
	s.once.Do(func() {
		s.entering.Lock()
		close(s.stop)
		s.entering.Unlock()
	})
	<-s.done
	return s.shut()
}
