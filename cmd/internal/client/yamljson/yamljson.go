// Package yamljson converts the files of an operator between YAML and JSON
// without changing what they say: numbers keep their digits, yes and no stay
// words, a key given twice is an error. It knows nothing of the kinds of the
// mesh, which are validated by the control plane, and it decodes into no Go
// type.
//
// Invariant: what ToJSON returns is valid JSON whose size is bounded by the
// limits below, whatever the input; and ToJSON(FromJSON(x)) means x.
package yamljson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Limits on one input. Aliases count each time they are used, so that a few
// hundred bytes cannot become gigabytes.
const (
	maxDepth = 64
	maxNodes = 1 << 20
	maxBytes = 64 << 20 // of JSON written
)

// Document is one document of a YAML stream or one value of a JSON stream.
type Document struct {
	Line int    // where it begins, from 1
	JSON []byte // compact
}

// ToJSON converts a stream of YAML documents, separated by "---", to JSON.
// Empty documents are left out. YAML is read as version 1.2's core schema, and
// what versions 1.1 and 1.2 read differently is refused: numbers with a leading
// zero or an underscore. So are merge keys, tags other than the core ones,
// infinity and NaN, which JSON has not.
func ToJSON(raw []byte) ([]Document, error) {
	if s := bytes.TrimSpace(raw); len(s) > 0 && s[0] == '{' && json.Valid(s) {
		// JSON is YAML, except that YAML reads surrogate pairs otherwise.
		return fromJSONStream(raw)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	w := &writer{}
	var docs []Document
	for {
		var n yaml.Node
		err := decoder.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not YAML: %w", oneLine(err))
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) != 1 || isNull(n.Content[0]) {
			continue
		}
		w.buf.Reset()
		if err := w.node(n.Content[0], 0); err != nil {
			return nil, err
		}
		docs = append(docs, Document{Line: n.Content[0].Line, JSON: bytes.Clone(w.buf.Bytes())})
	}
}

// oneLine flattens the multi-line errors of the YAML library.
func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "))
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// writer writes nodes as JSON and counts them.
type writer struct {
	buf   bytes.Buffer
	nodes int
	bytes int // of earlier documents and this one
}

func (w *writer) node(n *yaml.Node, depth int) error {
	w.nodes++
	w.bytes += len(n.Value)
	switch {
	case depth > maxDepth:
		return at(n, "nested deeper than %d levels", maxDepth)
	case w.nodes > maxNodes, w.bytes > maxBytes:
		return at(n, "too large once its aliases are written out")
	}
	switch n.Kind {
	case yaml.MappingNode:
		return w.mapping(n, depth)
	case yaml.SequenceNode:
		return w.sequence(n, depth)
	case yaml.AliasNode:
		return w.node(n.Alias, depth+1)
	case yaml.ScalarNode:
		return w.scalar(n)
	default:
		return at(n, "has no meaning in JSON")
	}
}

func (w *writer) mapping(n *yaml.Node, depth int) error {
	if tag := n.ShortTag(); tag != "!!map" {
		return at(n, "the tag %.40q is not supported", tag)
	}
	seen := make(map[string]bool, len(n.Content)/2)
	w.buf.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := keyOf(n.Content[i])
		if err != nil {
			return err
		}
		if seen[key] {
			return at(n.Content[i], "the key %.60q appears twice", key)
		}
		seen[key] = true
		if i > 0 {
			w.buf.WriteByte(',')
		}
		w.string(key)
		w.buf.WriteByte(':')
		if err := w.node(n.Content[i+1], depth+1); err != nil {
			return err
		}
	}
	w.buf.WriteByte('}')
	return nil
}

// keyOf returns a key as text: JSON has no other keys.
func keyOf(n *yaml.Node) (string, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return "", at(n, "a key must be a word")
	}
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return n.Value, nil
	case "!!merge":
		return "", at(n, "merge keys (<<) are not supported; write the fields out")
	default:
		return "", at(n, "a key must be a word")
	}
}

func (w *writer) sequence(n *yaml.Node, depth int) error {
	if tag := n.ShortTag(); tag != "!!seq" {
		return at(n, "the tag %.40q is not supported", tag)
	}
	w.buf.WriteByte('[')
	for i, item := range n.Content {
		if i > 0 {
			w.buf.WriteByte(',')
		}
		if err := w.node(item, depth+1); err != nil {
			return err
		}
	}
	w.buf.WriteByte(']')
	return nil
}

func (w *writer) scalar(n *yaml.Node) error {
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp": // JSON has no times; they stay as written
		w.string(n.Value)
	case "!!null":
		w.buf.WriteString("null")
	case "!!bool":
		switch word := strings.ToLower(n.Value); word {
		case "true", "false":
			w.buf.WriteString(word)
		default:
			return at(n, "%.40q is not true or false", n.Value)
		}
	case "!!int", "!!float":
		number, err := numberOf(n)
		if err != nil {
			return err
		}
		w.buf.WriteString(number)
	default:
		return at(n, "the tag %.40q is not supported", tag)
	}
	return nil
}

var (
	jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
	otherBase  = regexp.MustCompile(`^[-+]?0(x[0-9a-fA-F]+|o[0-7]+)$`)
)

// numberOf returns the JSON literal of a number, digit by digit where JSON can
// write it as YAML does.
func numberOf(n *yaml.Node) (string, error) {
	v := strings.TrimPrefix(n.Value, "+")
	if strings.HasPrefix(v, ".") {
		v = "0" + v
	}
	if jsonNumber.MatchString(v) {
		return v, nil
	}
	if len(v) <= 64 && otherBase.MatchString(v) {
		if i, ok := new(big.Int).SetString(v, 0); ok {
			return i.String(), nil
		}
	}
	return "", at(n, "%.40q is read as a number by some and not by others; quote it, or write it in decimal", n.Value)
}

func (w *writer) string(s string) { w.buf.Write(jsonString(s)) }

// jsonString quotes s as JSON, leaving <, > and & as they are.
func jsonString(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil { // a string always encodes
		return []byte(`""`)
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
}
