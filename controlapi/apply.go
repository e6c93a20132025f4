package controlapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// maxDiffBytes bounds the diff of one object in an answer.
const maxDiffBytes = 64 << 10

// Apply writes many objects, all or none, in one revision.
//
// The objects travel as google.protobuf.Struct, which is any JSON object: the
// shape is that of a PUT, and the name inside says the kind. Numbers of the
// contract are uint32, which a Struct's double holds exactly, and the order of
// a JSON object's members means nothing. Every object is then held to its
// kind's message as the body of a PUT is.
func (s *service) Apply(ctx context.Context, r *hedgerowv1.ApplyRequest) (*hedgerowv1.ApplyResponse, error) {
	if md := conditionsOf(ctx); md != (conditions{}) {
		return nil, mesh.Errorf("controlapi.apply", "", mesh.Malformed, "If-Match and If-None-Match are about one object").
			WithHint("put an etag into the objects instead")
	}
	edits, err := batchEdits(r.GetBatch().GetObjects())
	if err != nil {
		return nil, err
	}
	out, err := s.writer.write(ctx, edits, conditions{}, r.GetValidateOnly())
	if err != nil {
		return nil, err
	}
	if err := announce(ctx, out); err != nil {
		return nil, err
	}
	answer := &hedgerowv1.ApplyResponse{Revision: out.next.head.Revision}
	for i, c := range out.changes {
		change, err := describeChange(c)
		if err != nil {
			return nil, err
		}
		answer.Changes = append(answer.Changes, change)
		answer.Warnings = append(answer.Warnings, warnings(edits[i].object)...)
	}
	if out.wrote && !out.published {
		answer.Warnings = append(answer.Warnings, "the registry is away: the revision is stored, and published when it returns")
	}
	return answer, nil
}

// batchEdits decodes the objects and reports what is wrong with all of them.
func batchEdits(objects []*structpb.Struct) ([]edit, error) {
	if len(objects) == 0 {
		var v mesh.Violations
		v.Add("objects", "e.g. {\"objects\": [{\"name\": \"routes/orders\", ...}]}", "there are no objects")
		return nil, &mesh.Error{Op: "controlapi.apply", Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: v}}
	}
	var edits []edit
	var found mesh.Violations
	kind := mesh.Invalid
	for i, object := range objects {
		field := fmt.Sprintf("objects[%d]", i)
		e, err := batchEdit(object)
		if err == nil {
			e.field = field + "."
			edits = append(edits, e)
			continue
		}
		if mesh.KindOf(err) != mesh.Invalid {
			kind = mesh.Malformed // one that has no shape decides for all
		}
		own := violationsOf(err)
		if len(own) == 0 {
			found.Add(field, mesh.HintOf(err), "%s", detailOf(err, classFor(codeMalformed)))
		}
		for _, v := range own {
			v.Field = field + "." + v.Field
			found = append(found, v)
		}
	}
	if len(found) > 0 {
		if kind == mesh.Invalid {
			for _, e := range edits {
				mesh.Normalize(e.object)
				for _, v := range violationsOf(mesh.Validate(e.object)) {
					v.Field = e.field + v.Field
					found = append(found, v)
				}
			}
		}
		return nil, &mesh.Error{Op: "controlapi.apply", Kind: kind, Err: &mesh.ValidationError{Violations: found}}
	}
	return edits, nil
}

// batchEdit decodes one object as its name's kind.
func batchEdit(object *structpb.Struct) (edit, error) {
	name := object.GetFields()["name"].GetStringValue()
	if err := mesh.CheckName(name); err != nil {
		var v mesh.Violations
		v.Add("name", "e.g. \"routes/orders\"", "%s", detailOf(err, classFor(codeMalformed)))
		return edit{}, &mesh.Error{Op: "controlapi.apply", Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: v}}
	}
	raw, err := protojson.Marshal(object)
	if err != nil {
		return edit{}, &mesh.Error{Op: "controlapi.apply", Name: name, Kind: mesh.Malformed, Err: err}
	}
	of, id, _ := strings.Cut(name, "/")
	if !slices.Contains(mesh.Collections(), mesh.Collection(of)) {
		var v mesh.Violations
		v.Add("name", "POST /v1/nodes/"+id+":quarantine and :release change it", "%q is not written as an object", name)
		return edit{}, &mesh.Error{Op: "controlapi.apply", Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: v}}
	}
	m := newMessage(mesh.Collection(of))
	if err := decodeJSON(raw, m); err != nil {
		return edit{}, err
	}
	return editOf(name, m)
}

// describeChange says what became of one object.
func describeChange(c change) (*hedgerowv1.Change, error) {
	out := &hedgerowv1.Change{Name: c.name, Action: hedgerowv1.Change_UNCHANGED.Enum()}
	switch {
	case !c.put:
		return out, nil
	case c.before == nil:
		out.Action = hedgerowv1.Change_CREATED.Enum()
		return out, nil
	}
	out.Action = hedgerowv1.Change_UPDATED.Enum()
	before, err := indent(c.before)
	if err != nil {
		return nil, err
	}
	after, err := indent(c.after)
	if err != nil {
		return nil, err
	}
	d := diff.Diff(c.name, before, c.name, after)
	// Its first line repeats the names.
	_, d, _ = bytes.Cut(d, []byte("\n"))
	if len(d) > maxDiffBytes {
		d = append(bytes.ToValidUTF8(d[:maxDiffBytes], nil), "\n...\n"...)
	}
	out.Diff = string(d)
	return out, nil
}

// indent prints a record for people, without its stamps, which every write
// changes.
func indent(record []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(record, &members); err != nil {
		return nil, &mesh.Error{Op: "controlapi.diff", Kind: mesh.Internal, Err: err}
	}
	for _, stamp := range []string{"etag", "revision", "createTime", "updateTime"} {
		delete(members, stamp)
	}
	raw, err := json.MarshalIndent(members, "", "  ")
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.diff", Kind: mesh.Internal, Err: err}
	}
	return append(raw, '\n'), nil
}

// warnings names what is allowed in o and probably not meant.
func warnings(o mesh.Object) []string {
	route, ok := o.(*mesh.Route)
	if !ok {
		return nil
	}
	var out []string
	seen := map[string]int{}
	for i, rule := range route.Rules {
		key, err := json.Marshal(rule.Matches)
		if err != nil {
			continue
		}
		if first, ok := seen[string(key)]; ok {
			out = append(out, fmt.Sprintf("%s rules[%d] is never used: rules[%d] matches the same requests", route.Name, i, first))
		} else {
			seen[string(key)] = i
		}
		total := uint64(0)
		for _, b := range rule.Backends {
			if b.Weight != nil {
				total += uint64(*b.Weight)
			}
		}
		if total == 0 && len(rule.Backends) > 0 {
			out = append(out, fmt.Sprintf("%s rules[%d] serves nothing: the weights of its backends are all 0", route.Name, i))
		}
	}
	return out
}
