package spool

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What is kept is read on while there is no room for more, and what was delivered is forgotten.
func TestADiskWithoutRoomGivesOn(t *testing.T) {
	var full atomic.Bool
	dir := t.TempDir()
	s, _ := open(t, dir, func(o *Options) {
		o.Fault = func() error {
			if full.Load() {
				return &fs.PathError{Op: "write", Path: dir, Err: syscall.ENOSPC}
			}
			return nil
		}
	})
	delivered, waits := appended(t, s, record("a", "delivered")), appended(t, s, record("a", "waits"))
	full.Store(true)
	if _, err := s.Append(t.Context(), record("a", "during")); !errors.Is(err, ErrFailed) {
		t.Fatalf("an append while there is no room: %v", err)
	}
	if got := loaded(t, s, delivered); string(got.Payload) != "delivered" {
		t.Errorf("%q", got.Payload)
	}
	s.Remove(delivered)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		if _, err := s.Load(delivered); errors.Is(err, ErrGone) {
			break // it is written that it was removed
		} else if err != nil || time.Now().After(deadline) {
			t.Fatalf("what was delivered: %v", err)
		}
	}
	if got := loaded(t, s, waits); string(got.Payload) != "waits" {
		t.Errorf("%q", got.Payload)
	}
	full.Store(false)
	closed(t, s)
	if _, kept := open(t, dir); len(kept) != 1 || kept[0].Seq != waits {
		t.Errorf("kept are %v", kept)
	}
}
