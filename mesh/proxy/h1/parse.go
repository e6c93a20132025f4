package h1

import (
	"bytes"
	"math"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// cutLine returns the first line of a section, without its end, and the rest.
func cutLine(section []byte) (line, rest []byte) {
	i := bytes.IndexByte(section, '\n') // section found it, behind a CR
	return section[:i-1], section[i+1:]
}

// parseLine parses a request line (RFC 9112 section 3): three words with one
// space between them.
func (req *Request) parseLine(line []byte, targetBytes int) error {
	a := bytes.IndexByte(line, ' ')
	b := bytes.LastIndexByte(line, ' ')
	if a <= 0 || b <= a {
		return bad("the request line is not a method, a target and a version")
	}
	method, target, version := line[:a], line[a+1:b], line[b+1:]
	minor, err := parseVersion(version)
	switch {
	case !all(method, isTokenByte):
		return bad("the method is no token")
	case len(target) == 0 || !all(target, isTargetByte):
		return bad("the request target is empty or has a character that no URI has")
	case err != nil:
		return err
	case len(target) > targetBytes:
		return &Error{414, "the request target is too long"}
	}
	req.Method, req.Target, req.Minor = header.View(method), header.View(target), minor
	return nil
}

// parseVersion returns the minor version of HTTP/1.
func parseVersion(v []byte) (int, error) {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' || v[5] < '0' || v[5] > '9' || v[7] < '0' || v[7] > '9' {
		return 0, bad("the version is malformed")
	}
	if v[5] != '1' || v[7] > '1' {
		return 0, &Error{505, "a version other than HTTP/1.0 and HTTP/1.1"}
	}
	return int(v[7] - '0'), nil
}

// parseLine parses a status line (RFC 9112 section 4). The space before an empty
// reason phrase may be missing.
func (resp *Response) parseLine(line []byte) error {
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return bad("the status line is malformed")
	}
	minor, err := parseVersion(line[:8])
	if err != nil {
		return bad("the version is not HTTP/1.0 or HTTP/1.1")
	}
	status := 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return bad("the status is no number")
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return bad("the status is not between 100 and 599")
	}
	if len(line) > 13 {
		if !all(line[13:], isValueByte) {
			return bad("the reason phrase has a control character")
		}
		resp.Reason = header.View(line[13:])
	}
	resp.Status, resp.Minor = status, minor
	return nil
}

// framing collects the fields that decide where a message ends and what happens
// to the connection.
type framing struct {
	lengths   int
	length    int64
	codings   int
	chunked   bool // the only coding is chunked
	unknown   bool // there is another coding
	hosts     int
	host      string
	close     bool
	keepAlive bool
	upgrade   bool
	expect    bool
}

// parseFields appends the fields of a section, which ends with an empty line, to
// dst (RFC 9112 section 5).
func parseFields(dst header.List, section []byte, f *framing) (header.List, error) {
	for len(section) > 2 {
		var line []byte
		line, section = cutLine(section)
		colon := bytes.IndexByte(line, ':')
		switch {
		case line[0] == ' ' || line[0] == '\t':
			return dst, bad("a field begins with white space: obsolete folding")
		case colon <= 0:
			return dst, bad("a field has no name")
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !all(name, isTokenByte) {
			return dst, bad("a field's name is no token")
		}
		if !all(value, isValueByte) {
			return dst, bad("a field's value has a control character")
		}
		field := header.Field{Name: header.View(name), Value: header.View(value)}
		if err := f.note(field); err != nil {
			return dst, err
		}
		dst = append(dst, field)
	}
	return dst, nil
}

// note looks whether a field is one of those that matter here.
func (f *framing) note(field header.Field) error {
	switch len(field.Name) {
	case len("Host"):
		if header.Equal(field.Name, "Host") {
			f.hosts++
			f.host = field.Value
		}
	case len("Expect"):
		if header.Equal(field.Name, "Expect") {
			f.expect = header.Equal(field.Value, "100-continue")
		}
	case len("Connection"):
		if header.Equal(field.Name, "Connection") {
			f.close = f.close || header.HasToken(field.Value, "close")
			f.keepAlive = f.keepAlive || header.HasToken(field.Value, "keep-alive")
			f.upgrade = f.upgrade || header.HasToken(field.Value, "upgrade")
		}
	case len("Content-Length"):
		if header.Equal(field.Name, "Content-Length") {
			n, ok := parseLength(field.Value)
			if !ok || f.lengths > 0 {
				return bad("Content-Length is not one number")
			}
			f.lengths, f.length = 1, n
		}
	case len("Transfer-Encoding"):
		if header.Equal(field.Name, "Transfer-Encoding") {
			f.codings++
			f.chunked = header.Equal(field.Value, "chunked")
			f.unknown = f.unknown || !f.chunked
			if strings.Contains(field.Value, ",") {
				f.codings++ // a list: never what we could have meant
			}
		}
	}
	return nil
}

// parseLength parses a Content-Length: digits and nothing else.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	return int64(n), n <= math.MaxInt64
}

