package controlapi

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

func TestPutStoresAndGetReturnsIt(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := withDemo(t, func(o *Options) { o.Now = func() time.Time { return now } })
	got := a.do("GET", "/v1/routes/demo", "")
	const want = `{"name":"routes/demo","etag":"2","revision":2,"createTime":"2026-01-02T03:04:05Z","updateTime":"2026-01-02T03:04:05Z","targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"name":"orders","matches":[{"path":{"prefix":"/orders"}}],"backends":[{"service":"orders","subset":"v1","weight":90},{"service":"orders","subset":"v2","weight":10}],"timeout":"2.500s"}]}` + "\n"
	if got.status != 200 || got.body != want {
		t.Errorf("%d %s\nwant %s", got.status, got.body, want)
	}
	if etag := got.header.Get("ETag"); etag != `"2"` {
		t.Errorf("ETag %s", etag)
	}
	if ct := got.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %s", ct)
	}

	now = now.Add(time.Hour)
	put := a.must("PUT", "/v1/routes/demo", strings.Replace(demoRoute, "90", "0", 1))
	if put.json["etag"] != "3" || put.json["createTime"] != "2026-01-02T03:04:05Z" || put.json["updateTime"] != "2026-01-02T04:04:05Z" {
		t.Errorf("after a change: %s", put.body)
	}
	if !strings.Contains(put.body, `"weight":0`) {
		t.Errorf("a weight of 0 is not shown: %s", put.body)
	}
	if put.header.Get("Hedgerow-Published") != "true" {
		t.Errorf("Hedgerow-Published: %s", put.header.Get("Hedgerow-Published"))
	}
	if n := len(a.publisher.published); n != 3 {
		t.Errorf("%d revisions were published", n)
	}
	for i, base := range a.publisher.bases {
		if int(base.Revision) != i {
			t.Errorf("revision %d was published on base %d", i+1, base.Revision)
		}
	}
}

func TestPutOfWhatIsStoredMakesNoRevision(t *testing.T) {
	a := withDemo(t)
	stored := a.must("GET", "/v1/routes/demo", "")
	for _, body := range []string{demoRoute, stored.body} {
		got := a.must("PUT", "/v1/routes/demo", body)
		if got.header.Get("Hedgerow-Published") != "" {
			t.Error("it says that no revision was published")
		}
		if got.body != stored.body || a.log.revision() != 2 {
			t.Errorf("revision %d, %s", a.log.revision(), got.body)
		}
	}
}

func TestOutputOnlyFieldsAreIgnored(t *testing.T) {
	a := newAPI(t)
	got := a.must("PUT", "/v1/nodes/edge7", `{"name":"nodes/edge7","roles":["SIDECAR"],"revision":77,"createTime":"1999-01-01T00:00:00Z","updateTime":"1999-01-01T00:00:00Z","state":"ENROLLED","appliedRevision":9,"lastSeenTime":"1999-01-01T00:00:00Z"}`)
	if got.json["revision"] != 1.0 || strings.Contains(got.body, "1999") || strings.Contains(got.body, "appliedRevision") {
		t.Error(got.body)
	}
	if raw := string(a.log.records["nodes/edge7"]); strings.Contains(raw, "state") || strings.Contains(raw, "1999") {
		t.Errorf("stored: %s", raw)
	}
}

