package controlapi

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// role is how much a caller may do. Each may do all that those before it may.
type role uint8

const (
	anyone role = iota // may be called without credentials
	viewer             // reads objects
	editor             // writes objects
	admin              // also says who may do what, and what holds for all
)

// String returns the name of the role.
func (r role) String() string {
	switch r {
	case viewer:
		return "viewer"
	case editor:
		return "editor"
	case admin:
		return "admin"
	}
	return "anyone"
}

// principal is who calls.
type principal struct {
	name   string // as the log and the revisions have it: "token:0a1b2c3d"
	role   role
	scopes []scope // what alone it may read and write; none is everything
	// bearer says that a program meant the request, and not a browser on its own.
	bearer bool
}

// permission is what an RPC asks of its caller.
type permission struct {
	role role
	// scoped says that the RPC holds every object that it reads and writes to the
	// caller's scopes. Others are refused to callers who have any.
	scoped bool
}

// permissions says who may call what. It is the only place that does: an RPC that is
// missing here is for an admin without scopes.
func permissions() map[string]permission {
	all := map[string]permission{
		"Apply":       {editor, true}, // and what of.writer says of each object
		"GetDefaults": {viewer, true},
		"PutDefaults": {admin, true},
		"GetInstance": {viewer, true},
		"JoinNode":    {editor, true},
		"ReportJoin":  {anyone, true}, // who has the proof

		"ListInstances": {viewer, true},

		// Who may change a token may become anyone.
		"GetToken": {admin, false}, "ListTokens": {admin, false}, "PutToken": {admin, false}, "DeleteToken": {admin, false},

		"QuarantineNode":  {admin, false},
		"ReleaseNode":     {admin, false},
		"GetQuarantine":   {viewer, false},
		"ListQuarantines": {viewer, false},
	}
	for _, kind := range []string{"Service", "Route", "Authenticator", "TopicRule", "Node"} {
		all["List"+kind+"s"] = permission{viewer, true}
		all["Get"+kind] = permission{viewer, true}
		all["Put"+kind] = permission{editor, true}
		all["Delete"+kind] = permission{editor, true}
	}
	all["ListPolicies"] = permission{viewer, true}
	all["GetPolicy"] = permission{viewer, true}
	all["PutPolicy"] = permission{editor, true}
	all["DeletePolicy"] = permission{editor, true}
	return all
}

// writerOf returns the role that writes objects of the collection.
func writerOf(of mesh.Collection) role {
	switch of {
	case mesh.Services, mesh.Routes, mesh.Policies, mesh.Authenticators, mesh.TopicRules, mesh.Nodes:
		return editor
	}
	return admin
}

// admit reports why the caller of ctx may not call rpc at all. Which objects it may
// read and write, the RPC finds out.
func admit(ctx context.Context, rpc string) error {
	const op = "controlapi.admit"
	needs, known := permissions()[rpc]
	if !known {
		needs = permission{role: admin}
	}
	if needs.role == anyone {
		return nil
	}
	c := callerOf(ctx)
	if c.err != nil {
		return c.err
	}
	switch {
	case c.role < needs.role:
		return mesh.Errorf(op, "", mesh.Denied, "%s has the role %s, and %s needs the role %s", c.name, c.role, rpc, needs.role).
			WithHint("use other credentials, or have an admin give these the role")
	case len(c.scopes) > 0 && !needs.scoped:
		return mesh.Errorf(op, "", mesh.Denied, "%s is limited to %s, and %s is not about such objects", c.name, describeScopes(c.scopes), rpc).
			WithHint("use credentials without scopes")
	}
	return nil
}

// caller is who made a request, or why that is not known.
type caller struct {
	principal
	err    error
	remote string // the address that the request came from
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns who made the request; nobody, if nobody has looked.
func callerOf(ctx context.Context) caller {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		c.err = mesh.Errorf("controlapi.authenticate", "", mesh.Unauthentic, "nobody has authenticated the caller")
	}
	return c
}

// ourselves is this process, as which a program that embeds the control plane writes.
func ourselves(ctx context.Context, name string) context.Context {
	return withCaller(ctx, caller{principal: principal{name: name, role: admin, bearer: true}})
}

// restRPCs returns the RPC behind every method and pattern of REST, as grpc-gateway
// prints it: "PUT /v1/routes/{id=*}" is PutRoute.
func restRPCs() map[string]string {
	out := map[string]string{}
	for _, m := range rpcs() {
		rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		if !ok {
			continue
		}
		for _, r := range slices.Concat([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()) {
			if method, pattern := binding(r); method != "" {
				out[method+" "+strings.ReplaceAll(pattern, "}", "=*}")] = string(m.Name())
			}
		}
	}
	return out
}

func binding(r *annotations.HttpRule) (method, pattern string) {
	switch p := r.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return "GET", p.Get
	case *annotations.HttpRule_Put:
		return "PUT", p.Put
	case *annotations.HttpRule_Post:
		return "POST", p.Post
	case *annotations.HttpRule_Patch:
		return "PATCH", p.Patch
	case *annotations.HttpRule_Delete:
		return "DELETE", p.Delete
	}
	return "", ""
}

// rpcs returns the RPCs of the contract.
func rpcs() []protoreflect.MethodDescriptor {
	var out []protoreflect.MethodDescriptor
	services := hedgerowv1.File_hedgerow_v1_control_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			out = append(out, methods.Get(j))
		}
	}
	return out
}
