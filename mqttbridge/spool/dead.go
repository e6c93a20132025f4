package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// reasonSalvaged is why records of a damaged file are dead letters: nobody knows
// which of them were delivered.
const reasonSalvaged = "salvaged"

// maxDeadPage bounds what one call of Dead returns.
const maxDeadPage = 1000

// A DeadLetter is a message that was given up.
type DeadLetter struct {
	ID     uint64 // for Replay and Purge
	Time   time.Time
	Reason string
	Record
}

// deadValue is what is kept of a dead letter: when and why, and the record as it was.
func deadValue(at time.Time, reason string, raw []byte) []byte {
	b := binary.AppendVarint(make([]byte, 0, 16+len(reason)+len(raw)), at.UnixMicro())
	return append(appendText(b, reason), raw...)
}

func (s *Spool) parseDead(k, value []byte) (DeadLetter, error) {
	p := parser{b: value}
	d := DeadLetter{ID: binary.BigEndian.Uint64(k), Time: time.UnixMicro(p.varint()), Reason: p.text()}
	if p.failed {
		return d, errors.New("it makes no sense")
	}
	var err error
	d.Record, err = s.decode(p.b)
	return d, err
}

// Bury makes a dead letter of a message, for a reason, and returns once that is on disk.
// A message that is gone is none.
func (s *Spool) Bury(ctx context.Context, seq uint64, reason string) error {
	found, grown := false, int64(0)
	err := s.do(ctx, func(tx *bolt.Tx, _ *Kept) error {
		messages, dead := tx.Bucket([]byte(bucketMessages)), tx.Bucket([]byte(bucketDead))
		raw := messages.Get(key(seq))
		if found = raw != nil; !found {
			return nil
		}
		value := deadValue(time.Now(), reason, raw)
		grown = int64(len(value) - len(raw))
		if err := dead.Put(key(seq), value); err != nil {
			return err
		}
		return messages.Delete(key(seq))
	}, func() {
		if found {
			delete(s.sizes, seq)
			s.bytes += grown
			s.dead++
		}
	})
	if err == nil && !found {
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("spool.Bury %d: %w", seq, err)
	}
	return nil
}

// SetAside gives up a message that Load can read no more, though the disk works: it is kept
// with those that were found damaged. A message that is gone is none.
func (s *Spool) SetAside(ctx context.Context, seq uint64) error {
	found := false
	err := s.do(ctx, func(tx *bolt.Tx, _ *Kept) error {
		if found = tx.Bucket([]byte(bucketMessages)).Get(key(seq)) != nil; !found {
			return nil
		}
		return setAside(tx, [][]byte{key(seq)})
	}, func() {
		if found {
			s.bytes -= int64(s.sizes[seq])
			delete(s.sizes, seq)
			s.damaged++
		}
	})
	if err == nil && !found {
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("spool.SetAside %d: %w", seq, err)
	}
	return nil
}

// Dead returns dead letters whose ID is over after, at most limit (1000 if it is not
// positive, or more), in order of ID. One that cannot be read has only ID and Reason.
func (s *Spool) Dead(after uint64, limit int) ([]DeadLetter, error) {
	if limit <= 0 || limit > maxDeadPage {
		limit = maxDeadPage
	}
	var out []DeadLetter
	err := s.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket([]byte(bucketDead)).Cursor()
		for k, value := cursor.Seek(key(after + 1)); k != nil && len(out) < limit; k, value = cursor.Next() {
			d, err := s.parseDead(k, value)
			if err != nil {
				d = DeadLetter{ID: d.ID, Reason: "unreadable: " + err.Error()}
			}
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("spool.Dead: %w: %w", ErrFailed, err)
	}
	return out, nil
}

