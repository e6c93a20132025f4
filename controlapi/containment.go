package controlapi

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// containments follows what becomes of quarantines: what data planes report, and what this
// process withdraws itself. It is in memory: data planes report again, and what was
// withdrawn is withdrawn again, after a restart.
type containments struct {
	access   []Access
	backdate time.Duration
	now      func() time.Time
	log      zerolog.Logger
	metrics  *metrics

	// mu guards what follows. Nothing is called under it.
	mu sync.Mutex
	by map[string]*progress // by node
}

// progress is how far one quarantine is.
type progress struct {
	since  time.Time            // which quarantine of the node it is
	done   map[string]time.Time // by data plane: when it was carried out
	broker string               // of the node's bridge, as that last said
	access map[string]*withdrawal
}

// withdrawal is how far it is with one place where the node logs in.
type withdrawal struct {
	done  time.Time // zero until it succeeded
	err   error     // of the last attempt
	tries int
	next  time.Time // not before
}

// Times of withdrawing.
const (
	withdrawEvery   = 200 * time.Millisecond // how often it is looked what is due
	receiptEvery    = time.Second
	withdrawTimeout = 10 * time.Second
	withdrawMost    = time.Minute // between attempts
	// tellFor is for how long a place is left to the node by which it learns of its quarantine:
	// what it runs itself ends sessions of devices.
	tellFor = 2 * time.Second
)

func newContainments(opts *Options, log zerolog.Logger, m *metrics) *containments {
	return &containments{
		access: opts.Access, backdate: opts.Backdate, now: opts.Now, log: log, metrics: m,
		by: map[string]*progress{},
	}
}

// of returns the progress of q. mu is held.
func (c *containments) of(q *mesh.Quarantine) *progress {
	node := q.ID()
	var since time.Time
	if q.Time != nil { // it is of one that could not be read
		since = *q.Time
	}
	p := c.by[node]
	if p == nil || !p.since.Equal(since) {
		p = &progress{since: since, done: map[string]time.Time{}, access: map[string]*withdrawal{}}
		for _, a := range c.access {
			p.access[a.Name] = &withdrawal{}
		}
		c.by[node] = p
	}
	return p
}

// whereOf is what a data plane calls itself.
func whereOf(node, role string) string { return strings.ToLower(role) + "/" + node }

// learn takes what data planes report of q. Their clocks are not believed to be before the
// quarantine, or after now. mu is held.
func (p *progress) learn(node string, reports []registry.Report, now time.Time) {
	for _, r := range reports {
		if r.Node == node && r.Broker != "" {
			p.broker = r.Broker
		}
		for _, done := range r.Contained {
			where := whereOf(r.Node, r.Role)
			if _, known := p.done[where]; done.Node != node || !done.Since.Equal(p.since) || known {
				continue
			}
			at := done.Time
			if at.Before(p.since) {
				at = p.since
			}
			if at.After(now) {
				at = now
			}
			p.done[where] = at
		}
	}
}

// receipt returns how far each part of the mesh is with q.
func (c *containments) receipt(q *mesh.Quarantine, config *mesh.Config, reports []registry.Report) []mesh.Containment {
	if !q.Active() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.of(q)
	p.learn(q.ID(), reports, c.now())
	reached := map[string]bool{}
	for _, r := range reports {
		reached[whereOf(r.Node, r.Role)] = true
	}
	var out []mesh.Containment
	for _, id := range slices.Sorted(maps.Keys(config.Nodes)) {
		for _, role := range slices.Sorted(slices.Values(config.Nodes[id].Roles)) {
			c := p.dataPlane(whereOf(id, role), reached)
			switch {
			case id == q.ID():
				c.Detail = "of the node itself, by its own word; the others shut it out whatever it says"
			case shutOut(config, id):
				c.Detail = "of a node that is in quarantine too: it is shut out whatever it says"
			}
			out = append(out, c)
		}
	}
	if n := config.Nodes[q.ID()]; p.broker != "" || n != nil && slices.Contains(n.Roles, mesh.RoleBridge) {
		out = append(out, p.sessions(q.ID()))
	}
	for _, a := range c.access {
		out = append(out, p.withdrawn(a))
	}
	return out
}

