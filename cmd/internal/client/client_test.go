package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const token = "hgt_0123456789abcdef"

// exchange is one request that the fake control plane expects, and its answer.
type exchange struct {
	method, uri string // "/v1/routes?pageSize=500"
	body        string // JSON, "" for none
	status      int
	answer      string
	contentType string // else by status
	unpublished bool
}

// control is a control plane that expects exchanges in their order.
func control(t *testing.T, expected ...exchange) string {
	t.Helper()
	next := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if next == len(expected) {
			t.Errorf("one request too many: %s %s", r.Method, r.URL)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		e := expected[next]
		next++
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.Method != e.method || r.URL.RequestURI() != e.uri || string(body) != e.body {
			t.Errorf("got %s %s %s\nwant %s %s %s", r.Method, r.URL.RequestURI(), body, e.method, e.uri, e.body)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("Authorization is %q", got)
		}
		if len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("Content-Type is %q", r.Header.Get("Content-Type"))
		}
		contentType := e.contentType
		if contentType == "" {
			contentType = "application/json"
			if e.status >= 400 {
				contentType = "application/problem+json"
			}
		}
		w.Header().Set("Content-Type", contentType)
		if e.unpublished {
			w.Header().Set("Hedgerow-Published", "false")
		}
		w.WriteHeader(e.status)
		if _, err := io.WriteString(w, e.answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(func() {
		srv.Close()
		if next != len(expected) {
			t.Errorf("%d of %d requests came", next, len(expected))
		}
	})
	t.Setenv("HEDGEROW_SERVER", srv.URL)
	t.Setenv("HEDGEROW_TOKEN", token)
	t.Setenv("HEDGEROW_TOKEN_FILE", "")
	t.Setenv("HEDGEROW_CA_FILE", "")
	return srv.URL
}

// result is what a user sees.
type result struct {
	stdout, stderr string
	code           int
}

// hedgerow runs a command line as the program does.
func hedgerow(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "hedgerow", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(New(&stdout, &stderr, "v1.2.3 go1.26")...)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(args)
	code := 0
	if err := root.ExecuteContext(t.Context()); err != nil {
		code = exitFailed
		var coded interface{ ExitCode() int }
		if errors.As(err, &coded) {
			code = coded.ExitCode()
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			stderr.WriteString("hedgerow: " + line + "\n")
		}
	}
	return result{stdout.String(), stderr.String(), code}
}

// want compares what a user sees. The heredocs of the tests begin with a
// newline.
func (r result) want(t *testing.T, stdout, stderr string, code int) {
	t.Helper()
	if out := strings.TrimPrefix(stdout, "\n"); r.stdout != out {
		t.Errorf("stdout is\n%s\nwant\n%s", r.stdout, out)
	}
	if out := strings.TrimPrefix(stderr, "\n"); r.stderr != out {
		t.Errorf("stderr is\n%s\nwant\n%s", r.stderr, out)
	}
	if r.code != code {
		t.Errorf("exit code is %d, want %d", r.code, code)
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "mesh.yaml", "name: services/orders\nsubsets:\n  - {name: v1, labels: {version: v1}}\n---\nname: routes/demo\nhostnames: [demo.localhost]\n")
	batch := `{"objects":[{"name":"services/orders","subsets":[{"name":"v1","labels":{"version":"v1"}}]},{"name":"routes/demo","hostnames":["demo.localhost"]}]}`
	answer := `{"revision":88, "changes":[{"name":"services/orders","action":"CREATED"},{"name":"routes/demo","action":"UPDATED","diff":"-  \"a\": 1\n+  \"a\": 2\n"}],"warnings":["routes/demo: rule 2 is shadowed"]}`

	t.Run("prints the changes, the revision and the warnings", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1:apply", body: batch, status: 200, answer: answer})
		hedgerow(t, "", "apply", "-f", file).want(t, `
NAME              ACTION
services/orders   CREATED
routes/demo       UPDATED
revision 88
`, "hedgerow: warning: routes/demo: rule 2 is shadowed\n", 0)
	})
	t.Run("a dry run asks with validateOnly and prints differences", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1:apply?validateOnly=true", body: batch, status: 200, answer: answer})
		hedgerow(t, "", "apply", "--dry-run", "-f", file).want(t, `
NAME              ACTION
services/orders   CREATED
routes/demo       UPDATED

routes/demo
  -  "a": 1
  +  "a": 2

nothing was stored
`, "hedgerow: warning: routes/demo: rule 2 is shadowed\n", 0)
	})
	t.Run("reads standard input, in the shape that get -o json prints", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1:apply", body: `{"objects":[{"name":"routes/a"},{"name":"routes/b"}]}`, status: 200, answer: `{"revision":3,"changes":[]}`})
		hedgerow(t, `{"routes":[{"name":"routes/a"},{"name":"routes/b"}],"nextPageToken":""}`, "apply", "-f", "-", "-o", "json").want(t, `
{
  "revision": 3,
  "changes": []
}
`, "", 0)
	})
	t.Run("reads a directory in the order of names, without other files", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "20.yml", "name: routes/b\n")
		write(t, dir, "10.json", `{"name":"routes/a","weight":1.50}`)
		write(t, dir, "notes.txt", "not: an object")
		write(t, dir, ".hidden.yaml", "name: routes/c\n")
		control(t, exchange{method: "POST", uri: "/v1:apply", body: `{"objects":[{"name":"routes/a","weight":1.50},{"name":"routes/b"}]}`, status: 200, answer: `{"revision":3}`})
		if r := hedgerow(t, "", "apply", "-f", dir); r.code != 0 {
			t.Error(r.stderr)
		}
	})
}

