package controlapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// planes are data planes that report what a test says.
type planes struct {
	mu      sync.Mutex
	reports []registry.Report
}

func (p *planes) Reports() []registry.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.reports)
}

func (p *planes) set(reports ...registry.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = reports
}

// follow runs what follows quarantines until the test ends.
func (a *api) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.server.RunQuarantines(ctx) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
}

// stored returns the stored quarantine of a node.
func (a *api) stored(node string) *mesh.Quarantine {
	return a.server.writer.state.Load().config.Quarantines[node]
}

// soon waits until ok.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// receipt returns the receipt of a as lines: "where STATE".
func receiptOf(a answer) []string {
	list, _ := a.json["contained"].([]any)
	var out []string
	for _, c := range list {
		m, _ := c.(map[string]any)
		out = append(out, fmt.Sprint(m["where"], " ", m["state"]))
	}
	return out
}

const quarantinePath = "/v1/nodes/edge7:quarantine"

func TestQuarantineIsStoredOnce(t *testing.T) {
	a := newAPI(t)
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["SIDECAR"],"gateways":["demo"]}`)
	first := a.must("POST", quarantinePath, `{"reason":"stolen","gateways":["old","demo"]}`)
	q := a.stored("edge7")
	if first.json["name"] != "quarantines/edge7" || first.json["reason"] != "stolen" || first.json["state"] != "ALL_CONTAINED" ||
		!strings.HasPrefix(fmt.Sprint(first.json["by"]), "token:") || !slices.Equal(q.Gateways, []string{"demo", "old"}) || !q.Active() {
		t.Errorf("%s\nstored %+v", first.body, q)
	}
	if want := mesh.CertificatesFrom(*q.Time, 0); !q.CertificatesFrom.Equal(want) {
		t.Errorf("certificates from %v, want %v", q.CertificatesFrom, want)
	}
	if first.header.Get("Hedgerow-Published") != "true" {
		t.Error("it was not published")
	}
	if raw := string(a.log.records["quarantines/edge7"]); strings.Contains(raw, "contained") || strings.Contains(raw, "state") {
		t.Errorf("stored: %s", raw)
	}
	revision := a.log.revision()
	for _, body := range []string{"", "{}", `{"reason":"again"}`} {
		if got := a.must("POST", quarantinePath, body); got.json["reason"] != "stolen" || a.log.revision() != revision {
			t.Errorf("%q: %s", body, got.body)
		}
	}
	node := a.must("GET", "/v1/nodes/edge7", "")
	if node.json["state"] != "QUARANTINED" || !strings.Contains(node.body, `"quarantine":{"name":"quarantines/edge7"`) {
		t.Error(node.body)
	}
	for _, path := range []string{"/v1/nodes", "/v1/quarantines"} {
		if got := a.must("GET", path, ""); !strings.Contains(got.body, `"reason":"stolen"`) || strings.Contains(got.body, "contained") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}

// Only :release lifts a quarantine, and not for certificates from before.
func TestNothingButAReleaseLiftsAQuarantine(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	a := newAPI(t, func(o *Options) { o.Now, o.Backdate = clock, 5*time.Minute })
	node := `{"roles":["SIDECAR"],"quarantine":{"releaseTime":"2026-01-02T03:04:05Z"}}`
	a.must("PUT", "/v1/nodes/edge7", node)
	a.must("POST", quarantinePath, "")
	since := *a.stored("edge7").Time
	a.must("PUT", "/v1/nodes/edge7", node)
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["BRIDGE"],"state":"ENROLLED","quarantine":null}`)
	a.must("POST", "/v1:apply", `{"objects":[{"name":"nodes/edge7","roles":["SIDECAR"]}]}`)
	a.must("DELETE", "/v1/nodes/edge7", "")
	for path, want := range map[string]int{"PUT /v1/quarantines/edge7": 405, "DELETE /v1/quarantines/edge7": 405, "GET /v1/quarantines/edge7": 200} {
		method, path, _ := strings.Cut(path, " ")
		if got := a.do(method, path, ""); got.status != want {
			t.Errorf("%s %s: %d", method, path, got.status)
		}
	}
	if got := a.do("POST", "/v1:apply", `{"objects":[{"name":"quarantines/edge7","time":"2026-01-02T03:04:05Z","releaseTime":"2026-01-02T03:04:05Z","certificatesFrom":"2026-01-02T03:04:05Z"}]}`); got.status != 400 {
		t.Errorf("apply: %d %s", got.status, got.body)
	}
	if q := a.stored("edge7"); q == nil || !q.Active() || !q.Time.Equal(since) {
		t.Fatalf("lifted: %+v", q)
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	got := a.must("POST", "/v1/nodes/edge7:release", "")
	q := a.stored("edge7")
	if got.json["state"] != "RELEASED" || q.Active() || !q.CertificatesFrom.Equal(mesh.CertificatesFrom(*q.ReleaseTime, 5*time.Minute)) || q.ReleaseTime.Sub(since) < time.Hour {
		t.Errorf("%s\nstored %+v", got.body, q)
	}
	revision := a.log.revision()
	a.must("POST", "/v1/nodes/edge7:release", "")
	if a.log.revision() != revision {
		t.Error("a second release made a revision")
	}
	a.must("POST", quarantinePath, `{"reason":"again"}`)
	if q := a.stored("edge7"); !q.Active() || !q.Time.After(since) {
		t.Errorf("a second quarantine: %+v", q)
	}
}