// shutOut reports whether a node is in quarantine. What its data planes say proves nothing, and
// is not waited for: whoever has it could hold up the receipts of all others.
func shutOut(config *mesh.Config, node string) bool {
	q := config.Quarantines[node]
	return q != nil && q.Active()
}

// dataPlane returns how far a data plane is.
func (p *progress) dataPlane(where string, reached map[string]bool) mesh.Containment {
	out := mesh.Containment{Where: where, State: mesh.ContainmentOffline}
	at, done := p.done[where]
	switch {
	case done:
		out.State, out.Time, out.After = mesh.ContainmentDone, &at, after(at, p.since)
	case reached[where]:
		out.State = mesh.ContainmentPending
	}
	return out
}

// sessions returns what is known of the MQTT sessions of the node's bridge.
func (p *progress) sessions(node string) mesh.Containment {
	out := mesh.Containment{Where: "broker/" + node, State: mesh.ContainmentNever}
	at, done := p.done[whereOf(node, mesh.RoleBridge)]
	switch {
	case p.broker == registry.BrokerEmbedded && done:
		out.State, out.Time, out.After = mesh.ContainmentDone, &at, after(at, p.since)
		out.Detail = "the node's own broker has cut its sessions, by its own word"
	case p.broker == registry.BrokerEmbedded:
		out.Detail = "the node's own broker has not said that it cut its sessions; it reaches nothing in the mesh"
	default:
		out.Detail = "an external broker is not told from here: withdraw the credentials there of the node's bridge and devices, and end their sessions"
		if p.broker != "" {
			out.Detail = p.broker + ": " + out.Detail
		}
	}
	return out
}

// withdrawn returns how far it is with a.
func (p *progress) withdrawn(a Access) mesh.Containment {
	out := mesh.Containment{Where: "access/" + a.Name, State: mesh.ContainmentPending, Detail: a.Detail}
	w := p.access[a.Name]
	switch {
	case a.Withdraw == nil:
		out.State = mesh.ContainmentNever
	case !w.done.IsZero():
		done := w.done
		out.State, out.Time, out.After = mesh.ContainmentDone, &done, after(done, p.since)
	case w.err != nil:
		out.State, out.Detail = mesh.ContainmentFailed, cut(w.err.Error())
	}
	return out
}

// cut bounds a text of others.
func cut(s string) string {
	const most = 300
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func after(t, since time.Time) *mesh.Duration {
	d := mesh.Duration(max(t.Sub(since), 0))
	return &d
}

// stateOf sums up a receipt. The words of nodes that are shut out do not count, nor what nobody
// here can do.
func stateOf(q *mesh.Quarantine, config *mesh.Config, receipt []mesh.Containment) string {
	if !q.Active() {
		return mesh.Released
	}
	for _, c := range receipt {
		kind, of, _ := strings.Cut(c.Where, "/")
		if kind != "access" && (of == q.ID() || shutOut(config, of)) {
			continue
		}
		if c.State == mesh.ContainmentPending || c.State == mesh.ContainmentFailed {
			return mesh.Containing
		}
	}
	return mesh.AllContained
}

// RunQuarantines withdraws the access of nodes in quarantine until ctx ends, and follows
// what data planes say of it. It returns nil: what fails shows in the receipt, is counted,
// and is tried again. Each place has its own turn: one that hangs holds up no other.
func (s *Server) RunQuarantines(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, a := range s.service.containments.access {
		if a.Withdraw != nil {
			all.Go(func() { every(ctx, withdrawEvery, func() { s.service.withdraw(ctx, a) }) })
		}
	}
	every(ctx, receiptEvery, func() { s.service.followQuarantines(ctx) })
	return nil
}

// every calls do until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// reports returns what data planes say.
func (s *service) reports() []registry.Report {
	if s.observed == nil {
		return nil
	}
	return s.observed.Reports()
}

// followQuarantines keeps what data planes say, some of which will go, and deletes what is
// over.
func (s *service) followQuarantines(ctx context.Context) {
	st := s.writer.state.Load()
	s.containments.forget(st.config)
	s.deleteExpired(ctx, st)
	for _, q := range active(st.config) {
		s.containments.receipt(q, st.config, s.reports())
	}
}

// active returns the quarantines of nodes that are shut out, by name.
func active(config *mesh.Config) []*mesh.Quarantine {
	var out []*mesh.Quarantine
	for _, id := range slices.Sorted(maps.Keys(config.Quarantines)) {
		if q := config.Quarantines[id]; q.Active() {
			out = append(out, q)
		}
	}
	return out
}

// deleteExpired deletes quarantines that refuse nothing any more.
func (s *service) deleteExpired(ctx context.Context, st *state) {
	var edits []edit
	for id, q := range st.config.Quarantines {
		if q.Expired(s.writer.now()) {
			edits = append(edits, edit{name: quarantineName(id), etag: q.Etag})
		}
	}
	if len(edits) == 0 {
		return
	}
	if _, err := s.writer.write(ourselves(ctx, "control"), edits, conditions{}, false); err != nil && ctx.Err() == nil {
		s.containments.log.Warn().Err(err).Msg("quarantines that are over are not deleted yet")
	}
}

// forget drops what is kept of quarantines that are over.
func (c *containments) forget(config *mesh.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.by, func(node string, _ *progress) bool {
		q := config.Quarantines[node]
		return q == nil || !q.Active()
	})
}

