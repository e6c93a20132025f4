package controlapi

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	// maxDepth bounds the nesting of arrays and objects.
	maxDepth = 32
	// maxFound bounds what one answer lists.
	maxFound = 100
	// maxKeyBytes is as much of a caller's key as an answer repeats.
	maxKeyBytes = 80
)

// errEnough ends a walk that has found as much as an answer lists.
var errEnough = errors.New("enough")

// walk reports everything in raw that is not as the message md describes, at
// once, where protojson would name the first, up to the number that an answer
// lists. malformed is about the shape:
// unknown and duplicate fields, wrong types. invalid is about values of the
// right type: an enum's name, a duration. err is set when raw is no JSON at
// all or too deep, and nothing else is known then.
//
// It is stricter than protojson: fields have one spelling and numbers are
// numbers, as in the records that data planes read.
func walk(raw []byte, md protoreflect.MessageDescriptor) (malformed, invalid mesh.Violations, err error) {
	if err := checkSyntax(raw); err != nil {
		return nil, nil, err
	}
	w := &walker{scanner: scanner{raw: raw}}
	t := w.next()
	if t.kind != '{' {
		return nil, nil, fmt.Errorf("the body is %s, an object is needed", t.describe())
	}
	err = w.message(md)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return w.malformed, w.invalid, err
}

// walker reads one JSON text whose syntax was checked.
type walker struct {
	scanner
	path               []step
	malformed, invalid mesh.Violations
}

// step is one level of where the walker is: a member, or an element if key is
// nil. The path is printed only when there is something to report.
type step struct {
	key   *string
	index int
}

func (w *walker) at() string {
	path := ""
	for _, s := range w.path {
		if s.key == nil {
			path += fmt.Sprintf("[%d]", s.index)
		} else {
			path = join(path, *s.key)
		}
	}
	return path
}

// report adds a violation of what the walker looks at.
func (w *walker) report(to *mesh.Violations, hint, format string, args ...any) error {
	to.Add(w.at(), hint, format, args...)
	if len(w.malformed)+len(w.invalid) >= maxFound {
		return errEnough
	}
	return nil
}

// members calls each for every member of the object that was opened, with the
// first token of its value, and reports keys that are there twice.
func (w *walker) members(each func(key string, t token) error) error {
	seen := map[string]bool{}
	return w.nested(func(_ int, t token) error {
		key := t.string()
		w.path[len(w.path)-1].key = &key
		if seen[key] {
			if err := w.report(&w.malformed, "keep one of them", "the field is there twice"); err != nil {
				return err
			}
		}
		seen[key] = true
		return each(key, w.next())
	})
}

// elements calls each for every element of the array that was opened.
func (w *walker) elements(each func(t token) error) error {
	return w.nested(func(i int, t token) error {
		w.path[len(w.path)-1].index = i
		return each(t)
	})
}

// nested calls each for what begins with t, up to the closing bracket of what
// was opened.
func (w *walker) nested(each func(i int, t token) error) error {
	if len(w.path) >= maxDepth {
		return fmt.Errorf("the body is nested deeper than %d", maxDepth)
	}
	w.path = append(w.path, step{})
	t := w.next()
	for i := 0; t.kind != '}' && t.kind != ']'; i++ {
		if err := each(i, t); err != nil {
			return err
		}
		t = w.next()
	}
	w.path = w.path[:len(w.path)-1]
	return nil
}

// message walks the object that was opened.
func (w *walker) message(md protoreflect.MessageDescriptor) error {
	return w.members(func(key string, t token) error {
		if fd := md.Fields().ByJSONName(key); fd != nil {
			return w.field(t, fd)
		}
		if err := w.report(&w.malformed, "the fields here are "+fieldNames(md), "unknown field"); err != nil {
			return err
		}
		return w.anything(t)
	})
}

// field walks the value of fd that begins with t.
func (w *walker) field(t token, fd protoreflect.FieldDescriptor) error {
	switch {
	case t.kind == 'n':
		return nil // null is absent
	case fd.IsMap():
		if t.kind != '{' {
			return w.mismatch(t, "an object")
		}
		return w.members(func(_ string, t token) error { return w.value(t, fd.MapValue()) })
	case fd.IsList():
		if t.kind != '[' {
			return w.mismatch(t, "an array")
		}
		return w.elements(func(t token) error { return w.value(t, fd) })
	}
	return w.value(t, fd)
}

