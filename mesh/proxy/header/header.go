// Package header has the one representation of HTTP header and trailer fields
// that the engine's codecs share: a list in the order of the message, with names
// as they were written. It parses and validates nothing, and knows no field's
// meaning.
//
// Strings of a list that a codec filled may be views of its buffer. The codec
// says how long they are valid; strings.Clone keeps one longer.
package header

import (
	"strings"
	"unsafe"
)

// Field is one field line (RFC 9110 section 5.2). Value has no white space
// around it.
type Field struct {
	Name, Value string
}

// List is the fields of a header or trailer section, in order.
type List []Field

// Get returns the value of the first field called name, in any case.
func (l List) Get(name string) (value string, ok bool) {
	for i := range l {
		if Equal(l[i].Name, name) {
			return l[i].Value, true
		}
	}
	return "", false
}

// Count returns the number of fields called name.
func (l List) Count(name string) int {
	n := 0
	for i := range l {
		if Equal(l[i].Name, name) {
			n++
		}
	}
	return n
}

// Add appends a field.
func (l List) Add(name, value string) List {
	return append(l, Field{name, value})
}

// Set leaves exactly one field called name: the first one, where it stood, or a
// new one at the end.
func (l List) Set(name, value string) List {
	for i := range l {
		if Equal(l[i].Name, name) {
			l[i].Value = value
			tail := l[i+1:].Del(name)
			return l[:i+1+len(tail)]
		}
	}
	return append(l, Field{name, value})
}

// Del removes every field called name, in place.
func (l List) Del(name string) List {
	out := l[:0]
	for i := range l {
		if !Equal(l[i].Name, name) {
			out = append(out, l[i])
		}
	}
	clear(l[len(out):])
	return out
}

// Clone returns a copy that depends on no codec's buffer.
func (l List) Clone() List {
	if l == nil {
		return nil
	}
	out := make(List, len(l))
	for i, f := range l {
		out[i] = Field{strings.Clone(f.Name), strings.Clone(f.Value)}
	}
	return out
}

// Equal compares two field names or tokens without regard to the case of ASCII
// letters. Unlike strings.EqualFold it knows no other letters: U+212A is not K.
func Equal(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if lower(x) != lower(y) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// HasToken reports whether the comma-separated value contains token (RFC 9110
// section 5.6.1), in any case.
func HasToken(value, token string) bool {
	for value != "" {
		var t string
		t, value, _ = strings.Cut(value, ",")
		if Equal(Trim(t), token) {
			return true
		}
	}
	return false
}

// Trim removes optional white space (RFC 9110 section 5.6.3) from both ends.
func Trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// View returns the bytes of b as a string without copying them. Whoever keeps it
// longer than b's next use must clone it.
func View(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
