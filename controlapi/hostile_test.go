package controlapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func externalAt(address string) string {
	return fmt.Sprintf(`{"external":{"address":%q,"port":8200}}`, address)
}

func routeBy(regex string) string {
	return fmt.Sprintf(`{"targets":["GATEWAY"],"hostnames":["a.localhost"],"rules":[{"matches":[{"path":{"regex":%q}}],"backends":[{"service":"orders"}]}]}`, regex)
}

// The rows of hostile inputs that are about the API, at the real server. Row 42 is
// TestBearerTokensOfOIDC, and dialled addresses of row 45 are the engine's tests.
func TestHostileRows(t *testing.T) {
	const service = "/v1/services/s"
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, c := range []struct {
		row, name, method, path, body string
		headers                       []string
		want                          int
	}{
		{"41", "a gzip body", "PUT", service, "\x1f\x8b\x08", []string{"Content-Encoding", "gzip"}, 415},
		{"41", "a brotli body", "PUT", service, "\x1f", []string{"Content-Encoding", "br"}, 415},
		{"41", "a body deflated twice", "PUT", service, "x", []string{"Content-Encoding", "deflate, deflate"}, 415},
		{"43", "10,000 levels", "PUT", service, nested(10_000), nil, 400},
		{"43", "100 MiB", "PUT", service, `{"labels":{"a":"` + strings.Repeat("x", 100<<20) + `"}}`, nil, 413},
		{"43", "a key twice", "PUT", service, `{"protocol":"HTTP","protocol":"TCP"}`, nil, 400},
		{"43", "an unknown field", "PUT", service, `{"protocl":"HTTP"}`, nil, 400},
		{"43", "NaN", "PUT", service, `{"circuitBreaker":{"maxRequests":NaN}}`, nil, 400},
		{"43", "a byte order mark", "PUT", service, "\ufeff{}", nil, 400},
		{"43", "1e999", "PUT", service, `{"circuitBreaker":{"maxRequests":1e999}}`, nil, 400},
		{"44", "nested repetition, which RE2 does in linear time", "PUT", "/v1/routes/r", routeBy("(a+)+$"), nil, 200},
		{"44", "a backreference", "PUT", "/v1/routes/r", routeBy(`/(a)\1`), nil, 422},
		{"44", "counted repetition", "PUT", "/v1/routes/r", routeBy("/((a{100}){100}){100}"), nil, 422},
		{"44", "200 KiB", "PUT", "/v1/routes/r", routeBy("/" + strings.Repeat("a", 200<<10)), nil, 422},
		{"44", "1 MiB", "PUT", "/v1/routes/r", routeBy("/" + strings.Repeat("a", 1<<20)), nil, 413},
		{"44", "10,000 alternatives", "PUT", "/v1/routes/r", routeBy("/" + strings.Repeat("ab|", 10_000)), nil, 422},
		{"45", "the metadata service", "PUT", service, externalAt("169.254.169.254"), nil, 422},
		{"45", "localhost", "PUT", service, externalAt("localhost"), nil, 422},
		{"45", "a name below localhost", "PUT", service, externalAt("vault.localhost"), nil, 422},
		{"45", "a name of the mesh", "PUT", service, externalAt("orders.mesh"), nil, 422},
		{"45", "the loopback address", "PUT", service, externalAt("127.0.0.1"), nil, 422},
		{"45", "the IPv6 loopback address", "PUT", service, externalAt("::1"), nil, 422},
		{"45", "that in brackets", "PUT", service, externalAt("[::1]"), nil, 422},
		{"45", "IPv4 in IPv6", "PUT", service, externalAt("::ffff:127.0.0.1"), nil, 422},
		{"45", "a decimal address", "PUT", service, externalAt("2130706433"), nil, 422},
		{"45", "a hexadecimal address", "PUT", service, externalAt("0x7f000001"), nil, 422},
		{"45", "an octal address", "PUT", service, externalAt("0177.0.0.1"), nil, 422},
		{"45", "a short address", "PUT", service, externalAt("127.1"), nil, 422},
		{"45", "nowhere", "PUT", service, externalAt("0.0.0.0"), nil, 422},
		{"45", "a unix socket", "PUT", service, externalAt("unix:/run/vault.sock"), nil, 422},
		{"45", "a path", "PUT", service, externalAt("/run/vault.sock"), nil, 422},
		{"45", "a URL", "PUT", service, externalAt("http://169.254.169.254"), nil, 422},
		{"45", "user and host", "PUT", service, externalAt("a@127.0.0.1"), nil, 422},
		{"45", "a name, whose addresses are asked for when it is dialled", "PUT", service, externalAt("rebind.example"), nil, 200},
		{"46", "a foreign Host", "PUT", service, `{}`, []string{"Host", "evil.example"}, 403},
		{"46", "a foreign Origin", "PUT", service, `{}`, []string{"Origin", "https://evil.example"}, 403},
		{"46", "an Origin of none", "PUT", service, `{}`, []string{"Origin", "null"}, 403},
		{"46", "a form of another site", "POST", "/v1:apply", "a=b", append([]string{"Sec-Fetch-Site", "cross-site"}, form...), 403},
		{"46", "a form without a token", "POST", "/v1:apply", "a=b", append([]string{"Authorization", ""}, form...), 401},
	} {
		t.Run(c.row+" "+c.name, func(t *testing.T) {
			a := newAPI(t)
			a.must("PUT", "/v1/services/orders", `{}`)
			if c.name == "100 MiB" {
				if got := a.huge(c.path, c.body); got != c.want && got != 0 { // the connection may be cut first
					t.Errorf("%d, want %d", got, c.want)
				}
			} else {
				before := cpuTime(t)
				got := a.do(c.method, c.path, c.body, c.headers...)
				if got.status != c.want {
					t.Errorf("%d %.300s, want %d", got.status, got.body, c.want)
				}
				// It is 50 ms at most; the race detector makes ten times that of it.
				if took := cpuTime(t) - before; took > time.Second {
					t.Errorf("%v of CPU", took)
				}
			}
			if stored := a.log.revision() == 2; stored != (c.want == 200) {
				t.Errorf("revision %d", a.log.revision())
			}
		})
	}
}

// huge sends a body that the server stops reading, and returns the status, 0 if the
// connection was cut before it came.
func (a *api) huge(path, body string) int {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPut, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0
	}
	if err := resp.Body.Close(); err != nil {
		a.t.Error(err)
	}
	return resp.StatusCode
}
