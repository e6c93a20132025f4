package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// commit is the only goroutine that writes. It ends after Close.
func (s *Spool) commit() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(s.untilNext())
		select {
		case o := <-s.ops:
			s.write(s.gather(o))
		case <-s.wake:
		case <-timer.C:
			if s.reopen(); s.due() {
				s.write(nil)
			}
		case <-s.stop:
			s.finish()
			return
		}
	}
}

// finish writes what was handed over before the end.
func (s *Spool) finish() {
	for {
		select {
		case o := <-s.ops:
			s.write(s.gather(o))
		default:
			s.write(nil)
			return
		}
	}
}

// gather returns o and what else waits, as far as it fits into one transaction.
func (s *Spool) gather(o *op) []*op {
	batch, size := []*op{o}, o.size
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case o := <-s.ops:
			batch, size = append(batch, o), size+o.size
		default:
			return batch
		}
	}
	return batch
}

// untilNext returns how long nothing is to be done without being asked.
func (s *Spool) untilNext() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return reopenAfter
	case len(s.removed) >= maxRemovals:
		return 0
	case !s.removeAt.IsZero():
		return max(time.Until(s.removeAt), 0)
	}
	return time.Hour
}

// due reports whether removals must be written.
func (s *Spool) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed == nil && len(s.removed) > 0
}

// write writes batch and all removals in one transaction, and says how it went.
func (s *Spool) write(batch []*op) {
	s.mu.Lock()
	removed, failed := s.removed, s.failed
	s.removed, s.removeAt = nil, time.Time{}
	s.mu.Unlock()
	if len(batch) == 0 && len(removed) == 0 {
		return
	}
	err := failed
	if err == nil {
		err = s.update(func(tx *bolt.Tx) error { return s.put(tx, batch, removed) })
	}
	if err != nil {
		s.undo(batch, removed, err)
		return
	}
	s.mu.Lock()
	for _, o := range batch {
		if o.record != nil {
			s.sizes[o.kept.Seq] = int32(o.size)
		}
	}
	s.mu.Unlock()
	for _, o := range batch { // in their order
		if o.kept.Seq != 0 {
			s.last.Store(o.kept.Seq)
		}
		// Who appended learns it last: what it appends next comes after.
		if o.record != nil {
			s.each(o.kept)
			o.done(o.kept.Seq, nil)
			continue
		}
		o.done(0, nil)
		if o.kept.Seq != 0 {
			s.each(o.kept)
		}
	}
}

// put is what one transaction does.
func (s *Spool) put(tx *bolt.Tx, batch []*op, removed []uint64) error {
	messages := tx.Bucket([]byte(bucketMessages))
	messages.FillPercent = 0.9 // what comes is always the last
	for _, seq := range removed {
		if err := messages.Delete(key(seq)); err != nil {
			return err
		}
	}
	for _, o := range batch {
		if o.change != nil {
			if err := o.change(tx); err != nil {
				return err
			}
			continue
		}
		seq, err := messages.NextSequence()
		if err != nil {
			return err
		}
		o.kept.Seq = seq
		number(o.record, s.epoch, seq)
		if err := messages.Put(key(seq), o.record); err != nil {
			return err
		}
	}
	if s.opts.Fault != nil {
		return s.opts.Fault()
	}
	return nil
}

// undo takes back what was not written, has the file opened anew, and says so.
func (s *Spool) undo(batch []*op, removed []uint64, err error) {
	s.mu.Lock()
	s.removed = append(removed, s.removed...)
	if len(s.removed) > 0 && s.removeAt.IsZero() {
		s.removeAt = time.Now().Add(removalDelay)
	}
	first := s.failed == nil
	s.failed = err
	for _, o := range batch {
		if o.record != nil {
			s.bytes -= o.size
		}
	}
	s.mu.Unlock()
	for _, o := range batch {
		o.done(0, fmt.Errorf("%w: %w", ErrFailed, err))
	}
	if !first {
		return
	}
	// What the kernel still has of the file may not be what is on the disk, and
	// asking it again to sync says nothing (fsyncgate). Opened again, the file's first
	// pages are written once more before anything else is: see settle.
	s.opts.Log.Error().Err(err).Str("dir", s.opts.Dir).Msg("the spool's disk fails: nothing is acknowledged until it works again")
	if noRoom(err) {
		return // what is kept is delivered on
	}
	if err := s.shut(); err != nil {
		s.opts.Log.Error().Err(err).Str("dir", s.opts.Dir).Msg("the spool's file could not be closed")
	}
}

// noRoom reports whether err is of a write for which there was no room. Nothing was asked
// of the disk then, and bbolt has taken the transaction back: the file is as it was.
func noRoom(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	return ok && path.Op == "write" && errors.Is(err, syscall.ENOSPC)
}

// reopen opens the file again after a failure, unless it could stay open.
func (s *Spool) reopen() {
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	if failed == nil {
		return
	}
	err := s.open()
	if err == nil {
		err = s.probe()
	}
	switch {
	case err == nil:
		s.opts.Log.Warn().Str("dir", s.opts.Dir).Msg("the spool's disk works again")
	case !noRoom(err):
		_ = s.shut() // it is tried again
	}
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
}

// open opens the file, if it is not.
func (s *Spool) open() error {
	s.file.Lock()
	defer s.file.Unlock()
	if s.db != nil {
		return nil
	}
	db, err := openFile(s.path())
	s.db = db
	return err
}

// probe has the disk take something, before anything is promised again: removals above all,
// without which a file that fills its disk never gets room.
func (s *Spool) probe() error {
	s.mu.Lock()
	removed := s.removed
	s.removed, s.removeAt = nil, time.Time{}
	s.mu.Unlock()
	err := s.update(func(tx *bolt.Tx) error {
		messages := tx.Bucket([]byte(bucketMessages))
		for _, seq := range removed {
			if err := messages.Delete(key(seq)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyReopened), []byte(time.Now().UTC().Format(time.RFC3339)))
	})
	if err != nil {
		s.mu.Lock()
		s.removed = append(removed, s.removed...)
		if len(s.removed) > 0 && s.removeAt.IsZero() {
			s.removeAt = time.Now().Add(removalDelay)
		}
		s.mu.Unlock()
	}
	return err
}

// shut closes the file, if it is open.
func (s *Spool) shut() error {
	s.file.Lock()
	defer s.file.Unlock()
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	return db.Close()
}

func (s *Spool) update(fn func(*bolt.Tx) error) error { return s.with(fn, (*bolt.DB).Update) }
func (s *Spool) view(fn func(*bolt.Tx) error) error   { return s.with(fn, (*bolt.DB).View) }

func (s *Spool) with(fn func(*bolt.Tx) error, how func(*bolt.DB, func(*bolt.Tx) error) error) error {
	s.file.RLock()
	defer s.file.RUnlock()
	if s.db == nil {
		return errors.New("the file is not open")
	}
	return guard(func() error { return how(s.db, fn) })
}

// guard runs a call of bbolt. bbolt panics on pages that make no sense, and a file
// that was cut short faults in its memory map; both become errors here.
func guard(call func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a page of the file makes no sense: %v", p)
		}
	}()
	return call()
}

func key(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
