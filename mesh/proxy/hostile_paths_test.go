package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// hostilePath is a request that tries to be read in two ways.
type hostilePath struct {
	name   string
	method string // GET if empty
	path   string // as written on the wire; /public if empty
	host   string // %s is the host without its last letters in the usual spelling
	fields string // "name: value" lines
	over   mode   // if only one can say it
	status int
	target string // what the workload must have seen as path and query; path if empty
}

// hostilePaths are sent to a service for which /admin is denied, and GET /locked.
// /special has a rule of its own.
func hostilePaths() []hostilePath {
	const identityFields = "x-forwarded-client-cert: By=spoofed\nx_forwarded_client_cert: spoofed\nx-forwarded-for: spoofed\nx.forwarded.for: spoofed\n" +
		"x-forwarded-proto: spoofed\nx-forwarded-host: spoofed\nx-forwarded-port: spoofed\nforwarded: for=spoofed\nx-real-ip: spoofed\nx_real_ip: spoofed\n" +
		"hedgerow-device: spoofed\nhedgerow_device: spoofed\nhedgerow-message-id: spoofed\n" +
		"x-forwarded-client-cert: spoofed twice\nx-forwarded-for: spoofed twice\nx_real-ip: spoofed twice\n"
	var out []hostilePath
	group := func(name string, status int, paths ...string) {
		for _, p := range paths {
			out = append(out, hostilePath{name: name, path: p, status: status})
		}
	}
	group("denied in each spelling", 403, "/admin", "/a/../admin", "//admin", "/%61dmin", "/admin/", "/admin/.", "/./admin", "/%2e/admin", "/a/%2E%2e/admin",
		"/../admin", "/../../admin", "/admin/x/..", "///admin//", "/admin?x=1", "/admin?", "/%61%64%6D%69%6e", "/.//admin")
	group("two readings", 400, "/%2fadmin", "/a/%2fadmin", "/%2Fadmin", "/%5cadmin", `/\admin`, "/x%2f..%2fadmin", "/%252e", "/%252e/admin", "/%2561dmin", "/%25%32e", "/%c0%ae%c0%ae/admin",
		"/%c0%afadmin", "/%c1%a1dmin", "/%e0%80%af", "/%00", "/admin%00", "/admin%00.png", "/%zz", "/%zzadmin", "/%", "/%2", "/%u002fadmin", "/%0a", "/%7f", "/%ff")
	group("parameters that would change the match", 400, "/x/..;/admin", "/..;a/admin", "/.;/admin", "/;a/admin", "/;/admin", "/special;a=b", "/special%3ba")
	group("parameters that would change what is denied", 403, "/admin;a=b", "/admin;", "/admin%3ba=b", "/a/../admin;x", "/admin;a/")
	group("a template in each spelling", 403, spellings("/tenants/7/secrets")...)
	group("what is below in each spelling", 403, append(spellings("/vault"), spellings("/vault/a/b")...)...)
	group("other letters in each spelling", 403, append(spellings("/FOLDED"), append(spellings("/folded/Keys/x"), spellings("/fOLDED/keys")...)...)...)
	group("what a policy leaves out", 200, "/tenants/7/secretss", "/tenants/secrets", "/tenants/7/8/secrets", "/vaults", "/xvault/a", "/folded/keysx", "/foldedkeys/x")
	group("a fragment", 400, "/admin#x", "/#", "/public#/admin", "/public?a#b")
	group("no path", 400, "*", "orders.mesh:80")
	for _, scheme := range []string{"http", "https", "HTTP"} {
		for _, p := range []string{"/admin", "//admin", "/x/../%61dmin;a?b"} {
			out = append(out, hostilePath{name: "denied in the absolute form", path: scheme + "://orders.mesh" + p, over: overH1, status: 403})
		}
	}
	for _, p := range []string{"http://orders.mesh/public", "https://orders.mesh/admin", "http://other.mesh/public", "admin", "public"} {
		out = append(out, hostilePath{name: "a :path that does not begin with a slash", path: p, over: overH2, status: 400})
	}
	out = append(out,
		hostilePath{name: "the absolute form", path: "http://orders.mesh/a/./%62?c", over: overH1, status: 200, target: "/a/b?c"},
		hostilePath{name: "its authority wins", path: "http://x.orders.mesh/public", over: overH1, status: 404},
		hostilePath{name: "parameters", path: "/orders;v=1/7;a=b", status: 200, target: "/orders;v=1/7;a=b"},
		hostilePath{name: "another case is another path", path: "/ADMIN", status: 200, target: "/ADMIN"},
		hostilePath{name: "another case, escaped", path: "/%41dmin", status: 200, target: "/Admin"},
		hostilePath{name: "longer", path: "/administrator", status: 200, target: "/administrator"},
		hostilePath{name: "deeper", path: "/x/admin", status: 200, target: "/x/admin"},
		hostilePath{name: "normalised once", path: "/a/./b//../%63", status: 200, target: "/a/c"},
		hostilePath{name: "an escaped percent sign", path: "/100%25", status: 200, target: "/100%25"},
		hostilePath{name: "a query is left as it is", path: "/public?next=/../admin&x=%2f;a", status: 200, target: "/public?next=/../admin&x=%2f;a"},

		hostilePath{name: "a final dot", host: "%s.", status: 200},
		hostilePath{name: "a port", host: "%s:8080", status: 200},
		hostilePath{name: "a final dot and a port", host: "%s.:80", status: 200},
		hostilePath{name: "upper case", host: "upper %s", status: 200},
		hostilePath{name: "mixed case", host: "OrDeRs.Mesh.", status: 200},
		hostilePath{name: "denied in mixed case", host: "oRdErS.mEsH:80", path: "/admin/.", status: 403},
		hostilePath{name: "denied at a final dot", host: "%s.", path: "/admin", status: 403},
		hostilePath{name: "denied at a port", host: "%s:8080", path: "//admin", status: 403},
		hostilePath{name: "denied in upper case", host: "upper %s.", path: "/%61dmin", status: 403},
		hostilePath{name: "two final dots", host: "%s..", status: 400},
		hostilePath{name: "a port that is none", host: "%s:80x", status: 400},
		hostilePath{name: "user information", host: "a@%s", status: 400},
		hostilePath{name: "a host of nobody", host: "x.%s", status: 404},

		hostilePath{name: "denied for GET", path: "/locked", status: 403},
		hostilePath{name: "another method", method: "POST", path: "/locked", status: 200},
		hostilePath{name: "methods have a case", method: "get", path: "/locked", status: 200},
		hostilePath{name: "an unknown method", method: "BREW", path: "/locked", status: 200},
		hostilePath{name: "overrides go", method: "POST", fields: "x-http-method-override: spoofed\nx-http-method: spoofed\nx-method-override: spoofed\nx_http_method_override: spoofed\nx.http.method.override: spoofed", status: 200},
		hostilePath{name: "an override does not authorize", method: "GET", path: "/locked", fields: "x-http-method-override: POST", status: 403},
		hostilePath{name: "TRACE", method: "TRACE", status: 405},

		hostilePath{name: "identity is ours to say", fields: identityFields, status: 200},
		hostilePath{name: "what Connection names is not ours", over: overH1, status: 200,
			fields: identityFields + "authorization: spoofed\nconnection: x-forwarded-client-cert, x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, host, authorization, x-drop\nx-drop: spoofed"},
		hostilePath{name: "a Connection over HTTP/2", over: overH2, status: 400, fields: "connection: x-forwarded-for"},
	)
	for i := range out {
		r := &out[i]
		if r.method == "" {
			r.method = "GET"
		}
		if r.path == "" {
			r.path = "/public"
		}
		if r.host == "" {
			r.host = "%s"
		}
		if r.target == "" {
			r.target = r.path
		}
	}
	return out
}