func TestApplyRefused(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "bad.yaml", "name: services/orders\n---\n\nname: routes/bad\n")
	batch := `{"objects":[{"name":"services/orders"},{"name":"routes/bad"}]}`
	control(t, exchange{
		method: "POST", uri: "/v1:apply", body: batch, status: 422,
		answer: `{"type":"/docs/errors#invalid","title":"Batch refused","status":422,"code":"invalid","detail":"2 violations; nothing was stored","instance":"/v1:apply","violations":[` +
			`{"field":"objects[1].rules[0].backends[0].service","message":"service \"ordrs\" does not exist","hint":"did you mean \"orders\"?"},` +
			`{"field":"objects[0]","message":"too\u001b[31m red\nhedgerow: all is well"}]}`,
	})
	hedgerow(t, "", "apply", "-f", file).want(t, "", `
hedgerow: apply bad.yaml: 2 violations; nothing was stored (422 invalid)
hedgerow: bad.yaml:4: routes/bad: rules[0].backends[0].service: service "ordrs" does not exist
hedgerow: hint: did you mean "orders"?
hedgerow: bad.yaml:1: services/orders: too`+"\uFFFD"+`[31m red hedgerow: all is well
`, 1)
}

func TestApplyRefusesFilesBeforeAsking(t *testing.T) {
	for _, tt := range []struct{ name, file, text, want string }{
		{"an object without a name", "a.yaml", "# x\nhostnames: [a]\n", "hedgerow: apply a.yaml: a.yaml:2: the object has no name\nhedgerow: hint: the name says the kind and the id: name: routes/orders\n"},
		{"an unknown kind", "a.yaml", "name: rutes/a\n", `hedgerow: apply a.yaml: a.yaml:1: "rutes/a": a name is "<collection>/<id>" with one of the collections defaults, nodes, services, routes, policies, authenticators, topicRules, tokens` + "\n"},
		{"two objects of one name", "a.yaml", "name: routes/a\n---\nname: routes/a\n", "hedgerow: apply a.yaml: a.yaml:3: routes/a stands in a.yaml:1 already\n"},
		{"a key twice", "a.yaml", "name: routes/a\nhostnames: [a]\nhostnames: [b]\n", `hedgerow: apply a.yaml: a.yaml: line 3: the key "hostnames" appears twice` + "\n"},
		{"nothing at all", "a.yaml", "# empty\n", "hedgerow: apply a.yaml: no object in %FILE%\nhedgerow: hint: an object is a YAML or JSON document with a name, like {name: services/orders}\n"},
		{"broken JSON", "a.json", "{\"name\":\n]\n", "hedgerow: apply a.json: a.json: line 2: not JSON: invalid character ']' looking for beginning of value\n"},
		{"a list without objects", "a.yaml", "[1, 2]", "hedgerow: apply a.yaml: a.yaml:1: the object has no name\nhedgerow: hint: the name says the kind and the id: name: routes/orders\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			control(t)
			file := write(t, t.TempDir(), tt.file, tt.text)
			hedgerow(t, "", "apply", "-f", file).want(t, "", strings.ReplaceAll(tt.want, "%FILE%", file), 1)
		})
	}
}

