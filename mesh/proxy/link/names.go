package link

import (
	"strings"
)

// kind says what a field name means to HTTP/2.
type kind uint8

const (
	plain      kind = iota
	forbidden       // connection-specific: RFC 9113 section 8.2.2
	te              // only "trailers"
	host            // :authority replaces it
	length          // Content-Length
	cookie          // may come in several fields, and is secret
	secret          // never in a compression table
	notAName        // not a token
	pseudoName      // begins with a colon
)

// name is a field name in the two spellings that are needed.
type name struct {
	lower, canonical string
	hash             uint64 // of lower
	index            uint8  // in HPACK's static table, or 0
	kind             kind
}

// staticNames are the regular names of HPACK's static table from index 15 on (RFC
// 7541 appendix A).
const staticNames = `accept-charset accept-encoding accept-language accept-ranges accept
access-control-allow-origin age allow authorization cache-control content-disposition
content-encoding content-language content-length content-location content-range
content-type cookie date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified link location max-forwards
proxy-authenticate proxy-authorization range referer refresh retry-after server
set-cookie strict-transport-security transfer-encoding user-agent vary via
www-authenticate`

const firstStaticName = 15

// otherNames are common names that it lacks.
const otherNames = `accept-ch access-control-allow-credentials access-control-allow-headers
access-control-allow-methods access-control-expose-headers access-control-max-age
access-control-request-headers access-control-request-method alt-svc b3 baggage connection
content-security-policy cross-origin-opener-policy cross-origin-resource-policy dnt
early-data forwarded grpc-accept-encoding grpc-encoding grpc-message grpc-status
grpc-timeout idempotency-key keep-alive origin permissions-policy pragma priority
proxy-connection proxy-status referrer-policy sec-ch-ua sec-ch-ua-mobile
sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user
server-timing te timing-allow-origin traceparent tracestate trailer upgrade
upgrade-insecure-requests warning x-b3-parentspanid x-b3-sampled x-b3-spanid x-b3-traceid
x-content-type-options x-envoy-attempt-count x-forwarded-client-cert x-forwarded-for
x-forwarded-host x-forwarded-proto x-frame-options x-powered-by x-ratelimit-limit
x-ratelimit-remaining x-ratelimit-reset x-real-ip x-request-id x-requested-with
x-xss-protection`

// known has the common names by their lower-case and their canonical spelling. It
// is read-only.
var known = knownNames()

func knownNames() map[string]*name {
	m := map[string]*name{}
	add := func(lower string, index int) {
		n := newName(lower)
		n.index = uint8(index)
		m[n.lower], m[n.canonical] = n, n
	}
	for i, lower := range strings.Fields(staticNames) {
		add(lower, firstStaticName+i)
	}
	for _, lower := range strings.Fields(otherNames) {
		add(lower, 0)
	}
	return m
}

// newName returns the name that is spelled so, in any case. It copies spelling.
func newName(spelling string) *name {
	n := &name{lower: strings.ToLower(strings.Clone(spelling))}
	n.canonical = canonical(n.lower)
	n.kind = kindOf(n.lower)
	n.hash = 14695981039346656037 // FNV-1a; values add a seed
	for i := range len(n.lower) {
		n.hash = (n.hash ^ uint64(n.lower[i])) * 1099511628211
	}
	return n
}

func kindOf(lower string) kind {
	switch lower {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return forbidden
	case "te":
		return te
	case "host":
		return host
	case "content-length":
		return length
	case "cookie":
		return cookie
	case "authorization", "proxy-authorization", "set-cookie":
		return secret
	}
	switch {
	case strings.HasPrefix(lower, ":"):
		return pseudoName
	case !isToken(lower):
		return notAName
	}
	return plain
}

// canonical spells a lower-case name as MIME does: a capital after each hyphen.
func canonical(lower string) string {
	b := []byte(lower)
	first := true
	for i, c := range b {
		if first && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		first = c == '-'
	}
	return string(b)
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// maxNames bounds the names that a link remembers beyond the known ones.
const maxNames = 64

// names finds names by their spelling. The zero value is ready. It belongs to one
// goroutine or lock.
type names struct{ more map[string]*name }

// find returns the name that is spelled so. It does not keep spelling.
func (t *names) find(spelling string) *name {
	if n := known[spelling]; n != nil {
		return n
	}
	if n := t.more[spelling]; n != nil {
		return n
	}
	n := known[strings.ToLower(spelling)]
	if n == nil {
		n = newName(spelling)
	}
	if len(t.more) < maxNames && len(spelling) <= 64 {
		if t.more == nil {
			t.more = map[string]*name{}
		}
		t.more[strings.Clone(spelling)] = n
	}
	return n
}
