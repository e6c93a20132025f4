package nodes

import (
	"context"
	"crypto/subtle"
	"maps"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// hold has its caller alone change joins until release, so that no change undoes another.
func (m *Manager) hold(ctx context.Context) (release func(), err error) {
	select {
	case m.turn <- struct{}{}:
		return func() { <-m.turn }, nil
	case <-ctx.Done():
		return nil, mesh.Errorf("nodes.Join", "", mesh.Unavailable, "%w", ctx.Err())
	}
}

// load reads the joins if that was not done for a while: other control planes make some too.
// It is called by who holds the turn.
func (m *Manager) load(ctx context.Context, atMost time.Duration) error {
	m.mu.Lock()
	age := time.Since(m.loaded)
	m.mu.Unlock()
	if age < atMost {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	joins, err := m.opt.Store.Joins(ctx)
	if err != nil {
		m.failed("load", err)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded = time.Now()
	before := m.joins
	m.joins = make(map[string]Join, len(joins))
	for _, j := range joins {
		if was := before[j.Node]; was.Accessor == j.Accessor && was.Seen.After(j.Seen) {
			j.Seen = was.Seen // in memory between saves
		}
		m.joins[j.Node] = j
	}
	return nil
}

// join returns what is known of the node's token.
func (m *Manager) join(node string) (Join, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, ok := m.joins[node]
	return j, ok
}

// Join makes a token with which a host can become the node of g, which is in Vault
// afterwards. What is needed to judge the token's fate is kept before it is returned.
func (m *Manager) Join(ctx context.Context, g Grant) (Invitation, error) {
	const op = "nodes.Join"
	name := "nodes/" + g.Node
	if err := m.settle(ctx, g.Node, g, true); err != nil {
		return Invitation{}, mesh.Errorf(op, name, mesh.Unavailable, "Vault has not got the node: %w", err).WithHint(mesh.HintOf(err))
	}
	release, err := m.hold(ctx)
	if err != nil {
		return Invitation{}, err
	}
	defer release()
	if err := m.load(ctx, 0); err != nil {
		return Invitation{}, mesh.Errorf(op, name, mesh.Unavailable, "earlier tokens are not known: %w", err).WithHint("try again")
	}
	before, _ := m.join(g.Node)
	replaces := ""
	if before.Used.IsZero() {
		replaces = before.Accessor
	}
	inv, err := m.opt.Trust.Invite(ctx, g.Node, replaces)
	if err != nil {
		return Invitation{}, mesh.Errorf(op, name, mesh.KindOf(err), "%w", err).WithHint(mesh.HintOf(err))
	}
	j := Join{
		Node: g.Node, Proof: proofOf(inv.Token), Accessor: inv.Accessor, Expires: inv.Expires.UTC(), Seen: time.Now().UTC(),
		Before: before.Before || !before.Enrolled.IsZero(),
	}
	if err := m.save(ctx, j); err != nil {
		return Invitation{}, mesh.Errorf(op, name, mesh.Unavailable, "the token is not given out, nobody could watch it: %w", err).WithHint("try again")
	}
	m.log.Info().Str("node", g.Node).Time("expires", inv.Expires).Msg("join token made")
	return inv, nil
}

// save keeps j.
func (m *Manager) save(ctx context.Context, j Join) error {
	if err := m.opt.Store.SaveJoin(ctx, j); err != nil {
		m.failed("save", err)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joins[j.Node] = j
	return nil
}

// Report takes what a host says became of the token with the proof: that it has enrolled, or
// was refused. remote is where the host is, from where only so many wrong proofs are taken;
// of one token only so many reports are. It does not tell who may not report whether there is
// such a node.
func (m *Manager) Report(ctx context.Context, remote, node, proof string, enrolled bool) error {
	const op = "nodes.Report"
	limited := func() error {
		m.metrics.reports.WithLabelValues("limited").Inc()
		return mesh.Errorf(op, "", mesh.Unavailable, "too many reports").WithHint("try again in a minute")
	}
	if m.limit.spent(remote) {
		return limited()
	}
	release, err := m.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	j, ok := m.proven(node, proof)
	if !ok { // perhaps another control plane made it
		if err := m.load(ctx, lookEvery); err != nil {
			return mesh.Errorf(op, "", mesh.Unavailable, "the tokens that were made are not known: their store is away").WithHint("try again")
		}
		j, ok = m.proven(node, proof)
	}
	if !ok {
		m.limit.allow(remote) // guesses are counted, or a fleet behind one address could not report
		m.metrics.reports.WithLabelValues("unproven").Inc()
		return mesh.Errorf(op, "", mesh.Unauthentic, "the proof is not that of the node's newest token")
	}
	if !m.limit.allow(j.Proof) {
		return limited()
	}
	now := time.Now().UTC()
	if enrolled {
		m.metrics.reports.WithLabelValues("enrolled").Inc()
		if !j.Enrolled.IsZero() {
			return nil
		}
		j.Enrolled = now
		if j.Used.IsZero() {
			j.Used = now
		}
		if j.Reason == NotEnrolled { // late is not lost
			j.Reason, j.Alarm = "", time.Time{}
		}
		m.log.Info().Str("node", node).Str("from", remote).Msg("a host has enrolled")
		return m.save(ctx, j)
	}
	m.metrics.reports.WithLabelValues("refused").Inc()
	if j.ended(now) {
		return nil // it was refused because it had ended
	}
	return m.raise(ctx, j, Refused, remote)
}

// proven returns what is known of the node's token, if the proof is that of it.
func (m *Manager) proven(node, proof string) (Join, bool) {
	j, known := m.join(node)
	return j, subtle.ConstantTimeCompare([]byte(proof), []byte(j.Proof)) == 1 && known
}

// ended reports whether the token has ended, and that it was seen unused until then.
func (j Join) ended(now time.Time) bool {
	return j.Used.IsZero() && !now.Before(j.Expires) && j.Expires.Sub(j.Seen) <= unwatchedMost
}

// raise notes an alarm, which stands until another token is made.
func (m *Manager) raise(ctx context.Context, j Join, reason, remote string) error {
	m.metrics.alarms.WithLabelValues(reason).Inc()
	m.log.Error().Str("node", j.Node).Str("reason", reason).Str("from", remote).
		Str("hint", "somebody else may be the node now: quarantine it, find out who had the join file, and make another token").
		Msg("JOIN ALARM: a join token may be in other hands")
	if j.Reason == Refused {
		return nil // nothing says more
	}
	j.Reason, j.Alarm = reason, time.Now().UTC()
	return m.save(ctx, j)
}

// watch asks Vault about every token that is out.
func (m *Manager) watch(ctx context.Context) {
	m.mu.Lock()
	joins := slices.Collect(maps.Values(m.joins))
	m.mu.Unlock()
	for _, j := range joins {
		if ctx.Err() == nil && j.Enrolled.IsZero() && j.Reason == "" && !j.ended(time.Now()) {
			m.look(ctx, j)
		}
	}
}

// look asks about one token.
func (m *Manager) look(ctx context.Context, j Join) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	unused, asked, now := false, false, time.Now().UTC()
	if j.Used.IsZero() && now.Before(j.Expires) {
		var err error
		if unused, err = m.opt.Trust.Unused(ctx, j.Accessor); err != nil {
			m.failed("look", err)
			return
		}
		asked = true
	}
	release, err := m.hold(ctx)
	if err != nil {
		return // the next look finds the same
	}
	defer release()
	was, known := m.join(j.Node)
	if !known || was.Accessor != j.Accessor || !was.Enrolled.IsZero() || was.Reason != "" {
		return // it was reported, or replaced, meanwhile
	}
	j = was
	if asked && unused {
		j.Seen = now
	} else if asked && j.Used.IsZero() {
		j.Used = now
	}
	if err := m.judge(ctx, j, was, now); err != nil {
		m.log.Error().Err(err).Str("node", j.Node).Msg("what became of a join token is not kept, trying again")
	}
}

// judge raises the alarm that is due, and keeps what is new.
func (m *Manager) judge(ctx context.Context, j, was Join, now time.Time) error {
	var reason string
	switch {
	case !j.Used.IsZero() && now.Sub(j.Used) >= enrolWithin:
		reason = NotEnrolled
	case j.Used.IsZero() && !now.Before(j.Expires) && !j.ended(now):
		reason = Unwatched
	case j.Used != was.Used || j.Seen.Sub(was.Seen) >= unwatchedMost/3:
		return m.save(ctx, j)
	default:
		return nil
	}
	// Another control plane may know better by now.
	if err := m.load(ctx, 0); err != nil {
		return err
	}
	if now, known := m.join(j.Node); !known || now.Accessor != j.Accessor || !now.Enrolled.IsZero() || now.Reason != "" {
		return nil
	}
	return m.raise(ctx, j, reason, "")
}