// value walks one value of fd's type.
func (w *walker) value(t token, fd protoreflect.FieldDescriptor) error {
	if md := fd.Message(); md != nil {
		return w.messageValue(t, md)
	}
	switch {
	case t.kind == '"' && fd.Kind() == protoreflect.StringKind:
		return nil
	case t.kind == '"' && fd.Kind() == protoreflect.EnumKind:
		if name := t.string(); fd.Enum().Values().ByName(protoreflect.Name(name)) == nil {
			return w.report(&w.invalid, "use one of "+valueNames(fd.Enum()), "%.80q is no value of this field", name)
		}
		return nil
	case (t.kind == 't' || t.kind == 'f') && fd.Kind() == protoreflect.BoolKind:
		return nil
	case t.kind == '0' && fd.Kind() == protoreflect.Uint32Kind:
		return w.number(t)
	}
	return w.mismatch(t, typeName(fd))
}

// messageValue walks a value that is a message, or one of those messages that
// JSON has another form for.
func (w *walker) messageValue(t token, md protoreflect.MessageDescriptor) error {
	switch md.FullName() {
	case "google.protobuf.Struct":
		if t.kind != '{' {
			return w.mismatch(t, "an object")
		}
		return w.anything(t)
	case "google.protobuf.Duration":
		if t.kind != '"' {
			return w.mismatch(t, "a string like \"1.5s\"")
		}
		if _, err := mesh.ParseDuration(t.string()); err != nil {
			return w.report(&w.invalid, "seconds, e.g. \"1.5s\"", "%v", err)
		}
		if protojson.Unmarshal(t.text, new(durationpb.Duration)) != nil {
			return w.report(&w.invalid, "seconds, e.g. \"1.5s\"", "%.40s is not a duration", t.text)
		}
		return nil
	case "google.protobuf.Timestamp":
		if t.kind != '"' {
			return w.mismatch(t, "a string like \"2026-01-02T03:04:05Z\"")
		}
		if protojson.Unmarshal(t.text, new(timestamppb.Timestamp)) != nil {
			return w.report(&w.invalid, "RFC 3339, e.g. \"2026-01-02T03:04:05Z\"", "%.40s is not a time", t.text)
		}
		return nil
	}
	if t.kind != '{' {
		return w.mismatch(t, "an object")
	}
	return w.message(md)
}

// number checks that t is a uint32. JSON has one type of number, so 1.0 and
// 1e3 are whole.
func (w *walker) number(t token) error {
	f, err := strconv.ParseFloat(string(t.text), 64)
	switch {
	case err != nil: // 1e999
		return w.report(&w.malformed, "", "%.40s is beyond any number", t.text)
	case f < 0 || f > math.MaxUint32 || f != math.Trunc(f):
		return w.report(&w.invalid, "", "%.40s is not a whole number from 0 to %d", t.text, uint32(math.MaxUint32))
	}
	return nil
}

// mismatch reports that t is of the wrong type, and reads past it.
func (w *walker) mismatch(t token, need string) error {
	if err := w.report(&w.malformed, "", "%s is needed, not %s", need, t.describe()); err != nil {
		return err
	}
	return w.anything(t)
}

// anything walks a value of no known shape that begins with t.
func (w *walker) anything(t token) error {
	switch t.kind {
	case '{':
		return w.members(func(_ string, t token) error { return w.anything(t) })
	case '[':
		return w.elements(w.anything)
	case '0':
		if _, err := strconv.ParseFloat(string(t.text), 64); err != nil {
			return w.report(&w.malformed, "", "%.40s is beyond any number", t.text)
		}
	}
	return nil
}

// join returns path.key. Keys are the caller's and shown shortened; one that
// does not read as a name is quoted.
func join(path, key string) string {
	if len(key) > maxKeyBytes {
		key = strings.ToValidUTF8(key[:maxKeyBytes], "") + "..."
	}
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == '.' || r == '[' || r == '"' || r == 0x7f }) {
		return fmt.Sprintf("%s[%q]", path, key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func typeName(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.Uint32Kind:
		return "a number"
	case protoreflect.EnumKind:
		return "a string, one of " + valueNames(fd.Enum()) + ","
	}
	return "a string"
}

func fieldNames(md protoreflect.MessageDescriptor) string {
	var names []string
	for i := range md.Fields().Len() {
		names = append(names, md.Fields().Get(i).JSONName())
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func valueNames(ed protoreflect.EnumDescriptor) string {
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}
