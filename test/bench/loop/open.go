package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slot is one request of an open loop.
type slot struct {
	due    time.Time
	counts bool // it is due in what is measured
}

var errBacklog = errors.New("not sent: the requests of a whole second wait for a free connection")

// open is the open loop. It calls giveUp only with an error.
func (r *run) open(ctx context.Context, giveUp func(), conns []Exchanger) error {
	tick, err := newTicker(time.Second / time.Duration(r.plan.Rate))
	if err != nil {
		return err
	}
	defer tick.Close()                                                                   //nolint:errcheck // nothing is lost with a timer
	defer context.AfterFunc(ctx, func() { _ = tick.SetReadDeadline(time.Unix(1, 0)) })() // one that is closed has ended too

	slots := make(chan slot, r.plan.Rate)
	var workers sync.WaitGroup
	for _, c := range conns {
		workers.Go(func() {
			for s := range slots {
				sent := time.Now()
				err := c.Exchange()
				r.came(s, sent, err)
				if err != nil {
					return
				}
			}
		})
	}
	p := pacer{run: r, tick: tick, slots: slots, gap: time.Second / time.Duration(r.plan.Rate), next: time.Now()}
	if err = r.phases(p.pass); err != nil {
		err = errors.Join(context.Cause(ctx), err)
		giveUp()
	}
	close(slots)
	workers.Wait()
	return err
}

// pacer says when each request is due.
type pacer struct {
	run   *run
	tick  *os.File
	slots chan<- slot
	gap   time.Duration
	next  time.Time // when the next request is due
}

// pass hands out what is due for d.
func (p *pacer) pass(d time.Duration) error {
	end := time.Now().Add(d)
	var expirations [8]byte
	for {
		now := time.Now()
		for ; p.next.Before(now) && p.next.Before(end); p.next = p.next.Add(p.gap) {
			p.run.hand(p.slots, p.next)
		}
		if now.After(end) {
			return nil
		}
		if _, err := p.tick.Read(expirations[:]); err != nil {
			return fmt.Errorf("wait for the next request: %w", err)
		}
	}
}

// hand gives a request to whoever is free.
func (r *run) hand(slots chan<- slot, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case slots <- slot{due, r.measuring}:
	default:
		r.failedLocked(errBacklog)
	}
}

// came notes an exchange of an open loop.
func (r *run) came(s slot, sent time.Time, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.failedLocked(err)
	case s.counts:
		r.took = append(r.took, now.Sub(s.due))
		r.late = append(r.late, sent.Sub(s.due))
	}
}

// newTicker returns a file that can be read every gap. It is the kernel's timer
// and not time.Ticker's, because the runtime waits in whole milliseconds: two
// requests a millisecond would leave in pairs, one of them late.
func newTicker(gap time.Duration) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	file := os.NewFile(uintptr(fd), "timer")
	every := unix.NsecToTimespec(gap.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("set a timer: %w", err), file.Close())
	}
	return file, nil
}
