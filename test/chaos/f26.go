package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	slowReaders   = 500
	readersEvery  = 25       // a second come; the kernel's buffers take megabytes for each
	slowBody      = 64 << 20 // bytes of each body
	slowRate      = 1 << 10  // bytes a second of each reader
	growthMost    = 64 << 10 // bytes of RSS a stream, in each process
	receiveBuffer = 8 << 10  // of the reader's socket: the kernel's would swallow megabytes
)

// playSlowReaders opens large responses and reads them at a trickle. What the
// proxies hold of them is bounded, and other requests go on.
func playSlowReaders(t *stage.T, r *row, s settings) {
	length := pick(s, time.Minute, 10*time.Second)
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	// The processes have worked before they are measured.
	rate := min(s.rate, 100)
	warm := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: rate})
	t.Pause(pick(s, 10*time.Second, 3*time.Second))
	warm.Stop()

	planes := append([]*stage.Plane{m.Caller}, m.Shop...)
	before := make([]int64, len(planes))
	var pids []int
	for i, p := range planes {
		pids = append(pids, p.Pid())
		rss, err := proc.RSS(p.Pid())
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		before[i] = rss
	}
	peaks := proc.PeakRSS(pids...)
	count := pick(s, slowReaders, slowReaders/2)
	readers := openReaders(t.Context(), m.Out(), count)
	defer readers.close()
	// That so many come at all takes the time of this machine, not the proxies'
	// patience: the others ask once they are there.
	m.Caller.Until(2*time.Minute, "has answered every reader", func(context.Context) error { return readers.opened(count) })
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: rate})
	t.Pause(length)
	report := run.Stop()
	peak, err := peaks()
	if err != nil {
		t.Fatalf("memory: %v", err)
	}
	streams := make([]int, len(planes))
	for i, p := range planes {
		n, err := p.Admin.Sum(t.Context(), "hedgerow_requests_in_flight")
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		streams[i] = int(n)
	}
	got, broken := readers.close()

	r.load(report)
	r.limit("readers", fmt.Sprint(count-len(broken)), fmt.Sprint(count), len(broken) == 0)
	r.blame("a reader", broken...)
	r.atLeast("bytes_each", got, int(length/time.Second)*slowRate/2)
	for i, p := range planes {
		if streams[i] == 0 {
			r.blame("void", p.Name+" has no stream")
			continue
		}
		each := (peak[i] - before[i]) / int64(streams[i])
		r.limit(p.Name+"_growth_each", fmt.Sprintf("%.1fKiB", float64(each)/1024), "<=64KiB", each <= growthMost)
		r.note(p.Name, fmt.Sprintf("%d_streams,%.1f->%.1fMiB", streams[i], float64(before[i])/(1<<20), float64(peak[i])/(1<<20)))
	}
}

// wait waits for d and reports whether ctx still stands.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// readers is many responses that are read slowly.
type readers struct {
	stop context.CancelFunc
	all  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	open   int        // have begun to read
	least  int        // bytes of the body that the slowest has read
	broken []string
}

// openReaders opens n of them. They read until close.
func openReaders(ctx context.Context, target load.Target, n int) *readers {
	ctx, stop := context.WithCancel(ctx)
	r := &readers{stop: stop, least: slowBody}
	for i := range n {
		r.all.Go(func() {
			// Not all in one instant: filling the kernel's buffers takes time.
			if !wait(ctx, time.Duration(i)*time.Second/readersEvery) {
				return
			}
			got, err := readSlowly(ctx, target, r.begun)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.least = min(r.least, got)
			if err != nil && ctx.Err() == nil {
				r.broken = append(r.broken, fmt.Sprintf("%d, after %d bytes: %v", i, got, err))
			}
		})
	}
	return r
}

// begun counts a reader that has the header of its answer.
func (r *readers) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open++
}

// opened returns nil once n readers have begun, or failed to.
func (r *readers) opened(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open+len(r.broken) < n {
		return fmt.Errorf("%d have, %d have failed", r.open, len(r.broken))
	}
	return nil
}

// close ends the readers and returns how much the slowest has read and which
// have failed before.
func (r *readers) close() (least int, broken []string) {
	r.stop()
	r.all.Wait()
	return r.least, r.broken
}

// readSlowly asks for a large body and reads slowRate bytes of it a second,
// until ctx ends, over a raw connection: a client library would read ahead.
// begun is called when the body begins.
func readSlowly(ctx context.Context, target load.Target, begun func()) (got int, err error) {
	d := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, c syscall.RawConn) (err error) {
		// Before the connection is made: it says how much the peer may send.
		wrong := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
		})
		if wrong != nil {
			return wrong
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", target.Address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := fmt.Fprintf(conn, "GET /bytes?n=%d HTTP/1.1\r\nHost: %s\r\n\r\n", slowBody, target.Host); err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(conn, slowRate)
	resp, err := http.ReadResponse(in, nil) //nolint:bodyclose // the connection is closed, and draining the body would take a day
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != slowBody {
		return 0, fmt.Errorf("status %d, Content-Length %d", resp.StatusCode, resp.ContentLength)
	}
	begun()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	piece := make([]byte, slowRate)
	for {
		n, err := io.ReadFull(resp.Body, piece)
		got += n
		if err != nil {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-tick.C:
		}
	}
}
