package controlapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// badRequest is a request that is refused, and how.
type badRequest struct {
	name, method, path, body string
	headers                  []string
	status                   int
	code                     string
	fields                   []string // of the violations; nil if that does not matter
}

const route = "/v1/routes/r"

// nested returns an object with n others inside.
func nested(n int) string {
	return `{"labels":` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + `}`
}

// badShapes are bodies and parameters that are not of the contract.
func badShapes() []badRequest {
	return []badRequest{
		{"no JSON", "PUT", route, `{`, nil, 400, "malformed", nil},
		{"an empty body", "PUT", route, ``, nil, 400, "malformed", nil},
		{"an empty body for the defaults", "PUT", "/v1/defaults/mesh", ``, nil, 400, "malformed", nil},
		{"null", "PUT", route, `null`, nil, 400, "malformed", nil},
		{"an array", "PUT", route, `[]`, nil, 400, "malformed", nil},
		{"two objects", "PUT", route, demoRoute + demoRoute, nil, 400, "malformed", nil},
		{"NaN", "PUT", route, `{"rules":[{"backends":[{"weight":NaN}]}]}`, nil, 400, "malformed", nil},
		{"a byte order mark", "PUT", route, "\xef\xbb\xbf" + demoRoute, nil, 400, "malformed", nil},
		{"bytes that are no UTF-8", "PUT", route, "{\"name\":\"\xff\"}", nil, 400, "malformed", nil},
		{"1e999", "PUT", route, `{"rules":[{"backends":[{"weight":1e999}]}]}`, nil, 400, "malformed", []string{"rules[0].backends[0].weight"}},
		{"nested 10,000 deep", "PUT", route, nested(10_000), nil, 400, "malformed", nil},
		{"nested 33 deep", "PUT", route, nested(32), nil, 400, "malformed", nil},
		{"unknown fields, all of them", "PUT", route, `{"hostname":["a"],"rules":[{"backend":[],"backends":[{"servce":"x"}]}]}`, nil, 400, "malformed", []string{"hostname", "rules[0].backend", "rules[0].backends[0].servce"}},
		{"a field there twice", "PUT", route, `{"targets":["GATEWAY"],"targets":["MESH"]}`, nil, 400, "malformed", []string{"targets"}},
		{"the other spelling of a field", "PUT", route, `{"create_time":"2026-01-02T03:04:05Z"}`, nil, 400, "malformed", []string{"create_time"}},
		{"types, all of them", "PUT", route, `{"targets":"GATEWAY","labels":[],"rules":[{"timeout":15,"keepEncodedSlash":"yes","backends":[{"weight":"1"}]}]}`, nil, 400, "malformed", []string{"targets", "labels", "rules[0].timeout", "rules[0].keepEncodedSlash", "rules[0].backends[0].weight"}},
		{"an unknown parameter", "PUT", route + "?validateonly=true", demoRoute, nil, 400, "malformed", []string{"query.validateonly"}},
		{"a parameter twice", "PUT", route + "?validateOnly=true&validateOnly=false", demoRoute, nil, 400, "malformed", []string{"query.validateOnly"}},
		{"a parameter that is no boolean", "PUT", route + "?validateOnly=perhaps", demoRoute, nil, 400, "malformed", nil},
		{"a parameter in the form of a field", "PUT", route + "?route.name=routes/x", demoRoute, nil, 400, "malformed", []string{`query["route.name"]`}},
		{"a bad id", "PUT", "/v1/routes/Demo", demoRoute, nil, 400, "malformed", nil},
		{"an id with a slash inside", "PUT", "/v1/routes/a%2Fb", demoRoute, nil, 404, "not_found", nil},
	}
}

