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

// deadlineOf returns how much time the caller gives the request in in; ok is false if
// it does not say. What it says in more than one field, or nobody can read, is
// nothing said.
func deadlineOf(in *incoming, face FaceKind) (left time.Duration, ok bool) {
	if face != Gateway {
		left, ok = parseMillis(only(in.fields, deadlineHeader))
	}
	if !isGRPC(in) {
		return left, ok
	}
	asked, said := parseGRPCTimeout(only(in.fields, grpcTimeout))
	if said && (!ok || asked < left) {
		return asked, true
	}
	return left, ok
}

func parseMillis(s string) (time.Duration, bool) {
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
	if x.watch.until == 0 {
		return nil
	}
	left := x.watch.until - x.watch.now()
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