// spellings are ways to write a path that mean the same to somebody.
func spellings(path string) []string {
	first := fmt.Sprintf("/%%%02x", path[1]) + path[2:]
	last := path[:len(path)-1] + fmt.Sprintf("%%%02X", path[len(path)-1])
	return []string{path, path + "/", path + "/.", path + "?x=/public", path + ";a=b", path + "%3Ba", "/" + path, "/." + path, "/public/.." + path, "/%2e" + path,
		"/a/%2E%2e" + path, path + "/x/..", first, last, "/.." + path, strings.ReplaceAll(path, "/", "//"), strings.ReplaceAll(path, "/", "/./")}
}

// hostOf is the spelling of host that r asks for.
func (r *hostilePath) hostOf(host string) string {
	if spelling, upper := strings.CutPrefix(r.host, "upper "); upper {
		return strings.ToUpper(strings.ReplaceAll(spelling, "%s", host))
	}
	return strings.ReplaceAll(r.host, "%s", host)
}

func (r *hostilePath) lines() [][2]string {
	var out [][2]string
	for line := range strings.Lines(r.fields) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		out = append(out, [2]string{name, value})
	}
	return out
}

// send returns the status that r gets over m at addr.
func (r *hostilePath) send(t *testing.T, m mode, addr, host string) int {
	t.Helper()
	if m == overH1 {
		var fields string
		for _, f := range r.lines() {
			fields += f[0] + ": " + f[1] + "\r\n"
		}
		if !strings.Contains(fields, "connection: ") {
			fields += "connection: close\r\n"
		}
		return statusOf(t, raw(t, addr, r.method+" "+r.path+" HTTP/1.1\r\nHost: "+host+"\r\n"+fields+"\r\n"))
	}
	conn := dialH2(t, addr)
	defer func() { _ = conn.conn.Close() }()
	fields := []string{":method", r.method, ":scheme", "https", ":path", r.path, ":authority", host}
	for _, f := range r.lines() {
		fields = append(fields, f[0], f[1])
	}
	conn.request(1, "", fields...)
	outcome := conn.outcome(1)
	if outcome == "reset" { // malformed, as RFC 9113 section 8.1.1 has it
		return http.StatusBadRequest
	}
	var status int
	_, _ = fmt.Sscan(outcome, &status) // or it stays 0
	return status
}