// badCallers may not call at all.
func badCallers() []badRequest {
	return []badRequest{
		{"no token", "PUT", route, demoRoute, []string{"Authorization", ""}, 401, "unauthenticated", nil},
		{"a wrong token", "PUT", route, demoRoute, []string{"Authorization", "Bearer " + testToken + "x"}, 401, "unauthenticated", nil},
		{"the token in another scheme", "PUT", route, demoRoute, []string{"Authorization", "Basic " + testToken}, 401, "unauthenticated", nil},
		{"no token to read", "GET", "/v1/routes", "", []string{"Authorization", ""}, 401, "unauthenticated", nil},
		{"a foreign Host", "PUT", route, demoRoute, []string{"Host", "evil.example"}, 403, "denied", nil},
		{"a foreign Host with our port", "GET", "/healthz", "", []string{"Host", "evil.example:7070"}, 403, "denied", nil},
		{"another address as Host", "PUT", route, demoRoute, []string{"Host", "10.0.0.1"}, 403, "denied", nil},
		{"a Host that begins like ours", "PUT", route, demoRoute, []string{"Host", "localhost.evil.example"}, 403, "denied", nil},
		{"a foreign Origin", "PUT", route, demoRoute, []string{"Origin", "https://evil.example"}, 403, "denied", nil},
		{"a foreign Origin that reads", "GET", "/v1/routes", "", []string{"Origin", "https://evil.example"}, 403, "denied", nil},
		{"an Origin on another port here", "PUT", route, demoRoute, []string{"Origin", "http://localhost:3000"}, 403, "denied", nil},
		{"an opaque Origin", "PUT", route, demoRoute, []string{"Origin", "null"}, 403, "denied", nil},
		{"a form on a foreign page", "POST", "/v1:apply", "objects=1", []string{"Sec-Fetch-Site", "cross-site", "Content-Type", "application/x-www-form-urlencoded"}, 403, "denied", nil},
	}
}

// badPaths are of nothing that there is.
func badPaths() []badRequest {
	return []badRequest{
		{"an object that does not exist", "GET", route, "", nil, 404, "not_found", nil},
		{"a collection that does not exist", "GET", "/v1/gateways", "", nil, 404, "not_found", nil},
		{"a path that does not exist", "GET", "/v2", "", nil, 404, "not_found", nil},
		{"a custom method that does not exist", "POST", "/v1/revisions/1:rollback", "{}", nil, 404, "not_found", nil},
		{"PATCH", "PATCH", route, demoRoute, nil, 405, "method_not_allowed", nil},
		{"POST to a collection", "POST", "/v1/routes", demoRoute, nil, 405, "method_not_allowed", nil},
		{"GET of apply", "GET", "/v1:apply", "", nil, 405, "method_not_allowed", nil},
		{"an overridden method", "POST", route, demoRoute, []string{"X-HTTP-Method-Override", "PUT", "Content-Type", "application/x-www-form-urlencoded"}, 405, "method_not_allowed", nil},
		{"POST to a page", "POST", "/healthz", "", nil, 405, "method_not_allowed", nil},
	}
}