// Replay makes a message of a dead letter again, the last of all, and returns once that
// is on disk. Epoch and Number of the record stay what they were.
func (s *Spool) Replay(ctx context.Context, id uint64) error {
	var refused error
	var was, size int64
	var seq uint64
	err := s.do(ctx, func(tx *bolt.Tx, kept *Kept) error {
		dead, messages := tx.Bucket([]byte(bucketDead)), tx.Bucket([]byte(bucketMessages))
		value := dead.Get(key(id))
		if value == nil {
			refused = ErrGone
			return nil
		}
		raw, d, err := s.revive(key(id), value)
		if err != nil {
			refused = fmt.Errorf("it cannot be read: %w", err)
			return nil
		}
		if seq, err = messages.NextSequence(); err != nil {
			return err
		}
		if err := messages.Put(key(seq), raw); err != nil {
			return err
		}
		*kept = Kept{Seq: seq, Client: d.Client, Topic: d.Topic}
		was, size = int64(len(value)+recordOverhead), int64(len(raw)+recordOverhead)
		return dead.Delete(key(id))
	}, func() {
		if refused == nil {
			s.sizes[seq] = int32(size)
			s.bytes += size - was
			s.dead--
		}
	})
	if err = errors.Join(err, refused); err != nil {
		return fmt.Errorf("spool.Replay %d: %w", id, err)
	}
	return nil
}

// revive returns the record of a dead letter as it is kept again.
func (s *Spool) revive(k, value []byte) ([]byte, DeadLetter, error) {
	d, err := s.parseDead(k, value)
	if err != nil {
		return nil, d, err
	}
	d.Expires = time.Time{} // or it would die again
	raw, err := s.encode(&d.Record)
	if err != nil {
		return nil, d, err
	}
	number(raw, d.Epoch, d.Number)
	return raw, d, nil
}

// Purge forgets dead letters, and returns how many there were of ids. Without ids it
// forgets all.
func (s *Spool) Purge(ctx context.Context, ids ...uint64) (int, error) {
	var n int
	var size int64
	err := s.do(ctx, func(tx *bolt.Tx, _ *Kept) error {
		dead := tx.Bucket([]byte(bucketDead))
		keys := make([][]byte, 0, len(ids))
		for _, id := range ids {
			keys = append(keys, key(id))
		}
		if len(ids) == 0 {
			cursor := dead.Cursor()
			for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
				keys = append(keys, bytes.Clone(k))
			}
		}
		n, size = 0, 0
		for _, k := range keys {
			value := dead.Get(k)
			if value == nil {
				continue
			}
			n, size = n+1, size+int64(len(value)+recordOverhead)
			if err := dead.Delete(k); err != nil {
				return err
			}
		}
		return nil
	}, func() {
		s.dead -= n
		s.bytes -= size
	})
	if err != nil {
		return 0, fmt.Errorf("spool.Purge: %w", err)
	}
	return n, nil
}

// salvage makes dead letters of the records that are found in a file whose structure
// makes no sense, and returns how many there are. It looks for their magic at every
// byte and believes their checksum; records that were delivered are among them, as
// long as nothing was written over them.
func (s *Spool) salvage(file string) (int, error) {
	content, err := os.ReadFile(file) // MaxBytes bounds it, more or less
	if err != nil {
		return 0, err
	}
	seen := map[[2]uint64]bool{}
	err = s.update(func(tx *bolt.Tx) error {
		dead, messages := tx.Bucket([]byte(bucketDead)), tx.Bucket([]byte(bucketMessages))
		for rest := content; ; {
			i := bytes.Index(rest, []byte(magic))
			if i < 0 {
				break
			}
			rest = rest[i:]
			f, size, err := unframe(rest)
			if err != nil || seen[[2]uint64{f.epoch, f.seq}] {
				rest = rest[1:]
				continue
			}
			seen[[2]uint64{f.epoch, f.seq}] = true
			seq, err := messages.NextSequence() // so that numbers stay apart
			if err != nil {
				return err
			}
			if err := dead.Put(key(seq), deadValue(time.Now(), reasonSalvaged, rest[:size])); err != nil {
				return err
			}
			rest = rest[size:]
		}
		if s.opts.Fault != nil {
			return s.opts.Fault()
		}
		return nil
	})
	return len(seen), err
}
