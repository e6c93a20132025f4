package mesh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// MaxObjectBytes bounds the stored JSON of one object.
const MaxObjectBytes = 256 << 10

// Violation is one thing that is wrong with an object. Field is a path such as
// "rules[0].backends[0].service".
type Violation struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Unsupported marks a field that is part of the contract and has no
	// behaviour in this version. It is refused rather than stored and ignored.
	Unsupported bool `json:"-"`
}

// Violations collects everything that is wrong, so that one answer names all.
type Violations []Violation

// Add reports field as wrong. hint may be empty.
func (v *Violations) Add(field, hint, format string, args ...any) {
	*v = append(*v, Violation{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// unsupported refuses field if it is set.
func (v *Violations) unsupported(set bool, field string) {
	if set {
		*v = append(*v, Violation{
			Field:       field,
			Message:     "not supported by this version of hedgerow",
			Hint:        "leave it out",
			Unsupported: true,
		})
	}
}

// ValidationError carries every violation of one object.
type ValidationError struct {
	Name       string
	Violations Violations
}

// Error prints the first violation and the number of others on one line.
func (e *ValidationError) Error() string {
	if len(e.Violations) == 0 {
		return e.Name + ": invalid"
	}
	first := e.Violations[0]
	s := fmt.Sprintf("%s: %s: %s", e.Name, first.Field, first.Message)
	if n := len(e.Violations) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// NewObject returns an empty object of the collection, or nil if the
// collection has none that can be written.
func NewObject(of Collection) Object {
	switch of {
	case Services:
		return &Service{}
	case Routes:
		return &Route{}
	case Policies:
		return &Policy{}
	case Authenticators:
		return &Authenticator{}
	case TopicRules:
		return &TopicRule{}
	case Nodes:
		return &Node{}
	case Quarantines:
		return &Quarantine{}
	case AllDefault:
		return &Defaults{}
	case Tokens:
		return &Token{}
	}
	return nil
}

// Collections lists the collections that can be written, in the order in which
// an apply of everything reads best.
func Collections() []Collection {
	return []Collection{AllDefault, Nodes, Services, Routes, Policies, Authenticators, TopicRules, Tokens}
}

// CheckName reports whether name is "<collection>/<id>" of a collection that
// can be written and a well-formed id.
func CheckName(name string) error {
	c, id, ok := cutName(name)
	switch {
	case !ok || NewObject(c) == nil:
		return Errorf("mesh.CheckName", name, Malformed, "a name is \"<collection>/<id>\" with one of the collections %s", joinCollections())
	case !ValidID(id):
		return Errorf("mesh.CheckName", name, Malformed, "an id is 1 to 63 characters a-z, 0-9 and '-', beginning and ending with a letter or digit")
	case c == AllDefault && id != DefaultsID:
		return Errorf("mesh.CheckName", name, NotFound, "the only defaults object is defaults/mesh")
	}
	return nil
}

func joinCollections() string {
	var s []string
	for _, c := range Collections() {
		s = append(s, string(c))
	}
	return strings.Join(s, ", ")
}

// ValidID reports whether id matches [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?.
func ValidID(id string) bool {
	if len(id) == 0 || len(id) > 63 || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// DecodeObject decodes the JSON of the object called name. It refuses unknown
// fields, trailing bytes, more than MaxObjectBytes and a different name inside.
func DecodeObject(name string, raw []byte) (Object, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if len(raw) > MaxObjectBytes {
		return nil, Errorf("mesh.DecodeObject", name, Malformed, "%d bytes, at most %d are allowed", len(raw), MaxObjectBytes)
	}
	c, _, _ := cutName(name)
	o := NewObject(c)
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(o); err != nil {
		return nil, &Error{Op: "mesh.DecodeObject", Name: name, Kind: Malformed, Err: err}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, Errorf("mesh.DecodeObject", name, Malformed, "bytes after the object")
	}
	h := o.Header()
	if h.Name == "" {
		h.Name = name
	}
	if h.Name != name {
		return nil, Errorf("mesh.DecodeObject", name, Malformed, "the object inside is called %q", h.Name)
	}
	return o, nil
}

// Normalize fills in the defaults that are stored with an object, such as an
// absent weight.
func Normalize(o Object) { o.normalize() }

// Validate checks o by itself and returns a *ValidationError of kind Invalid
// (wrapped in *Error) with every violation, or nil. What o refers to is checked
// by Config.CheckReferences.
func Validate(o Object) error {
	var v Violations
	validateMeta(o, &v)
	o.validate(&v)
	if len(v) == 0 {
		return nil
	}
	return Refuse(o.Header().Name, v)
}

// Refuse returns the error for an object with violations.
func Refuse(name string, v Violations) error {
	return &Error{Op: "mesh.Validate", Kind: Invalid, Err: &ValidationError{Name: name, Violations: v}}
}

const (
	maxLabels     = 64
	maxLabelBytes = 255
)

func validateMeta(o Object, v *Violations) {
	m := o.Header()
	if c, _, _ := cutName(m.Name); c != o.Collection() {
		v.Add("name", "", "%q is not in %s", m.Name, o.Collection())
	} else if err := CheckName(m.Name); err != nil {
		v.Add("name", "", "%v", errors.Unwrap(err))
	}
	checkLabels("labels", m.Labels, v)
}

func checkLabels(field string, labels Labels, v *Violations) {
	if len(labels) > maxLabels {
		v.Add(field, "", "%d labels, at most %d are allowed", len(labels), maxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value := labels[key]
		if key == "" || len(key) > maxLabelBytes || len(value) > maxLabelBytes || !printable(key) || !printable(value) {
			v.Add(fmt.Sprintf("%s[%q]", field, key), "", "labels are 1 to %d printable ASCII characters", maxLabelBytes)
		}
	}
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// oneOf reports value if it is none of the allowed ones. later lists those that
// are in the contract and not supported yet.
func (v *Violations) oneOf(field, value string, allowed []string, later ...string) {
	switch {
	case slices.Contains(allowed, value):
	case slices.Contains(later, value):
		*v = append(*v, Violation{
			Field:       field,
			Message:     fmt.Sprintf("%s is not supported by this version of hedgerow", value),
			Hint:        "use " + strings.Join(allowed, " or "),
			Unsupported: true,
		})
	default:
		v.Add(field, nearest(value, append(slices.Clone(allowed), later...)), "%q is none of %s", value, strings.Join(append(slices.Clone(allowed), later...), ", "))
	}
}

// at returns "field[i]".
func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// nearest returns the hint `did you mean "x"?` for the candidate closest to s,
// or "".
func nearest(s string, candidates []string) string {
	if best := Nearest(s, candidates); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return ""
}

// Nearest returns the candidate that s is most likely a misspelling of: at most
// two edits away, one if s is short. It returns "" if there is none.
func Nearest(s string, candidates []string) string {
	best, bestDistance := "", 3
	if len(s) < 4 {
		bestDistance = 2
	}
	for _, c := range candidates {
		if d := editDistance(s, c, bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance, or limit if it is at least that.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return min(row[len(b)], limit)
}
