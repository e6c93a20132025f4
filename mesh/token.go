package mesh

import (
	"strings"
	"time"
)

// Token lets whoever presents its secret call the control API. Only control planes
// know it.
type Token struct {
	Meta
	Role       string     `json:"role,omitempty"` // RoleViewer if absent
	Scopes     []Scope    `json:"scopes,omitempty"`
	ExpireTime *time.Time `json:"expireTime,omitempty"`

	// Output only. Secret is answered once and never stored; Hash is "sha256:" and
	// hex, and set by the control plane.
	Secret       string     `json:"secret,omitempty"`
	Hash         string     `json:"hash,omitempty"`
	LastUsedTime *time.Time `json:"lastUsedTime,omitempty"`
}

// Values of Token.Role.
const (
	RoleViewer = "VIEWER"
	RoleEditor = "EDITOR"
	RoleAdmin  = "ADMIN"
)

// Scope is the objects of Collections, of all if absent, that carry all of Labels.
type Scope struct {
	Collections []string `json:"collections,omitempty" yaml:"collections"`
	Labels      Labels   `json:"labels,omitempty" yaml:"labels"`
}

// maxScopes bounds the scopes of one token, and the collections and labels of each.
const maxScopes = 32

// Collection returns Tokens.
func (*Token) Collection() Collection { return Tokens }

func (t *Token) normalize() {
	if t.Role == "" {
		t.Role = RoleViewer
	}
}

func (t *Token) validate(v *Violations) {
	v.oneOf("role", t.Role, []string{RoleViewer, RoleEditor, RoleAdmin})
	if t.ExpireTime == nil {
		v.Add("expireTime", "e.g. \"2026-07-01T00:00:00Z\"", "a token expires")
	}
	if len(t.Scopes) > maxScopes {
		v.Add("scopes", "", "%d scopes, at most %d are allowed", len(t.Scopes), maxScopes)
		return
	}
	for i, s := range t.Scopes {
		s.validate(at("scopes", i), v)
	}
}

func (s *Scope) validate(field string, v *Violations) {
	if len(s.Collections)+len(s.Labels) == 0 {
		v.Add(field, "leave out scopes for everything", "a scope has collections or labels")
	}
	if len(s.Collections) > maxScopes || len(s.Labels) > maxScopes {
		v.Add(field, "", "at most %d collections and %d labels are allowed", maxScopes, maxScopes)
		return
	}
	for i, c := range s.Collections {
		switch c := Collection(c); {
		case c.Private():
			v.Add(at(field+".collections", i), "give the role ADMIN without scopes", "%s are for those who may do everything", c)
		case NewObject(c) == nil && c != Instances:
			v.Add(at(field+".collections", i), "use some of "+strings.Join(scopeNames(), ", "), "%.80q is no collection", string(c))
		}
	}
}

func scopeNames() []string {
	var names []string
	for _, c := range append(Collections(), Instances) {
		if !c.Private() {
			names = append(names, string(c))
		}
	}
	return names
}
