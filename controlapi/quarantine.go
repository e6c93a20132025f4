package controlapi

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// Access is one place where nodes log in: Vault, Redis.
type Access struct {
	Name string // "vault"
	// Withdraw takes away what the node could use there and ends its sessions. It is
	// called again until it succeeds, and again after a restart: what is gone already is
	// no error. It must keep to ctx. If nil, Detail says what is to be done by hand.
	Withdraw func(ctx context.Context, node string) error
	Detail   string
	// Certifies says that certificates are issued there.
	Certifies bool
	// Tells says that it is by this that a data plane of the node learns of its quarantine.
	Tells bool
}

const (
	// receiptWait is for how long :quarantine waits until it is carried out everywhere.
	receiptWait = 4 * time.Second
	receiptLook = 50 * time.Millisecond
	// mostRaces is how often a quarantine is begun anew because another write came between.
	mostRaces = 5
)

// QuarantineNode shuts a node out.
func (s *service) QuarantineNode(ctx context.Context, r *hedgerowv1.QuarantineNodeRequest) (*hedgerowv1.Quarantine, error) {
	id := r.GetId()
	err := s.changeQuarantine(ctx, id, func(st *state, was *mesh.Quarantine) (*mesh.Quarantine, error) {
		if was != nil && was.Active() {
			return nil, nil // as it was asked
		}
		return s.quarantine(ctx, st, was, id, r.GetOrder()), nil
	})
	if err != nil {
		return nil, err
	}
	s.awaitContained(ctx, id)
	return s.GetQuarantine(ctx, &hedgerowv1.GetQuarantineRequest{Id: id})
}

// quarantine returns what is stored for a node that is shut out now.
func (s *service) quarantine(ctx context.Context, st *state, was *mesh.Quarantine, id string, order *hedgerowv1.QuarantineOrder) *mesh.Quarantine {
	now := s.writer.now().UTC().Truncate(time.Millisecond)
	from := mesh.CertificatesFrom(now, s.containments.backdate)
	q := &mesh.Quarantine{
		Meta: mesh.Meta{Name: quarantineName(id)}, Time: &now, CertificatesFrom: &from,
		Reason: order.GetReason(), By: callerOf(ctx).name, Gateways: slices.Clone(order.GetGateways()),
	}
	if n := st.config.Nodes[id]; n != nil {
		q.Gateways = append(q.Gateways, n.Gateways...)
	}
	if was != nil { // it may still have certificates of the time before
		q.Gateways = append(q.Gateways, was.Gateways...)
	}
	slices.Sort(q.Gateways)
	q.Gateways = slices.Compact(q.Gateways)
	return q
}

// ReleaseNode lets a node enrol again.
func (s *service) ReleaseNode(ctx context.Context, r *hedgerowv1.ReleaseNodeRequest) (*hedgerowv1.Quarantine, error) {
	id := r.GetId()
	err := s.changeQuarantine(ctx, id, func(_ *state, was *mesh.Quarantine) (*mesh.Quarantine, error) {
		switch {
		case was == nil:
			return nil, mesh.Errorf("controlapi.release", quarantineName(id), mesh.NotFound, "the node is not in quarantine")
		case !was.Active():
			return nil, nil // as it was asked
		}
		now := s.writer.now().UTC().Truncate(time.Millisecond)
		from := mesh.CertificatesFrom(now, s.containments.backdate)
		q := *was
		q.ReleaseTime, q.ReleasedBy, q.CertificatesFrom = &now, callerOf(ctx).name, &from
		return &q, nil
	})
	if err != nil {
		return nil, err
	}
	return s.GetQuarantine(ctx, &hedgerowv1.GetQuarantineRequest{Id: id})
}

func quarantineName(node string) string { return string(mesh.Quarantines) + "/" + node }

