package controlapi

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// The JSON of a message, of a stored record and of a mesh struct is the same,
// so everything here converts by marshalling and unmarshalling. There is no
// list of fields anywhere; the model contract test holds the types to it.

// newMessage returns an empty message of the collection's kind, or nil.
func newMessage(of mesh.Collection) proto.Message {
	switch of {
	case mesh.Services:
		return new(hedgerowv1.Service)
	case mesh.Routes:
		return new(hedgerowv1.Route)
	case mesh.Policies:
		return new(hedgerowv1.Policy)
	case mesh.Authenticators:
		return new(hedgerowv1.Authenticator)
	case mesh.TopicRules:
		return new(hedgerowv1.TopicRule)
	case mesh.Nodes:
		return new(hedgerowv1.Node)
	case mesh.AllDefault:
		return new(hedgerowv1.Defaults)
	case mesh.Tokens:
		return new(hedgerowv1.Token)
	}
	return nil
}

// collectionOf returns the collection whose kind md describes, or "".
func collectionOf(md protoreflect.MessageDescriptor) mesh.Collection {
	for _, c := range mesh.Collections() {
		if newMessage(c).ProtoReflect().Descriptor().FullName() == md.FullName() {
			return c
		}
	}
	return ""
}

// decodeJSON reads raw into m and reports everything that is wrong with its
// shape, as a *mesh.ValidationError of kind Malformed. If only values are
// wrong it is of kind Invalid, and then names also what the mesh would refuse:
// one answer for all.
func decodeJSON(raw []byte, m proto.Message) error {
	const op = "controlapi.decode"
	md := m.ProtoReflect().Descriptor()
	malformed, invalid, err := walk(raw, md)
	switch {
	case err != nil:
		return &mesh.Error{Op: op, Kind: mesh.Malformed, Err: err}
	case len(malformed) > 0:
		return &mesh.Error{Op: op, Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: append(malformed, invalid...)}}
	case len(invalid) > 0:
		return &mesh.Error{Op: op, Kind: mesh.Invalid, Err: &mesh.ValidationError{Violations: merge(invalid, alsoInvalid(raw, md))}}
	}
	if err := checkObjectSize(raw, md); err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{}).Unmarshal(raw, m); err != nil {
		return &mesh.Error{Op: op, Kind: mesh.Malformed, Err: err}
	}
	return nil
}

// checkObjectSize refuses an object that could not be stored before it is
// turned into structures of many times its size.
func checkObjectSize(raw []byte, md protoreflect.MessageDescriptor) error {
	if len(raw) <= mesh.MaxObjectBytes || collectionOf(md) == "" {
		return nil
	}
	var b bytes.Buffer // white space is not stored
	if json.Compact(&b, raw) == nil && b.Len() <= mesh.MaxObjectBytes {
		return nil
	}
	return tooLarge(string(collectionOf(md)), b.Len())
}

// alsoInvalid returns what mesh.Validate finds in an object that no message
// can hold, because an enum has a name that is none. The name is left out: the
// caller may have it in the URL.
func alsoInvalid(raw []byte, md protoreflect.MessageDescriptor) mesh.Violations {
	c := collectionOf(md)
	o := mesh.NewObject(c)
	if o == nil || json.Unmarshal(raw, o) != nil {
		return nil
	}
	o.Header().Name = string(c) + "/" + mesh.DefaultsID
	mesh.Normalize(o)
	return violationsOf(mesh.Validate(o))
}

// merge returns first, and of second what is about other fields.
func merge(first, second mesh.Violations) mesh.Violations {
	seen := map[string]bool{}
	for _, v := range first {
		seen[v.Field] = true
	}
	for _, v := range second {
		if !seen[v.Field] {
			first = append(first, v)
		}
	}
	return first
}

// toObject returns m as an object called name.
func toObject(name string, m proto.Message) (mesh.Object, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.toObject", Name: name, Kind: mesh.Malformed, Err: err}
	}
	if len(raw) > mesh.MaxObjectBytes {
		return nil, tooLarge(name, len(raw))
	}
	return mesh.DecodeObject(name, raw)
}

func tooLarge(name string, size int) error {
	return &refusal{codeTooLarge, fmt.Sprintf("%s: the object has %d bytes of JSON, at most %d are stored", name, size, mesh.MaxObjectBytes)}
}

// fromJSON reads a stored record, or a mesh struct's JSON, into m. Fields that
// a newer version stored are left out of the answer, not of the record.
func fromJSON[M proto.Message](raw []byte, m M) (M, error) {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
		return m, &mesh.Error{Op: "controlapi.fromJSON", Kind: mesh.Internal, Err: err}
	}
	return m, nil
}

// compact removes the spaces that protojson puts in at random.
func compact(raw []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// encodeJSON returns m as REST answers it: fields that are not set are left
// out of objects and there in the answers that carry them, so that a client
// may range over routes and read nextPageToken without asking first.
func encodeJSON(m proto.Message) ([]byte, error) {
	md := m.ProtoReflect().Descriptor()
	raw, err := protojson.Marshal(m)
	if err != nil || !isResponse(md) {
		return compact(raw, err)
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, err
	}
	b := []byte("{")
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		value, ok := set[fd.JSONName()]
		if !ok {
			value = zeroJSON(fd)
		}
		b = fmt.Appendf(b, "%q:%s,", fd.JSONName(), value)
	}
	b[len(b)-1] = '}'
	return compact(b, nil)
}

// isResponse reports whether md carries objects and is none: ListRoutesResponse.
func isResponse(md protoreflect.MessageDescriptor) bool {
	return bytes.HasSuffix([]byte(md.Name()), []byte("Response")) && md.Fields().Len() > 0
}

func zeroJSON(fd protoreflect.FieldDescriptor) json.RawMessage {
	switch {
	case fd.IsList():
		return json.RawMessage("[]")
	case fd.Kind() == protoreflect.StringKind:
		return json.RawMessage(`""`)
	case fd.Kind() == protoreflect.BoolKind:
		return json.RawMessage("false")
	case fd.Kind() == protoreflect.Uint32Kind:
		return json.RawMessage("0")
	}
	return json.RawMessage("null")
}
