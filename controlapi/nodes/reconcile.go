package nodes

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// reconcile puts and withdraws what Vault lacks or has too much.
func (m *Manager) reconcile(ctx context.Context) {
	wanted, known := m.opt.Wanted()
	if known && !m.listed {
		m.list(ctx)
	}
	m.mu.Lock()
	for node := range wanted {
		m.entry(node)
	}
	names := slices.Sorted(maps.Keys(m.nodes))
	m.mu.Unlock()
	for _, node := range names {
		grant, keep := wanted[node]
		if ctx.Err() != nil || !keep && !known {
			continue
		}
		if m.due(node, grant, keep) {
			_ = m.settle(ctx, node, grant, keep) // which counts and keeps its error
		}
	}
	m.show()
}

// list takes up the nodes that Vault has: those that are not wanted any more are withdrawn,
// though they were deleted while nobody could.
func (m *Manager) list(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	names, err := m.opt.Trust.Nodes(ctx)
	if err != nil {
		m.failed("list", err)
		return
	}
	m.listed = true
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, node := range names {
		m.entry(node)
	}
}

// entry returns the node's entry; m.mu is held.
func (m *Manager) entry(node string) *entry {
	e := m.nodes[node]
	if e == nil {
		e = &entry{turn: make(chan struct{}, 1)}
		m.nodes[node] = e
	}
	return e
}

// due reports whether Vault is to be asked about the node now.
func (m *Manager) due(node string, grant Grant, keep bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, now := m.nodes[node], time.Now()
	switch {
	case e == nil || now.Before(e.next):
		return false
	case keep && e.err == nil:
		return !e.has.equal(grant) || now.Sub(e.at) >= putAgain
	}
	return true
}

// settle puts or withdraws one node. Of concurrent callers one does it at a time.
func (m *Manager) settle(ctx context.Context, node string, grant Grant, keep bool) error {
	m.mu.Lock()
	e := m.entry(node)
	m.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return mesh.Errorf("nodes.Put", "nodes/"+node, mesh.Unavailable, "%w", ctx.Err())
	}
	if keep {
		// What was wanted may be some time ago, as others are put one after the other, and a
		// node be shut out since: it must not come back for a moment.
		if wanted, known := m.opt.Wanted(); known {
			if grant, keep = wanted[node]; !keep {
				return mesh.Errorf("nodes.Put", "nodes/"+node, mesh.Conflict, "it is not to be in Vault any more")
			}
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	what := "put"
	var err error
	if keep {
		err = m.opt.Trust.Put(call, grant)
	} else {
		what = "withdraw"
		err = m.opt.Trust.Withdraw(call, node)
		if err == nil {
			err = m.opt.Store.DeleteJoin(call, node)
		}
	}
	if err != nil && ctx.Err() != nil {
		return err // shutting down says nothing of Vault
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.err = err
	if err != nil {
		e.next = time.Now().Add(min(retryFirst<<min(e.failures, 10), retryMost))
		e.failures++
		m.failed(what, err)
		if e.failures == 1 {
			m.log.Error().Err(err).Str("hint", mesh.HintOf(err)).Str("node", node).Str("what", what).Msg("what the node may be is not in Vault, trying again")
		}
		return err
	}
	if e.failures > 0 || !keep {
		m.log.Info().Str("node", node).Str("what", what).Msg("what the node may be is in Vault")
	}
	e.has, e.at, e.failures, e.next = grant, time.Now(), 0, time.Time{}
	if !keep {
		delete(m.nodes, node)
		delete(m.joins, node)
	}
	return nil
}

// failed counts a failure.
func (m *Manager) failed(what string, err error) {
	m.metrics.failures.WithLabelValues(what, mesh.KindOf(err).String()).Inc()
}

// show sets the gauges.
func (m *Manager) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiting := 0
	for _, e := range m.nodes {
		if e.err != nil {
			waiting++
		}
	}
	alarms := 0
	for _, j := range m.joins {
		if j.Reason != "" {
			alarms++
		}
	}
	m.metrics.waiting.Set(float64(waiting))
	m.metrics.standing.Set(float64(alarms))
}
