package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// asking is a mesh whose gateway asks the service "who", which answers as decide does, about requests to
// the service "orders".
type asking struct {
	*world
	en    *entry
	asked atomic.Pointer[seen]
	last  atomic.Pointer[seen]
}

func newAsking(t *testing.T, m mode, external bool, f mesh.ForwardAuth, decide http.HandlerFunc) *asking {
	t.Helper()
	a := &asking{world: newWorld(t)}
	a.sidecar("orders", "n1", a.workload(echo(&a.last)), nil)
	h := func(w http.ResponseWriter, r *http.Request) {
		a.asked.Store(&seen{r.Method, r.RequestURI, r.Host, "", r.Header.Clone()})
		decide(w, r)
	}
	if external {
		o := outsider(t, true, true, h)
		a.put(&mesh.Service{Meta: mesh.Meta{Name: "services/who"}, External: o.external(t, "127.0.0.1")})
	} else {
		a.sidecar("who", "n2", a.workload(h), nil)
	}
	a.route("orders", nil)
	f.Service = "who"
	a.put(&mesh.Authenticator{Meta: mesh.Meta{Name: "authenticators/ask"}, Targets: []mesh.AuthenticatorTarget{{Route: "shop"}}, ForwardAuth: &f})
	a.en = a.gateway(m)
	a.publish()
	return a
}

func (a *asking) outcome(t *testing.T, outcome string) float64 {
	t.Helper()
	return counted(t, a.en.registry, "hedgerow_forward_auth_total", map[string]string{"authenticator": "ask", "outcome": outcome})
}

// Another service decides: it learns what is asked, and no more; what it allows goes on with the headers
// that it may set, which clients cannot.
func TestForwardAuthAllows(t *testing.T) {
	for name, external := range map[string]bool{"mesh": false, "external": true} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, m mode) {
				a := newAsking(t, m, external, mesh.ForwardAuth{Path: "/check", RequestHeaders: []string{"authorization", "x-tenant"}, ResponseHeaders: []string{"X-User", "x-groups"}},
					func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("X-User", "alice")
						w.Header().Set("X-Else", "no")
						w.Header().Set("Set-Cookie", "no=1")
						w.WriteHeader(http.StatusAccepted)
					})
				r := a.en.request(t, http.MethodPut, "/a/../x%20y/z?q=1;2", strings.NewReader("body"))
				r.Header = fields("Authorization", "Bearer x", "X-Tenant", "7", "Cookie", "c=1", "X-Else", "mine", "x_user", "spoofed", "X-User", "spoofed", "X-Groups", "spoofed",
					"X-Forwarded-Uri", "/spoofed", "X-Forwarded-Method", "SPOOFED", "X-Forwarded-User", "spoofed")
				got := a.en.do(t, r)
				asked, last := a.asked.Load(), a.last.Load()
				if got.StatusCode != 200 || asked == nil || last == nil {
					t.Fatalf("got %d %s", got.StatusCode, got.body)
				}
				if got.Header.Get("Set-Cookie") != "" {
					t.Error("the caller got a header of the service that was asked")
				}
				proto := map[mode]string{overH1: "http", overH2: "https"}[m]
				for name, want := range map[string]string{
					"X-Forwarded-Method": "PUT", "X-Forwarded-Uri": "/x%20y/z?q=1;2", "X-Forwarded-Host": "shop.test", "X-Forwarded-Proto": proto, "X-Forwarded-For": "127.0.0.1",
					"Authorization": "Bearer x", "X-Tenant": "7", "Cookie": "", "X-Else": "", "X-User": "", "X-Groups": "", "X-Forwarded-User": "",
				} {
					if got := strings.Join(asked.header[name], "|"); got != want {
						t.Errorf("%s: %q was asked about, want %q", name, got, want)
					}
				}
				if asked.method != http.MethodGet || asked.uri != "/check" {
					t.Errorf("it was asked by %s %s", asked.method, asked.uri)
				}
				for name, want := range map[string]string{"X-User": "alice", "X-Groups": "", "X-Else": "mine", "Cookie": "c=1", "X-Forwarded-Uri": "", "X-Forwarded-Method": "", "X_user": "", "x_user": ""} {
					if got := strings.Join(last.header[name], "|"); got != want {
						t.Errorf("%s: the workload got %q, want %q", name, got, want)
					}
				}
				if last.body != "body" || last.method != http.MethodPut {
					t.Errorf("the workload got %+v", last)
				}
				if n := a.outcome(t, "allowed"); n != 1 {
					t.Errorf("%v are counted", n)
				}
			})
		})
	}
}

