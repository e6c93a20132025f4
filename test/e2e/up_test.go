package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// demo is one `hedgerow up --demo` on ports of its own.
type demo struct {
	t       *testing.T
	data    string
	ports   map[string]string // flag name to host:port
	process *process
}

func newDemo(t *testing.T) *demo {
	d := &demo{t: t, data: filepath.Join(t.TempDir(), "data"), ports: map[string]string{}}
	names := []string{"control", "gateway", "gateway-admin", "redis", "mqtt", "bridge-admin", "inbound", "outbound", "admin"}
	for i, port := range servers.FreePorts(t, len(names)) {
		d.ports[names[i]] = "127.0.0.1:" + strconv.Itoa(port)
	}
	return d
}

// start runs it and waits for the ready line.
func (d *demo) start() {
	d.t.Helper()
	args := []string{"up", "--demo", "--data", d.data}
	for name, address := range d.ports {
		args = append(args, "--"+name, address)
	}
	d.process = start(d.t, d.t.TempDir(), "hedgerow", args...)
	until(d.t, 30*time.Second, func() error {
		if strings.HasSuffix(d.process.out.String(), "\nready; Ctrl-C ends it\n") {
			return nil
		}
		select {
		case <-d.process.done:
			d.t.Fatalf("up ended: %v\n%s", d.process.err, d.process.out.String())
		default:
		}
		return fmt.Errorf("up does not say that it is ready:\n%s", d.process.out.String())
	})
}

// answer is what a request got.
type answer struct {
	status int
	body   string
	header http.Header
}

// problem is the part of an RFC 9457 answer that scripts look at.
type problem struct {
	Status     int
	Code       string
	Violations []struct{ Field, Message, Hint string }
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	var p problem
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q of %s", ct, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Status != a.status {
		t.Errorf("status %d, problem %+v, %v", a.status, p, err)
	}
	return p
}

// call sends a request to the port of flag name; header is "Name: value".
func (d *demo) call(method, port, path, body string, header ...string) answer {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.ports[port]+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		d.t.Fatal(err)
	}
	return answer{resp.StatusCode, string(b), resp.Header}
}

// api calls the control API with the administrator's token.
func (d *demo) api(method, path, body string, header ...string) answer {
	d.t.Helper()
	token, err := os.ReadFile(filepath.Join(d.data, "admin.token"))
	if err != nil {
		d.t.Fatal(err)
	}
	auth := "Authorization: Bearer " + strings.TrimSpace(string(token))
	return d.call(method, "control", path, body, append([]string{auth}, header...)...)
}

func (d *demo) orders() answer {
	return d.call("GET", "gateway", "/orders/7", "", "Host: demo.localhost")
}

// weights is the demo route with the given weights of v1 and v2.
func weights(v1, v2 int) string {
	return fmt.Sprintf(`{"targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"matches":[{"path":{"prefix":"/orders"}}],"backends":[{"service":"orders","subset":"v1","weight":%d},{"service":"orders","subset":"v2","weight":%d}]},{"matches":[{"path":{"prefix":"/v1/devices"}}],"backends":[{"service":"telemetry"}]}]}`, v1, v2)
}

func mustBe(t *testing.T, what string, a answer, status int, part string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, part) {
		t.Fatalf("%s: %d %s, want %d with %s", what, a.status, a.body, status, part)
	}
}