// withdraw withdraws a from whom that is due.
func (s *service) withdraw(ctx context.Context, a Access) {
	c := s.containments
	for _, q := range active(s.writer.state.Load().config) {
		reports := s.reports()
		c.mu.Lock()
		p := c.of(q)
		w := p.access[a.Name]
		p.learn(q.ID(), reports, c.now())
		due := w.done.IsZero() && !c.now().Before(w.next) && !(a.Tells && p.untold(q.ID(), reports, c.now()))
		c.mu.Unlock()
		if !due {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, withdrawTimeout)
		err := a.Withdraw(attempt, q.ID())
		cancel()
		if err == nil && a.Certifies && len(q.Gateways) > 0 {
			err = s.refuseLater(ctx, q.ID())
		}
		if ctx.Err() != nil {
			return
		}
		c.took(w, a, q.ID(), err)
	}
}

// untold reports whether a data plane of the node itself is still to carry it out. mu is
// held.
func (p *progress) untold(node string, reports []registry.Report, now time.Time) bool {
	return now.Before(p.since.Add(tellFor)) && slices.ContainsFunc(reports, func(r registry.Report) bool {
		_, done := p.done[whereOf(r.Node, r.Role)]
		return r.Node == node && !done
	})
}

// took notes an attempt.
func (c *containments) took(w *withdrawal, a Access, node string, err error) {
	c.mu.Lock()
	w.err = err
	w.tries++
	if err == nil {
		w.done = c.now().UTC().Truncate(time.Millisecond)
	} else {
		w.next = c.now().Add(min(time.Second<<min(w.tries-1, 10), withdrawMost))
	}
	c.mu.Unlock()
	if err != nil {
		c.metrics.unwithdrawn.WithLabelValues(a.Name).Inc()
		c.log.Error().Err(err).Str("node", node).Str("access", a.Name).Str("hint", mesh.HintOf(err)).
			Msg("the access of a quarantined node is not withdrawn, and tried again")
		return
	}
	c.log.Info().Str("node", node).Str("access", a.Name).Msg("the access of a quarantined node is withdrawn")
}

// refuseLater has certificates of the node's gateways refused that were issued until now,
// when its access was withdrawn: those name no node, so that what it got since the
// quarantine would pass.
func (s *service) refuseLater(ctx context.Context, id string) error {
	return s.changeQuarantine(ourselves(ctx, "control"), id, func(_ *state, was *mesh.Quarantine) (*mesh.Quarantine, error) {
		from := mesh.CertificatesFrom(s.writer.now(), s.containments.backdate)
		if was == nil || !was.Active() || was.CertificatesFrom != nil && !was.CertificatesFrom.Before(from) {
			return nil, nil
		}
		q := *was
		q.CertificatesFrom = &from
		return &q, nil
	})
}