func TestGet(t *testing.T) {
	demo := `{"name":"routes/demo", "targets":["GATEWAY"], "hostnames":["demo.localhost"], "rules":[{"name":"orders", "backends":[{"service":"orders", "subset":"v1", "weight":90}, {"service":"orders", "subset":"v2", "weight":10}]}, {"backends":[{"service":"telemetry", "weight":1}]}, {"filters":[{"respond":{"status":204}}]}], "etag":"87", "revision":87, "fromTheFuture":true}`
	t.Run("a list follows its pages", func(t *testing.T) {
		control(t,
			exchange{method: "GET", uri: "/v1/routes?pageSize=500", status: 200, answer: `{"routes":[` + demo + `],"nextPageToken":"r/1&x"}`},
			exchange{method: "GET", uri: "/v1/routes?pageSize=500&pageToken=r%2F1%26x", status: 200, answer: `{"routes":[{"name":"routes/other"}],"nextPageToken":""}`},
		)
		hedgerow(t, "", "get", "Route").want(t, `
NAME           HOSTNAMES        TARGETS   BACKENDS                                REVISION
routes/demo    demo.localhost   GATEWAY   orders/v1:90,orders/v2:10 telemetry -   87
routes/other   -                -         -                                       0
`, "", 0)
	})
	t.Run("one object as JSON, fields unknown to this version included", func(t *testing.T) {
		control(t, exchange{method: "GET", uri: "/v1/services/orders", status: 200, answer: `{"name":"services/orders",  "etag":"9", "new":[1.10]}`})
		hedgerow(t, "", "get", "services/orders", "-o", "json").want(t, `
{
  "name": "services/orders",
  "etag": "9",
  "new": [
    1.10
  ]
}
`, "", 0)
	})
	t.Run("a list as YAML documents, which apply reads", func(t *testing.T) {
		control(t, exchange{method: "GET", uri: "/v1/policies?pageSize=500", status: 200, answer: `{"policies":[{"name":"policies/a","etag":"9","rules":[{"to":[{"methods":["GET"]}]}]},{"name":"policies/b","labels":{}}]}`})
		hedgerow(t, "", "get", "policies", "-o", "yaml").want(t, `
name: policies/a
etag: "9"
rules:
- to:
  - methods:
    - GET
---
name: policies/b
labels: {}
`, "", 0)
	})
	t.Run("an empty list as JSON is a list", func(t *testing.T) {
		control(t, exchange{method: "GET", uri: "/v1/nodes?pageSize=500", status: 200, answer: `{"nodes":[],"nextPageToken":""}`})
		hedgerow(t, "", "get", "nodes", "-o", "json").want(t, "{\n  \"nodes\": []\n}\n", "", 0)
	})
	t.Run("the defaults are one object", func(t *testing.T) {
		control(t, exchange{method: "GET", uri: "/v1/defaults/mesh", status: 200, answer: `{"name":"defaults/mesh","authorization":"DENY","dialCidrs":["127.0.0.0/8"],"revision":1}`})
		hedgerow(t, "", "get", "defaults").want(t, `
NAME            AUTHORIZATION   DIALCIDRS     REVISION
defaults/mesh   DENY            127.0.0.0/8   1
`, "", 0)
	})
}