func TestUpDemo(t *testing.T) {
	d := newDemo(t)
	d.start()
	mustBe(t, "a read", d.orders(), 200, `{"service":"orders","version":"v1","id":"7","caller":"spiffe://hedgerow.local/gateway/demo"}`)

	mustBe(t, "PUT 0/100", d.api("PUT", "/v1/routes/demo", weights(0, 100)), 200, `"routes/demo"`)
	until(t, time.Second, func() error { // "on every request sent a second later"
		if a := d.orders(); !strings.Contains(a.body, `"v2"`) {
			return fmt.Errorf("still %s", a.body)
		}
		return nil
	})
	for range 100 {
		mustBe(t, "0/100", d.orders(), 200, `"version":"v2"`)
	}

	mustBe(t, "PUT 50/50", d.api("PUT", "/v1/routes/demo", weights(50, 50)), 200, "")
	until(t, time.Second, func() error {
		if a := d.orders(); !strings.Contains(a.body, `"v1"`) {
			return fmt.Errorf("still %s", a.body)
		}
		return nil
	})
	v1 := 0
	const sent = 3000 // a fair draw over 1,000 misses 45..55 % once in 600 runs
	for range sent {
		if strings.Contains(d.orders().body, `"version":"v1"`) {
			v1++
		}
	}
	t.Logf("50/50 over %d requests: %d to v1", sent, v1)
	if v1 < sent*45/100 || v1 > sent*55/100 {
		t.Errorf("%d of %d went to v1, want 45..55 %%", v1, sent)
	}

	t.Run("a policy opens and closes the way", d.policy)
	t.Run("a device message arrives", d.message)
	t.Run("bad input is refused and nothing stored", d.badInput)

	mustBe(t, "DELETE", d.api("DELETE", "/v1/routes/demo", ""), 200, "{}")
	until(t, time.Second, func() error {
		if a := d.orders(); a.status != 404 {
			return fmt.Errorf("still %d %s", a.status, a.body)
		}
		return nil
	})
	if p := d.orders().problem(t); p.Code != "no_route" {
		t.Errorf("code %q without the route, want no_route", p.Code)
	}

	if err := d.process.stop(); err != nil {
		t.Fatalf("Ctrl-C: %v", err)
	}
	if !strings.Contains(d.process.out.String(), "draining") {
		t.Errorf("the output does not say that it drains:\n%s", d.process.out.String())
	}
}