func TestQuarantineRefusals(t *testing.T) {
	a := newAPI(t)
	for _, tt := range []struct {
		path, body string
		status     int
		field      string
	}{
		{"/v1/nodes/Edge7:quarantine", "", 400, ""},
		{"/v1/nodes/-:quarantine", "", 400, ""},
		{quarantinePath, `{"why":"x"}`, 400, "why"},
		{quarantinePath, `{"gateways":["Demo"]}`, 422, "gateways[0]"},
		{quarantinePath, `{"reason":"` + strings.Repeat("x", 1025) + `"}`, 422, "reason"},
		{quarantinePath + "?validateOnly=true", "", 400, "query.validateOnly"},
		{"/v1/nodes/edge7:release", "", 404, ""},
		{"/v1/nodes/edge7:reboot", "", 405, ""},
	} {
		got := a.do("POST", tt.path, tt.body)
		if got.status != tt.status || tt.field != "" && !slices.Contains(got.fields(), tt.field) {
			t.Errorf("%s %.60s: %d %s", tt.path, tt.body, got.status, got.body)
		}
	}
	if a.log.revision() != 0 {
		t.Error("something was stored")
	}
}

// The receipt says of each part of the mesh how far it is, and what it once said stays said.
func TestQuarantineReceipt(t *testing.T) {
	seen := &planes{}
	report := func(node, role string) registry.Report {
		return registry.Report{Node: node, Role: role, LastSeen: time.Now()}
	}
	var failing error
	var mu sync.Mutex
	set := func(err error) { mu.Lock(); defer mu.Unlock(); failing = err }
	set(errors.New("no answer"))
	a := newAPI(t, func(o *Options) {
		o.Observed = seen
		o.Access = []Access{
			{Name: "redis", Withdraw: func(_ context.Context, node string) error {
				mu.Lock()
				defer mu.Unlock()
				if node != "edge7" {
					t.Errorf("withdrawn from %s", node)
				}
				return failing
			}},
			{Name: "vault", Detail: "there is none"},
		}
	})
	a.follow()
	for _, node := range []string{`edge7 {"roles":["BRIDGE","SIDECAR"]}`, `a {"roles":["SIDECAR"]}`, `b {"roles":["GATEWAY"]}`, `gone {"roles":["SIDECAR"]}`} {
		id, body, _ := strings.Cut(node, " ")
		a.must("PUT", "/v1/nodes/"+id, body)
	}
	own := report("edge7", "BRIDGE")
	own.Broker = "mqtt.example:1883"
	seen.set(own, report("a", "SIDECAR"), report("b", "GATEWAY"))
	answered := make(chan answer, 1)
	go func() { answered <- a.must("POST", quarantinePath, "") }()
	soon(t, "stored", func() bool { return a.stored("edge7") != nil })
	q := a.stored("edge7")
	done := report("a", "SIDECAR")
	done.Contained = []registry.Contained{
		{Node: "edge7", Since: q.Time.Add(-time.Hour), Time: *q.Time}, // an earlier one
		{Node: "edge8", Since: *q.Time, Time: *q.Time},
	}
	seen.set(own, done, report("b", "GATEWAY"))
	soon(t, "withdrawing was tried", func() bool {
		return slices.Contains(receiptOf(a.must("GET", "/v1/quarantines/edge7", "")), "access/redis FAILED")
	})
	got := a.must("GET", "/v1/quarantines/edge7", "")
	want := []string{"sidecar/a PENDING", "gateway/b PENDING", "bridge/edge7 PENDING", "sidecar/edge7 OFFLINE", "sidecar/gone OFFLINE", "broker/edge7 NOT_CONTAINED", "access/redis FAILED", "access/vault NOT_CONTAINED"}
	if !slices.Equal(receiptOf(got), want) || got.json["state"] != "CONTAINING" || !strings.Contains(got.body, "no answer") || !strings.Contains(got.body, "mqtt.example:1883") {
		t.Errorf("%q\nwant %q\n%s", receiptOf(got), want, got.body)
	}
	done.Contained = []registry.Contained{{Node: "edge7", Since: *q.Time, Time: q.Time.Add(-time.Hour)}} // a clock that is behind
	other := report("b", "GATEWAY")
	other.Contained = []registry.Contained{{Node: "edge7", Since: *q.Time, Time: q.Time.Add(time.Hour)}} // and one that is ahead
	seen.set(own, done, other)
	soon(t, "both carried it out", func() bool {
		return slices.Contains(receiptOf(a.must("GET", "/v1/nodes/edge7", "").quarantine()), "gateway/b DONE")
	})
	set(nil)
	got = <-answered
	seen.set(own) // the others went away
	soon(t, "all done", func() bool {
		got = a.must("GET", "/v1/quarantines/edge7", "")
		return got.json["state"] == "ALL_CONTAINED"
	})
	want = []string{"sidecar/a DONE", "gateway/b DONE", "bridge/edge7 PENDING", "sidecar/edge7 OFFLINE", "sidecar/gone OFFLINE", "broker/edge7 NOT_CONTAINED", "access/redis DONE", "access/vault NOT_CONTAINED"}
	if !slices.Equal(receiptOf(got), want) {
		t.Errorf("%q\nwant %q", receiptOf(got), want)
	}
	for _, c := range a.server.service.shown("edge7", true).Contained {
		if c.State == mesh.ContainmentDone && c.Time.Before(*q.Time) {
			t.Errorf("%s at %v, before the call at %v", c.Where, c.Time, q.Time)
		}
		if c.State == mesh.ContainmentDone && (c.After == nil || *c.After < 0 || time.Duration(*c.After) > 30*time.Second) {
			t.Errorf("%s after %v", c.Where, c.After)
		}
	}
}