// Every collection has columns of its own, made of real shapes.
func TestGetTables(t *testing.T) {
	for _, tt := range []struct{ collection, object, want string }{
		{"services", `{"name":"services/orders","subsets":[{"name":"v1"},{"name":"v2"}],"revision":2}`, `
NAME              PROTOCOL   SUBSETS   REVISION
services/orders   HTTP       v1,v2     2
`},
		{"policies", `{"name":"policies/p","target":{"service":"telemetry"},"action":"ALLOW","rules":[{}],"revision":2}`, `
NAME         ACTION   TARGET              RULES   REVISION
policies/p   ALLOW    service telemetry   1       2
`},
		{"topicRules", `{"name":"topicRules/t","filter":"devices/{device}/telemetry","to":{"service":"telemetry","path":"/v1/devices/{device}/telemetry"},"revision":2}`, `
NAME           FILTER                       TO                                              REVISION
topicRules/t   devices/{device}/telemetry   POST telemetry /v1/devices/{device}/telemetry   2
`},
		{"nodes", `{"name":"nodes/edge7","roles":["SIDECAR","BRIDGE"],"services":["orders","mqtt-bridge"],"locality":"eu/site-3","revision":2,"state":"ENROLLED"}`, `
NAME          ROLES            RUNS                 LOCALITY    STATE      REVISION
nodes/edge7   SIDECAR,BRIDGE   orders,mqtt-bridge   eu/site-3   ENROLLED   2
`},
		{"nodes", `{"name":"nodes/a","state":"JOINING","joinAlarm":{"reason":"REFUSED"},"quarantine":{"name":"quarantines/a","releaseTime":"2026-01-02T03:04:05Z"}}`, `
NAME      ROLES   RUNS   LOCALITY   STATE                  REVISION
nodes/a   -       -      -          JOINING (join alarm)   0
`},
		{"nodes", `{"name":"nodes/a","state":"ENROLLED","joinAlarm":{"reason":"REFUSED"},"quarantine":{"name":"quarantines/a"}}`, `
NAME      ROLES   RUNS   LOCALITY   STATE         REVISION
nodes/a   -       -      -          QUARANTINED   0
`},
		{"instances", `{"name":"instances/orders-v1-1","service":"orders","node":"orders-v1","address":"127.0.0.1:41233","labels":{"zone":"b","version":"v1"},"weight":1,"health":"HEALTHY","leaseExpireTime":"2026-01-02T03:04:20Z"}`, `
NAME                    SERVICE   NODE        ADDRESS           HEALTH    LABELS
instances/orders-v1-1   orders    orders-v1   127.0.0.1:41233   HEALTHY   version=v1,zone=b
`},
	} {
		t.Run(tt.collection, func(t *testing.T) {
			control(t, exchange{method: "GET", uri: "/v1/" + tt.collection + "?pageSize=500", status: 200, answer: `{"` + tt.collection + `":[` + tt.object + `]}`})
			hedgerow(t, "", "get", tt.collection).want(t, tt.want, "", 0)
		})
	}
}

func TestDelete(t *testing.T) {
	t.Run("one after the other, until one is refused", func(t *testing.T) {
		control(t,
			exchange{method: "DELETE", uri: "/v1/routes/demo", status: 200, answer: `{}`},
			exchange{method: "DELETE", uri: "/v1/services/orders", status: 409, answer: `{"title":"Conflict","status":409,"code":"conflict","detail":"services/orders is used by routes/other","violations":[]}`},
		)
		hedgerow(t, "", "delete", "routes/demo", "services/orders", "services/telemetry").want(t, "routes/demo deleted\n",
			"hedgerow: delete services/orders: services/orders is used by routes/other (409 conflict)\n", 1)
	})
	t.Run("stored while the registry is away", func(t *testing.T) {
		control(t, exchange{method: "DELETE", uri: "/v1/routes/demo", status: 200, answer: `{}`, unpublished: true})
		hedgerow(t, "", "delete", "routes/demo").want(t, "routes/demo deleted\n",
			"hedgerow: warning: stored, but the registry is away: the change takes effect when it returns\n", 0)
	})
	t.Run("what is not there, said once", func(t *testing.T) {
		control(t, exchange{method: "DELETE", uri: "/v1/routes/demo", status: 404, answer: `{"code":"not_found","detail":"routes/demo: there is no such object"}`})
		hedgerow(t, "", "delete", "routes/demo").want(t, "", "hedgerow: delete routes/demo: there is no such object (404 not_found)\n", 1)
	})
	t.Run("a dry run of one version", func(t *testing.T) {
		control(t, exchange{method: "DELETE", uri: "/v1/routes/demo?etag=87&validateOnly=true", status: 200, answer: `{}`})
		hedgerow(t, "", "delete", "--dry-run", "--etag", "87", "routes/demo").want(t, "routes/demo could be deleted\n", "", 0)
	})
}