func TestDelete(t *testing.T) {
	a := withDemo(t)
	got := a.do("DELETE", "/v1/services/orders", "")
	if got.status != 409 || got.code() != "conflict" {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if want := []string{"routes/demo rules[0].backends[0].service", "routes/demo rules[0].backends[1].service"}; !reflect.DeepEqual(got.fields(), want) {
		t.Errorf("violations %q, want %q", got.fields(), want)
	}
	if got := a.must("DELETE", "/v1/routes/demo?validateOnly=true", ""); got.body != "{}\n" || a.log.revision() != 2 {
		t.Errorf("validateOnly: revision %d, %q", a.log.revision(), got.body)
	}
	if got := a.must("DELETE", "/v1/routes/demo", ""); got.body != "{}\n" || got.header.Get("Hedgerow-Published") != "true" {
		t.Errorf("%v %q", got.header, got.body)
	}
	if got := a.do("DELETE", "/v1/routes/demo", ""); got.status != 404 {
		t.Errorf("deleted twice: %d", got.status)
	}
	a.must("DELETE", "/v1/services/orders", "")
	if len(a.log.records) != 0 || !reflect.DeepEqual(a.log.changes[2].Deletes, []string{"routes/demo"}) {
		t.Errorf("%v %v", a.log.records, a.log.changes)
	}
}

// A service that loses a subset would break the route that uses it.
func TestPutMayNotBreakOthers(t *testing.T) {
	a := withDemo(t)
	got := a.do("PUT", "/v1/services/orders", `{"subsets":[{"name":"v1","labels":{"version":"v1"}}]}`)
	if got.status != 409 || !slices.Equal(got.fields(), []string{"routes/demo rules[0].backends[1].subset"}) {
		t.Errorf("%d %s", got.status, got.body)
	}
	got = a.do("POST", "/v1:apply", `{"objects":[{"name":"services/orders","subsets":[{"name":"v1","labels":{"version":"v1"}}]},`+
		`{"name":"routes/demo","targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"backends":[{"service":"orders","subset":"v1"}]}]}]}`)
	if got.status != 200 {
		t.Errorf("both at once: %d %s", got.status, got.body)
	}
}

func TestConditions(t *testing.T) {
	etagIn := func(etag string) string { return strings.Replace(demoRoute, "{", `{"etag":"`+etag+`",`, 1) }
	changed := strings.Replace(demoRoute, "90", "80", 1)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		want                     int
	}{
		{"the etag that is stored", "PUT", "demo", etagIn("2"), nil, 200},
		{"a stale etag in the body", "PUT", "demo", etagIn("1"), nil, 412},
		{"a stale etag of an unchanged object", "PUT", "demo", etagIn("1"), nil, 412},
		{"an etag of an object that does not exist", "PUT", "other", etagIn("1"), nil, 412},
		{"If-Match of what is stored", "PUT", "demo", changed, []string{"If-Match", `"2"`}, 200},
		{"If-Match without quotes", "PUT", "demo", changed, []string{"If-Match", `2`}, 200},
		{"If-Match of several", "PUT", "demo", changed, []string{"If-Match", `"1", "2"`}, 200},
		{"If-Match of a stale version", "PUT", "demo", changed, []string{"If-Match", `"1"`}, 412},
		{"If-Match of a weak etag", "PUT", "demo", changed, []string{"If-Match", `W/"2"`}, 412},
		{"If-Match of anything", "PUT", "demo", changed, []string{"If-Match", `*`}, 200},
		{"If-Match of anything, and there is nothing", "PUT", "other", changed, []string{"If-Match", `*`}, 412},
		{"If-None-Match of anything, and there is something", "PUT", "demo", changed, []string{"If-None-Match", `*`}, 412},
		{"If-None-Match of anything, and there is nothing", "PUT", "other", changed, []string{"If-None-Match", `*`}, 200},
		{"DELETE If-Match of a stale version", "DELETE", "demo", "", []string{"If-Match", `"1"`}, 412},
		{"DELETE If-Match of what is stored", "DELETE", "demo", "", []string{"If-Match", `"2"`}, 200},
		{"DELETE with a stale etag", "DELETE", "demo?etag=1", "", nil, 412},
		{"DELETE with the etag that is stored", "DELETE", "demo?etag=2", "", nil, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := withDemo(t)
			got := a.do(c.method, "/v1/routes/"+c.path, c.body, c.headers...)
			if got.status != c.want {
				t.Errorf("%d %s, want %d", got.status, got.body, c.want)
			}
			if c.want == 412 && (got.code() != "stale" || a.log.revision() != 2) {
				t.Errorf("code %s, revision %d", got.code(), a.log.revision())
			}
		})
	}
}

