package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The table of paths and policies: every spelling of every path, under every kind of policy, in a mesh of
// few routes and policies and of many, over HTTP/1.1 and HTTP/2, decided by the gateway and by the sidecar. What
// has to happen is known by how a spelling was made, and by oracle, which share nothing with the engine.

// spelled is a way to write a path, and what it says to those who read it: one path, or two, where
// parameters count to one reader; none is refused with 400.
type spelled struct {
	text     string
	readings []string
	over     mode // if only one can say it
}

// spell returns the ways to write path, which has no final slash.
func spell(host, path string) []spelled {
	var out []spelled
	add := func(readings []string, texts ...string) {
		for _, text := range texts {
			out = append(out, spelled{text: text, readings: readings})
		}
	}
	escaped := ""
	for _, c := range []byte(path) {
		if c == '/' {
			escaped += "/"
		} else {
			escaped += fmt.Sprintf("%%%02x", c)
		}
	}
	last := len(path) - 1
	same := []string{path}
	add(same, path, path+"?x=/public", path+"?", "/"+path, "//"+path, "/."+path, "/./."+path, "/%2e"+path, "/%2E/."+path, "/x/.."+path, "/x/y/../.."+path, "/x/%2E%2e"+path, "/x/%2e."+path,
		"/.."+path, "/../.."+path, "/%2e%2e"+path, escaped, strings.ToUpper(escaped), fmt.Sprintf("/%%%02X", path[1])+path[2:], path[:last]+fmt.Sprintf("%%%02x", path[last]),
		strings.ReplaceAll(path, "/", "//"), strings.ReplaceAll(path, "/", "/./"), strings.ReplaceAll(path, "/", "/x/../"))
	add([]string{path + "/"}, path+"/", path+"//", path+"/.", path+"/%2e", path+"/x/..", path+"/./", path+"/?x")
	add([]string{path + ";a=b", path}, path+";a=b", "/x/.."+path+";a=b", "/"+path+";a=b")
	add([]string{path + ";a", path}, path+"%3Ba", path+"%3ba")
	add([]string{path + ";", path}, path+";")
	add([]string{path + ";a/", path + "/"}, path+";a/", path+";a/.")
	if first, rest, more := strings.Cut(path[1:], "/"); more {
		add([]string{"/" + first + ";v=1/" + rest, path}, "/"+first+";v=1/"+rest)
	}
	at := strings.LastIndexByte(path, '/')
	add(nil, path[:at]+"%2f"+path[at+1:], path[:at]+"/%2F"+path[at+1:], path[:at]+"%5c"+path[at+1:], path[:at]+`\`+path[at+1:], path[:at]+`/\`+path[at+1:], "/x%2f.."+path, "/x/..%2f"+path[1:],
		"/%252e"+path, "/%252e%252e"+path, "/%25"+fmt.Sprintf("%02x", path[1])+path[2:], path+"%00", path+"%00.png", path+"%0a", path+"%7f", path+"%zz", path+"%", path+"%2", path+"%ff",
		"/%c0%ae"+path, "/%c0%af"+path[1:], "/%e0%80%af"+path[1:], "/x/..;"+path, "/x/..;a"+path, "/.;"+path, "/;"+path, "/;a=b"+path, path+"#x", "/#"+path)
	for _, scheme := range []string{"http", "https"} {
		out = append(out, spelled{scheme + "://" + host + path, same, overH1}, spelled{scheme + "://" + host + "/x/.." + path, same, overH1})
	}
	return out
}

// pathPolicies are the kinds of what a policy says of paths.
func pathPolicies() []mesh.PolicyTo {
	return []mesh.PolicyTo{
		{Paths: []string{"/admin"}},
		{Paths: []string{"/Admin", "/TENANTS/{t}/secrets"}, IgnoreCase: true},
		{Paths: []string{"/tenants/{tenant}/secrets"}},
		{Paths: []string{"/admin/**", "/tenants/7/**"}},
		{Paths: []string{"/{x}/{y}/{z}", "/{x}"}},
		{Paths: []string{"/**"}, NotPaths: []string{"/public", "/tenants/{t}/secrets"}},
		{NotPaths: []string{"/admin", "/tenants/**"}},
		{Paths: []string{"/ADMIN/**", "/public"}, NotPaths: []string{"/Admin/X"}, IgnoreCase: true},
	}
}

// oracle reports whether a pattern is about a path.
func oracle(pattern, path string, fold, ignoreSlash bool) bool {
	if ignoreSlash {
		path = strings.TrimSuffix(path, "/")
	}
	have := strings.Split(path, "/")[1:]
	want := strings.Split(pattern, "/")[1:]
	for i, segment := range want {
		switch {
		case segment == "**":
			return true
		case i >= len(have):
			return false
		case segment[0] == '{' && have[i] != "":
		case segment == have[i], fold && strings.EqualFold(segment, have[i]):
		default:
			return false
		}
	}
	return len(want) == len(have)
}

// about reports whether a policy is about a reading. What ends in a refusal is read generously.
func about(to mesh.PolicyTo, reading string, deny bool) bool {
	some := len(to.Paths) == 0
	for _, p := range to.Paths {
		some = some || oracle(p, reading, to.IgnoreCase, deny)
	}
	for _, p := range to.NotPaths {
		some = some && !oracle(p, reading, to.IgnoreCase, !deny)
	}
	return some
}

// wanted returns the status that a spelling has to get under a policy.
func wanted(s spelled, to mesh.PolicyTo, action string) int {
	if s.readings == nil {
		return http.StatusBadRequest
	}
	any, all := false, true
	for _, reading := range s.readings {
		is := about(to, reading, action == mesh.Deny)
		any, all = any || is, all && is
	}
	if action == mesh.Deny && any || action == mesh.Allow && !all {
		return http.StatusForbidden
	}
	return http.StatusOK
}

// asker asks over one connection as long as that is kept.
type asker struct {
	t    *testing.T
	m    mode
	addr string
	n    uint32 // of requests on the connection
	h1   net.Conn
	read *bufio.Reader
	h2   *h2conn
}

func (a *asker) status(host, path string) int {
	a.t.Helper()
	if a.m == overH2 {
		return a.overH2(host, path)
	}
	if a.h1 == nil {
		conn, err := net.Dial("tcp", a.addr)
		if err != nil {
			a.t.Fatal(err)
		}
		a.h1, a.read = conn, bufio.NewReader(conn)
	}
	_ = a.h1.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(a.h1, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		a.t.Fatal(err)
	}
	resp, err := http.ReadResponse(a.read, nil)
	if err != nil {
		a.t.Fatalf("%s: %v", path, err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil || resp.Close {
		_ = a.h1.Close()
		a.h1 = nil
	}
	return resp.StatusCode
}

func (a *asker) overH2(host, path string) int {
	if a.h2 == nil {
		a.h2, a.n = dialH2(a.t, a.addr), 0
		_ = a.h2.conn.SetDeadline(time.Now().Add(60 * time.Second))
	}
	a.n++
	stream := 2*a.n - 1
	a.h2.request(stream, "", ":method", "GET", ":scheme", "https", ":path", path, ":authority", host)
	outcome := a.h2.outcome(stream)
	if outcome == "reset" || a.n == 150 { // malformed (RFC 9113 section 8.1.1), or the window of the connection is used up
		_ = a.h2.conn.Close()
		a.h2 = nil
	}
	if outcome == "reset" {
		return http.StatusBadRequest
	}
	var status int
	_, _ = fmt.Sscan(outcome, &status) // or it stays 0
	return status
}

func TestPathsAndPolicies(t *testing.T) {
	paths := []string{"/admin", "/ADMIN", "/admin/x", "/administrator", "/x/admin", "/tenants/7/secrets", "/tenants/7/Secrets/x", "/public"}
	total, bypasses, by := 0, 0, map[int]int{}
	for _, many := range []int{0, 300} {
		for _, place := range []string{"gateway", "sidecar"} {
			w := newWorld(t)
			var reached atomic.Int64
			workload := w.workload(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
			type row struct {
				host   string
				action string
				to     mesh.PolicyTo
			}
			var rows []row
			for i, to := range pathPolicies() {
				for _, action := range []string{mesh.Allow, mesh.Deny} {
					id := fmt.Sprintf("%s-%d", strings.ToLower(action), i)
					rows = append(rows, row{id + ".test", action, to})
					w.sidecar(id, "n-"+id, workload, nil)
					w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{id + ".test"},
						Rules: []mesh.RouteRule{{Backends: []mesh.Backend{{Service: id}}}}})
					target := &mesh.PolicyTarget{Service: id}
					if place == "gateway" {
						target = &mesh.PolicyTarget{Route: id}
					}
					w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/m-" + id}, Target: target, Action: action, Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{to}}}})
					for n := range many / 10 { // of the same action, about something else, so that the index is used
						w.put(&mesh.Policy{Meta: mesh.Meta{Name: fmt.Sprintf("policies/%c-%s-%d", "az"[n%2], id, n)}, Target: target, Action: action,
							Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Paths: []string{fmt.Sprintf("/crowd/%d/**", n)}}}}}})
					}
				}
			}
			w.crowd(many, 0)
			askers := []*asker{{t: t, m: overH1, addr: w.gateway(overH1).addr}, {t: t, m: overH2, addr: w.gateway(overH2).addr}}
			w.publish()
			for _, a := range askers {
				for _, r := range rows {
					for _, path := range paths {
						for _, s := range spell(r.host, path) {
							if s.over != "" && s.over != a.m {
								continue
							}
							total++
							before := reached.Load()
							want := wanted(s, r.to, r.action)
							by[want]++
							got := a.status(r.host, s.text)
							if want != http.StatusOK && (got == http.StatusOK || reached.Load() != before) {
								bypasses++
							}
							if got != want || (reached.Load() != before) != (want == http.StatusOK) {
								t.Errorf("%s, %d more, %s: %s %+v: %s is answered %d, want %d; the workload got %d", place, many, a.m, r.action, r.to, s.text, got, want, reached.Load()-before)
							}
							if t.Failed() && total > 20_000 {
								return
							}
						}
					}
				}
				if a.h1 != nil {
					_ = a.h1.Close()
				}
			}
			w.stop()
		}
	}
	for _, status := range []int{http.StatusOK, http.StatusForbidden, http.StatusBadRequest} {
		if by[status] < total/10 {
			t.Errorf("only %d of %d requests have to get %d", by[status], total, status)
		}
	}
	t.Logf("%d requests: %d had to pass, %d to be denied, %d to be refused as ambiguous; %d bypasses", total, by[http.StatusOK], by[http.StatusForbidden], by[http.StatusBadRequest], bypasses)
}
