// Package h1 is a strict, streaming codec of HTTP/1.1 (RFC 9112) for both sides
// of a proxy. One request is one request for every parser behind it: what has two
// readings is refused, never repaired.
//
// In steady state it allocates nothing. What it returns are views of its buffer,
// valid until the next message is read or the buffer is released.
//
// It knows no connections, no deadlines and no routes, and speaks no other
// version of HTTP.
package h1

import (
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Limits bounds what a Reader accepts. Every one must be set.
type Limits struct {
	HeadBytes   int // start line and fields with their line ends; the trailer section too. Beyond: 431
	TargetBytes int // request target. Beyond: 414
	Fields      int // field lines. Beyond: 431
}

// chunkLineBytes bounds a chunk's size line with its extensions.
const chunkLineBytes = 4 << 10

// Framing says how a body ends (RFC 9112 section 6.3).
type Framing uint8

// The ways in which a body ends.
const (
	NoBody     Framing = iota // there is none
	Length                    // after Content-Length bytes
	Chunked                   // with the last chunk
	UntilClose                // with the connection; responses only
)

// Request is the head of a request.
type Request struct {
	Method string
	Target string // as written, in any of the four forms
	// Host is the value of the Host field, or the authority of a target in
	// absolute form, which overrules it (RFC 9112 section 3.2.2).
	Host           string
	Minor          int         // HTTP/1.<Minor>: 0 or 1
	Fields         header.List // all of them, in order, as written
	Framing        Framing
	Length         int64 // if Framing is Length
	KeepAlive      bool
	ExpectContinue bool
	Upgrade        bool // Connection names upgrade
}

// Response is the head of a response.
type Response struct {
	Status    int
	Reason    string
	Minor     int
	Fields    header.List
	Framing   Framing
	Length    int64
	KeepAlive bool
	Upgrade   bool
}

// Error is a message that breaks RFC 9112 or a limit.
type Error struct {
	Status int    // the answer of a server: 400, 414, 431, 501 or 505
	Reason string // for logs; nothing of the message
}

// Error implements error.
func (e *Error) Error() string { return "malformed HTTP/1.1: " + e.Reason }

// bad returns an Error that a server answers with 400.
func bad(reason string) *Error { return &Error{400, reason} }

// Classes of bytes.
const (
	isTokenByte  = 1 << iota // RFC 9110 section 5.6.2
	isValueByte              // field-content and white space: RFC 9110 section 5.5
	isTargetByte             // printable but '#'; what is beyond ASCII is the router's to escape
)

// classes returns the class of each byte. It is called once for a Reader and a
// Writer each, which keep a pointer.
func classes() [256]byte {
	var t [256]byte
	for c := range 256 {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			t[c] = isTokenByte
		}
		if c == '\t' || c >= 0x20 && c != 0x7f {
			t[c] |= isValueByte
		}
		if c > 0x20 && c != 0x7f && c != '#' {
			t[c] |= isTargetByte
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= isTokenByte
	}
	return t
}

// table is read-only.
var table = classes() //nolint:gochecknoglobals // a constant, which Go has no way to write

func all(s []byte, class byte) bool {
	for _, c := range s {
		if table[c]&class == 0 {
			return false
		}
	}
	return true
}

// ValidToken reports whether s is a token (RFC 9110 section 5.6.2).
func ValidToken(s string) bool {
	for i := range len(s) {
		if table[s[i]]&isTokenByte == 0 {
			return false
		}
	}
	return s != ""
}

// trim removes optional white space from both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