func TestOfTwoWritersWithOneEtagOneWins(t *testing.T) {
	a := withDemo(t)
	statuses := make([]int, 16)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() {
			body := strings.Replace(demoRoute, "90", fmt.Sprint(i), 1)
			statuses[i] = a.do("PUT", "/v1/routes/demo", body, "If-Match", `"2"`).status
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	want := append([]int{200}, slices.Repeat([]int{412}, len(statuses)-1)...)
	if !slices.Equal(statuses, want) || a.log.revision() != 3 {
		t.Errorf("revision %d, %v", a.log.revision(), statuses)
	}
}

func TestValidateOnlyStoresNothing(t *testing.T) {
	a := withDemo(t)
	a.publisher.pingErr = errors.New("away") // a dry run needs no registry
	got := a.must("PUT", "/v1/routes/demo?validateOnly=true", strings.Replace(demoRoute, `"weight":90`, `"weight":1`, 1))
	if got.json["revision"] != 3.0 || got.header.Get("ETag") != `"3"` || got.header.Get("Hedgerow-Published") != "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	if got := a.do("PUT", "/v1/routes/demo?validateOnly=true", `{"targets":["GATEWAY"]}`); got.status != 422 {
		t.Errorf("an invalid one: %d", got.status)
	}
	if a.log.revision() != 2 || len(a.publisher.published) != 2 {
		t.Errorf("revision %d, %d published", a.log.revision(), len(a.publisher.published))
	}
	if now := a.must("GET", "/v1/routes/demo", ""); now.json["revision"] != 2.0 {
		t.Error(now.body)
	}
}

func TestRegistryAwayBeforeTheWriteStoresNothing(t *testing.T) {
	a := withDemo(t)
	a.publisher.pingErr = errors.New("connection refused")
	for _, req := range [][3]string{
		{"PUT", "/v1/services/other", `{}`},
		{"DELETE", "/v1/routes/demo", ""},
		{"POST", "/v1:apply", `{"objects":[{"name":"services/other"}]}`},
	} {
		got := a.do(req[0], req[1], req[2])
		if got.status != 503 || got.code() != "unavailable" || a.log.revision() != 2 {
			t.Errorf("%s %s: %d %s, revision %d", req[0], req[1], got.status, got.body, a.log.revision())
		}
	}
	if got := a.do("GET", "/v1/routes/demo", ""); got.status != 200 {
		t.Errorf("reading: %d", got.status)
	}
	ready := a.do("GET", "/readyz", "", "Authorization", "")
	if ready.status != 503 || ready.json["ready"] != false || !strings.Contains(ready.body, "connection refused") {
		t.Errorf("readyz: %d %s", ready.status, ready.body)
	}
}

func TestRegistryAwayAfterTheWriteIsSaid(t *testing.T) {
	for name, fail := range map[string]func(*fakePublisher){
		"it fails":             func(p *fakePublisher) { p.err = errors.New("reset") },
		"it holds a later one": func(p *fakePublisher) { p.outcome = registry.Newer },
	} {
		t.Run(name, func(t *testing.T) {
			a := withDemo(t)
			fail(a.publisher)
			got := a.must("PUT", "/v1/services/other", `{}`)
			if got.header.Get("Hedgerow-Published") != "false" || a.log.revision() != 3 {
				t.Errorf("%v, revision %d", got.header, a.log.revision())
			}
			batch := a.must("POST", "/v1:apply", `{"objects":[{"name":"services/third"}]}`)
			if batch.header.Get("Hedgerow-Published") != "false" || !strings.Contains(batch.body, "the registry is away") {
				t.Errorf("%v %s", batch.header, batch.body)
			}
			// What was not published is what Source hands out.
			head, records, err := a.server.Source(t.Context())
			if err != nil || head.Revision != 4 || records.Digest() != head.Digest || records["services/third"] == nil {
				t.Errorf("source: %+v %v", head, err)
			}
		})
	}
}

func TestLogThatFailsStoresNothing(t *testing.T) {
	a := withDemo(t)
	a.log.fail = mesh.Errorf("log", "", mesh.Unavailable, "disk full")
	if got := a.do("PUT", "/v1/services/other", `{}`); got.status != 503 || !strings.Contains(got.body, "disk full") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := a.do("GET", "/v1/services/other", ""); got.status != 404 {
		t.Errorf("%d %s", got.status, got.body)
	}
	a.log.fail = nil
	if got := a.must("PUT", "/v1/services/other", `{}`); got.json["revision"] != 3.0 {
		t.Error(got.body)
	}
}

// Another control plane on the same log: what it wrote is taken, and the write
// goes on from there.
func TestLogThatIsAheadIsLoadedAgain(t *testing.T) {
	a := withDemo(t)
	records := mesh.Records{}
	records.Apply(mesh.Change{Puts: a.log.records})
	records["services/theirs"] = []byte(`{"name":"services/theirs","etag":"3","revision":3,"protocol":"HTTP"}`)
	if err := a.log.Append(t.Context(), mesh.Change{
		Head: mesh.Head{Epoch: 1, Revision: 3, Digest: records.Digest()},
		Puts: mesh.Records{"services/theirs": records["services/theirs"]},
	}); err != nil {
		t.Fatal(err)
	}
	if got := a.must("PUT", "/v1/services/ours", `{}`); got.json["revision"] != 4.0 {
		t.Error(got.body)
	}
	a.must("GET", "/v1/services/theirs", "")
}

