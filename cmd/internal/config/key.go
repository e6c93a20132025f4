package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// key is one leaf of the configuration struct.
type key struct {
	name   string // "redis.addresses"
	help   string
	scalar bool // can be set by a flag: anything but lists of structs and maps
	field  reflect.Value
}

// collect appends the leaves of the struct v. A struct field is a section, a
// pointer to one is allocated when a key of it is set.
func collect(v reflect.Value, prefix string, out *[]key) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		if opts == "inline" {
			collect(v.Field(i), prefix, out)
			continue
		}
		if f.Type.Kind() == reflect.Struct {
			collect(v.Field(i), prefix+name+".", out)
			continue
		}
		*out = append(*out, key{
			name:   prefix + name,
			help:   f.Tag.Get("help"),
			scalar: isScalar(f.Type),
			field:  v.Field(i),
		})
	}
}

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice:
		return t.Elem().Kind() == reflect.String
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return false
	default:
		return true
	}
}

// setNode sets the field from a YAML value.
func (k *key) setNode(n *yaml.Node) error {
	v := reflect.New(k.field.Type())
	if err := n.Load(v.Interface(), yaml.WithKnownFields()); err != nil {
		return fmt.Errorf("%s%s", shape(k.field.Type()), strings.TrimPrefix(oneLine(err), "yaml: "))
	}
	k.field.Set(v.Elem())
	return nil
}

// setText sets the field from a flag or variable: lists of strings are
// separated by commas, other lists are YAML.
func (k *key) setText(s string) error {
	switch {
	case k.field.Kind() == reflect.String:
		k.field.SetString(s)
		return nil
	case k.field.Kind() == reflect.Slice && k.scalar:
		var list []string
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		k.field.Set(reflect.ValueOf(list).Convert(k.field.Type()))
		return nil
	}
	var doc yaml.Node
	if err := yaml.Load([]byte(s), &doc); err != nil || len(doc.Content) != 1 {
		return fmt.Errorf("%s%.60q does not parse", shape(k.field.Type()), s)
	}
	return k.setNode(doc.Content[0])
}

// text returns the field's value as setText reads it, "" for a zero one. It is
// what --help calls the default.
func (k *key) text() string {
	switch {
	case k.field.IsZero():
		return ""
	case k.field.Kind() == reflect.Slice:
		return strings.Join(k.field.Convert(reflect.TypeFor[[]string]()).Interface().([]string), ",")
	default:
		return fmt.Sprint(k.field.Interface())
	}
}

// shape says what a value of type t looks like, as the beginning of an error.
func shape(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "want a duration like \"30s\": "
	}
	switch t.Kind() {
	case reflect.Bool:
		return "want true or false: "
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Float64:
		return "want a number: "
	case reflect.Slice:
		return "want a list: "
	default:
		return ""
	}
}

// masked returns v as maps for printing, with secrets replaced.
func masked(v reflect.Value) any {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		return v.Interface().(time.Duration).String()
	}
	switch v.Kind() {
	case reflect.Struct:
		out := yaml.Node{Kind: yaml.MappingNode}
		appendFields(&out, v)
		return &out
	case reflect.Slice:
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			list = append(list, masked(v.Index(i)))
		}
		return list
	default:
		return v.Interface()
	}
}

func appendFields(out *yaml.Node, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		if opts == "inline" {
			appendFields(out, v.Field(i))
			continue
		}
		value := masked(v.Field(i))
		if f.Tag.Get("secret") == "true" && !v.Field(i).IsZero() {
			value = "********"
		}
		var k, n yaml.Node
		k.SetString(name)
		if node, ok := value.(*yaml.Node); ok {
			n = *node
		} else if err := n.Encode(value); err != nil {
			n.SetString(fmt.Sprint(value))
		}
		out.Content = append(out.Content, &k, &n)
	}
}

// flagValue keeps what was given on the command line until the file and the
// environment, which it overrides, have been read.
type flagValue struct {
	kind string
	text string
	set  bool
}

func (f *flagValue) String() string     { return f.text }
func (f *flagValue) Set(s string) error { f.text, f.set = s, true; return nil }

// Type names the value in --help.
func (f *flagValue) Type() string {
	switch f.kind {
	case "time.Duration":
		return "duration"
	case "[]string":
		return "list"
	default:
		return f.kind
	}
}

// suggest returns `; did you mean "x"?` for the closest candidate, or "".
func suggest(s string, candidates []string) string {
	if best := mesh.Nearest(s, candidates); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}
