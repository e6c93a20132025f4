package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	filesLimit   = 256
	floodSize    = 1000
	resumeWithin = time.Second
	standing     = 20 // connections that were there before
)

// playOutboundFiles uses up the caller's file descriptors with connections of
// local clients.
func playOutboundFiles(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	restart(t, m.Caller, stage.Limits{Files: filesLimit})
	m.Reached(m.Out())
	kept := stand(t.Context(), m.Out(), standing)
	defer kept.close()
	t.Pause(time.Second)
	flood := floodWith(t, m.Caller, m.Caller.Outbound, pick(s, 20*time.Second, 5*time.Second))
	resumed := resumes(t, m.Caller, func(ctx context.Context) error {
		fresh := m.Out().Client(0, 0)
		return get(ctx, fresh, m.Out(), "/echo?i=0")
	})
	t.Pause(time.Second)
	asked, failures := kept.close()
	r.note("existing_connections", standing)
	r.atLeast("existing_requests", asked, standing)
	r.zero("existing_errors", len(failures))
	r.blame("an existing connection", failures...)
	flood.judge(r, m.Caller, resumed)
}

// playInboundFiles uses up a callee's with connections that peers might make.
func playInboundFiles(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries})
	p := m.Shop[0]
	restart(t, p, stage.Limits{Files: filesLimit})
	m.Reached(m.Out())
	// All of it goes over the connections that the caller has to its peers.
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: min(s.rate, 200), Fresh: -1})
	t.Pause(time.Second)
	flood := floodWith(t, p, p.Inbound, pick(s, 20*time.Second, 5*time.Second))
	resumed := resumes(t, p, func(ctx context.Context) error {
		_, err := dialLeaf(ctx, p.Inbound, "shop."+p.Name+".default")
		return err
	})
	t.Pause(time.Second)
	report := run.Stop()
	r.load(report)
	r.atLeast("answers_of_the_flooded", report.Instances[p.Name], 1)
	flood.judge(r, p, resumed)
}

// restart ends a process and starts it under limits.
func restart(t *stage.T, p *stage.Plane, limits stage.Limits) {
	t.Helper()
	if _, err := end(p); err != nil {
		t.Fatalf("end %s: %v", p.Name, err)
	}
	p.Start(limits)
}

// flood is what a flood of connections came to.
type flood struct {
	opened int
	files  int // the most that the process had open
}

// floodWith opens floodSize connections to address, which say nothing, holds
// them for a while, and closes them.
func floodWith(t *stage.T, p *stage.Plane, address string, length time.Duration) flood {
	t.Helper()
	var mu sync.Mutex // guards conns
	var conns []net.Conn
	var all sync.WaitGroup
	slots := make(chan struct{}, 50)
	for range floodSize {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				return // counted by its absence
			}
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
		})
	}
	all.Wait()
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	f := flood{opened: len(conns)}
	for end := time.Now().Add(length); time.Now().Before(end); {
		t.Pause(100 * time.Millisecond)
		n, err := proc.Files(p.Pid())
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		f.files = max(f.files, n)
	}
	return f
}

// judge adds what every flood is measured by.
func (f flood) judge(r *row, p *stage.Plane, resumed time.Duration) {
	r.atLeast("flood", f.opened, floodSize)
	r.limit("files", fmt.Sprint(f.files), fmt.Sprintf("<=%d", filesLimit), f.files <= filesLimit)
	r.atMost("accepts_again_after", resumed, resumeWithin)
	r.limit("running", fmt.Sprint(p.Running()), "true", p.Running())
}

// resumes returns how long it takes until try succeeds. It gives up after a
// minute.
func resumes(t *stage.T, p *stage.Plane, try func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	p.Until(time.Minute, "serves a new connection", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return try(ctx)
	})
	return time.Since(began)
}

// keptConns is connections that were there before a fault, each of which asks
// ten times a second.
type keptConns struct {
	stop context.CancelFunc
	all  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	asked    int
	failures []string
}

// stand opens n connections and asks on each until close.
func stand(ctx context.Context, target load.Target, n int) *keptConns {
	ctx, stop := context.WithCancel(ctx)
	k := &keptConns{stop: stop}
	for i := range n {
		k.all.Go(func() { k.keep(ctx, target, i) })
	}
	return k
}

// close stops asking, and returns how often it was asked and what failed.
func (k *keptConns) close() (int, []string) {
	k.stop()
	k.all.Wait()
	return k.asked, k.failures
}

// errLost is for a connection that had to be made anew.
var errLost = errors.New("the connection was lost")

func (k *keptConns) keep(ctx context.Context, target load.Target, i int) {
	client := target.Client(10*time.Second, 1)
	defer client.CloseIdleConnections()
	dialled := false
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dialled {
			return nil, errLost
		}
		dialled = true
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := get(ctx, client, target, "/echo?i=0")
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		k.asked++
		if err != nil {
			k.failures = append(k.failures, fmt.Sprintf("%d: %v", i, err))
		}
		k.mu.Unlock()
		if errors.Is(err, errLost) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// get asks for path, and is content with a whole 200.
func get(ctx context.Context, client *http.Client, target load.Target, path string) error {
	req, err := target.Request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d %.200s", resp.StatusCode, text)
	}
	return nil
}