// badValues are of the right shape.
func badValues() []badRequest {
	return []badRequest{
		{"a stale etag", "PUT", "/v1/services/orders", `{"etag":"9"}`, nil, 412, "stale", nil},
		{"If-Match with apply", "POST", "/v1:apply", `{"objects":[{"name":"services/a"}]}`, []string{"If-Match", `"1"`}, 400, "malformed", nil},
		{"more than 1 MiB", "PUT", route, `{"labels":{"a":"` + strings.Repeat("x", maxBodyBytes) + `"}}`, nil, 413, "too_large", nil},
		{"a compressed body", "PUT", route, "\x1f\x8b", []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type", nil},
		{"another name than the URL's", "PUT", route, `{"name":"routes/other"}`, nil, 422, "invalid", []string{"name"}},
		{"an unknown service", "PUT", route, strings.ReplaceAll(demoRoute, `"service":"orders"`, `"service":"ordrs"`), nil, 422, "invalid", []string{"rules[0].backends[0].service", "rules[0].backends[1].service"}},
		{"an unknown subset", "PUT", route, strings.Replace(demoRoute, `"subset":"v2"`, `"subset":"v3"`, 1), nil, 422, "invalid", []string{"rules[0].backends[1].subset"}},
		{"a bad template", "PUT", route, strings.Replace(demoRoute, `{"prefix":"/orders"}`, `{"template":"/orders/{"}`, 1), nil, 422, "invalid", []string{"rules[0].matches[0].path.template"}},
		{"a bad enum and what else is wrong", "PUT", route, `{"targets":["GATEWAI"],"hostnames":["a b"],"rules":[{"backends":[{"service":"orders"}]}]}`, nil, 422, "invalid", []string{"targets[0]", "hostnames[0]"}},
		{"a bad duration", "PUT", route, strings.Replace(demoRoute, "2.5s", "2m", 1), nil, 422, "invalid", []string{"rules[0].timeout"}},
		{"a negative weight", "PUT", route, strings.Replace(demoRoute, "90", "-1", 1), nil, 422, "invalid", []string{"rules[0].backends[0].weight"}},
		{"half a weight", "PUT", route, strings.Replace(demoRoute, "90", "0.5", 1), nil, 422, "invalid", []string{"rules[0].backends[0].weight"}},
		{"a weight beyond uint32", "PUT", route, strings.Replace(demoRoute, "90", "4294967296", 1), nil, 422, "invalid", []string{"rules[0].backends[0].weight"}},
		{"everything at once", "PUT", route, `{}`, nil, 422, "invalid", []string{"targets", "hostnames", "rules"}},
		{"a field of a later version", "PUT", "/v1/services/s", `{"activation":{}}`, nil, 422, "unsupported", []string{"activation"}},
		{"an object of 256 KiB", "PUT", "/v1/services/s", `{"subsets":[` + strings.Repeat(`{"name":"a","labels":{"a":"b"}},`, 20_000)[:20_000*32-1] + `]}`, nil, 413, "too_large", nil},
	}
}

// Every bad request gets the status of the contract and one problem that names
// everything, and nothing is stored.
func TestBadRequestsAreRefused(t *testing.T) {
	for _, c := range slices.Concat(badShapes(), badCallers(), badPaths(), badValues()) {
		t.Run(c.name, func(t *testing.T) {
			a := newAPI(t)
			a.must("PUT", "/v1/services/orders", ordersService)
			got := a.do(c.method, c.path, c.body, c.headers...)
			if got.status != c.status || got.code() != c.code {
				t.Errorf("%d %s %.300s, want %d %s", got.status, got.code(), got.body, c.status, c.code)
			}
			if c.fields != nil && !slices.Equal(got.fields(), c.fields) {
				t.Errorf("violations of %q, want %q: %s", got.fields(), c.fields, got.body)
			}
			if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type %q", ct)
			}
			if got.json["type"] != "/docs/errors#"+c.code || got.json["status"] != float64(c.status) || got.json["title"] == "" || got.json["detail"] == "" {
				t.Errorf("problem %.300s", got.body)
			}
			if strings.Contains(got.body, "controlapi.") || strings.Contains(got.body, testToken) {
				t.Errorf("says too much: %.300s", got.body)
			}
			if a.log.revision() != 1 || len(a.log.records) != 1 || len(a.publisher.published) != 1 {
				t.Error("something was stored")
			}
		})
	}
}

func TestProblemReadsAsInTheContract(t *testing.T) {
	a := newAPI(t)
	a.must("PUT", "/v1/services/orders", `{}`)
	got := a.do("PUT", "/v1/routes/demo", `{"targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"backends":[{"service":"ordrs"}]}]}`)
	const want = `{"type":"/docs/errors#invalid","title":"Route refused","status":422,"code":"invalid","detail":"1 violation; nothing was stored","instance":"/v1/routes/demo","violations":[{"field":"rules[0].backends[0].service","message":"service \"ordrs\" does not exist","hint":"did you mean \"orders\"?"}]}` + "\n"
	if got.body != want {
		t.Errorf("%s\nwant %s", got.body, want)
	}
	if got := a.do("GET", "/v1/routes/x", "", "Authorization", ""); !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
	}
	if got := a.do("GET", "/v1/routes/x", ""); got.json["title"] != "Route not found" || got.json["detail"] != "routes/x: there is no such object" {
		t.Error(got.body)
	}
	if got := a.do("PATCH", "/v1/routes/demo", ""); got.header.Get("Allow") != "GET, HEAD, PUT, DELETE" {
		t.Errorf("Allow %q", got.header.Get("Allow"))
	}
}