func TestStatus(t *testing.T) {
	nodes := exchange{method: "GET", uri: "/v1/nodes?pageSize=500", status: 200, answer: `{"nodes":[` +
		`{"name":"nodes/gateway","roles":["GATEWAY"],"gateways":["demo"],"state":"ENROLLED","appliedRevision":87,"lastSeenTime":"2026-01-02T03:04:05Z"},` +
		`{"name":"nodes/orders-v1","roles":["SIDECAR"],"services":["orders"],"appliedRevision":86,"lastSeenTime":"2026-01-02T03:04:05.250Z"},` +
		`{"name":"nodes/orders-v2","roles":["SIDECAR"]}]}`}
	instances := exchange{method: "GET", uri: "/v1/instances?pageSize=500", status: 200, answer: `{"instances":[{"name":"instances/orders-v1-1","service":"orders","node":"orders-v1","address":"127.0.0.1:41233","health":"HEALTHY"}]}`}
	t.Run("all is well", func(t *testing.T) {
		url := control(t, exchange{method: "GET", uri: "/readyz", status: 200, answer: `{"ready":true,"revision":87}`}, nodes, instances)
		hedgerow(t, "", "status").want(t, `
server     `+url+`
ready      yes
revision   87

NODE        ROLES     APPLIED       LAST SEEN
gateway     GATEWAY   87            2026-01-02T03:04:05Z
orders-v1   SIDECAR   86 (behind)   2026-01-02T03:04:05Z
orders-v2   SIDECAR   -             never

NAME                    SERVICE   NODE        ADDRESS           HEALTH    LABELS
instances/orders-v1-1   orders    orders-v1   127.0.0.1:41233   HEALTHY   -
`, "", 0)
	})
	t.Run("not ready is said, with what it waits for, and fails", func(t *testing.T) {
		url := control(t,
			exchange{method: "GET", uri: "/readyz", status: 503, contentType: "application/json", answer: `{"ready":false,"revision":87,"checks":[{"name":"registry","message":"connection refused"}],"warnings":[{"name":"vault","message":"Vault is sealed"}]}`},
			exchange{method: "GET", uri: "/v1/nodes?pageSize=500", status: 200, answer: `{"nodes":[]}`},
			exchange{method: "GET", uri: "/v1/instances?pageSize=500", status: 200, answer: `{"instances":[]}`})
		hedgerow(t, "", "status").want(t, `
server     `+url+`
ready      no
revision   87
waits for  registry: connection refused
warns      vault: Vault is sealed
`, "hedgerow: status: the control plane is not ready\n", 1)
	})
	t.Run("as JSON", func(t *testing.T) {
		url := control(t, exchange{method: "GET", uri: "/readyz", status: 200, answer: `{"ready":true,"revision":87}`},
			exchange{method: "GET", uri: "/v1/nodes?pageSize=500", status: 200, answer: `{"nodes":[{"name":"nodes/a"}]}`},
			exchange{method: "GET", uri: "/v1/instances?pageSize=500", status: 200, answer: `{}`})
		r := hedgerow(t, "", "status", "-o", "json")
		want := `{"server":"` + url + `","ready":true,"revision":87,"nodes":[{"name":"nodes/a"}],"instances":[]}`
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(r.stdout)); err != nil || compact.String() != want || r.code != 0 {
			t.Errorf("%v %d\n%s\nwant\n%s", err, r.code, compact.String(), want)
		}
	})
	t.Run("an unknown token is said after what needs none", func(t *testing.T) {
		refused := `{"title":"Unauthorized","status":401,"code":"unauthenticated","detail":"the token is not known"}`
		url := control(t, exchange{method: "GET", uri: "/readyz", status: 200, answer: `{"ready":true,"revision":87}`},
			exchange{method: "GET", uri: "/v1/nodes?pageSize=500", status: 401, answer: refused},
			exchange{method: "GET", uri: "/v1/instances?pageSize=500", status: 401, answer: refused})
		hedgerow(t, "", "status").want(t, "server     "+url+"\nready      yes\nrevision   87\n", `
hedgerow: status: the token is not known (401 unauthenticated)
hedgerow: hint: $HEDGEROW_TOKEN holds a token that this control plane does not know
`, 1)
	})
}

