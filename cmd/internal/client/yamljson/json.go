package yamljson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// JSON reads a stream of JSON values, for files that must be JSON. Like ToJSON
// it refuses a key given twice.
func JSON(raw []byte) ([]Document, error) {
	return fromJSONStream(raw)
}

func fromJSONStream(raw []byte) ([]Document, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	var docs []Document
	for {
		var value json.RawMessage
		start := d.InputOffset()
		err := d.Decode(&value)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			offset := d.InputOffset()
			if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
				offset = syntax.Offset
			}
			return nil, fmt.Errorf("line %d: not JSON: %w", lineOf(raw, offset), err)
		}
		if err := checkKeys(value); err != nil {
			return nil, err
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			return nil, err
		}
		// The offset is where the last value ended; skip to where this began.
		start += int64(bytes.Index(raw[start:], value))
		docs = append(docs, Document{Line: lineOf(raw, start), JSON: compact.Bytes()})
	}
}

func lineOf(raw []byte, offset int64) int {
	return 1 + bytes.Count(raw[:min(offset, int64(len(raw)))], []byte("\n"))
}

// checkKeys refuses duplicate keys and nesting beyond maxDepth. encoding/json
// would keep the last of the values in silence.
func checkKeys(value []byte) error {
	_, err := toNode(value)
	return err
}

// FromJSON converts one JSON value to a YAML document that ToJSON reads back
// as the same value, with the keys in their order.
func FromJSON(raw []byte) ([]byte, error) {
	n, err := toNode(raw)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	d, err := yaml.NewDumper(&out, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err := d.Dump(n); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err := d.Close(); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return out.Bytes(), nil
}

// toNode reads one JSON value into a YAML tree.
func toNode(raw []byte) (*yaml.Node, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	n, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: more than one value")
	}
	return n, nil
}

func readValue(d *json.Decoder, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '{' {
			return readObject(d, depth)
		}
		return readArray(d, depth)
	case string:
		return stringNode(v), nil
	case json.Number:
		tag := "!!float"
		if jsonInteger.MatchString(v.String()) {
			tag = "!!int"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}, nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}

func readObject(d *json.Decoder, depth int) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		key, _ := token.(string) // in an object More is followed by a key
		if seen[key] {
			return nil, fmt.Errorf("the key %.60q appears twice", key)
		}
		seen[key] = true
		value, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, stringNode(key), value)
	}
	return n, closing(d, n)
}

func readArray(d *json.Decoder, depth int) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for d.More() {
		item, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, item)
	}
	return n, closing(d, n)
}

// closing reads the bracket that ends n. An empty n is written as {} or [].
func closing(d *json.Decoder, n *yaml.Node) error {
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return nil
}

var (
	jsonInteger = regexp.MustCompile(`^-?[0-9]+$`)
	// plain is text that every version of YAML reads as a string: it begins
	// with a letter or slash and has nothing that begins a value or a comment.
	plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)
	// word is what some versions of YAML read as a boolean or as nothing.
	word = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)
)

// stringNode quotes whatever any version of YAML might read as something else,
// because the reader may be another program with an older library.
func stringNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !plain.MatchString(s) || word.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