// crowd adds routes and policies that have nothing to say about the requests.
func (w *world) crowd(routes, policies int) {
	for i := range routes {
		path := fmt.Sprintf("/crowd/%d", i)
		w.put(&mesh.Route{Meta: mesh.Meta{Name: fmt.Sprintf("routes/r%d", i)}, Targets: []string{mesh.TargetGateway, mesh.TargetMesh},
			Hostnames: []string{[]string{"orders.mesh", fmt.Sprintf("h%d.mesh", i), "*.crowd.mesh"}[i%3]},
			Rules:     []mesh.RouteRule{{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: path}}}, Backends: []mesh.Backend{{Service: "orders"}}}}})
	}
	for i := range policies {
		w.put(&mesh.Policy{Meta: mesh.Meta{Name: fmt.Sprintf("policies/p%d", i)}, Target: &mesh.PolicyTarget{Service: "orders"}, Action: mesh.Deny,
			Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Paths: []string{fmt.Sprintf("/crowd/%d/**", i)}}}}}})
	}
}

// There is one path: it is matched, authorized and forwarded. What could be read as
// another is refused, whoever asks and however much is configured.
func TestHostilePathsThroughTheMesh(t *testing.T) {
	const host = "orders.mesh"
	for _, size := range []struct{ routes, policies int }{{0, 0}, {1000, 200}} {
		t.Run(fmt.Sprintf("%d more routes", size.routes), func(t *testing.T) {
			w := newWorld(t)
			var last atomic.Pointer[seen]
			w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
			deny := func(id string, to mesh.PolicyTo) {
				w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/" + id}, Target: &mesh.PolicyTarget{Service: "orders"}, Action: mesh.Deny,
					Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{to}}}})
			}
			deny("no-admin", mesh.PolicyTo{Paths: []string{"/admin"}})
			deny("locked", mesh.PolicyTo{Paths: []string{"/locked"}, Methods: []string{"GET"}})
			deny("template", mesh.PolicyTo{Paths: []string{"/tenants/{tenant}/secrets"}})
			deny("below", mesh.PolicyTo{Paths: []string{"/vault/**"}})
			deny("letters", mesh.PolicyTo{Paths: []string{"/Folded", "/Folded/KEYS/**"}, IgnoreCase: true})
			backend := []mesh.Backend{{Service: "orders"}}
			w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/shop"}, Targets: []string{mesh.TargetGateway, mesh.TargetMesh}, Hostnames: []string{"orders.mesh"},
				Rules: []mesh.RouteRule{{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: "/special"}}}, Backends: backend}, {Backends: backend}}})
			w.crowd(size.routes, size.policies)
			e, reg := w.engine(proxy.MeshLimits())
			caller := w.source("/svc/web/n/n9")
			outbound := w.run(e, reg, e.Outbound(func() (*identity.Source, *proxy.Refusal) { return caller, nil }), nil, time.Second)
			ways := []struct {
				name, addr string
				m          mode
				caller     string // as the sidecar knows it
				proto      string // in X-Forwarded-Proto; "" if the caller is no gateway
			}{
				{"gateway, HTTP/1.1", w.gateway(overH1).addr, overH1, "/gateway/edge", "http"},
				{"gateway, HTTP/1.1, pooled", w.gateway(overH1, pooled).addr, overH1, "/gateway/edge", "http"},
				{"gateway, HTTP/2", w.gateway(overH2).addr, overH2, "/gateway/edge", "https"},
				{"sidecar", outbound.addr, overH1, "/svc/web/n/n9", ""},
			}
			w.publish()
			for _, way := range ways {
				for _, r := range hostilePaths() {
					if r.over != "" && r.over != way.m {
						continue
					}
					name := fmt.Sprintf("%s: %s: %s %s", way.name, r.name, r.method, r.path)
					last.Store(nil)
					if got := r.send(t, way.m, way.addr, r.hostOf(host)); got != r.status {
						t.Errorf("%s: got %d, want %d", name, got, r.status)
						continue
					}
					got := last.Load()
					if r.status != http.StatusOK {
						if got != nil {
							t.Errorf("%s: the workload got %s %s", name, got.method, got.uri)
						}
						continue
					}
					if got.method != r.method || got.uri != r.target {
						t.Errorf("%s: the workload got %s %s, want %s %s", name, got.method, got.uri, r.method, r.target)
					}
					for field, values := range got.header {
						if strings.Contains(strings.Join(values, " "), "spoofed") {
							t.Errorf("%s: the workload got %s: %q", name, field, values)
						}
					}
					ours := map[string]string{"X-Forwarded-For": "", "X-Forwarded-Proto": "", "X-Forwarded-Host": ""}
					if way.proto != "" {
						ours = map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": way.proto, "X-Forwarded-Host": r.hostOf(host)}
					}
					for field, want := range ours {
						if values := got.header[field]; strings.Join(values, ", ") != want {
							t.Errorf("%s: the workload got %s: %q, want %q", name, field, values, want)
						}
					}
					cert := got.header["X-Forwarded-Client-Cert"]
					if len(cert) != 1 || !strings.HasPrefix(cert[0], "By=spiffe://hedgerow.test/svc/orders/n/n1;Hash=") || !strings.HasSuffix(cert[0], ";URI=spiffe://hedgerow.test"+way.caller) {
						t.Errorf("%s: the workload got X-Forwarded-Client-Cert: %q", name, cert)
					}
				}
			}
		})
	}
}
