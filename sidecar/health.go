package sidecar

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Health of the workloads: each is healthy while it accepts TCP connections.
const (
	healthInterval = 2 * time.Second
	healthTimeout  = time.Second
	// unhealthyAfter is how many checks in a row must fail: one may fall into
	// a restart or a full backlog.
	unhealthyAfter = 2
)

// health keeps the instances of this node with what is known of their workloads.
type health struct {
	services []Service
	changed  func([]*mesh.Instance) // may be nil
	dial     func(ctx context.Context, address string) error

	// mu guards what follows. Nothing is called under it.
	mu        sync.Mutex
	instances []*mesh.Instance // replaced, never changed: they are given away
	failures  []int            // checks in a row that failed, by service
}

// newHealth makes the instances of services at the inbound address advertise.
// None is healthy before its first check.
func newHealth(cfg Config, advertise string, changed func([]*mesh.Instance)) *health {
	h := &health{services: cfg.Services, changed: changed, dial: dialTCP, failures: make([]int, len(cfg.Services))}
	for i, s := range cfg.Services {
		h.instances = append(h.instances, &mesh.Instance{
			Meta: mesh.Meta{
				Name:   string(mesh.Instances) + "/" + cfg.Node + "-" + strconv.Itoa(i+1),
				Labels: maps.Clone(s.Labels),
			},
			Service: s.Service,
			Node:    cfg.Node,
			Address: advertise,
			Weight:  1,
			Health:  mesh.Unhealthy,
		})
	}
	return h
}

func dialTCP(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: healthTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// list returns the instances as they are now. They must not be changed.
func (h *health) list() []*mesh.Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.instances)
}

// run checks at once and then at every interval, until ctx ends. It reports the
// instances after the first check and whenever one changed.
func (h *health) run(ctx context.Context) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		changed := h.check(ctx)
		if ctx.Err() != nil {
			return
		}
		if h.changed != nil && (changed || first) {
			h.changed(h.list())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// check dials every workload and reports whether an instance changed.
func (h *health) check(ctx context.Context) bool {
	errs := make([]error, len(h.services))
	var wg sync.WaitGroup
	for i, s := range h.services {
		wg.Go(func() { errs[i] = h.dial(ctx, s.Address) })
	}
	wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := false
	for i, err := range errs {
		state := h.instances[i].Health
		if err == nil {
			h.failures[i], state = 0, mesh.Healthy
		} else if h.failures[i]++; h.failures[i] >= unhealthyAfter {
			state = mesh.Unhealthy
		}
		if state != h.instances[i].Health {
			next := *h.instances[i]
			next.Health = state
			h.instances[i], changed = &next, true
		}
	}
	return changed
}
