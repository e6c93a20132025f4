package controlapi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// audited has the API write an audit log, and returns what that says.
func audited(t *testing.T) (func(*Options), func() []auditlog.Entry) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := auditlog.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return func(o *Options) { o.Audit = l }, func() (out []auditlog.Entry) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := auditlog.Verify(strings.NewReader(string(raw)), auditlog.Tail{}); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(raw)) {
			_, text, _ := strings.Cut(line, " ")
			var e auditlog.Entry
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
}

func TestWhatIsAudited(t *testing.T) {
	audit, entries := audited(t)
	a := newAPI(t, audit)
	secret := a.token("ci", "VIEWER", `[]`)
	rpc := dialGRPC(t, a.addr, insecure.NewCredentials())
	for _, tt := range []struct {
		name string
		do   func()
		want string // outcome, who, call, target or objects, code; "" is no entry
	}{
		{"a write", func() { a.must("PUT", "/v1/services/a", `{}`) }, "ACCEPTED token:5c0c53a1 PutService services/a "},
		{"a batch", func() { a.must("POST", "/v1:apply", `{"objects":[{"name":"services/b"},{"name":"services/c"}]}`) }, "ACCEPTED token:5c0c53a1 Apply services/b,services/c "},
		{"a deletion", func() { a.must("DELETE", "/v1/services/b", "") }, "ACCEPTED token:5c0c53a1 DeleteService services/b "},
		{"what changes nothing", func() { a.must("PUT", "/v1/services/a", `{}`) }, ""},
		{"a dry run", func() { a.must("PUT", "/v1/services/z?validateOnly=true", `{}`) }, ""},
		{"a write by a viewer", func() { a.do("PUT", "/v1/services/a", `{}`, as(secret)...) }, "REFUSED tokens/ci PutService /v1/services/a denied"},
		{"a write that is wrong", func() { a.do("PUT", "/v1/services/a", `{`) }, "REFUSED token:5c0c53a1 PutService /v1/services/a malformed"},
		{"a stale write", func() { a.do("DELETE", "/v1/services/a?etag=1", ``) }, "REFUSED token:5c0c53a1 DeleteService /v1/services/a stale"},
		{"a read", func() { a.must("GET", "/v1/services/a", "") }, ""},
		{"a read of nothing", func() { a.do("GET", "/v1/services/none", "") }, ""},
		{"a stranger", func() { a.do("GET", "/v1/services/a", "", as("hgt_who")...) }, "UNAUTHENTICATED  GetService /v1/services/a unauthenticated"},
		{"a stranger who looks around", func() { a.do("GET", "/v1/secrets", "", as("hgt_who")...) }, "UNAUTHENTICATED   /v1/secrets unauthenticated"},
		{"a refused write by gRPC", func() {
			_, _ = rpc.DeleteService(withToken(t), &hedgerowv1.DeleteServiceRequest{Id: "none"}) // refused
		}, "REFUSED token:5c0c53a1 DeleteService services/none not_found"},
		{"a stranger by gRPC", func() {
			_, _ = rpc.GetService(t.Context(), &hedgerowv1.GetServiceRequest{Id: "a"}) // refused
		}, "UNAUTHENTICATED  GetService a unauthenticated"},
	} {
		before := len(entries())
		tt.do()
		after := entries()
		if tt.want == "" {
			if len(after) != before {
				t.Errorf("%s: %+v", tt.name, after[before:])
			}
			continue
		}
		if len(after) != before+1 {
			t.Errorf("%s: %d entries", tt.name, len(after)-before)
			continue
		}
		e := after[before]
		got := strings.Join([]string{e.Outcome, e.Who, e.Call, e.Target + strings.Join(e.Objects, ","), e.Code}, " ")
		if e.Who != "tokens/ci" && e.Who != "" {
			got = strings.Replace(got, e.Who, "token:5c0c53a1", 1)
		}
		if tt.name == "a refused write by gRPC" {
			got = strings.Replace(got, " none ", " services/none ", 1)
		}
		if got != tt.want || !strings.HasPrefix(e.From, "127.0.0.1:") || e.Time.IsZero() {
			t.Errorf("%s: %q from %q, want %q", tt.name, got, e.From, tt.want)
		}
		if e.Outcome == auditlog.Accepted && e.Revision != a.log.revision() {
			t.Errorf("%s: revision %d", tt.name, e.Revision)
		}
	}
	for _, e := range entries() {
		if raw, err := json.Marshal(e); err != nil || strings.Contains(string(raw), "hgt_") || strings.Contains(string(raw), testToken) {
			t.Errorf("%v: a secret is in the audit log: %s", err, raw)
		}
	}
}

// full is an audit log on a disk without room, while it is set.
type full struct{ set atomic.Bool }

func (f *full) Append(auditlog.Entry, bool) error {
	if f.set.Load() {
		return mesh.Errorf("audit", "", mesh.Unavailable, "no space left on device").WithHint("make room on the disk of the audit log")
	}
	return nil
}

