package link

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// clock looks after a link from time to time: one timer in place of one for each
// stream and each write. It rests while the link has nothing to do, so that an
// idle link costs no wake-ups.
type clock struct {
	timer *time.Timer
	every time.Duration
	reads atomic.Uint64 // how often something came

	// What follows is guarded by Conn.mu.
	running     bool
	greeted     bool // the peer's SETTINGS came
	interrupted bool // the reader is to give its buffer back
	quiet       bool // it has done so

	began   time.Time // of the link
	seen    uint64    // reads at the last look
	heard   time.Time // when something came last
	pinging time.Time // since when an answer is awaited; zero if none is
	drained time.Time // since when the answer to drainPing is awaited
	batch   uint64    // the batch that was being written
	batchAt time.Time // since when
	begun   uint64    // streams at the last look
	idleAt  time.Time // since when there is none
}

var (
	errWriteTimeout = errors.New("write link: the peer reads too slowly")
	errPingTimeout  = errors.New("read link: no answer to a PING")
	errStalled      = errors.New("read link: the peer stopped within a frame")
)

func (c *Conn) startClock() {
	c.mu.Lock() // tick must not come before its timer is known
	defer c.mu.Unlock()
	k := &c.clock
	now := time.Now()
	k.began, k.heard, k.batchAt, k.idleAt = now, now, now, now
	k.every = min(c.cfg.PingAfter, c.cfg.PingTimeout, c.cfg.WriteTimeout, c.cfg.SettingsTimeout)
	if c.cfg.IdleTimeout > 0 {
		k.every = min(k.every, c.cfg.IdleTimeout)
	}
	k.every = max(min(k.every/4, time.Second), time.Millisecond)
	k.running = true
	k.timer = time.AfterFunc(k.every, c.tick)
}

// arm starts the clock if it rests. mu is held.
func (c *Conn) arm() {
	k := &c.clock
	if k.running || c.err != nil {
		return
	}
	now := time.Now()
	k.running = true
	k.heard, k.batchAt = now, now
	k.timer.Reset(k.every)
}

// pinged notes that an answer is due. mu is held.
func (k *clock) pinged() { k.pinging = time.Now() }

// tick looks after the link.
func (c *Conn) tick() {
	now := time.Now()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if !c.clock.running { // it slept until now
		c.clock.running, c.clock.heard, c.clock.batchAt = true, now, now
	}
	open, begun, workers := c.streams.activity()
	err := c.overdue(now, open)
	if err == nil {
		c.lookAfter(now, open, begun, workers)
	}
	c.mu.Unlock()
	if err != nil {
		c.fail(err, nil)
	}
}

// overdue returns an error if the peer is too slow with something. mu is held.
func (c *Conn) overdue(now time.Time, open int) error {
	k := &c.clock
	if n := k.reads.Load(); n != k.seen {
		k.seen, k.heard, k.pinging = n, now, time.Time{}
	}
	if !c.writing || c.batches != k.batch {
		k.batch, k.batchAt = c.batches, now
	}
	switch {
	case !k.greeted && now.Sub(k.began) >= c.cfg.SettingsTimeout:
		return &ConnError{Code: http2.ErrCodeSettingsTimeout, Reason: "no SETTINGS came"}
	case now.Sub(k.batchAt) >= c.cfg.WriteTimeout:
		return errWriteTimeout
	case !k.pinging.IsZero() && now.Sub(k.pinging) >= c.cfg.PingTimeout:
		return errPingTimeout
	case k.greeted && open == 0 && !k.quiet && !k.interrupted && now.Sub(k.heard) >= c.cfg.PingTimeout+2*k.every:
		return errStalled // it was asked to be quiet and could not
	}
	return nil
}

// lookAfter does what is due. mu is held.
func (c *Conn) lookAfter(now time.Time, open int, begun uint64, workers int) {
	k := &c.clock
	if c.said == announced && now.Sub(k.drained) >= c.cfg.PingTimeout {
		c.sayFinal()
	}
	if open > 0 || begun != k.begun {
		k.begun, k.idleAt = begun, now
		if now.Sub(k.heard) >= c.cfg.PingAfter && k.pinging.IsZero() {
			c.sendPing(alivePing)
			c.kick()
		}
		k.timer.Reset(k.every)
		return
	}
	idle := now.Sub(k.idleAt)
	if c.cfg.IdleTimeout > 0 && idle >= c.cfg.IdleTimeout {
		c.drain() // a stream may be on its way
	}
	switch {
	case k.quiet && !c.draining && k.pinging.IsZero() && workers == 0 && !c.writing && !c.work():
		c.rest()
		k.running = false
		if c.cfg.IdleTimeout > 0 {
			k.timer.Reset(c.cfg.IdleTimeout - idle)
		}
		return
	case !k.quiet && !k.interrupted && k.greeted && now.Sub(k.heard) >= k.every:
		k.interrupted = true
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // an error shows in Read
	}
	k.timer.Reset(k.every)
}

// rest gives back what is needed only while there are streams. mu is held.
func (c *Conn) rest() {
	c.streams.rest()
	c.enc.forget()
	c.control = nil
}
