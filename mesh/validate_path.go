package mesh

import (
	"fmt"
	"strings"
)

const maxPathBytes = 8 << 10

// checkPlainPath checks a path that is compared as it is: absolute, without a
// query, a dot segment, an empty segment or an escape that normalisation would
// change, so that what is written is what can match.
func checkPlainPath(field, p string, v *Violations) {
	switch {
	case !strings.HasPrefix(p, "/"):
		v.Add(field, fmt.Sprintf("write %q", "/"+p), "%q does not begin with '/'", p)
		return
	case len(p) > maxPathBytes:
		v.Add(field, "", "longer than %d bytes", maxPathBytes)
		return
	case strings.ContainsAny(p, "{}"):
		v.Add(field, "use template for {captures}", "%q has braces", p)
		return
	}
	checkSegments(field, p, v)
}

// checkSegments reports what the canonical path can never contain.
func checkSegments(field, p string, v *Violations) {
	for i := range len(p) {
		if c := p[i]; c <= 0x20 || c >= 0x7f || strings.IndexByte("?#\\%;\"<>^`|", c) >= 0 {
			v.Add(field, "paths are matched after decoding; write the plain character, without query and parameters", "%q has the character %q", p, c)
			return
		}
	}
	body := strings.TrimSuffix(p[1:], "/")
	if body == "" {
		if p == "//" {
			v.Add(field, "", "%q has an empty segment", p)
		}
		return
	}
	for s := range strings.SplitSeq(body, "/") {
		if s == "" || s == "." || s == ".." {
			v.Add(field, "", "%q has an empty or dot segment", p)
			return
		}
	}
}

// PathTemplate is a parsed path template.
type PathTemplate struct {
	Segments []TemplateSegment
}

// TemplateSegment is one segment: a literal, or a capture of one segment, or,
// with Rest and only at the end, a capture of everything that remains.
type TemplateSegment struct {
	Literal string
	Capture string
	Rest    bool
}

// ParsePathTemplate parses "/users/{id}/files/{rest=**}". A capture is a whole
// segment; names are [a-z][a-zA-Z0-9_]*, each once.
func ParsePathTemplate(t string) (PathTemplate, error) {
	var out PathTemplate
	if !strings.HasPrefix(t, "/") || len(t) > maxPathBytes {
		return out, fmt.Errorf("%.80q is not a path template like \"/users/{id}\"", t)
	}
	if t == "/" {
		return out, nil
	}
	seen := map[string]bool{}
	parts := strings.Split(t[1:], "/")
	for i, s := range parts {
		if !strings.ContainsAny(s, "{}") {
			if s == "" && i == len(parts)-1 {
				return out, fmt.Errorf("%.80q ends with '/'", t)
			}
			if s == "" || s == "." || s == ".." {
				return out, fmt.Errorf("%.80q has an empty or dot segment", t)
			}
			out.Segments = append(out.Segments, TemplateSegment{Literal: s})
			continue
		}
		name, ok := strings.CutPrefix(s, "{")
		name, ok2 := strings.CutSuffix(name, "}")
		if !ok || !ok2 {
			return out, fmt.Errorf("%.80q: segment %q is neither a literal nor one whole {capture}", t, s)
		}
		name, rest := strings.CutSuffix(name, "=**")
		if !captureName(name) {
			return out, fmt.Errorf("%.80q: %q is not a capture name", t, name)
		}
		if rest && i != len(parts)-1 {
			return out, fmt.Errorf("%.80q: {%s=**} is not the last segment", t, name)
		}
		if seen[name] {
			return out, fmt.Errorf("%.80q: {%s} is there twice", t, name)
		}
		seen[name] = true
		out.Segments = append(out.Segments, TemplateSegment{Capture: name, Rest: rest})
	}
	return out, nil
}

func captureName(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

func checkTemplate(field, t string, v *Violations) {
	if _, err := ParsePathTemplate(t); err != nil {
		v.Add(field, "e.g. \"/users/{id}/files/{rest=**}\"", "%v", err)
		return
	}
	plain := strings.NewReplacer("{", "", "}", "", "=**", "").Replace(t)
	checkSegments(field, plain, v)
}

// checkPolicyPath checks "/a", "/a/{x}" and "/a/**".
func checkPolicyPath(field, p string, v *Violations) {
	base := p
	if rest, ok := strings.CutSuffix(p, "/**"); ok {
		base = rest
		if base == "" {
			return
		}
	}
	if strings.Contains(base, "*") {
		v.Add(field, "e.g. \"/orders/**\" or \"/orders/{id}\"", "%q: '**' stands only at the end, as a segment of its own", p)
		return
	}
	if !strings.ContainsAny(base, "{}") {
		checkPlainPath(field, base, v)
		return
	}
	if strings.Contains(base, "=**") {
		v.Add(field, "write a trailing \"/**\"", "%q: policies capture single segments", p)
		return
	}
	checkTemplate(field, base, v)
}
