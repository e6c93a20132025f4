package proxy

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// What may have been processed is sent again only where that does no harm, and
// nothing is whose beginning is forgotten.
func TestWhatIsTriedAgain(t *testing.T) {
	all := RetryPolicy{Attempts: 1, OnConnectFailure: true, OnReset: true, OnGatewayError: true, OnTooMany: true}
	key := header.List{{Name: "Idempotency-Key", Value: "k"}}
	connect, reset := &failure{kind: failedConnect}, &failure{kind: failedReset}
	tryTime, routeTime := &failure{kind: failedTimeout, err: errTryTimeout}, &failure{kind: failedTimeout, err: errTimeout}
	for _, tt := range []struct {
		name      string
		policy    RetryPolicy
		method    string
		fields    header.List
		forgotten bool
		status    int
		failed    *failure
		want      bool
	}{
		{"GET after 503", all, "GET", nil, false, 503, nil, true},
		{"GET after 429", all, "GET", nil, false, 429, nil, true},
		{"GET after 500", all, "GET", nil, false, 500, nil, false},
		{"POST after 503", all, "POST", nil, false, 503, nil, false},
		{"POST with a key after 503", all, "POST", key, false, 503, nil, true},
		{"POST after 429", all, "POST", nil, false, 429, nil, false},
		{"PUT after 503 whose body is forgotten", all, "PUT", nil, true, 503, nil, false},
		{"PUT after no connection whose body is forgotten", all, "PUT", nil, true, 0, connect, false},
		{"POST after no connection", all, "POST", nil, false, 0, connect, true},
		{"POST after a reset", all, "POST", nil, false, 0, reset, false},
		{"GET after a reset", all, "GET", nil, false, 0, reset, true},
		{"POST after the time of a try", all, "POST", nil, false, 0, tryTime, false},
		{"GET after the time of a try", all, "GET", nil, false, 0, tryTime, true},
		{"GET after the time of the route", all, "GET", nil, false, 0, routeTime, false},
		{"GET after the client's fault", all, "GET", nil, false, 0, &failure{kind: failedClient}, false},
		{"GET after 503, not asked for", RetryPolicy{Attempts: 1}, "GET", nil, false, 503, nil, false},
		{"GET after 429, not asked for", RetryPolicy{Attempts: 1, OnGatewayError: true}, "GET", nil, false, 429, nil, false},
		{"GET after no connection, not asked for", RetryPolicy{Attempts: 1}, "GET", nil, false, 0, connect, false},
		{"GET after a reset, not asked for", RetryPolicy{Attempts: 1}, "GET", nil, false, 0, reset, false},
		{"GET after the time of a try, not asked for", RetryPolicy{Attempts: 1}, "GET", nil, false, 0, tryTime, false},
	} {
		x := &exchange{out: outgoing{method: tt.method, fields: tt.fields}, isWhole: !tt.forgotten}
		if tt.forgotten {
			x.body = sourceOf(strings.Repeat("x", 100), 64)
			if _, err := io.ReadAll(mustOpen(t, x.body)); err != nil {
				t.Fatal(err)
			}
		}
		if got := tt.policy.wants(x, tt.status, tt.failed); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// unprocessed fails every time in the same way.
type unprocessed struct {
	err   error
	tries []bool // each, and whether it asked for a fresh connection
}

func (u *unprocessed) send(_ *exchange, fresh bool) (answer, error) {
	u.tries = append(u.tries, fresh)
	return nil, u.err
}

// A try is begun anew on a fresh connection, a few times at most.
func TestStaleTriesAreBounded(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		name, method string
		err          error
		tries        int
	}{
		{"GET, stale", "GET", &staleError{false, gone}, 1 + mostStale},
		{"POST, stale", "POST", &staleError{false, gone}, 1},
		{"POST, unprocessed", "POST", &staleError{true, gone}, 1 + mostStale},
		{"GET, not stale", "GET", gone, 1},
	} {
		s := edgeServer(t, nil)
		x := &exchange{s: s, isWhole: true, out: outgoing{method: tt.method}}
		u := &unprocessed{err: tt.err}
		if _, failed := x.try(u, 0); failed == nil || failed.kind != failedReset {
			t.Errorf("%s: %v", tt.name, failed)
		}
		for i, fresh := range u.tries {
			if fresh != (i > 0) {
				t.Errorf("%s: try %d asks for a fresh connection: %v", tt.name, i, fresh)
			}
		}
		if len(u.tries) != tt.tries {
			t.Errorf("%s: %d tries, want %d", tt.name, len(u.tries), tt.tries)
		}
	}
}
