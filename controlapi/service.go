package controlapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// service carries out the methods of the contract, for gRPC and, by the
// gateway in this process, for REST. Its errors are *mesh.Error; the faces turn
// them into what they answer.
type service struct {
	hedgerowv1.UnsafeControlServer
	writer       *writer
	observed     Observed // nil: nothing is observed
	used         *lastUse // of tokens
	containments *containments
	nodes        *nodes.Manager       // nil: no host can join
	join         *hedgerowv1.JoinFile // what hosts need beside the token

	trustDomain string
}

var _ hedgerowv1.ControlServer = (*service)(nil)

// Headers that a write is answered and asked with, as gRPC metadata.
const (
	headerPublished   = "hedgerow-published"
	headerIfMatch     = "if-match"
	headerIfNoneMatch = "if-none-match"
)

// get returns the stored object, in m.
func get[M proto.Message](ctx context.Context, s *service, of mesh.Collection, id string, m M) (M, error) {
	var none M
	name := string(of) + "/" + id
	if err := mesh.CheckName(name); err != nil {
		return none, err
	}
	st := s.writer.state.Load()
	raw, ok := st.records[name]
	var labels mesh.Labels
	if ok {
		labels = st.header(name).Labels
	}
	if err := callerOf(ctx).reads(name, labels); err != nil {
		return none, err
	}
	if !ok {
		return none, mesh.Errorf("controlapi.get", name, mesh.NotFound, "there is no such object")
	}
	return fromJSON(raw, m)
}

// put stores m under its name and returns what is stored, or would be. more changes
// the edit.
func put[M proto.Message](ctx context.Context, s *service, of mesh.Collection, id string, m M, dry bool, more ...func(*edit)) (M, error) {
	var none M
	name := string(of) + "/" + id
	if err := mesh.CheckName(name); err != nil {
		return none, err
	}
	if !m.ProtoReflect().IsValid() {
		return none, mesh.Errorf("controlapi.put", name, mesh.Malformed, "the object is missing")
	}
	e, err := editOf(name, m)
	if err != nil {
		return none, err
	}
	for _, change := range more {
		change(&e)
	}
	out, err := s.writer.write(ctx, []edit{e}, conditionsOf(ctx), dry)
	if err != nil {
		return none, err
	}
	if err := announce(ctx, out); err != nil {
		return none, err
	}
	stored, ok := m.ProtoReflect().New().Interface().(M)
	if !ok {
		return none, mesh.Errorf("controlapi.put", name, mesh.Internal, "a %T makes no other", m)
	}
	return fromJSON(out.changes[0].after, stored)
}

// editOf returns the write of m as name. The name inside may be left out and
// must not be another.
func editOf(name string, m proto.Message) (edit, error) {
	r := m.ProtoReflect()
	inside := r.Descriptor().Fields().ByJSONName("name")
	if sent := r.Get(inside).String(); sent != "" && sent != name {
		var v mesh.Violations
		v.Add("name", fmt.Sprintf("write %q, or leave it out", name), "%.80q is not the name in the URL", sent)
		return edit{}, mesh.Refuse(name, v)
	}
	o, err := toObject(name, m)
	if err != nil {
		return edit{}, err
	}
	return edit{name: name, object: o, etag: o.Header().Etag}, nil
}

// deletion is what requests to delete have in common.
type deletion interface {
	GetId() string
	GetEtag() string
	GetValidateOnly() bool
}

func (s *service) remove(ctx context.Context, of mesh.Collection, req deletion) error {
	name := string(of) + "/" + req.GetId()
	if err := mesh.CheckName(name); err != nil {
		return err
	}
	e := edit{name: name, etag: req.GetEtag()}
	out, err := s.writer.write(ctx, []edit{e}, conditionsOf(ctx), req.GetValidateOnly())
	if err != nil {
		return err
	}
	return announce(ctx, out)
}

// conditionsOf returns the conditions that the request's headers state.
func conditionsOf(ctx context.Context) conditions {
	md, _ := metadata.FromIncomingContext(ctx)
	return conditions{
		ifMatch:     strings.Join(md.Get(headerIfMatch), ","),
		ifNoneMatch: strings.Join(md.Get(headerIfNoneMatch), ","),
	}
}

// announce sets the header that says whether the registry has the revision
// that was made, if one was.
func announce(ctx context.Context, out *outcome) error {
	if !out.wrote || grpc.ServerTransportStreamFromContext(ctx) == nil {
		return nil
	}
	err := grpc.SetHeader(ctx, metadata.Pairs(headerPublished, strconv.FormatBool(out.published)))
	if err != nil {
		return &mesh.Error{Op: "controlapi.announce", Kind: mesh.Internal, Err: err}
	}
	return nil
}

// GetDefaults returns the mesh's defaults, which exist before anyone stores
// them.
func (s *service) GetDefaults(ctx context.Context, _ *hedgerowv1.GetDefaultsRequest) (*hedgerowv1.Defaults, error) {
	d, err := get(ctx, s, mesh.AllDefault, mesh.DefaultsID, new(hedgerowv1.Defaults))
	if mesh.KindOf(err) != mesh.NotFound {
		return d, err
	}
	raw, err := json.Marshal(mesh.NewConfig().Defaults)
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.get", Kind: mesh.Internal, Err: err}
	}
	return fromJSON(raw, new(hedgerowv1.Defaults))
}

// PutDefaults replaces the mesh's defaults.
func (s *service) PutDefaults(ctx context.Context, r *hedgerowv1.PutDefaultsRequest) (*hedgerowv1.Defaults, error) {
	return put(ctx, s, mesh.AllDefault, mesh.DefaultsID, r.GetDefaults(), r.GetValidateOnly())
}