// quarantine returns what a node's answer says of its quarantine.
func (a answer) quarantine() answer {
	a.json, _ = a.json["quarantine"].(map[string]any)
	return a
}

// The answer waits for the data planes that are reached, and not for the others.
func TestQuarantineWaitsForWhoIsReached(t *testing.T) {
	seen := &planes{}
	a := newAPI(t, func(o *Options) { o.Observed = seen })
	a.must("PUT", "/v1/nodes/a", `{"roles":["SIDECAR"]}`)
	began := time.Now()
	if got := a.must("POST", quarantinePath, ""); !slices.Equal(receiptOf(got), []string{"sidecar/a OFFLINE"}) || time.Since(began) > receiptWait/2 {
		t.Errorf("after %v: %s", time.Since(began), got.body)
	}
	seen.set(registry.Report{Node: "a", Role: "SIDECAR"})
	began = time.Now()
	got := a.must("POST", "/v1/nodes/edge8:quarantine", "")
	if took := time.Since(began); !slices.Equal(receiptOf(got), []string{"sidecar/a PENDING"}) || took < receiptWait || took > 3*receiptWait {
		t.Errorf("after %v: %s", took, got.body)
	}
}

// A node that is shut out cannot hold up the receipts of others by saying nothing.
func TestQuarantineWaitsForNobodyWhoIsShutOut(t *testing.T) {
	seen := &planes{}
	a := newAPI(t, func(o *Options) { o.Observed = seen })
	for _, id := range []string{"thief", "next"} {
		a.must("PUT", "/v1/nodes/"+id, `{"roles":["SIDECAR"]}`)
	}
	a.must("POST", "/v1/nodes/thief:quarantine", "")
	seen.set(registry.Report{Node: "thief", Role: "SIDECAR"})
	began := time.Now()
	got := a.must("POST", "/v1/nodes/next:quarantine", "")
	if took := time.Since(began); got.json["state"] != "ALL_CONTAINED" || took > receiptWait/2 {
		t.Errorf("after %v: %s", took, got.body)
	}
	if want := []string{"sidecar/next OFFLINE", "sidecar/thief PENDING"}; !slices.Equal(receiptOf(got), want) || !strings.Contains(got.body, "in quarantine too") {
		t.Errorf("%q, want %q: %s", receiptOf(got), want, got.body)
	}
}

