package mesh

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of the SPIFFE ID specification, section 2.3.
const (
	maxIDBytes          = 2048
	maxTrustDomainBytes = 255
	idScheme            = "spiffe://"
)

// ID is a valid SPIFFE ID: a trust domain and a path, as in
// "spiffe://hedgerow.local/svc/orders/n/orders-v1". IDs are values: two are the
// same identity exactly when == says so, because ParseID accepts only the one
// canonical spelling. The zero ID is nobody; it matches no pattern.
//
// Three forms are ours: /svc/<service>/n/<node>, /gateway/<id> and /node/<node>.
type ID struct {
	s      string // the whole URI
	pathAt int    // where the path begins in s
}

// ParseID reads a SPIFFE ID as strictly as the specification writes it
// (SPIFFE-ID sections 2.1 to 2.3): a lower-case scheme, a trust domain of
// a-z 0-9 . - _ without port or user, and a path whose segments hold only
// A-Z a-z 0-9 . - _ and are never empty, "." or "..". Query, fragment, percent
// encoding and more than 2048 bytes are refused. The error's kind is Invalid.
func ParseID(s string) (ID, error) {
	id, err := parseID(s)
	if err != nil {
		return ID{}, &Error{Op: "mesh.ParseID", Name: quoteShort(s), Kind: Invalid, Err: err}
	}
	return id, nil
}

func parseID(s string) (ID, error) {
	if len(s) > maxIDBytes {
		return ID{}, fmt.Errorf("longer than %d bytes", maxIDBytes)
	}
	rest, ok := strings.CutPrefix(s, idScheme)
	if !ok {
		return ID{}, errors.New("does not begin with spiffe:// in lower case")
	}
	td, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		td, path = rest[:i], rest[i:]
	}
	if err := CheckTrustDomain(td); err != nil {
		return ID{}, err
	}
	if path != "" {
		for segment := range strings.SplitSeq(path[1:], "/") {
			if err := checkSegment(segment); err != nil {
				return ID{}, err
			}
		}
	}
	return ID{s: s, pathAt: len(idScheme) + len(td)}, nil
}

// CheckTrustDomain reports why td is not the name of a trust domain, or nil.
func CheckTrustDomain(td string) error {
	if td == "" {
		return errors.New("the trust domain is empty")
	}
	if len(td) > maxTrustDomainBytes {
		return fmt.Errorf("the trust domain is longer than %d bytes", maxTrustDomainBytes)
	}
	for i := range len(td) {
		if c := td[i]; (c < 'a' || c > 'z') && !digitDotDash(c) {
			return fmt.Errorf("%q may not be in a trust domain, only a-z 0-9 . - _", c)
		}
	}
	return nil
}