// changeQuarantine stores what next makes of the quarantine of a node, nil if there is
// none; nil from next changes nothing.
func (s *service) changeQuarantine(ctx context.Context, node string, next func(*state, *mesh.Quarantine) (*mesh.Quarantine, error)) error {
	name := quarantineName(node)
	if err := mesh.CheckName(name); err != nil {
		return err
	}
	for races := 0; ; races++ {
		st := s.writer.state.Load()
		was := st.config.Quarantines[node]
		q, err := next(st, was)
		if err != nil || q == nil {
			return err
		}
		e := edit{name: name, object: q}
		when := conditions{ifNoneMatch: "*"}
		if was != nil {
			e.etag, when = was.Etag, conditions{}
		}
		out, err := s.writer.write(ctx, []edit{e}, when, false)
		if err == nil {
			return announce(ctx, out)
		}
		if mesh.KindOf(err) != mesh.Stale || races == mostRaces {
			return err
		}
	}
}

// awaitContained waits until the quarantine is carried out wherever that is possible now.
func (s *service) awaitContained(ctx context.Context, node string) {
	if s.observed == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, receiptWait)
	defer cancel()
	tick := time.NewTicker(receiptLook)
	defer tick.Stop()
	for {
		if q := s.shown(node, true); q == nil || q.State != mesh.Containing {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// shown returns the quarantine of a node with what became of it; nil if there is none.
func (s *service) shown(node string, receipt bool) *mesh.Quarantine {
	st := s.writer.state.Load()
	stored := st.config.Quarantines[node]
	if stored == nil {
		return nil
	}
	q := *stored
	contained := s.containments.receipt(&q, st.config, s.reports())
	q.State = stateOf(&q, st.config, contained)
	if receipt {
		q.Contained = contained
	}
	return &q
}

func quarantineMessage(q *mesh.Quarantine) (*hedgerowv1.Quarantine, error) {
	raw, err := json.Marshal(q)
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.quarantine", Name: q.Name, Kind: mesh.Internal, Err: err}
	}
	return fromJSON(raw, new(hedgerowv1.Quarantine))
}

// GetQuarantine returns a quarantine and its receipt.
func (s *service) GetQuarantine(_ context.Context, r *hedgerowv1.GetQuarantineRequest) (*hedgerowv1.Quarantine, error) {
	name := quarantineName(r.GetId())
	if err := mesh.CheckName(name); err != nil {
		return nil, err
	}
	q := s.shown(r.GetId(), true)
	if q == nil {
		return nil, mesh.Errorf("controlapi.get", name, mesh.NotFound, "the node is not in quarantine")
	}
	return quarantineMessage(q)
}

// ListQuarantines returns a page of quarantines, without receipts.
func (s *service) ListQuarantines(_ context.Context, r *hedgerowv1.ListQuarantinesRequest) (*hedgerowv1.ListQuarantinesResponse, error) {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(s.writer.state.Load().config.Quarantines)) {
		names = append(names, quarantineName(id))
	}
	names, next, err := cutPage(mesh.Quarantines, names, r)
	if err != nil {
		return nil, err
	}
	out := &hedgerowv1.ListQuarantinesResponse{NextPageToken: next}
	for _, name := range names {
		q := s.shown(name[len(mesh.Quarantines)+1:], false)
		if q == nil {
			continue // it went meanwhile
		}
		m, err := quarantineMessage(q)
		if err != nil {
			return nil, err
		}
		out.Quarantines = append(out.Quarantines, m)
	}
	return out, nil
}

// showQuarantines fills in the quarantines of nodes, which stand over what they report.
func (s *service) showQuarantines(receipt bool, nodes ...*hedgerowv1.Node) error {
	for _, n := range nodes {
		q := s.shown(n.GetName()[len(mesh.Nodes)+1:], receipt)
		if q == nil {
			continue
		}
		m, err := quarantineMessage(q)
		if err != nil {
			return err
		}
		n.Quarantine = m
		if q.Active() {
			n.State = hedgerowv1.Node_QUARANTINED.Enum()
		}
	}
	return nil
}
