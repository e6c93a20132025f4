package controlapi

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// bridgeService is the service whose identity a bridge has, without saying so in its object.
const bridgeService = "mqtt-bridge"

// RunNodes keeps what Vault allows nodes equal to the configuration and watches join tokens,
// until ctx ends. It returns nil.
func (s *Server) RunNodes(ctx context.Context) error {
	if s.service.nodes == nil {
		<-ctx.Done()
		return nil
	}
	return s.service.nodes.Run(ctx)
}

// grants is what Vault shall allow. Before the first revision nothing is known: an empty log
// may be one that was lost.
func (s *service) grants() (map[string]nodes.Grant, bool) {
	st := s.writer.state.Load()
	out := make(map[string]nodes.Grant, len(st.config.Nodes))
	for id, n := range st.config.Nodes {
		if q := st.config.Quarantines[id]; q == nil || !q.Active() {
			out[id] = s.grant(n, q)
		}
	}
	return out, st.head.Revision > 0
}

// grant is what Vault shall allow one node: to be its services and gateways. q is a
// quarantine that it was released from, or nil. Every control plane comes to the same.
func (s *service) grant(n *mesh.Node, q *mesh.Quarantine) nodes.Grant {
	id := n.ID()
	g := nodes.Grant{Node: id, Since: since(n, q, s.writer.now())}
	add := func(identity mesh.ID, err error) {
		if err == nil { // the object was validated
			g.IDs = append(g.IDs, identity.String())
		}
	}
	services := n.Services
	if slices.Contains(n.Roles, mesh.RoleBridge) && !slices.Contains(services, bridgeService) {
		services = append(slices.Clone(services), bridgeService)
	}
	for _, service := range services {
		add(mesh.ServiceID(s.trustDomain, service, id))
	}
	for _, gateway := range n.Gateways {
		add(mesh.GatewayID(s.trustDomain, gateway))
	}
	slices.Sort(g.IDs)
	g.IDs = slices.Compact(g.IDs)
	return g
}

// since is from when on a certificate is of the node n that is allowed: of one that had its
// name before and was deleted, or was shut out, none counts any more. It is the zero Time
// when none of these can be valid still; the record of a quarantine goes with that.
func since(n *mesh.Node, q *mesh.Quarantine, now time.Time) (t time.Time) {
	if n.CreateTime != nil {
		t = *n.CreateTime
	}
	if q != nil && q.ReleaseTime != nil && q.ReleaseTime.After(t) {
		t = *q.ReleaseTime
	}
	if now.After(t.Add(mesh.LongestLife + mesh.ClockSkew)) {
		return time.Time{}
	}
	return t
}

// JoinNode makes a token with which a host can become the node.
func (s *service) JoinNode(ctx context.Context, r *hedgerowv1.JoinNodeRequest) (*hedgerowv1.JoinFile, error) {
	const op = "controlapi.join"
	if _, err := s.GetNode(ctx, &hedgerowv1.GetNodeRequest{Id: r.GetId()}); err != nil {
		return nil, err // that it is not there, or not the caller's
	}
	name := string(mesh.Nodes) + "/" + r.GetId()
	st := s.writer.state.Load()
	node, quarantine := st.config.Nodes[r.GetId()], st.config.Quarantines[r.GetId()]
	switch {
	case node == nil:
		return nil, mesh.Errorf(op, name, mesh.NotFound, "there is no such object")
	case quarantine != nil && quarantine.Active():
		return nil, mesh.Errorf(op, name, mesh.Conflict, "the node is in quarantine").WithHint("release it first, if it may come back")
	case s.nodes == nil:
		return nil, mesh.Errorf(op, name, mesh.Conflict, "this control plane has no Vault").WithHint("set vault in its configuration; see docs/enrolment.md")
	}
	// Who made it could be the node: that is to be known, before anybody has it.
	if err := s.writer.audit.allowed(ctx, name); err != nil {
		return nil, err
	}
	inv, err := s.nodes.Join(ctx, s.grant(node, quarantine))
	if err != nil {
		return nil, err
	}
	file, ok := proto.Clone(s.join).(*hedgerowv1.JoinFile)
	if !ok {
		return nil, mesh.Errorf(op, name, mesh.Internal, "a %T is no join file", s.join)
	}
	file.Node, file.Token, file.ExpireTime = r.GetId(), inv.Token, timestamppb.New(inv.Expires.UTC())
	file.Vault.RoleId = inv.RoleID
	return file, nil
}

// ReportJoin takes what a host says became of a join token.
func (s *service) ReportJoin(ctx context.Context, r *hedgerowv1.ReportJoinRequest) (*emptypb.Empty, error) {
	const op = "controlapi.reportJoin"
	if proof, err := hex.DecodeString(r.GetProof()); err != nil || len(proof) != 32 {
		var v mesh.Violations
		v.Add("proof", "sha256sum of the token", "it is not a SHA-256 in hex")
		return nil, mesh.Refuse("the report", v)
	}
	if s.nodes == nil {
		return nil, mesh.Errorf(op, "", mesh.Unauthentic, "the proof is not that of the node's newest token")
	}
	enrolled := r.GetOutcome() == hedgerowv1.ReportJoinRequest_ENROLLED
	return new(emptypb.Empty), s.nodes.Report(ctx, callerOf(ctx).remote, r.GetId(), strings.ToLower(r.GetProof()), enrolled)
}

// joined fills in what is known of the tokens of nodes, and of Vault.
func (s *service) joined(all ...*hedgerowv1.Node) {
	if s.nodes == nil {
		return
	}
	for _, n := range all {
		_, id, _ := strings.Cut(n.GetName(), "/")
		state := s.nodes.State(id)
		switch {
		case state.Enrolled:
			n.State = hedgerowv1.Node_ENROLLED.Enum()
		case state.Joining:
			n.State = hedgerowv1.Node_JOINING.Enum()
		default:
			n.State = hedgerowv1.Node_PENDING.Enum()
		}
		if state.Err != nil {
			n.TrustError = state.Err.Error()
		}
		if state.Reason != "" {
			reason := hedgerowv1.Node_JoinAlarm_Reason(hedgerowv1.Node_JoinAlarm_Reason_value[state.Reason])
			n.JoinAlarm = &hedgerowv1.Node_JoinAlarm{Reason: reason.Enum(), Time: timestamppb.New(state.Alarm)}
		}
	}
}