func TestWithoutAnAuditNothingIsWritten(t *testing.T) {
	disk := new(full)
	a := newAPI(t, func(o *Options) { o.Audit = disk })
	a.must("PUT", "/v1/services/a", `{}`)
	disk.set.Store(true)
	got := a.do("PUT", "/v1/services/b", `{}`)
	if got.status != 503 || !strings.Contains(got.body, "make room on the disk of the audit log") || a.log.revision() != 1 {
		t.Errorf("revision %d: %d %s", a.log.revision(), got.status, got.body)
	}
	a.must("GET", "/v1/services/a", "")
	if got := a.do("PUT", "/v1/services/b", `{`); got.status != 400 {
		t.Errorf("%d %s", got.status, got.body)
	}
	disk.set.Store(false)
	a.must("PUT", "/v1/services/b", `{}`)
}

func TestAWriteThatCannotBeStoredIsAuditedAsFailed(t *testing.T) {
	audit, entries := audited(t)
	a := newAPI(t, audit)
	a.log.fail = mesh.Errorf("log", "", mesh.Unavailable, "no disk")
	if got := a.do("PUT", "/v1/services/a", `{}`); got.status != 503 {
		t.Errorf("%d %s", got.status, got.body)
	}
	var outcomes []string
	for _, e := range entries() {
		outcomes = append(outcomes, e.Outcome)
	}
	if got := strings.Join(outcomes, " "); got != "ACCEPTED FAILED REFUSED" {
		t.Error(got)
	}
}

// A stranger cannot fill the disk, and how many there were is told.
func TestStrangersGetFewEntries(t *testing.T) {
	audit, entries := audited(t)
	now := time.Unix(1_800_000_000, 0)
	var ahead atomic.Int64
	const perStranger = 5
	a := newAPI(t, audit, func(o *Options) {
		o.RequestsPerSecond, o.Now = 0, func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	})
	statuses := map[int]int{}
	for range 500 {
		statuses[a.do("GET", "/v1/services", "", as("hgt_who")...).status]++
	}
	if n := len(entries()); n > 10*strangersPerSecond || n != statuses[401] {
		t.Errorf("%d entries; %v", n, statuses)
	}
	if statuses[401] != 2*perStranger || statuses[429] != 500-2*perStranger {
		t.Errorf("%v", statuses)
	}
	if got := a.do("GET", "/v1/services", ""); got.status != 200 {
		t.Errorf("who shares the address is kept out: %d", got.status)
	}
	e := newAuditor(new(full), func() time.Time { return now }, a.server.log, nil)
	var last auditlog.Entry
	for range 1000 {
		e.room(&last)
	}
	now = now.Add(time.Second)
	if !e.room(&last) || last.Suppressed != 900 {
		t.Errorf("%d were suppressed", last.Suppressed)
	}
}

func TestCallersAreKeptToTheirRate(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var ahead atomic.Int64
	a := newAPI(t, known(principal{name: "one", role: viewer, bearer: true}, principal{name: "two", role: viewer, bearer: true}),
		func(o *Options) {
			o.RequestsPerSecond, o.Now = 0, func() time.Time { return now.Add(time.Duration(ahead.Load())) }
		})
	statuses := map[int]int{}
	for range 150 {
		got := a.do("GET", "/v1/services", "", as("one")...)
		statuses[got.status]++
		if got.status == 429 && (got.header.Get("Retry-After") != "1" || got.code() != "rate_limited") {
			t.Fatalf("%v %s", got.header, got.body)
		}
	}
	if statuses[200] != 2*perCaller || statuses[429] != 50 {
		t.Errorf("%v", statuses)
	}
	if got := a.do("GET", "/v1/services", "", as("two")...); got.status != 200 {
		t.Errorf("another is kept out: %d", got.status)
	}
	ahead.Store(int64(time.Second))
	for i := range perCaller + 1 {
		if got := a.do("GET", "/v1/services", "", as("one")...); (got.status == 200) != (i < perCaller) {
			t.Errorf("request %d of the next second: %d", i, got.status)
		}
	}
}

func TestBucketsAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLimiter(func() time.Time { return now }, 0)
	stranger := func(i int) caller {
		return caller{remote: string(rune('a'+i%26)) + strings.Repeat("x", i/26) + ":1", err: mesh.Errorf("x", "", mesh.Unauthentic, "x")}
	}
	for i := range 600 {
		l.check(stranger(i))
	}
	if len(l.strangers) != 600 {
		t.Errorf("%d", len(l.strangers))
	}
	for i := range maxBuckets {
		l.strangers[string(rune(i))+"/"] = &bucket{at: now}
	}
	if c := l.check(stranger(601)); classify(c.err) != codeRateLimited {
		t.Errorf("%v", c.err)
	}
	now = now.Add(3 * time.Second)
	if c := l.check(stranger(602)); classify(c.err) != codeUnauthenticated || len(l.strangers) != 1 {
		t.Errorf("%v, %d", c.err, len(l.strangers))
	}
}
