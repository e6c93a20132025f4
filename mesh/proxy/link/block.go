package link

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// blockKind is what a header block is for.
type blockKind uint8

const (
	discarded blockKind = iota // decoded for HPACK's table only
	unwanted                   // likewise: a request that is refused
	request
	response
	trailers
)

// Pseudo fields, as bits.
const (
	hasMethod = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasStatus
	hasProtocol
)

// block takes the fields of a header block as they are decoded, and judges them by
// RFC 9113 sections 8.2 and 8.3. One is used again and again.
type block struct {
	names               names
	maxBytes, maxFields int
	connect             bool // CONNECT may name a protocol

	kind     blockKind
	id       uint32 // 0 between blocks
	end      bool   // END_STREAM came with it
	frames   int
	bytes    int   // encoded
	answer   *Head // to what is unwanted
	head     Head
	fields   header.List
	length   int64 // Content-Length, or -1
	size     int   // decoded, as RFC 7541 section 4.1 counts
	pseudo   uint8
	count    int    // regular fields
	cookieAt int    // index of the cookie field, or -1
	cookies  []byte // its value, if it came in several fields
	host     string
	hasHost  bool

	tooLarge bool
	bad      string // what is malformed
}

// begin makes the block ready for a section of the stream id.
func (b *block) begin(k blockKind, id uint32, end bool) {
	b.kind, b.id, b.end = k, id, end
	b.frames, b.bytes, b.size = 0, 0, 0
	b.head = Head{}
	b.fields = b.fields[:0]
	b.length, b.pseudo, b.count, b.cookieAt = -1, 0, 0, -1
	b.cookies = b.cookies[:0]
	b.host, b.hasHost = "", false
	b.tooLarge, b.bad = false, ""
}

// rest gives back what is needed only while there are streams.
func (b *block) rest() {
	b.names, b.head, b.fields, b.host, b.cookies = names{}, Head{}, nil, "", nil
}

// wants reports whether further fields are of use.
func (b *block) wants() bool { return b.kind > unwanted && !b.tooLarge && b.bad == "" }

// field takes a decoded field.
func (b *block) field(f hpack.HeaderField) {
	if !b.wants() {
		return
	}
	b.size += int(f.Size())
	if b.size > b.maxBytes {
		b.tooLarge = true
		return
	}
	if !validValue(f.Value) {
		b.bad = "a field value with control characters, or white space around it"
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.pseudoField(f.Name, f.Value)
		return
	}
	b.regularField(f.Name, f.Value)
}

func (b *block) pseudoField(spelling, value string) {
	if len(b.fields) > 0 || b.hasHost {
		b.bad = "a pseudo-header field after regular fields"
		return
	}
	var bit uint8
	switch {
	case b.kind == response && spelling == ":status":
		bit, b.head.Status = hasStatus, statusOf(value)
	case b.kind != request:
	case spelling == ":method":
		bit, b.head.Method = hasMethod, value
	case spelling == ":scheme":
		bit, b.head.Scheme = hasScheme, value
	case spelling == ":authority":
		bit, b.head.Authority = hasAuthority, value
	case spelling == ":path":
		bit, b.head.Path = hasPath, value
	case spelling == ":protocol" && b.connect:
		bit, b.head.Protocol = hasProtocol, value
	}
	if bit == 0 || b.pseudo&bit != 0 {
		b.bad = "a pseudo-header field that is unknown, repeated or out of place"
	}
	b.pseudo |= bit
}

func (b *block) regularField(spelling, value string) {
	if b.count++; b.count > b.maxFields {
		b.tooLarge = true
		return
	}
	n := b.names.find(spelling)
	if n.lower != spelling {
		b.bad = "a field name in upper case"
		return
	}
	switch n.kind {
	case forbidden, notAName:
		b.bad = "a connection-specific field, or a name that is no token"
		return
	case te:
		if value != "trailers" {
			b.bad = "a TE field other than trailers"
			return
		}
	case host:
		if b.hasHost {
			b.bad = "two Host fields"
		}
		b.host, b.hasHost = value, true
		return
	case length:
		n, ok := parseLength(value)
		if !ok || b.length >= 0 {
			b.bad = "a Content-Length that is no number, or repeated"
			return
		}
		b.length = n
	case cookie:
		if b.cookieAt >= 0 { // RFC 9113 section 8.2.3
			if len(b.cookies) == 0 {
				b.cookies = append(b.cookies, b.fields[b.cookieAt].Value...)
			}
			b.cookies = append(append(b.cookies, "; "...), value...)
			return
		}
		b.cookieAt = len(b.fields)
	}
	b.fields = append(b.fields, header.Field{Name: n.canonical, Value: value})
}

// finish judges the block as a whole.
func (b *block) finish() {
	if !b.wants() {
		return
	}
	if len(b.cookies) > 0 {
		b.fields[b.cookieAt].Value = string(b.cookies)
	}
	switch b.kind {
	case request:
		b.finishRequest()
	case response:
		if b.head.Status == 0 {
			b.bad = "no status, or one that HTTP/2 has not"
		} else if b.head.Status < 200 && b.end {
			b.bad = "an informational response that ends the stream"
		}
	case trailers:
		if !b.end {
			b.bad = "trailers that do not end the stream"
		}
	}
}

func (b *block) finishRequest() {
	h := &b.head
	if b.hasHost {
		if b.pseudo&hasAuthority != 0 && !header.Equal(b.host, h.Authority) {
			b.bad = "a Host that differs from :authority"
			return
		}
		h.Authority = b.host
	}
	switch { // what is missing is empty
	case !isToken(h.Method):
		b.bad = "a method that is no token"
	case b.pseudo&hasProtocol != 0 && (h.Method != "CONNECT" || b.pseudo&hasAuthority == 0): // RFC 8441 section 4
		b.bad = "a protocol in what is no CONNECT"
	case h.Method == "CONNECT" && b.pseudo&(hasScheme|hasPath|hasProtocol) == 0: // section 8.5
	case h.Method == "CONNECT" && b.pseudo&hasProtocol == 0:
		b.bad = "a CONNECT with a scheme or a path"
	case !validScheme(h.Scheme):
		b.bad = "not a scheme"
	case !validPath(h.Path, h.Method):
		b.bad = "not a path"
	case strings.ContainsAny(h.Authority, "@/?#\\ \t"):
		b.bad = "not an authority"
	case b.end && b.length > 0:
		b.bad = "a Content-Length without content"
	}
}

// validValue reports whether s is a field value (RFC 9110 section 5.5) without
// white space around it.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == "" || !isSpace(s[0]) && !isSpace(s[len(s)-1])
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// validScheme follows RFC 3986 section 3.1.
func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		letter := 'a' <= c && c <= 'z'
		other := '0' <= s[i] && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return s != ""
}

// validPath takes paths as RFC 9113 section 8.3.1 has them. Bytes beyond ASCII are
// the router's to escape.
func validPath(s, method string) bool {
	if s == "*" {
		return method == "OPTIONS"
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return s != "" && s[0] == '/'
}

// statusOf returns the number of a status code, and 0 for what is none. 101 means
// nothing in HTTP/2 (RFC 9113 section 8.6).
func statusOf(s string) int {
	n, ok := parseLength(s)
	if !ok || len(s) != 3 || n < 100 || n == 101 {
		return 0
	}
	return int(n)
}

// parseLength reads a Content-Length of at most 18 digits.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