// A body made to be expensive costs what its size does, and the answer is short.
func TestHostileBodiesAreCheap(t *testing.T) {
	a := newAPI(t)
	for name, body := range map[string]string{
		"1 MiB of brackets":       strings.Repeat("[", maxBodyBytes),
		"1 MiB of unknown fields": "{" + strings.Repeat(`"a":1,`, (maxBodyBytes-20)/6) + `"b":1}`,
		"1 MiB of numbers":        `{"labels":[` + strings.Repeat("1,", (maxBodyBytes-40)/2) + "1]}",
		"1 MiB of keys":           `{"labels":{` + strings.Repeat(`"":0,`, (maxBodyBytes-40)/5) + `"a":""}}`,
		"1 MiB of empty objects":  `{"rules":[` + strings.Repeat("{},", (maxBodyBytes-40)/3) + "{}]}",
		"100 KiB of empty rules":  `{"rules":[` + strings.Repeat("{},", 1<<15) + "{}]}",
	} {
		before := cpuTime(t)
		if _, _, err := walk([]byte(body), new(hedgerowv1.Route).ProtoReflect().Descriptor()); err != nil && name != "1 MiB of brackets" {
			t.Errorf("%s: %v", name, err)
		}
		// It is 50 ms at most; the race detector makes ten times that of it.
		if took := cpuTime(t) - before; took > time.Second {
			t.Errorf("%s took %v of CPU", name, took)
		}
		got := a.do("PUT", "/v1/routes/r", body)
		if got.status < 400 || got.status >= 500 || len(got.body) > 64<<10 {
			t.Errorf("%s: %d and %d bytes", name, got.status, len(got.body))
		}
	}
	if got := a.do("PUT", "/v1/routes/r", "{"+strings.Repeat(`"a":1,`, 5000)+`"b":1}`); len(got.fields()) != maxFound {
		t.Errorf("%d violations", len(got.fields()))
	}
	if got := a.do("PUT", "/v1/routes/r", `{"rules":[`+strings.Repeat("{},", 200)+"{}]}"); len(got.fields()) != maxFound+1 || !strings.Contains(got.body, "and 103 more") {
		t.Errorf("%d violations: %s", len(got.fields()), got.body)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestRequestsThatAreAccepted(t *testing.T) {
	a := withDemo(t)
	port := a.addr[strings.LastIndex(a.addr, ":"):]
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
	}{
		{"by localhost", "GET", "/v1/routes", "", []string{"Host", "localhost" + port}},
		{"by another port, forwarded", "GET", "/v1/routes", "", []string{"Host", "localhost:9999"}},
		{"by the IPv6 loopback", "GET", "/v1/routes", "", []string{"Host", "[::1]" + port}},
		{"by a configured name", "GET", "/v1/routes", "", []string{"Host", "Mesh.Example."}},
		{"from its own origin", "PUT", "/v1/services/a", "{}", []string{"Origin", "http://" + a.addr, "Sec-Fetch-Site", "same-origin"}},
		{"as curl --data sends it", "PUT", "/v1/services/b", "{}", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"as curl --data sends a batch", "POST", "/v1:apply", `{"objects":[{"name":"services/c"}]}`, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"as plain text", "PUT", "/v1/services/d", "{}", []string{"Content-Type", "text/plain"}},
		{"HEAD", "HEAD", "/v1/routes/demo", "", nil},
		{"null for an absent field", "PUT", "/v1/services/e", `{"labels":null,"subsets":null,"protocol":null}`, nil},
		{"whole numbers in other spellings", "PUT", "/v1/routes/demo", strings.NewReplacer("90", "9e1", "10", "10.0").Replace(demoRoute), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := a.do(c.method, c.path, c.body, c.headers...); got.status != 200 {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	if a.must("GET", "/v1/routes/demo", "").json["revision"] != 2.0 {
		t.Error("other spellings of the same numbers made a revision")
	}
}

func TestPagesNeedNoToken(t *testing.T) {
	a := withDemo(t)
	for path, want := range map[string]string{
		"/healthz":      "ok\n",
		"/readyz":       `{"ready":true,"revision":2}`,
		"/openapi.yaml": "openapi: 3.1.0",
		"/docs":         `href="/docs/errors"`,
		"/docs/errors":  `id="unsupported"`,
		"/metrics":      `hedgerow_controlapi_revision 2`,
	} {
		got := a.do("GET", path, "", "Authorization", "")
		if got.status != 200 || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %.200s", path, got.status, got.body)
		}
		if strings.HasPrefix(path, "/docs") && (strings.Contains(got.body, "<script") || strings.Contains(got.body, `src="http`) || !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'")) {
			t.Errorf("%s loads something", path)
		}
	}
}

func TestReadyzLooksAtTheChecks(t *testing.T) {
	a := newAPI(t, func(o *Options) {
		o.Checks = []Check{{Name: "demo", Ready: func(context.Context) error { return mesh.Errorf("demo", "", mesh.Unavailable, "no answer yet") }}}
	})
	got := a.do("GET", "/readyz", "")
	if got.status != 503 || got.body != `{"ready":false,"revision":0,"checks":[{"name":"demo","message":"demo: no answer yet"}]}`+"\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestReadyzWarnsOfAdvisoryChecks(t *testing.T) {
	a := newAPI(t, func(o *Options) {
		o.Checks = []Check{{Name: "users", Advisory: true, Ready: func(context.Context) error { return errors.New("one is missing") }}}
	})
	got := a.do("GET", "/readyz", "")
	if got.status != 200 || !strings.Contains(got.body, `"warnings":[{"name":"users","message":"one is missing"}]`) {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestEveryCodeHasAClass(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range classes() {
		if seen[c.code] || http.StatusText(c.status) == "" || c.meaning == "" || c.remedy == "" {
			t.Errorf("%+v", c)
		}
		seen[c.code] = true
	}
	for k := mesh.Internal; k <= mesh.Unauthentic; k++ {
		if got := classFor(codeOf(k)); got.code != codeOf(k) {
			t.Errorf("%v has the code %q, which has no class", k, codeOf(k))
		}
	}
	for _, code := range []string{codeMethod, codeTooLarge, codeMediaType, codeUnsupported} {
		if !seen[code] {
			t.Errorf("%q has no class", code)
		}
	}
}

func TestTokenFiles(t *testing.T) {
	hash := sha256.Sum256([]byte(testToken))
	for name, c := range map[string]struct {
		content string
		ok      bool
	}{
		"the token":            {testToken + "\n", true},
		"its hash":             {"sha256:" + hex.EncodeToString(hash[:]), true},
		"one of several":       {"# operators\n\nanother-token-0123456789\r\n" + testToken + "\r\n", true},
		"empty":                {"\n# nothing\n", false},
		"too short to be safe": {"secret\n", false},
		"half a hash":          {"sha256:abcd\n", false},
		"a token with spaces":  {"this is no token at all\n", false},
		"a line without end":   {strings.Repeat("x", 1<<20), false},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := loadTokens(tokenFile(t, c.content))
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			if err != nil {
				if strings.Contains(err.Error(), strings.TrimSpace(c.content)) && strings.TrimSpace(c.content) != "" {
					t.Errorf("the message repeats the secret: %v", err)
				}
				return
			}
			loaded := &callers{file: file, writer: &writer{}, now: time.Now}
			loaded.writer.state.Store(&state{})
			if _, err := loaded.authenticate("bearer  " + testToken); err != nil {
				t.Error(err)
			}
			if _, err := loaded.authenticate("Bearer another"); mesh.KindOf(err) != mesh.Unauthentic {
				t.Error(err)
			}
		})
	}
	if _, err := loadTokens(t.TempDir() + "/none"); mesh.KindOf(err) != mesh.Invalid {
		t.Error(err)
	}
}

type addrListener struct {
	net.Listener
	addr net.Addr
}

func (l addrListener) Addr() net.Addr { return l.addr }

func TestServeOutsideLoopbackNeedsTLS(t *testing.T) {
	a := newAPI(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = a.server.Serve(t.Context(), addrListener{l, &net.TCPAddr{IP: net.IPv4zero, Port: 7070}})
	if mesh.KindOf(err) != mesh.Invalid || mesh.HintOf(err) == "" {
		t.Errorf("Serve: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

func TestNewReportsEveryWrongOption(t *testing.T) {
	_, err := New(t.Context(), Options{Logger: zerolog.Nop()})
	for _, want := range []string{"log:", "publisher:", "authority:", "metrics:", "tokenFile:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	reg := prometheus.NewRegistry()
	opts := Options{Log: &memoryLog{}, Publisher: &fakePublisher{}, Authority: signers.New("test").Authority(), Metrics: reg, TokenFile: tokenFile(t, testToken)}
	if _, err := New(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), opts); err == nil {
		t.Error("two servers share one registry of metrics")
	}
}
