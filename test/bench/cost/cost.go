// Package cost reads from outside what running processes have cost: their CPU
// time. It keeps nothing and rounds nothing; what memory they hold is in
// test/chaos/proc.
package cost

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the time, user and system together, that the processes have spent
// on CPUs since they began, in nanoseconds, with all their threads and those
// that have ended. It reads the clocks of clock_getcpuclockid(3): the figures in
// /proc/PID/stat are the same ones cut to ticks of 10 ms, and those in
// /proc/PID/task/*/schedstat forget the threads that have ended. A process that
// has ended is an error.
func CPU(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var at unix.Timespec
		if err := unix.ClockGettime(clock(pid), &at); err != nil {
			return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(at.Nano())
	}
	return sum, nil
}

// clock is the id of a process's CPU clock, as the kernel and the C library
// make it: the id's complement, and 2 for the scheduler's clock.
func clock(pid int) int32 {
	const scheduler = 2
	return int32(^pid)<<3 | scheduler
}

// Meter reads the clocks of several processes at once and keeps what it read.
// It is for one goroutine.
type Meter struct {
	pids          []int
	before, after []time.Duration
}

// NewMeter returns a meter of processes.
func NewMeter(pids ...int) *Meter { return &Meter{pids: pids} }

// Read returns the sum of the clocks.
func (m *Meter) Read() (time.Duration, error) {
	m.before, m.after = m.after, nil
	var sum time.Duration
	for _, pid := range m.pids {
		at, err := CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += at
		m.after = append(m.after, at)
	}
	return sum, nil
}

// Each returns what each process spent between the last two reads, in the order
// of NewMeter's.
func (m *Meter) Each() []time.Duration {
	var spent []time.Duration
	for i, after := range m.after {
		spent = append(spent, after-m.before[i])
	}
	return spent
}
