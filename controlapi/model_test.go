package controlapi

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// contractTypes pairs every mesh struct that travels with its message.
func contractTypes() map[proto.Message]any {
	return map[proto.Message]any{
		new(hedgerowv1.Service):       new(mesh.Service),
		new(hedgerowv1.Route):         new(mesh.Route),
		new(hedgerowv1.Policy):        new(mesh.Policy),
		new(hedgerowv1.Authenticator): new(mesh.Authenticator),
		new(hedgerowv1.TopicRule):     new(mesh.TopicRule),
		new(hedgerowv1.Node):          new(mesh.Node),
		new(hedgerowv1.Defaults):      new(mesh.Defaults),
		new(hedgerowv1.Instance):      new(mesh.Instance),
		new(hedgerowv1.Token):         new(mesh.Token),
		new(hedgerowv1.Quarantine):    new(mesh.Quarantine),
	}
}

// One model: every field of a mesh struct is a field of the message, of the
// same name and type, and the other way round.
func TestStructsAndMessagesHaveTheSameFields(t *testing.T) {
	for m, s := range contractTypes() {
		md := m.ProtoReflect().Descriptor()
		t.Run(string(md.Name()), func(t *testing.T) { sameFields(t, string(md.Name()), reflect.TypeOf(s).Elem(), md) })
	}
}

func sameFields(t *testing.T, path string, st reflect.Type, md protoreflect.MessageDescriptor) {
	t.Helper()
	seen := map[string]bool{}
	for _, f := range jsonFields(st) {
		seen[f.name] = true
		fd := md.Fields().ByJSONName(f.name)
		if fd == nil {
			t.Errorf("%s.%s is in mesh and not in the contract", path, f.name)
			continue
		}
		sameType(t, path+"."+f.name, f.typ, fd)
	}
	for i := range md.Fields().Len() {
		if name := md.Fields().Get(i).JSONName(); !seen[name] {
			t.Errorf("%s.%s is in the contract and not in mesh", path, name)
		}
	}
}

func sameType(t *testing.T, path string, typ reflect.Type, fd protoreflect.FieldDescriptor) {
	t.Helper()
	want := wireType(fd)
	got := ""
	switch {
	case typ == reflect.TypeFor[*mesh.Duration]():
		got = "google.protobuf.Duration"
	case typ == reflect.TypeFor[*time.Time]():
		got = "google.protobuf.Timestamp"
	case typ == reflect.TypeFor[*uint32]():
		got = "optional uint32"
	case typ == reflect.TypeFor[uint32]():
		got = "uint32"
	case typ == reflect.TypeFor[bool]():
		got = "bool"
	case typ == reflect.TypeFor[string]():
		got = "string"
	case typ == reflect.TypeFor[[]string]():
		got = "repeated string"
	case typ == reflect.TypeFor[map[string]string]():
		got = "map"
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct:
		got = "repeated message"
		sameFields(t, path, typ.Elem(), fd.Message())
	case typ.Kind() == reflect.Pointer && typ.Elem().Kind() == reflect.Struct:
		got = "message"
		sameFields(t, path, typ.Elem(), fd.Message())
	}
	if got != want {
		t.Errorf("%s is %q (%v) in mesh and %q in the contract", path, got, typ, want)
	}
}

// wireType names the type of fd as its JSON has it: enums are strings, and
// have presence, so that 0 is told from absent.
func wireType(fd protoreflect.FieldDescriptor) string {
	name := fd.Kind().String()
	switch {
	case fd.IsMap():
		return "map"
	case fd.Kind() == protoreflect.EnumKind && !fd.IsList() && !fd.HasOptionalKeyword():
		return "enum without presence"
	case fd.Kind() == protoreflect.EnumKind:
		name = "string"
	case fd.Message() != nil && strings.HasPrefix(string(fd.Message().FullName()), "google.protobuf."):
		name = string(fd.Message().FullName())
	case fd.HasOptionalKeyword():
		name = "optional " + name
	}
	if fd.IsList() {
		return "repeated " + name
	}
	return name
}

