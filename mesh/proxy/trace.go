package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// TraceID is that of W3C Trace Context; zero is none.
type TraceID [16]byte

// SpanID is its parent-id; zero is none.
type SpanID [8]byte

// String is lower-case hex.
func (id TraceID) String() string { return hex.EncodeToString(id[:]) }

// String is lower-case hex.
func (id SpanID) String() string { return hex.EncodeToString(id[:]) }

// Span is what one proxy did for one request, for an exporter of traces. It may be
// kept.
type Span struct {
	Trace      TraceID
	ID, Parent SpanID // Parent is zero in a trace that began here
	State      string // tracestate, as it came
	Face       string // "gateway", "outbound" or "inbound"
	Start, End time.Time
	Method     string
	Host       string
	Path       string
	Service    string
	Route      string // "routes/orders/rule"; may be ""
	Status     int    // 0: the client did not get all of the response
	Code       string // of an answer of our own
	Tries      int
}

// Tracing is what an Engine does about traces. The zero value passes on what callers
// send and makes nothing.
type Tracing struct {
	// Sample is the share of the requests in [0,1] whose traces begin here and are
	// exported. Whether others are is their caller's decision.
	Sample float64
	// Export takes a span. It must not block. Nil exports nothing.
	Export func(*Span)
}

const (
	traceParent = "Traceparent"
	traceState  = "Tracestate"
)

// traced is the place of an exchange in a trace.
type traced struct {
	trace   TraceID
	span    SpanID
	parent  SpanID
	sampled bool
	text    [55]byte // traceparent as it is sent on
}

// begin takes the trace of the caller's fields, or begins one, and says in l what the
// next hop is to know. Traceparents that are malformed or come twice begin another
// trace (W3C Trace Context, section 4.3).
func (t *traced) begin(tracing *Tracing, l header.List) header.List {
	if tracing.Export == nil {
		return l // and what came is passed on
	}
	var ok bool
	if t.trace, t.parent, t.sampled, ok = parseTraceParent(only(l, traceParent)); !ok {
		t.parent = SpanID{}
		binary.BigEndian.PutUint64(t.trace[:8], rand.Uint64())
		binary.BigEndian.PutUint64(t.trace[8:], rand.Uint64()|1)
		t.sampled = rand.Float64() < tracing.Sample
		l = l.Del(traceState)
	}
	binary.BigEndian.PutUint64(t.span[:], rand.Uint64()|1)
	copy(t.text[:], "00-")
	hex.Encode(t.text[3:], t.trace[:])
	t.text[35] = '-'
	hex.Encode(t.text[36:], t.span[:])
	copy(t.text[52:], "-00")
	if t.sampled {
		t.text[54] = '1'
	}
	return l.Set(traceParent, header.View(t.text[:]))
}

// parseTraceParent reads version-format 00, and of later versions what they must have in
// common with it.
func parseTraceParent(s string) (trace TraceID, parent SpanID, sampled, ok bool) {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return trace, parent, false, false
	}
	var version, flags [1]byte
	for _, part := range []struct {
		to   []byte
		from string
	}{{version[:], s[:2]}, {trace[:], s[3:35]}, {parent[:], s[36:52]}, {flags[:], s[53:55]}} {
		if !lowerHex(part.to, part.from) {
			return trace, parent, false, false
		}
	}
	ok = version[0] != 0xff && trace != TraceID{} && parent != SpanID{}
	return trace, parent, flags[0]&1 == 1, ok
}

// lowerHex decodes from, which has no upper-case digits.
func lowerHex(to []byte, from string) bool {
	for i := range to {
		high, low := from[2*i], from[2*i+1]
		if !isHex(high) || !isHex(low) || high >= 'A' && high <= 'F' || low >= 'A' && low <= 'F' {
			return false
		}
		to[i] = unhex(high)<<4 | unhex(low)
	}
	return true
}