// body says where a message's body ends. ok is false if the fields say nothing.
func (f *framing) body(minor int) (framing Framing, length int64, ok bool, err error) {
	switch {
	case f.codings > 0 && f.lengths > 0:
		return 0, 0, false, bad("Content-Length and Transfer-Encoding")
	case f.codings > 0 && minor == 0:
		return 0, 0, false, bad("Transfer-Encoding in HTTP/1.0")
	case f.codings > 1:
		return 0, 0, false, bad("more than one transfer coding")
	case f.unknown:
		return 0, 0, false, &Error{501, "a transfer coding other than chunked"}
	case f.chunked:
		return Chunked, 0, true, nil
	case f.lengths > 0:
		return Length, f.length, true, nil
	}
	return NoBody, 0, false, nil
}

// persists reports whether the connection stays open (RFC 9112 section 9.3).
func (f *framing) persists(minor int) bool {
	return !f.close && (minor == 1 || f.keepAlive)
}

// finish draws the conclusions from the fields of a request.
func (req *Request) finish(f *framing) error {
	var err error
	if req.Framing, req.Length, _, err = f.body(req.Minor); err != nil {
		return err
	}
	switch {
	case f.hosts > 1:
		return bad("more than one Host")
	case f.hosts == 0 && req.Minor == 1:
		return bad("no Host")
	case f.hosts == 1 && !validHost(f.host):
		return bad("the Host is empty or malformed")
	}
	req.Host = f.host
	if req.Target[0] != '/' && req.Target != "*" && req.Method != "CONNECT" {
		authority, ok := authorityOf(req.Target)
		if !ok || !validHost(authority) {
			return bad("the request target is neither a path nor an absolute URI with a host")
		}
		req.Host = authority
	}
	req.KeepAlive = f.persists(req.Minor)
	req.ExpectContinue = f.expect && req.Minor == 1
	req.Upgrade = f.upgrade && req.Minor == 1
	return nil
}

// authorityOf returns the authority of an http or https URI.
func authorityOf(target string) (string, bool) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !header.Equal(scheme, "http") && !header.Equal(scheme, "https") {
		return "", false
	}
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	return rest, true
}

// validHost reports whether s may be a host with a port: no user information, no
// path, nothing that a parser behind us could read as either.
func validHost(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_', c == ':', c == '[', c == ']', c == '~', c == '%':
		default:
			return false
		}
	}
	return s != ""
}

// finish draws the conclusions from the fields of a response.
func (resp *Response) finish(f *framing, method string) error {
	framing, length, told, err := f.body(resp.Minor)
	if err != nil {
		return err
	}
	resp.KeepAlive, resp.Upgrade = f.persists(resp.Minor), f.upgrade
	switch {
	case resp.Status < 200, resp.Status == 204, resp.Status == 304, method == "HEAD":
		resp.Framing = NoBody // whatever it says
	case told:
		resp.Framing, resp.Length = framing, length
	default:
		resp.Framing, resp.KeepAlive = UntilClose, false
	}
	return nil
}

// ForbiddenTrailer reports whether a field frames the message, routes or
// authenticates it, and so may not come after it.
func ForbiddenTrailer(name string) bool {
	for _, n := range [...]string{"Transfer-Encoding", "Content-Length", "Host", "Connection", "Trailer", "TE", "Upgrade", "Expect",
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Content-Type", "Content-Encoding", "Content-Range", "Keep-Alive", "Max-Forwards"} {
		if header.Equal(name, n) {
			return true
		}
	}
	return false
}
