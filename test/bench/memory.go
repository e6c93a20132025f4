package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// memoryBench: what a sidecar holds when it idles, keeps connections of peers,
// and knows many endpoints.
func memoryBench() bench {
	return bench{
		name:   "memory",
		pauses: "that processes settle before each look at their memory",
		full:   settings{duration: 10 * time.Second, repeat: 3, connections: numbers{1000}, only: programs, endpoints: 10_000},
		brief:  settings{duration: time.Second, repeat: 1, connections: numbers{200}, only: programs, endpoints: 1000},
		play:   playMemory,
	}
}

// dialers is how many connections are opened at a time.
const dialers = 8

// held is what a process held in one round, in resident bytes.
type held struct {
	idle  int64
	conns []int64 // by the points of -connections
}

func (h held) idleMiB() float64 { return mib(h.idle) }

// atPoint reads the memory at a point of -connections.
func atPoint(i int) func(held) float64 { return func(h held) float64 { return mib(h.conns[i]) } }

// holder is a process whose listener of mutual TLS gets connections.
type holder struct {
	name    string
	process *rig.Process
	target  load.Target
	open    []*http.Client // each has one connection
}

func playMemory(w *world) (*report, error) {
	slices.Sort(w.connections)
	w.open()
	workload := w.workload()
	var names []string
	var samples [][]held // by process and round
	for round := range w.repeat {
		w.say("connections: round %d of %d", round+1, w.repeat)
		holders, end := w.holders(workload)
		all, err := w.hold(holders)
		if err := errors.Join(err, end()); err != nil {
			return nil, err
		}
		if round == 0 {
			names, samples = make([]string, len(holders)), make([][]held, len(holders))
		}
		for i, h := range holders {
			names[i], samples[i] = h.name, append(samples[i], all[i])
		}
	}
	t := table{title: "Resident MiB of one process, medians of the rounds", head: append([]string{"state"}, names...)}
	last := w.memoryRow(&t, "idle", samples, held.idleMiB, "idle_mib")
	for i, n := range w.connections {
		last += " " + w.memoryRow(&t, fmt.Sprintf("%d idle connections", n), samples, atPoint(i), fmt.Sprintf("conns%d_mib", n))
	}
	many, line, err := w.manyEndpoints(workload)
	if err != nil {
		return nil, err
	}
	return &report{
		tables: []table{t, many},
		notes: []string{
			"Each connection is of mutual TLS, with one request behind it. The last line has the worse of HTTP/2 and HTTP/1.1.",
			fmt.Sprintf("The endpoints are of one service, %d on each node. Hedgerow also knows the nodes, their identities and the policy; "+
				"the peers' servers are lines of a file, in clear text, without a check.", fleetPerNode),
		},
		lines: []string{line},
		last:  last,
	}, nil
}

// memoryRow adds a row of medians, and returns "key=" the larger of ours, which
// are the first two.
func (w *world) memoryRow(t *table, state string, samples [][]held, of func(held) float64, key string) string {
	row := []string{state}
	for _, s := range samples {
		row = append(row, decimal(middle(s, of), 1))
	}
	t.rows = append(t.rows, row)
	return key + "=" + decimal(max(middle(samples[0], of), middle(samples[1], of)), 1)
}

// holders starts the processes of one round, ours first: one for each protocol.
// end ends them.
func (w *world) holders(workload string) (all []*holder, end func() error) {
	w.t.Helper()
	var ends []func() error
	for _, as := range []struct{ node, name, protocol string }{
		{"callee", "hedgerow, HTTP/2", identity.ProtocolH2},
		{"callee-2", "hedgerow, HTTP/1.1", identity.ProtocolHTTP1},
	} {
		p := w.mesh.Sidecar(rig.Sidecar{Node: as.node, Service: "shop", Workload: workload})
		want, err := mesh.ServiceID(rig.TrustDomain, "shop", as.node)
		if err != nil {
			w.t.Fatal(err)
		}
		config := identity.ClientConfig(w.mesh.Identity("caller", "client"), want, identity.ServerName("shop", as.node, rig.Name), as.protocol)
		target := load.Target{Address: p.Inbound, Host: host, TLS: config, HTTP2: as.protocol == identity.ProtocolH2}
		all, ends = append(all, &holder{name: as.name, process: p.Process, target: target}), append(ends, p.Stop)
	}
	for _, program := range w.peers() {
		s := w.peer(program, program, w.oneHop(true, true, workload))
		s.target.TLS = w.mutualTLS()
		// HAProxy's exit code after SIGTERM is not 0.
		all, ends = append(all, &holder{name: program + ", HTTP/1.1", process: s.processes[0], target: s.target}), append(ends, s.processes[0].Kill)
	}
	return all, func() error {
		var errs []error
		for i, h := range all {
			for _, c := range h.open {
				c.CloseIdleConnections()
			}
			errs = append(errs, ends[i]())
		}
		return errors.Join(errs...)
	}
}

// hold looks at the memory of processes when they have settled, and again when
// they hold connections.
func (w *world) hold(holders []*holder) ([]held, error) {
	all := make([]held, len(holders))
	w.t.Pause(w.duration)
	var err error
	for i, h := range holders {
		if all[i].idle, err = proc.RSS(h.process.Pid()); err != nil {
			return nil, err
		}
	}
	for _, n := range w.connections {
		for _, h := range holders {
			if err := h.grow(w.t.Context(), n); err != nil {
				return nil, fmt.Errorf("%s: %w", h.name, err)
			}
		}
		w.t.Pause(w.duration)
		for i, h := range holders {
			bytes, err := h.look(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", h.name, err)
			}
			all[i].conns = append(all[i].conns, bytes)
		}
	}
	return all, nil
}

// grow opens connections until there are n, with one request on each.
func (h *holder) grow(ctx context.Context, n int) error {
	fresh := make([]*http.Client, n-len(h.open))
	errs := make([]error, dialers)
	var running sync.WaitGroup
	for d := range dialers {
		running.Go(func() {
			for i := d; i < len(fresh) && errs[d] == nil; i += dialers {
				fresh[i] = h.target.Client(answerMost, 1)
				errs[d] = fetch(ctx, fresh[i], h.target)
			}
		})
	}
	running.Wait()
	h.open = append(h.open, slices.DeleteFunc(fresh, func(c *http.Client) bool { return c == nil })...)
	return errors.Join(errs...)
}

// fetch sends the GET of all benches and verifies its answer.
func fetch(ctx context.Context, client *http.Client, target load.Target) error {
	req, err := target.Request(ctx, get.Method, get.Path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(body, get.Want)) {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}

// look returns the memory of a process that must still have n connections.
func (h *holder) look(n int) (int64, error) {
	files, err := proc.Files(h.process.Pid())
	if err != nil {
		return 0, err
	}
	if files < n {
		return 0, fmt.Errorf("%d files are open, so that it cannot hold %d connections", files, n)
	}
	return proc.RSS(h.process.Pid())
}