// What the service refuses its caller gets as it is, and the operator knows why.
func TestForwardAuthDenies(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		a := newAsking(t, m, false, mesh.ForwardAuth{ResponseHeaders: []string{"x-user"}}, func(w http.ResponseWriter, r *http.Request) {
			switch r.Header.Get("X-Forwarded-Uri") {
			case "/login":
				http.Redirect(w, r, "https://id.test/login?next=/login", http.StatusFound)
			case "/who":
				w.Header().Set("WWW-Authenticate", `Basic realm="shop"`)
				w.Header().Add("Set-Cookie", "a=1")
				w.Header().Add("Set-Cookie", "b=2")
				w.Header().Set("Hedgerow-Decision", "forged")
				w.Header().Set("Connection", "x-hop")
				w.Header().Set("X-Hop", "1")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, "who are you?")
			default:
				w.WriteHeader(http.StatusForbidden)
			}
		})
		a.en.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		get := func(method, path string) answer { return a.en.do(t, a.en.request(t, method, path, nil)) }
		if got := get("GET", "/login"); got.StatusCode != 302 || got.Header.Get("Location") != "https://id.test/login?next=/login" {
			t.Errorf("got %d %v", got.StatusCode, got.Header)
		}
		got := get("GET", "/who")
		if got.StatusCode != 401 || got.body != "who are you?" || got.Header.Get("WWW-Authenticate") != `Basic realm="shop"` || len(got.Header["Set-Cookie"]) != 2 ||
			got.Header.Get("Hedgerow-Decision") != "" || got.Header.Get("X-Hop") != "" {
			t.Errorf("got %d %q %v", got.StatusCode, got.body, got.Header)
		}
		if got := get("HEAD", "/who"); got.StatusCode != 401 || got.body != "" || got.ContentLength != 12 {
			t.Errorf("by HEAD: %d %q %d", got.StatusCode, got.body, got.ContentLength)
		}
		if got := get("POST", "/else"); got.StatusCode != 403 || got.body != "" {
			t.Errorf("got %d %q", got.StatusCode, got.body)
		}
		r := a.en.request(t, http.MethodPost, "/who", strings.NewReader("\x00\x00\x00\x00\x00"))
		r.Header = fields("Content-Type", "application/grpc", "Te", "trailers")
		if m == overH1 { // gRPC is over HTTP/2
			r = a.en.request(t, http.MethodGet, "/who", nil)
		}
		if got := a.en.do(t, r); m == overH2 && (got.StatusCode != 200 || got.Header.Get("Grpc-Status")+got.Trailer.Get("Grpc-Status") != "16") {
			t.Errorf("by gRPC: %d %v %v", got.StatusCode, got.Header, got.Trailer)
		}
		if a.last.Load() != nil {
			t.Error("the workload got a request")
		}
		if n := a.outcome(t, "denied"); n != 5 {
			t.Errorf("%v are counted", n)
		}
		var list struct{ Decisions []proxy.Record }
		decisions(t, a.en, "/decisions?status=401", &list)
		if len(list.Decisions) < 2 {
			t.Fatalf("%d records", len(list.Decisions))
		}
		if rec := list.Decisions[0].Authentication; rec == nil || rec.Authenticator != "ask" || rec.Reason != proxy.ReasonAskDenied || !strings.Contains(rec.Detail, "who answered 401") {
			t.Errorf("the record is %+v", rec)
		}
	})
}