func TestVersion(t *testing.T) {
	hedgerow(t, "", "version").want(t, "hedgerow v1.2.3 go1.26\n", "", 0)
	hedgerow(t, "", "version", "-o", "json").want(t, "{\n  \"name\": \"hedgerow\",\n  \"version\": \"v1.2.3 go1.26\"\n}\n", "", 0)
	hedgerow(t, "", "version", "-o", "yaml").want(t, "name: hedgerow\nversion: \"v1.2.3 go1.26\"\n", "", 0)
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"a wrong flag", []string{"get", "--frm", "x"}, "hedgerow: get: unknown flag: --frm\nhedgerow: hint: run \"hedgerow get --help\"\n"},
		{"a wrong output", []string{"get", "routes", "-o", "xml"}, "hedgerow: get: invalid argument \"xml\" for \"-o, --output\" flag: \"xml\" is none of json, yaml and table\nhedgerow: hint: run \"hedgerow get --help\"\n"},
		{"an unknown collection", []string{"get", "rutes"}, "hedgerow: get: \"rutes\" is none of authenticators, defaults, instances, nodes, policies, quarantines, routes, services, tokens, topicRules\nhedgerow: hint: run \"hedgerow get --help\"\n"},
		{"an id that is a path", []string{"get", "routes/../nodes"}, "hedgerow: get: \"../nodes\" is not an id of 1 to 63 characters a-z, 0-9 and '-'\nhedgerow: hint: run \"hedgerow get --help\"\n"},
		{"no file", []string{"apply"}, "hedgerow: apply: -f says what to apply\nhedgerow: hint: run \"hedgerow apply --help\"\n"},
		{"a collection to delete", []string{"delete", "routes"}, "hedgerow: delete: \"routes\" names a collection, not an object\nhedgerow: hint: run \"hedgerow delete --help\"\n"},
		{"an etag for two", []string{"delete", "--etag", "1", "routes/a", "routes/b"}, "hedgerow: delete: --etag is for one object\nhedgerow: hint: run \"hedgerow delete --help\"\n"},
		{"other defaults", []string{"get", "defaults/other"}, "hedgerow: get: the only defaults are defaults/mesh\nhedgerow: hint: run \"hedgerow get --help\"\n"},
		{"nothing to publish", []string{"publish", "a/b"}, "hedgerow: publish: -m says what to publish\nhedgerow: hint: run \"hedgerow publish --help\"\n"},
		{"no topic", []string{"publish", "-m", "x"}, "hedgerow: publish: accepts 1 arg(s), received 0\nhedgerow: hint: run \"hedgerow publish --help\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			control(t)
			hedgerow(t, "", tt.args...).want(t, "", tt.want, 2)
		})
	}
}

func TestPublish(t *testing.T) {
	clean(t)
	addr, got := broker(t)
	hedgerow(t, "", "publish", "devices/d1/telemetry", "-m", `{"t":21.5}`, "--broker", addr).want(t, "devices/d1/telemetry acknowledged\n", "", 0)
	// PUBLISH, QoS 1, topic, packet identifier 1, payload: MQTT 3.1.1, 3.3.
	want := "\x32\x22\x00\x14devices/d1/telemetry\x00\x01" + `{"t":21.5}`
	if p := <-got; p != want {
		t.Errorf("the broker got %q, want %q", p, want)
	}
}

// broker accepts one client, acknowledges its CONNECT and its PUBLISH, and
// returns the PUBLISH.
func broker(t *testing.T) (addr string, published <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			head := make([]byte, 2) // the packets of this test are under 128 bytes
			if _, err := io.ReadFull(conn, head); err != nil {
				return
			}
			body := make([]byte, head[1])
			if _, err := io.ReadFull(conn, body); err != nil {
				return
			}
			answer := []byte{0x20, 2, 0, 0} // CONNACK, accepted
			switch head[0] >> 4 {
			case 3:
				got <- string(head) + string(body)
				answer = []byte{0x40, 2, 0, 1} // PUBACK 1
			case 14: // DISCONNECT
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return l.Addr().String(), got
}

func TestPublishRefusesAWildcard(t *testing.T) {
	hedgerow(t, "", "publish", "devices/+/telemetry", "-m", "x").want(t, "", `
hedgerow: publish devices/+/telemetry: a message goes to one topic, without wildcards
hedgerow: hint: '+' and '#' are for subscriptions
`, 1)
}
