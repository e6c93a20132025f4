package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// checkSyntax reports the first byte that makes raw no JSON text (RFC 8259).
func checkSyntax(raw []byte) error {
	switch {
	case len(bytes.TrimSpace(raw)) == 0:
		return errors.New("the body is empty, an object is needed")
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		return errors.New("the body begins with a byte order mark")
	case !utf8.Valid(raw):
		return errors.New("the body is not UTF-8")
	case json.Valid(raw):
		return nil
	}
	var text json.RawMessage
	err := json.Unmarshal(raw, &text)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(raw[:min(int(syntax.Offset), len(raw))], []byte("\n"))
		return fmt.Errorf("the body is not JSON: line %d, byte %d: %w", line, syntax.Offset, err)
	}
	return fmt.Errorf("the body is not JSON: %w", err)
}

// token is one token of a JSON text: a bracket, or a whole value. Its kind is
// the byte that it begins with; numbers are '0'.
type token struct {
	kind byte
	text []byte
}

// string returns the value of a string.
func (t token) string() string {
	inside := t.text[1 : len(t.text)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return string(inside)
	}
	var s string
	if json.Unmarshal(t.text, &s) != nil {
		return string(inside) // not reached: the text was checked
	}
	return s
}

func (t token) describe() string {
	switch t.kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 't', 'f':
		return "true or false"
	}
	return "null"
}

// scanner reads the tokens of a text that checkSyntax has nothing against, so
// it has no errors. json.Decoder.Token does the same at ten times the cost,
// which a megabyte of "1,1,1," turns into a fifth of a second.
type scanner struct {
	raw []byte
	pos int
}

// next returns the next token. Commas and colons are skipped: in a checked text
// they say nothing that the order of the tokens does not.
func (s *scanner) next() token {
	for s.pos < len(s.raw) && bytes.IndexByte([]byte(" \t\r\n,:"), s.raw[s.pos]) >= 0 {
		s.pos++
	}
	start := s.pos
	if start == len(s.raw) {
		return token{}
	}
	kind := s.raw[start]
	s.pos++
	switch kind {
	case '{', '}', '[', ']':
	case '"':
		for s.raw[s.pos] != '"' {
			if s.raw[s.pos] == '\\' {
				s.pos++
			}
			s.pos++
		}
		s.pos++
	default:
		if kind == '-' || kind >= '0' && kind <= '9' {
			kind = '0'
		}
		for s.pos < len(s.raw) && bytes.IndexByte([]byte(" \t\r\n,:]}"), s.raw[s.pos]) < 0 {
			s.pos++
		}
	}
	return token{kind, s.raw[start:s.pos]}
}