// What the node's own data planes learn by is left to them for a moment, and no longer.
func TestWithdrawalLeavesTheNodeAMomentToLearnOfIt(t *testing.T) {
	seen := &planes{}
	at := make(chan time.Time, 9)
	a := newAPI(t, func(o *Options) {
		o.Observed = seen
		o.Access = []Access{{Name: "redis", Tells: true, Withdraw: func(context.Context, string) error { at <- time.Now(); return nil }}}
	})
	a.follow()
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["BRIDGE"]}`)
	seen.set(registry.Report{Node: "edge7", Role: "BRIDGE"})
	a.must("POST", quarantinePath, "")
	if took := (<-at).Sub(*a.stored("edge7").Time); took < tellFor || took > tellFor+5*time.Second {
		t.Errorf("a node that says nothing: withdrawn after %v", took)
	}
	a.must("POST", "/v1/nodes/edge8:quarantine", "") // which reports nothing
	if took := (<-at).Sub(*a.stored("edge8").Time); took > tellFor {
		t.Errorf("a node that is not there: withdrawn after %v", took)
	}
}

// Certificates of the node's gateways that it got until its access was withdrawn are
// refused, too.
func TestCertificatesOfGatewaysUntilTheWithdrawalAreRefused(t *testing.T) {
	released := make(chan struct{})
	a := newAPI(t, func(o *Options) {
		o.Access = []Access{{Name: "vault", Certifies: true, Withdraw: func(ctx context.Context, _ string) error {
			select {
			case <-released:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}}
	})
	a.follow()
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["GATEWAY"],"gateways":["demo"]}`)
	a.must("POST", quarantinePath, "")
	first := *a.stored("edge7").CertificatesFrom
	soon(t, "a second later", func() bool { return time.Since(*a.stored("edge7").Time) > 1100*time.Millisecond })
	close(released)
	soon(t, "a later time", func() bool { return a.stored("edge7").CertificatesFrom.After(first) })
	if q := a.stored("edge7"); !q.Active() || q.Reason != "" || !slices.Equal(q.Gateways, []string{"demo"}) {
		t.Errorf("%+v", q)
	}
	soon(t, "it is done", func() bool {
		return slices.Contains(receiptOf(a.must("GET", "/v1/quarantines/edge7", "")), "access/vault DONE")
	})
}

// After a restart what was withdrawn is withdrawn again; what is over is deleted.
func TestQuarantinesThatAreOverAreDeleted(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	a := newAPI(t, func(o *Options) { o.Now = clock })
	a.must("POST", quarantinePath, "")
	a.must("POST", "/v1/nodes/edge8:quarantine", "")
	a.must("POST", "/v1/nodes/edge7:release", "")
	a.server.service.followQuarantines(t.Context())
	if a.stored("edge7") == nil {
		t.Error("a release lets old certificates in")
	}
	mu.Lock()
	now = now.Add(mesh.LongestLife + time.Minute)
	mu.Unlock()
	a.server.service.followQuarantines(t.Context())
	if a.stored("edge7") != nil || a.stored("edge8") == nil {
		t.Errorf("%v, %v", a.stored("edge7"), a.stored("edge8"))
	}
}
