package proxy

import (
	"strings"
	"unicode/utf8"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// CanonicalPath returns the one spelling of a raw request path (without its
// query) that is matched, authorized and forwarded. It follows RFC 3986 section
// 6.2.2 and, where that leaves two readings, refuses:
//
//   - escapes of characters that may stand for themselves are decoded, the
//     others have upper-case digits; characters that may not stand raw in a
//     path, such as UTF-8, are escaped;
//   - empty and "." segments vanish and ".." removes the one before it; a final
//     slash stays, because "/a" and "/a/" are different resources;
//   - letter case stays: paths are case-sensitive.
//
// Refused are a path that does not begin with "/", a backslash or an escaped
// slash or backslash, an escape of an escape ("%252e"), broken escapes, control
// characters in either form, bytes that are not UTF-8 once decoded, '?' and
// '#', and a dot or empty segment with parameters ("..;a"). The error's kind is
// Malformed; callers answer 400. The empty path, as of "http://host", is "/".
//
// The result is a fixed point: CanonicalPath of it is itself. A path that is
// canonical already is returned without allocating.
func CanonicalPath(raw string) (string, error) {
	if raw == "" {
		return "/", nil
	}
	if raw[0] != '/' {
		return "", badPath(raw, "does not begin with '/'")
	}
	if canonicalAlready(raw) {
		return raw, nil
	}
	return canonical(raw, false)
}

// canonicalKeeping is CanonicalPath, but that an escaped slash is no reason to refuse:
// it stays what it is, a part of its segment. other is the path that a server sees
// which decodes it all the same.
func canonicalKeeping(raw string) (path, other string, err error) {
	if raw == "" || raw[0] != '/' {
		return "", "", badPath(raw, "does not begin with '/'")
	}
	if path, err = canonical(raw, true); err != nil {
		return "", "", err
	}
	other, err = CanonicalPath(strings.ReplaceAll(path, "%2F", "/"))
	return path, other, err
}

// canonical is CanonicalPath of a path that begins with a slash.
func canonical(raw string, keepSlash bool) (string, error) {
	decoded, reason := decodePath(raw, keepSlash)
	if reason == "" {
		decoded, reason = resolveSegments(decoded)
	}
	if reason != "" {
		return "", badPath(raw, reason)
	}
	return string(decoded), nil
}

func badPath(raw, reason string) error {
	return mesh.Errorf("proxy.CanonicalPath", "", mesh.Malformed, "the path %.80q %s", raw, reason)
}

// canonicalAlready reports whether the path certainly needs no change. It may
// say no to a canonical path that has escapes, parameters or leading dots.
func canonicalAlready(p string) bool {
	after := byte(0)
	for i := range len(p) {
		c := p[i]
		if after == '/' && (c == '/' || c == '.') || !plainPathByte(c) {
			return false
		}
		after = c
	}
	return true
}

// plainPathByte reports whether c stands for itself in a canonical path:
// RFC 3986 pchar without ';', and the slash.
func plainPathByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '/', '-', '.', '_', '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', '=', ':', '@':
		return true
	}
	return false
}

// decodePath brings every character to its one spelling, or says why it has
// none. Segments are left as they are, and with keepSlash so are escaped slashes.
func decodePath(raw string, keepSlash bool) (out []byte, reason string) {
	out = make([]byte, 0, len(raw)+16)
	plain := make([]byte, 0, len(raw)) // everything decoded, to check the UTF-8
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return nil, "has a broken escape"
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return nil, "has a control character"
		case c == '/' && escaped && keepSlash:
			plain = append(plain, c)
			out = append(out, "%2F"...)
			continue
		case c == '\\' || c == '/' && escaped:
			return nil, "has a backslash or an escaped slash"
		case !escaped && (c == '?' || c == '#' || c == ' '):
			return nil, "has a space, '?' or '#' that is not escaped"
		}
		plain = append(plain, c)
		if plainPathByte(c) || c == ';' && !escaped {
			out = append(out, c)
		} else {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	if !utf8.Valid(plain) {
		return nil, "is not UTF-8"
	}
	// After decoding, because "%25%32e" is an escape of an escape too.
	for i := 0; i+4 < len(out); i++ {
		if out[i] == '%' && out[i+1] == '2' && out[i+2] == '5' && isHex(out[i+3]) && isHex(out[i+4]) {
			return nil, "has an escape of an escape"
		}
	}
	return out, ""
}

// resolveSegments drops empty and dot segments, in place.
func resolveSegments(p []byte) (out []byte, reason string) {
	out = p[:0] // never longer than what has been read
	for i := 0; i < len(p); {
		end := i + 1 // p[i] is a slash
		for end < len(p) && p[end] != '/' {
			end++
		}
		segment, last := p[i+1:end], end == len(p)
		name := segment[:parametersAt(segment)]
		dots := string(name) == "." || string(name) == ".."
		switch {
		case len(name) < len(segment) && (dots || len(name) == 0):
			return nil, "has parameters on an empty or dot segment"
		case string(name) == "..":
			n := len(out)
			for n > 0 && out[n-1] != '/' {
				n--
			}
			out = out[:max(n-1, 0)] // above the root is the root
			if last {
				out = append(out, '/')
			}
		case len(name) == 0 || dots:
			if last {
				out = append(out, '/')
			}
		default:
			out = append(out, '/')
			out = append(out, segment...)
		}
		i = end
	}
	return out, ""
}

// parametersAt returns where the parameters of a canonical segment begin (the
// first ';', escaped or not, because some servers decode before they cut), or
// its length.
func parametersAt(segment []byte) int {
	for i, c := range segment {
		if c == ';' || c == '%' && i+2 < len(segment) && segment[i+1] == '3' && segment[i+2] == 'B' {
			return i
		}
	}
	return len(segment)
}

// hasParameters reports whether a segment of a canonical path has parameters.
func hasParameters(path string) bool {
	return strings.IndexByte(path, ';') >= 0 || strings.Contains(path, "%3B")
}

// withoutParameters returns the canonical path that a server sees which cuts
// the parameters off every segment: "/admin" of "/admin;a=b".
func withoutParameters(path string) string {
	out := make([]byte, 0, len(path))
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		s := []byte(segment)
		out = append(out, '/')
		out = append(out, s[:parametersAt(s)]...)
	}
	return string(out)
}

const upperHex = "0123456789ABCDEF"

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unhex returns the value of a hexadecimal digit.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