func TestApply(t *testing.T) {
	a := newAPI(t)
	const batch = `{"objects":[
		{"name":"routes/demo","targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"backends":[{"service":"orders"}]},{"backends":[{"service":"orders","weight":0}]}]},
		{"name":"services/orders"},
		{"name":"defaults/mesh","dialCidrs":["127.0.0.0/8"]}]}`
	dry := a.must("POST", "/v1:apply?validateOnly=true", batch)
	if a.log.revision() != 0 {
		t.Fatal("a dry run stored")
	}
	got := a.must("POST", "/v1:apply", batch)
	const want = `{"revision":1,"changes":[{"name":"routes/demo","action":"CREATED"},{"name":"services/orders","action":"CREATED"},{"name":"defaults/mesh","action":"CREATED"}],"warnings":["routes/demo rules[1] is never used: rules[0] matches the same requests","routes/demo rules[1] serves nothing: the weights of its backends are all 0"]}` + "\n"
	if got.body != want || dry.body != want {
		t.Errorf("%s\ndry %s\nwant %s", got.body, dry.body, want)
	}
	if a.log.revision() != 1 || len(a.log.records) != 3 {
		t.Errorf("revision %d, %d records", a.log.revision(), len(a.log.records))
	}
	if actor := a.log.changes[0].Actor; !strings.HasPrefix(actor, "token:") || strings.Contains(actor, testToken) {
		t.Errorf("actor %q", actor)
	}
	again := a.must("POST", "/v1:apply", `{"objects":[{"name":"services/orders"},{"name":"defaults/mesh","dialCidrs":["10.0.0.0/8"]}]}`)
	if again.json["revision"] != 2.0 || !strings.Contains(again.body, `{"name":"services/orders","action":"UNCHANGED"}`) {
		t.Error(again.body)
	}
	change := again.json["changes"].([]any)[1].(map[string]any)
	if diff, _ := change["diff"].(string); change["action"] != "UPDATED" || !strings.Contains(diff, `-    "127.0.0.0/8"`) || !strings.Contains(diff, `+    "10.0.0.0/8"`) || strings.Contains(diff, "etag") {
		t.Errorf("diff %v", change)
	}
	if got := a.must("GET", "/v1/services/orders", ""); got.json["etag"] != "1" {
		t.Errorf("an unchanged object got a new etag: %s", got.body)
	}
	if same := a.must("POST", "/v1:apply", batch[:0]+`{"objects":[{"name":"services/orders"}]}`); same.body != `{"revision":2,"changes":[{"name":"services/orders","action":"UNCHANGED"}],"warnings":[]}`+"\n" {
		t.Error(same.body)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	for _, c := range []struct {
		name, objects string
		want          int
		fields        []string
	}{
		{"a bad reference in the second", `{"name":"services/ok"},{"name":"routes/r","targets":["GATEWAY"],"hostnames":["*"],"rules":[{"backends":[{"service":"nope"}]}]}`, 422, []string{"objects[1].rules[0].backends[0].service"}},
		{"an unknown field in the second", `{"name":"services/ok"},{"name":"services/b","protcol":"HTTP"}`, 400, []string{"objects[1].protcol"}},
		{"both wrong, each named", `{"name":"services/a","protocol":"FTP"},{"name":"policies/p","action":"ALLOW","rules":[{}]}`, 422, []string{"objects[0].protocol", "objects[1].target"}},
		{"a stale etag in the second", `{"name":"services/ok"},{"name":"services/b","etag":"7"}`, 412, nil},
		{"no name", `{"name":"services/ok"},{"protocol":"HTTP"}`, 400, []string{"objects[1].name"}},
		{"an unknown collection", `{"name":"servises/ok"}`, 400, []string{"objects[0].name"}},
		{"a read-only collection", `{"name":"instances/i"}`, 400, []string{"objects[0].name"}},
		{"the same object twice", `{"name":"services/ok"},{"name":"services/ok"}`, 422, []string{"objects[1].name"}},
		{"no objects", ``, 400, []string{"objects"}},
		{"a number that is none", `{"name":"services/ok"},{"name":"services/b","labels":{"a":1e999}}`, 400, []string{"objects[1].labels.a"}},
		{"an object that is none", `{"name":"services/ok"},7`, 400, []string{"objects[1]"}},
		{"a field there twice", `{"name":"services/ok","labels":{},"labels":{}}`, 400, []string{"objects[0].labels"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAPI(t)
			got := a.do("POST", "/v1:apply", `{"objects":[`+c.objects+`]}`)
			if got.status != c.want || !slices.Equal(got.fields(), c.fields) {
				t.Errorf("%d %q %s, want %d %q", got.status, got.fields(), got.body, c.want, c.fields)
			}
			if a.log.revision() != 0 || len(a.log.records) != 0 || len(a.publisher.published) != 0 {
				t.Errorf("something was stored: %v", a.log.records)
			}
		})
	}
}

func TestListsAreCutIntoPages(t *testing.T) {
	a := newAPI(t)
	if got := a.must("GET", "/v1/services", ""); got.body != `{"services":[],"nextPageToken":""}`+"\n" {
		t.Error(got.body)
	}
	var objects, want []string
	for i := range 250 {
		want = append(want, fmt.Sprintf("services/s%03d", i))
		objects = append(objects, fmt.Sprintf(`{"name":"services/s%03d"}`, i))
	}
	a.must("POST", "/v1:apply", `{"objects":[`+strings.Join(objects, ",")+`]}`)
	for query, pages := range map[string]int{"": 3, "pageSize=249": 2, "pageSize=250": 1, "pageSize=100000": 1, "pageSize=1": 250} {
		var got []string
		token, n := "", 0
		for done := false; !done; n++ {
			page := a.must("GET", "/v1/services?"+query+"&pageToken="+token, "")
			for _, s := range page.json["services"].([]any) {
				got = append(got, s.(map[string]any)["name"].(string))
			}
			token, _ = page.json["nextPageToken"].(string)
			done = token == ""
		}
		if n != pages || !slices.Equal(got, want) {
			t.Errorf("%q: %d pages with %d objects", query, n, len(got))
		}
	}
	first := a.must("GET", "/v1/services?pageSize=1", "")
	token, _ := first.json["nextPageToken"].(string)
	for _, path := range []string{"/v1/routes?pageToken=" + token, "/v1/services?pageToken=%21", "/v1/services?pageSize=-1", "/v1/services?pageSize=a", "/v1/services?filter=x"} {
		if got := a.do("GET", path, ""); got.status != 400 || got.code() != "malformed" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

// A control plane that starts again goes on from its log, and an object that it
// no longer accepts neither stops it nor gets lost.
func TestStartFromALog(t *testing.T) {
	first := withDemo(t)
	log := first.log
	log.records["services/odd"] = []byte(`{"name":"services/odd","protocol":"FTP"}`)
	log.records["routes/odd"] = []byte(`{"name":"routes/odd","targets":["GATEWAY"],"hostnames":["*"],"rules":[{"backends":[{"service":"odd","weight":1}]}]}`)
	second := newAPI(t, func(o *Options) { o.Log = log })
	second.log = log
	if got := second.must("GET", "/v1/routes/demo", ""); got.json["revision"] != 2.0 {
		t.Error(got.body)
	}
	second.must("GET", "/v1/services/odd", "")
	// The reference of routes/odd was broken before: it is in nobody's way.
	if got := second.must("PUT", "/v1/services/other", `{}`); got.json["revision"] != 3.0 {
		t.Error(got.body)
	}
	if second.log.records["services/odd"] == nil {
		t.Error("the object that is not accepted is lost")
	}
	second.must("PUT", "/v1/services/odd", `{"protocol":"HTTP"}`)
}

func TestEmbeddedApply(t *testing.T) {
	a := newAPI(t)
	if err := a.server.Apply(t.Context(), "up", []byte(`{"objects":[{"name":"services/orders"}]}`)); err != nil {
		t.Fatal(err)
	}
	if a.log.changes[0].Actor != "up" {
		t.Errorf("actor %q", a.log.changes[0].Actor)
	}
	err := a.server.Apply(t.Context(), "up", []byte(`{"objects":[{"name":"services/orders","protcol":"HTTP"}]}`))
	if mesh.KindOf(err) != mesh.Malformed {
		t.Error(err)
	}
}