// Without an answer nobody gets in, unless the operator wants it so.
func TestForwardAuthFails(t *testing.T) {
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}
	for _, r := range []struct {
		name   string
		decide http.HandlerFunc
		damage func(*asking)
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, nil},
		{"it does not answer in time", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil},
		{"it does not end its answer in time", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, nil},
		{"an endless answer", endless, nil},
		{"an endless refusal", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden); endless(w, r) }, nil},
		{"no instance", func(http.ResponseWriter, *http.Request) {}, func(a *asking) { delete(a.instances, "who") }},
		{"no service", func(http.ResponseWriter, *http.Request) {}, func(a *asking) { delete(a.config.Services, "who"); delete(a.instances, "who") }},
		{"its own policies refuse the gateway", func(http.ResponseWriter, *http.Request) {}, func(a *asking) {
			a.config.Defaults = &mesh.Defaults{Authorization: mesh.Deny, DialCidrs: a.config.Defaults.DialCidrs}
			a.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/orders"}, Target: &mesh.PolicyTarget{Service: "orders"}, Action: mesh.Allow, Rules: []mesh.PolicyRule{{}}})
		}},
	} {
		for name, open := range map[string]bool{"closed": false, "open": true} {
			t.Run(r.name+", "+name, func(t *testing.T) {
				a := newAsking(t, overH1, false, mesh.ForwardAuth{FailOpen: open, Timeout: mesh.Seconds(0.3), ResponseHeaders: []string{"x-user"}}, r.decide)
				if r.damage != nil {
					r.damage(a)
					a.publish()
				}
				began := time.Now()
				req := a.en.request(t, http.MethodGet, "/x", nil)
				req.Header = fields("X-User", "spoofed")
				got := a.en.do(t, req)
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				if r.name == "its own policies refuse the gateway" { // which is an answer: 403
					if got.StatusCode != 403 || a.last.Load() != nil {
						t.Errorf("got %d %s", got.StatusCode, got.body)
					}
					return
				}
				if open {
					if got.StatusCode != 200 || a.last.Load().header.Get("X-User") != "" || a.outcome(t, "failed_open") != 1 {
						t.Errorf("got %d %s", got.StatusCode, got.body)
					}
					return
				}
				wantProblem(t, got, 503, proxy.CodeAskUnavailable)
				if a.last.Load() != nil || a.outcome(t, "failed") != 1 {
					t.Error("the workload got the request, or nothing is counted")
				}
				var rec proxy.Record
				decisions(t, a.en, "/decisions/"+got.Header.Get("Hedgerow-Decision"), &rec)
				if rec.Authentication == nil || rec.Authentication.Reason != proxy.ReasonAskUnavailable || !strings.Contains(rec.Cause, "ask: service who") {
					t.Errorf("the record is %+v %q", rec.Authentication, rec.Cause)
				}
				if strings.Contains(r.name, "endless") && !strings.Contains(rec.Cause, "is longer than") {
					t.Errorf("an endless answer was read until %q", rec.Cause)
				}
			})
		}
	}
}

// Whoever has no valid credential, or is denied by a policy, is asked about by nobody.
func TestForwardAuthComesLast(t *testing.T) {
	a := newAsking(t, overH1, false, mesh.ForwardAuth{RequestHeaders: []string{"x-user"}}, func(http.ResponseWriter, *http.Request) {})
	i := newIssuer(t)
	a.put(i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"}))
	a.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/no"}, Target: &mesh.PolicyTarget{Route: "shop"}, Action: mesh.Deny, Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Paths: []string{"/no"}}}}}})
	a.publish()
	if got := a.en.get(t, "/x"); got.StatusCode != 401 || a.asked.Load() != nil {
		t.Errorf("without a token: %d, asked %v", got.StatusCode, a.asked.Load())
	}
	get := func(path string) answer {
		r := a.en.request(t, http.MethodGet, path, nil)
		r.Header = fields("Authorization", "Bearer "+i.token(nil))
		return a.en.do(t, r)
	}
	if got := get("/no"); got.StatusCode != 403 || a.asked.Load() != nil {
		t.Errorf("what a policy denies: %d, asked %v", got.StatusCode, a.asked.Load())
	}
	if got := get("/x"); got.StatusCode != 200 || a.asked.Load().header.Get("X-User") != "alice" || a.last.Load().header.Get("X-User") != "alice" {
		t.Errorf("got %d, asked %v", got.StatusCode, a.asked.Load())
	}
}

// A WebSocket is asked about before it begins.
func TestForwardAuthOfWebSockets(t *testing.T) {
	a := newAsking(t, overH1, false, mesh.ForwardAuth{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	var ended atomic.Int32
	a.sidecar("chat", "n3", a.workload(wsEcho(&ended)), nil)
	a.route("chat", nil)
	a.publish()
	if _, resp, err := dialWS(t, a.en); err == nil || resp == nil || resp.StatusCode != 401 {
		t.Errorf("got %v %v", resp, err)
	}
	conn, _, err := dialWS(t, a.en, fields("Authorization", "Bearer x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the workload learns of the end", func() bool { return ended.Load() == 1 })
}