// A request under way at Ctrl-C is finished: what is called outlives who calls.
func TestUpLetsRequestsFinish(t *testing.T) {
	d := newDemo(t)
	d.start()
	conn, err := net.Dial("tcp", d.ports["gateway"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /orders/7 HTTP/1.1\r\nHost: demo.localhost\r\nContent-Length: 2\r\n\r\na"); err != nil {
		t.Fatal(err)
	}
	until(t, 5*time.Second, func() error {
		if a := d.call("GET", "gateway-admin", "/metrics", ""); !strings.Contains(a.body, "\nhedgerow_requests_in_flight{face=\"gateway\"} 1\n") {
			return fmt.Errorf("the request is not under way: %d %s", a.status, a.body)
		}
		return nil
	})
	stopped := make(chan error, 1)
	go func() { stopped <- d.process.stop() }()
	until(t, 5*time.Second, func() error {
		probe, err := net.Dial("tcp", d.ports["gateway"])
		if err != nil {
			return nil // it accepts no more
		}
		return errors.Join(errors.New("the gateway still accepts"), probe.Close())
	})
	if _, err := io.WriteString(conn, "b"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("got %v, %v", resp, err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}

func TestUpContinuesFromItsData(t *testing.T) {
	d := newDemo(t)
	d.start()
	mustBe(t, "PUT", d.api("PUT", "/v1/routes/demo", weights(0, 100)), 200, "")
	etag := d.api("GET", "/v1/routes/demo", "").header.Get("ETag")
	if err := d.process.stop(); err != nil {
		t.Fatal(err)
	}
	d.start()
	mustBe(t, "a read after the restart", d.orders(), 200, `"version":"v2"`)
	if again := d.api("GET", "/v1/routes/demo", "").header.Get("ETag"); again != etag || etag == "" {
		t.Errorf("etag %s after the restart, %s before", again, etag)
	}
	// It starts again without its route too, and does not bring it back.
	mustBe(t, "DELETE", d.api("DELETE", "/v1/routes/demo", ""), 200, "{}")
	if err := d.process.stop(); err != nil {
		t.Fatal(err)
	}
	d.start()
	mustBe(t, "a read after the route's end", d.orders(), 404, `"no_route"`)
	info, err := os.Stat(filepath.Join(d.data, "admin.token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.token: %v, %v", info, err)
	}
}

func (d *demo) policy(t *testing.T) {
	telemetryCallsOrders := func() answer { return d.call("GET", "outbound", "/orders/7", "", "Host: orders.mesh") }
	a := telemetryCallsOrders()
	mustBe(t, "without a policy", a, 403, "")
	if p := a.problem(t); p.Code != "denied" || a.header.Get("Hedgerow-Decision") == "" {
		t.Errorf("problem %+v, Hedgerow-Decision %q", p, a.header.Get("Hedgerow-Decision"))
	}
	mustBe(t, "PUT", d.api("PUT", "/v1/policies/orders-from-telemetry",
		`{"target":{"service":"orders"},"action":"ALLOW","rules":[{"from":[{"identities":["/svc/telemetry"]}],"to":[{"methods":["GET"]}]}]}`), 200, "")
	becomes := func(status int) {
		t.Helper()
		until(t, time.Second, func() error {
			if a := telemetryCallsOrders(); a.status != status {
				return fmt.Errorf("%d %s, want %d", a.status, a.body, status)
			}
			return nil
		})
	}
	becomes(200)
	mustBe(t, "with the policy", telemetryCallsOrders(), 200, `"caller":"spiffe://hedgerow.local/svc/telemetry/n/telemetry"`)
	mustBe(t, "DELETE", d.api("DELETE", "/v1/policies/orders-from-telemetry", ""), 200, "{}")
	becomes(403)
}

func (d *demo) message(t *testing.T) {
	host, port, _ := strings.Cut(d.ports["mqtt"], ":")
	for _, version := range []string{"mqttv311", "mqttv5"} {
		out, err := exec.Command("mosquitto_pub", "-h", host, "-p", port, "-V", version, "-q", "1",
			"-t", "devices/"+version+"/telemetry", "-m", `{"t":21.5}`).CombinedOutput()
		if err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		// It was acknowledged, so it is there: no waiting.
		a := d.call("GET", "gateway", "/v1/devices/"+version+"/telemetry", "", "Host: demo.localhost")
		mustBe(t, version, a, 200, `"caller":"spiffe://hedgerow.local/svc/mqtt-bridge/n/bridge","payload":{"t":21.5}`)
		if strings.Count(a.body, `"payload"`) != 1 {
			t.Errorf("stored more than once: %s", a.body)
		}
	}
}

func (d *demo) badInput(t *testing.T) {
	head := func() string { return d.api("GET", "/v1/routes", "").body + d.api("GET", "/v1/services", "").body }
	before := head()
	for _, tt := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code, field              string
	}{
		{"an unknown field", "PUT", "/v1/routes/x", `{"targets":["GATEWAY"],"hostname":["a"]}`, nil, 400, "malformed", "hostname"},
		{"not JSON", "PUT", "/v1/routes/x", `{`, nil, 400, "malformed", ""},
		{"an unknown service", "PUT", "/v1/routes/x", `{"targets":["GATEWAY"],"hostnames":["a"],"rules":[{"backends":[{"service":"ordrs"}]}]}`, nil, 422, "invalid", "rules[0].backends[0].service"},
		{"a bad path template", "PUT", "/v1/routes/x", `{"targets":["GATEWAY"],"hostnames":["a"],"rules":[{"matches":[{"path":{"template":"/a/{id"}}],"backends":[{"service":"orders"}]}]}`, nil, 422, "invalid", "rules[0].matches[0].path.template"},
		{"a field of a later version", "PUT", "/v1/services/x", `{"activation":{}}`, nil, 422, "unsupported", "activation"},
		{"a stale If-Match", "PUT", "/v1/routes/demo", weights(1, 1), []string{`If-Match: "1000"`}, 412, "stale", ""},
		{"a stale etag", "PUT", "/v1/routes/demo", `{"etag":"1000",` + weights(1, 1)[1:], nil, 412, "stale", ""},
		{"another name", "PUT", "/v1/routes/x", `{"name":"routes/y",` + weights(1, 1)[1:], nil, 422, "", ""},
		{"a wrong token", "PUT", "/v1/routes/x", weights(1, 1), []string{"Authorization: Bearer wrong"}, 401, "", ""},
		{"a referenced service", "DELETE", "/v1/services/orders", "", nil, 409, "", ""},
		{"nothing there", "DELETE", "/v1/routes/nope", "", nil, 404, "", ""},
		{"a page of another site", "PUT", "/v1/routes/x", weights(1, 1), []string{"Origin: http://evil.example"}, 403, "", ""},
		{"a rebound name", "GET", "/v1/routes", "", []string{"Host: evil.example"}, 403, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := d.api(tt.method, tt.path, tt.body, tt.header...)
			if a.status != tt.status {
				t.Fatalf("%d %s, want %d", a.status, a.body, tt.status)
			}
			p := a.problem(t)
			if tt.code != "" && p.Code != tt.code {
				t.Errorf("code %q, want %q", p.Code, tt.code)
			}
			if tt.field != "" && (len(p.Violations) == 0 || p.Violations[0].Field != tt.field) {
				t.Errorf("violations %+v, want one of %s", p.Violations, tt.field)
			}
		})
	}
	if after := head(); after != before {
		t.Errorf("something was stored:\n%s\n%s", before, after)
	}
}
