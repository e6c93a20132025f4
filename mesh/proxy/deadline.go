package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// deadlineHeader says in milliseconds how much of its time a request has left. Each
// hop passes on what is left of the lesser of that and its own bound, so that nobody
// works for a caller that has given up. A workload may pass on what it got.
const deadlineHeader = "Hedgerow-Deadline"

// grpcTimeout is gRPC's own ("PROTOCOL-HTTP2", Timeout).
const grpcTimeout = "Grpc-Timeout"

// mostDeadline is the largest deadline that is taken for one: more is no bound.
const mostDeadline = 24 * time.Hour

// errNoTimeLeft is why a request is not sent anywhere.
var errNoTimeLeft = errors.New("the caller's deadline has passed")

// callTerms is what a request's fields say of how it is to be carried.
type callTerms struct {
	grpc     bool
	deadline time.Duration // how much time the caller gives
	timed    bool          // it does
}

// termsOf reads the terms of the request in in. A deadline that comes in more than one
// field, or that nobody can read, is none.
func termsOf(in *incoming, face FaceKind) callTerms {
	var contentType, millis, timeout string
	several := false
	for i := range in.fields {
		f := &in.fields[i]
		var to *string
		switch len(f.Name) { // most fields are none of these
		case len(deadlineHeader):
			if header.Equal(f.Name, deadlineHeader) && face != Gateway {
				to = &millis
			}
		case len(grpcTimeout):
			switch {
			case in.http1:
			case header.Equal(f.Name, "Content-Type"):
				contentType = f.Value
			case header.Equal(f.Name, grpcTimeout):
				to = &timeout
			}
		}
		if to != nil {
			several = several || *to != ""
			*to = f.Value
		}
	}
	t := callTerms{grpc: isGRPC(contentType)}
	if several {
		return t
	}
	t.deadline, t.timed = parseMillis(millis)
	if asked, said := parseGRPCTimeout(timeout); said && t.grpc && (!t.timed || asked < t.deadline) {
		t.deadline, t.timed = asked, true
	}
	return t
}

func parseMillis(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false // and no error is made
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n > uint64(mostDeadline/time.Millisecond) {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}

// parseGRPCTimeout reads up to eight digits and a unit.
func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	at := strings.IndexByte("HMSmun", s[len(s)-1])
	if err != nil || at < 0 {
		return 0, false
	}
	unit := [...]time.Duration{time.Hour, time.Minute, time.Second, time.Millisecond, time.Microsecond, time.Nanosecond}[at]
	if n > uint64(mostDeadline/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// passDeadline says in the request that is sent how much time is left, and fails if
// none is.
func (x *exchange) passDeadline() *failure {
	until := time.Duration(x.watch.until.Load())
	if until == 0 {
		return nil
	}
	left := until - x.watch.now()
	if left <= 0 {
		return &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the time for the request has passed"}, failedTimeout, errNoTimeLeft}
	}
	millis := strconv.AppendInt(x.deadlineText[:0], int64((left+time.Millisecond-1)/time.Millisecond), 10)
	x.out.fields = x.out.fields.Set(deadlineHeader, header.View(millis))
	if x.grpc {
		x.out.fields = x.out.fields.Set(grpcTimeout, header.View(append(millis, 'm')))
	}
	return nil
}
