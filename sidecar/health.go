package sidecar

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Health of the workloads, where their service does not say how to check it: each is
// healthy while it accepts TCP connections.
const (
	healthInterval = 2 * time.Second
	healthTimeout  = time.Second
	// unhealthyAfter is how many checks in a row must fail: one may fall into
	// a restart or a full backlog.
	unhealthyAfter = 2
)

// checkRules is how a workload is checked: a compiled mesh.Health.
type checkRules struct {
	protocol       string // of the service
	path           string // "" is by connecting alone
	interval       time.Duration
	timeout        time.Duration
	unhealthyAfter int // checks in a row
	healthyAfter   int
}

// rulesOf returns how the workloads of s are checked. s may be nil.
func rulesOf(s *mesh.Service) checkRules {
	r := checkRules{interval: healthInterval, timeout: healthTimeout, unhealthyAfter: unhealthyAfter, healthyAfter: 1}
	if s == nil {
		return r
	}
	r.protocol = s.Protocol
	if h := s.Health; h != nil {
		r.path, r.interval, r.timeout = h.Path, h.Interval.Or(r.interval), h.Timeout.Or(r.timeout)
		if h.UnhealthyAfter != 0 {
			r.unhealthyAfter = int(h.UnhealthyAfter)
		}
		if h.HealthyAfter != 0 {
			r.healthyAfter = int(h.HealthyAfter)
		}
	}
	return r
}

// health keeps the instances of this node with what is known of their workloads.
type health struct {
	services []Service
	changed  func([]*mesh.Instance) // may be nil
	probe    func(ctx context.Context, address string, rules *checkRules) error

	// mu guards what follows. Nothing is called under it.
	mu        sync.Mutex
	instances []*mesh.Instance // replaced, never changed: they are given away
	rules     []checkRules     // by service, as are those below
	streak    []int            // checks in a row that contradict what is known
	unchecked int              // services without a first check
	updated   chan struct{}    // closed when rules change
}

// newHealth makes the instances of services at the inbound address advertise.
// None is healthy before its first check.
func newHealth(cfg Config, advertise string, changed func([]*mesh.Instance)) *health {
	n := len(cfg.Services)
	started := time.Now().UTC().Truncate(time.Millisecond) // what peers knew of another process is not about this one
	h := &health{
		services: cfg.Services, changed: changed, probe: probe,
		rules: make([]checkRules, n), streak: make([]int, n), unchecked: n, updated: make(chan struct{}),
	}
	for i, s := range cfg.Services {
		h.rules[i] = rulesOf(nil)
		h.instances = append(h.instances, &mesh.Instance{
			Meta: mesh.Meta{
				Name:   string(mesh.Instances) + "/" + cfg.Node + "-" + strconv.Itoa(i+1),
				Labels: maps.Clone(s.Labels), CreateTime: &started,
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

// update takes how services are to be checked from now on.
func (h *health) update(config *mesh.Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := false
	for i, s := range h.services {
		if rules := rulesOf(config.Services[s.Service]); rules != h.rules[i] {
			h.rules[i], changed = rules, true
		}
	}
	if changed {
		close(h.updated)
		h.updated = make(chan struct{})
	}
}

// list returns the instances as they are now. They must not be changed.
func (h *health) list() []*mesh.Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.instances)
}

// run checks every service at once and then at its interval, until ctx ends. It
// reports the instances after the first check of all and whenever one changed.
func (h *health) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range h.services {
		all.Go(func() { h.watch(ctx, i) })
	}
}

// watch checks one service until ctx ends.
func (h *health) watch(ctx context.Context, i int) {
	for first := true; ; first = false {
		rules, updated := h.how(i)
		err := h.probe(ctx, h.services[i].Address, &rules)
		if ctx.Err() != nil {
			return
		}
		if report := h.take(i, &rules, err == nil, first); report && h.changed != nil {
			h.changed(h.list())
		}
		timer := time.NewTimer(rules.interval)
		select {
		case <-timer.C:
		case <-updated:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// how returns how service i is checked, and what is closed when that changes.
func (h *health) how(i int) (checkRules, chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rules[i], h.updated
}

// take takes the result of a check of service i and reports whether the instances are
// to be reported: one changed, or this was the last of the first checks.
func (h *health) take(i int, rules *checkRules, ok, first bool) (report bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first {
		h.unchecked--
		report = h.unchecked == 0
	}
	healthy := h.instances[i].Health == mesh.Healthy
	if ok == healthy {
		h.streak[i] = 0
		return report
	}
	h.streak[i]++
	needed := rules.unhealthyAfter
	if ok {
		needed = rules.healthyAfter
	}
	if h.streak[i] < needed && !first { // what has just started is what it looks like
		return report
	}
	next := *h.instances[i]
	next.Health = mesh.Unhealthy
	if ok {
		next.Health = mesh.Healthy
	}
	h.instances[i], h.streak[i] = &next, 0
	return report || h.unchecked == 0
}