type jsonField struct {
	name string
	typ  reflect.Type
}

func jsonFields(st reflect.Type) []jsonField {
	var out []jsonField
	for i := range st.NumField() {
		f := st.Field(i)
		if f.Anonymous {
			out = append(out, jsonFields(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out = append(out, jsonField{name, f.Type})
	}
	return out
}

// Everything that a struct can say survives the way to a message and back, and
// the JSON is the same on both sides.
func TestEveryFieldSurvivesTheRoundTrip(t *testing.T) {
	for m, s := range contractTypes() {
		md := m.ProtoReflect().Descriptor()
		for _, round := range []int{1, 2} { // two fills, so that no value is the same by chance
			fill(reflect.ValueOf(s).Elem(), md, round)
			raw, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			proto.Reset(m)
			if err := protojson.Unmarshal(raw, m); err != nil {
				t.Fatalf("%s: %v\n%s", md.Name(), err, raw)
			}
			back, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := parse(t, raw), parse(t, back); !reflect.DeepEqual(a, b) {
				t.Errorf("%s: mesh writes %s\nprotojson writes %s", md.Name(), raw, back)
			}
			again := reflect.New(reflect.TypeOf(s).Elem()).Interface()
			if err := json.Unmarshal(back, again); err != nil {
				t.Fatalf("%s: %v", md.Name(), err)
			}
			if !reflect.DeepEqual(s, again) {
				t.Errorf("%s: %+v became %+v", md.Name(), s, again)
			}
		}
	}
}

// fill sets every field below v to something that is not zero, but for
// optional numbers in the second round: absent and zero must differ.
func fill(v reflect.Value, md protoreflect.MessageDescriptor, round int) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			fill(v.Field(i), md, round)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fillField(v.Field(i), md.Fields().ByJSONName(name), round)
	}
}

func fillField(v reflect.Value, fd protoreflect.FieldDescriptor, round int) {
	text := string(fd.Name()) + strings.Repeat("'<&>\"", round)
	if fd.Enum() != nil {
		values := fd.Enum().Values()
		text = string(values.Get((round - 1) % values.Len()).Name()) // the first is 0
	}
	switch p := v.Addr().Interface().(type) {
	case **mesh.Duration:
		*p = mesh.Seconds(float64(round) * 1.25)
	case **time.Time:
		at := time.Date(2026, 1, 2, 3, 4, 5, round*int(time.Millisecond), time.UTC)
		*p = &at
	case **uint32:
		n := uint32(2 - round) // 1, then 0
		*p = &n
	case *uint32:
		*p = 4294967295 - uint32(round)
	case *bool:
		*p = true
	case *string:
		*p = text
	case *[]string:
		*p = []string{text, text}
	case *map[string]string:
		*p = map[string]string{"a": text, "b.c": ""}
	default:
		if v.Kind() == reflect.Slice {
			v.Set(reflect.MakeSlice(v.Type(), round, round))
			for i := range round {
				fill(v.Index(i), fd.Message(), round)
			}
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), fd.Message(), round)
	}
}

func parse(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	// Go prints 1.5 s of a time as ".5" and protojson as ".500": one instant.
	return normalTimes(v)
}

func normalTimes(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = normalTimes(x)
		}
	case []any:
		for i, x := range v {
			v[i] = normalTimes(x)
		}
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return at.UTC().Format(time.RFC3339Nano)
		}
	}
	return v
}

// Absent stays absent: an empty struct is {} on both sides.
func TestNothingIsMadeUpForAbsentFields(t *testing.T) {
	for m, s := range contractTypes() {
		a, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != "{}" || string(b) != "{}" {
			t.Errorf("%T: %s and %s", m, a, b)
		}
	}
}

func TestEveryCollectionHasItsMessage(t *testing.T) {
	for _, c := range mesh.Collections() {
		m := newMessage(c)
		if m == nil {
			t.Fatalf("%s has no message", c)
		}
		if got := collectionOf(m.ProtoReflect().Descriptor()); got != c {
			t.Errorf("the message of %s belongs to %q", c, got)
		}
	}
}