func checkSegment(segment string) error {
	switch segment {
	case "":
		return errors.New("the path has an empty segment")
	case ".", "..":
		return errors.New("the path has a dot segment")
	}
	for i := range len(segment) {
		c := segment[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !digitDotDash(c) {
			return fmt.Errorf("%q may not be in a path, only A-Z a-z 0-9 . - _", c)
		}
	}
	return nil
}

func digitDotDash(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// ServiceID returns the identity of one service on one node:
// spiffe://<td>/svc/<service>/n/<node>. Service and node are ids (ValidID).
func ServiceID(td, service, node string) (ID, error) {
	return makeID(td, "/svc/"+service+"/n/"+node, service, node)
}

// GatewayID returns the identity of a gateway: spiffe://<td>/gateway/<id>.
func GatewayID(td, id string) (ID, error) {
	return makeID(td, "/gateway/"+id, id)
}

// NodeID returns the identity of a node's agent: spiffe://<td>/node/<node>.
func NodeID(td, node string) (ID, error) {
	return makeID(td, "/node/"+node, node)
}

func makeID(td, path string, ids ...string) (ID, error) {
	if err := CheckTrustDomain(td); err != nil {
		return ID{}, &Error{Op: "mesh.MakeID", Name: quoteShort(idScheme + td + path), Kind: Invalid, Err: err}
	}
	for _, id := range ids {
		if !ValidID(id) {
			return ID{}, Errorf("mesh.MakeID", quoteShort(idScheme+td+path), Invalid, "%s is not an id of 1 to 63 characters a-z 0-9 -", quoteShort(id))
		}
	}
	return ParseID(idScheme + td + path)
}

// String returns the ID as a URI, or "" for the zero ID.
func (id ID) String() string { return id.s }

// IsZero reports whether id is nobody.
func (id ID) IsZero() bool { return id.s == "" }

// TrustDomain returns "hedgerow.local" of spiffe://hedgerow.local/node/edge7.
func (id ID) TrustDomain() string {
	if id.s == "" {
		return ""
	}
	return id.s[len(idScheme):id.pathAt]
}

// Path returns "/node/edge7" of spiffe://hedgerow.local/node/edge7. It is empty
// for the ID of a trust domain itself.
func (id ID) Path() string { return id.s[id.pathAt:] }

// Service returns the parts of a service's identity; ok is false for any other.
func (id ID) Service() (service, node string, ok bool) {
	rest, ok := strings.CutPrefix(id.Path(), "/svc/")
	if !ok {
		return "", "", false
	}
	service, node, ok = strings.Cut(rest, "/n/")
	if !ok || !ValidID(service) || !ValidID(node) {
		return "", "", false
	}
	return service, node, true
}

// Gateway returns the id of a gateway's identity; ok is false for any other.
func (id ID) Gateway() (gateway string, ok bool) { return id.only("/gateway/") }

// Node returns the node of a node agent's identity; ok is false for any other.
// It is not the node of a service's identity: that is Service.
func (id ID) Node() (node string, ok bool) { return id.only("/node/") }

func (id ID) only(prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(id.Path(), prefix)
	if !ok || !ValidID(rest) {
		return "", false
	}
	return rest, true
}

// IDPattern selects identities of one trust domain. Segments are compared
// whole, so "/svc/orders" never selects the service "orders-admin". The zero
// IDPattern matches nothing.
type IDPattern struct {
	trustDomain string
	segments    []string // anySegment matches every segment
}

const anySegment = "*"

// ParseIDPattern compiles the text of a policy. It is one of
//
//	/svc/orders           every node of the service: /svc/orders/n/*
//	/svc/orders/n/edge7   the service on one node
//	/gateway/demo         a gateway
//	/node/edge7           a node's agent
//	spiffe://td/...       any path, in any trust domain
//
// where a whole segment may be "*"; the first four are in trustDomain. An
// unknown short form is refused, because a misspelt one in a DENY policy would
// silently deny nobody. The error's kind is Invalid.
func ParseIDPattern(s, trustDomain string) (IDPattern, error) {
	p, err := parseIDPattern(s, trustDomain)
	if err != nil {
		return IDPattern{}, &Error{Op: "mesh.ParseIDPattern", Name: quoteShort(s), Kind: Invalid, Err: err}
	}
	return p, nil
}

func parseIDPattern(s, trustDomain string) (IDPattern, error) {
	if len(s) > maxIDBytes {
		return IDPattern{}, fmt.Errorf("longer than %d bytes", maxIDBytes)
	}
	path, short := s, true
	if rest, ok := strings.CutPrefix(s, idScheme); ok {
		short = false
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			return IDPattern{}, errors.New("names a trust domain, not an identity in it; add a path such as /svc/*/n/*")
		}
		trustDomain, path = rest[:i], rest[i:]
	}
	if err := CheckTrustDomain(trustDomain); err != nil {
		return IDPattern{}, err
	}
	if !strings.HasPrefix(path, "/") {
		return IDPattern{}, errors.New("begins with neither / nor spiffe://")
	}
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		if segment == anySegment {
			continue
		}
		if strings.Contains(segment, anySegment) {
			return IDPattern{}, errors.New("* stands for a whole segment only")
		}
		if err := checkSegment(segment); err != nil {
			return IDPattern{}, err
		}
		// Each piece of our own forms but the fixed words is an id.
		if short && i%2 == 1 && !ValidID(segment) {
			return IDPattern{}, fmt.Errorf("%s is not an id of 1 to 63 characters a-z 0-9 -", quoteShort(segment))
		}
	}
	if len(segments) == 2 && segments[0] == "svc" {
		segments = append(segments, "n", anySegment)
	}
	if short && !knownForm(segments) {
		return IDPattern{}, errors.New("is none of /svc/<service>, /svc/<service>/n/<node>, /gateway/<id> and /node/<node>")
	}
	p := IDPattern{trustDomain: trustDomain, segments: segments}
	if len(p.String()) > maxIDBytes {
		return IDPattern{}, fmt.Errorf("longer than %d bytes", maxIDBytes)
	}
	return p, nil
}

func knownForm(segments []string) bool {
	switch len(segments) {
	case 2:
		return segments[0] == "gateway" || segments[0] == "node"
	case 4:
		return segments[0] == "svc" && segments[2] == "n"
	default:
		return false
	}
}

// Match reports whether the pattern selects id. It does not allocate.
func (p IDPattern) Match(id ID) bool {
	if id.IsZero() || len(p.segments) == 0 || id.TrustDomain() != p.trustDomain {
		return false
	}
	rest := id.Path()
	for _, want := range p.segments {
		if rest == "" {
			return false
		}
		segment := rest[1:] // a path is "" or "/" and segments
		rest = ""
		if i := strings.IndexByte(segment, '/'); i >= 0 {
			segment, rest = segment[:i], segment[i:]
		}
		if want != anySegment && want != segment {
			return false
		}
	}
	return rest == ""
}

// String returns the pattern in its full form, spiffe://td/svc/orders/n/*.
func (p IDPattern) String() string {
	if len(p.segments) == 0 {
		return ""
	}
	return idScheme + p.trustDomain + "/" + strings.Join(p.segments, "/")
}

// quoteShort quotes input of others for an error: one line, at most 128 bytes of it.
func quoteShort(s string) string {
	const most = 128
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
