package proxy_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// filtered starts a workload and a gateway whose one rule has filters.
func filtered(t *testing.T, m mode, h http.HandlerFunc, change func(*mesh.RouteRule)) *entry {
	t.Helper()
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(h), nil)
	w.route("orders", change)
	en := w.gateway(m)
	en.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	w.publish()
	return en
}

func prefixed(prefix string) []mesh.RouteMatch {
	return []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: prefix}}}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct {
		name, prefix string
		rewrite      mesh.Rewrite
		path, want   string
	}{
		{"a prefix by another", "/api", mesh.Rewrite{ReplacePathPrefix: "/v2"}, "/api/a?x=1", "/v2/a?x=1"},
		{"a prefix by itself alone", "/api", mesh.Rewrite{ReplacePathPrefix: "/v2"}, "/api", "/v2"},
		{"a prefix keeps the final slash", "/api", mesh.Rewrite{ReplacePathPrefix: "/v2"}, "/api/", "/v2/"},
		{"a prefix by the root", "/api", mesh.Rewrite{ReplacePathPrefix: "/"}, "/api/a", "/a"},
		{"all of a path by the root", "/api", mesh.Rewrite{ReplacePathPrefix: "/"}, "/api?q", "/?q"},
		{"the root by a prefix", "/", mesh.Rewrite{ReplacePathPrefix: "/v2"}, "/a/b", "/v2/a/b"},
		{"a prefix and replacement with final slashes", "/api/", mesh.Rewrite{ReplacePathPrefix: "/v2/"}, "/api/a", "/v2/a"},
		{"the canonical path", "/api", mesh.Rewrite{ReplacePathPrefix: "/v2"}, "/x/../api/%61", "/v2/a"},
		{"the whole path", "/", mesh.Rewrite{ReplacePath: "/only"}, "/a/b?x=1", "/only?x=1"},
		{"the host alone", "/", mesh.Rewrite{Hostname: "other.test"}, "/a", "/a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, m mode) {
				var last atomic.Pointer[seen]
				en := filtered(t, m, echo(&last), func(r *mesh.RouteRule) {
					r.Matches, r.Filters = prefixed(tt.prefix), []mesh.Filter{{Rewrite: &tt.rewrite}}
				})
				a := en.get(t, tt.path)
				host := "shop.test"
				if tt.rewrite.Hostname != "" {
					host = tt.rewrite.Hostname
				}
				if got := last.Load(); a.StatusCode != 200 || got.uri != tt.want || got.host != host {
					t.Errorf("status %d, the workload got %+v, want %s of %s", a.StatusCode, got, tt.want, host)
				}
			})
		})
	}
}

func TestRedirect(t *testing.T) {
	for _, tt := range []struct {
		name     string
		redirect mesh.Redirect
		path     string
		status   int
		want     string // HTTP/1.1; port stands for the gateway's
	}{
		{"to https", mesh.Redirect{Scheme: "https"}, "/a?b=c", 302, "https://shop.test/a?b=c"},
		{"to another host, for good", mesh.Redirect{Hostname: "new.test", Status: 301}, "/a", 301, "http://new.test/a"},
		{"to a port", mesh.Redirect{Scheme: "https", Port: 8443}, "/", 302, "https://shop.test:8443/"},
		{"to the port of the scheme", mesh.Redirect{Scheme: "https", Port: 443}, "/", 302, "https://shop.test/"},
		{"to a path", mesh.Redirect{ReplacePath: "/new", Status: 308}, "/a/b?c", 308, "http://shop.test/new?c"},
		{"to a prefix", mesh.Redirect{ReplacePathPrefix: "/new"}, "/old/b", 302, "http://shop.test/new/b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, m mode) {
				var last atomic.Pointer[seen]
				en := filtered(t, m, echo(&last), func(r *mesh.RouteRule) {
					r.Backends, r.Filters = nil, []mesh.Filter{{Redirect: &tt.redirect}}
					if tt.redirect.ReplacePathPrefix != "" {
						r.Matches = prefixed("/old")
					}
				})
				want := tt.want
				if m == overH2 && tt.redirect.Scheme == "" {
					want = strings.Replace(want, "http://", "https://", 1)
				}
				for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
					a := en.do(t, en.request(t, method, tt.path, strings.NewReader("")))
					if a.StatusCode != tt.status || a.Header.Get("Location") != want || a.body != "" {
						t.Errorf("%s: status %d to %q with body %q, want %d to %q", method, a.StatusCode, a.Header.Get("Location"), a.body, tt.status, want)
					}
				}
				if last.Load() != nil {
					t.Error("the workload saw a request that was redirected")
				}
			})
		})
	}
}

func TestRespond(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		en := filtered(t, m, nil, func(r *mesh.RouteRule) {
			r.Backends = nil
			r.Filters = []mesh.Filter{
				{Respond: &mesh.Respond{Status: 410, Body: `{"gone":true}`}},
				{ResponseHeaders: &mesh.HeaderOps{Set: map[string]string{"content-type": "application/json"}}},
			}
		})
		for range 2 { // on one connection
			a := en.do(t, en.request(t, http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 100<<10))))
			if a.StatusCode != 410 || a.body != `{"gone":true}` || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %q %q", a.StatusCode, a.body, a.Header.Get("Content-Type"))
			}
		}
		a := en.do(t, en.request(t, http.MethodHead, "/", nil))
		if a.StatusCode != 410 || a.ContentLength != 13 || a.body != "" {
			t.Errorf("HEAD got %d, length %d, body %q", a.StatusCode, a.ContentLength, a.body)
		}
	})
}

func TestFaultAborts(t *testing.T) {
	var last atomic.Pointer[seen]
	en := filtered(t, overH1, echo(&last), func(r *mesh.RouteRule) {
		r.Filters = []mesh.Filter{{Fault: &mesh.Fault{Abort: 503, Percent: 25}}}
	})
	aborted := 0
	const n = 1000
	for range n {
		if a := en.get(t, "/"); a.StatusCode != 200 {
			wantProblem(t, a, 503, proxy.CodeFault)
			aborted++
		}
	}
	if aborted < n/4-80 || aborted > n/4+80 { // 5.8 standard deviations
		t.Errorf("%d of %d were aborted, want a quarter", aborted, n)
	}
}

func TestFaultDelays(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		const delay = 120 * time.Millisecond
		var last atomic.Pointer[seen]
		en := filtered(t, m, echo(&last), func(r *mesh.RouteRule) {
			r.Filters = []mesh.Filter{{Fault: &mesh.Fault{Delay: mesh.Seconds(delay.Seconds())}}}
		})
		start := time.Now()
		if a := en.get(t, "/"); a.StatusCode != 200 || time.Since(start) < delay {
			t.Errorf("status %d after %v, want 200 after %v", a.StatusCode, time.Since(start), delay)
		}
	})
	t.Run("the route's timeout counts it", func(t *testing.T) {
		var last atomic.Pointer[seen]
		en := filtered(t, overH1, echo(&last), func(r *mesh.RouteRule) {
			r.Timeout = mesh.Seconds(0.1)
			r.Filters = []mesh.Filter{{Fault: &mesh.Fault{Delay: mesh.Seconds(60)}}}
		})
		wantProblem(t, en.get(t, "/"), 504, proxy.CodeTimeout)
		if last.Load() != nil {
			t.Error("the workload saw a request whose time was up")
		}
	})
}

func TestRateLimit(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		var last atomic.Pointer[seen]
		en := filtered(t, m, echo(&last), func(r *mesh.RouteRule) {
			r.Filters = []mesh.Filter{{RateLimit: &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(60), Burst: 3, Key: &mesh.HashKey{Header: "x-user"}}}}
		})
		ask := func(user string) answer {
			r := en.request(t, http.MethodGet, "/", nil)
			r.Header.Set("X-User", user)
			return en.do(t, r)
		}
		for i := range 3 {
			if a := ask("ann"); a.StatusCode != 200 {
				t.Fatalf("request %d of the burst got %d %s", i, a.StatusCode, a.body)
			}
		}
		a := ask("ann")
		wantProblem(t, a, 429, proxy.CodeRateLimited)
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 58 || after > 60 {
			t.Errorf("Retry-After %q, want a minute", a.Header.Get("Retry-After"))
		}
		if a := ask("bob"); a.StatusCode != 200 {
			t.Errorf("another user got %d", a.StatusCode)
		}
	})
}

// Filters that ask about the request ask about what came, whatever the rule changes
// before it is sent.
func TestFiltersSeeWhatCame(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		var last atomic.Pointer[seen]
		en := filtered(t, m, echo(&last), func(r *mesh.RouteRule) {
			r.Filters = []mesh.Filter{
				{RequestHeaders: &mesh.HeaderOps{Remove: []string{"x-user", "origin"}, Set: map[string]string{"x-plan": "free"}}},
				{RateLimit: &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(3600), Key: &mesh.HashKey{Header: "x-user"}}},
				{CORS: &mesh.CORS{AllowOrigins: []string{"https://shop.test"}}},
			}
		})
		ask := func(user string) answer {
			r := en.request(t, http.MethodGet, "/", nil)
			r.Header.Set("X-User", user)
			r.Header.Set("Origin", "https://shop.test")
			r.Header.Set("X-Plan", "paid")
			return en.do(t, r)
		}
		for _, user := range []string{"ann", "bob"} {
			a := ask(user)
			if a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Origin") != "https://shop.test" {
				t.Errorf("%s: %d, allowed origin %q", user, a.StatusCode, a.Header.Get("Access-Control-Allow-Origin"))
			}
			if got := last.Load().header; got.Get("X-User") != "" || got.Get("X-Plan") != "free" || len(got.Values("X-Plan")) != 1 {
				t.Errorf("the workload got %v", got)
			}
		}
		if a := ask("ann"); a.StatusCode != http.StatusTooManyRequests {
			t.Errorf("ann's second request: %d", a.StatusCode)
		}
	})
}

func TestCORS(t *testing.T) {
	const origin = "https://app.shop.test"
	modes(t, func(t *testing.T, m mode) {
		var last atomic.Pointer[seen]
		en := filtered(t, m, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "https://evil.test") // the filter has the say
			echo(&last)(w, r)
		}, func(r *mesh.RouteRule) {
			r.Matches = []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: "/"}, Methods: []string{http.MethodPut}}}
			r.Filters = []mesh.Filter{{CORS: &mesh.CORS{
				AllowOrigins: []string{"https://*.shop.test"}, AllowMethods: []string{"PUT", "DELETE"}, AllowHeaders: []string{"x-a"},
				ExposeHeaders: []string{"x-from"}, AllowCredentials: true, MaxAge: mesh.Seconds(600),
			}}}
		})
		ask := func(method, origin string, fields ...string) answer {
			r := en.request(t, method, "/x", nil)
			r.Header.Set("Origin", origin)
			for i := 0; i < len(fields); i += 2 {
				r.Header.Set(fields[i], fields[i+1])
			}
			return en.do(t, r)
		}
		a := ask(http.MethodOptions, origin, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "x-a")
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Access-Control-Allow-Methods": "PUT, DELETE",
			"Access-Control-Allow-Headers": "x-a", "Access-Control-Max-Age": "600", "Vary": "Origin",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("preflight: %s %q, want %q", name, got, want)
			}
		}
		if a.StatusCode != http.StatusNoContent || last.Load() != nil {
			t.Errorf("preflight: status %d, the workload saw %v", a.StatusCode, last.Load())
		}
		if a := ask(http.MethodOptions, "https://evil.test", "Access-Control-Request-Method", "PUT"); a.Header.Get("Access-Control-Allow-Origin") != "" || a.Header.Get("Vary") != "Origin" {
			t.Errorf("preflight of a foreign origin: %v", a.Header)
		}
		a = ask(http.MethodPut, origin)
		if got := a.Header.Values("Access-Control-Allow-Origin"); a.StatusCode != 200 || len(got) != 1 || got[0] != origin || a.Header.Get("Access-Control-Expose-Headers") != "x-from" {
			t.Errorf("status %d, %v", a.StatusCode, a.Header)
		}
		if a := ask(http.MethodPut, "https://evil.test"); a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a foreign origin may read: %v", a.Header)
		}
		if a := ask(http.MethodOptions, origin, "Access-Control-Request-Method", "PATCH"); a.StatusCode != 404 {
			t.Errorf("preflight for a method of no rule: status %d", a.StatusCode)
		}
	})
}

func TestMirror(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		copies := make(chan seen, 100)
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.sidecar("shadow", "n2", w.workload(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			copies <- seen{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone()}
		}), nil)
		w.route("orders", func(r *mesh.RouteRule) {
			r.Matches = prefixed("/api")
			r.Filters = []mesh.Filter{{Mirror: &mesh.Mirror{Service: "shadow"}}, {Rewrite: &mesh.Rewrite{ReplacePathPrefix: "/v2"}}}
		})
		en := w.gateway(m)
		w.publish()
		big := strings.Repeat("x", 20<<10)
		for _, body := range []string{"", "small", big} {
			r := en.request(t, http.MethodPost, "/api/x?y", strings.NewReader(body))
			r.Header.Set("X-A", "1")
			if a := en.do(t, r); a.StatusCode != 200 {
				t.Fatalf("got %d %s", a.StatusCode, a.body)
			}
			select {
			case got := <-copies:
				if got.method != "POST" || got.uri != "/v2/x?y" || got.body != body || got.header.Get("X-A") != "1" || got.host != "shop.test" {
					t.Errorf("the mirror got %s %s of %s with %d bytes, %v", got.method, got.uri, got.host, len(got.body), got.header)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the mirror got nothing")
			}
		}
		refused := en.request(t, http.MethodGet, "/elsewhere", nil)
		if a := en.do(t, refused); a.StatusCode != 404 {
			t.Fatalf("got %d", a.StatusCode)
		}
		huge := strings.NewReader(strings.Repeat("x", 1<<20))
		if a := en.do(t, en.request(t, http.MethodPost, "/api", huge)); a.StatusCode != 200 {
			t.Fatalf("got %d %s", a.StatusCode, a.body)
		}
		eventually(t, "every copy is counted", func() bool {
			outcome := func(o string) float64 {
				return counted(t, en.registry, "hedgerow_mirrored_requests_total", map[string]string{"service": "shadow", "outcome": o})
			}
			return outcome("answered") == 3 && outcome("body") == 1
		})
	})
}

func TestCompress(t *testing.T) {
	text := strings.Repeat("all work and no play ", 5000)
	decoders := map[string]func([]byte) (io.Reader, error){
		"gzip": func(b []byte) (io.Reader, error) { return gzip.NewReader(bytes.NewReader(b)) },
		"br":   func(b []byte) (io.Reader, error) { return brotli.NewReader(bytes.NewReader(b)), nil },
		"zstd": func(b []byte) (io.Reader, error) { return zstd.NewReader(bytes.NewReader(b)) },
	}
	modes(t, func(t *testing.T, m mode) {
		en := filtered(t, m, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", r.Header.Get("X-Type"))
			w.Header().Set("ETag", `"1"`)
			if v := r.Header.Get("X-Encoded"); v != "" {
				w.Header().Set("Content-Encoding", v)
			}
			body := text
			if r.URL.Path == "/short" {
				body = "short"
			}
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			}
			_, _ = io.WriteString(w, body)
		}, func(r *mesh.RouteRule) { r.Filters = []mesh.Filter{{Compress: &mesh.Compress{}}} })
		for _, tt := range []struct {
			name, path, accept, kind, encoded string
			want                              string
		}{
			{"the server's first choice", "/", "gzip, br, zstd", "text/html; charset=utf-8", "", "zstd"},
			{"what the client takes", "/", "gzip;q=0.5, br", "application/json", "", "br"},
			{"gzip of a known length", "/length", "gzip", "text/plain", "", "gzip"},
			{"anything", "/", "*", "text/plain", "", "zstd"},
			{"nothing that it refuses", "/", "zstd;q=0, br;q=0, *;q=1", "text/plain", "", "gzip"},
			{"nothing that it does not ask for", "/", "", "text/plain", "", ""},
			{"no pictures", "/", "gzip", "image/png", "", ""},
			{"no events", "/", "gzip", "text/event-stream", "", ""},
			{"nothing short", "/short", "gzip", "text/plain", "", ""},
			{"nothing twice", "/", "gzip", "text/plain", "br", "br"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := en.request(t, http.MethodGet, tt.path, nil)
				r.Header.Set("X-Type", tt.kind)
				r.Header.Set("X-Encoded", tt.encoded)
				if tt.accept != "" {
					r.Header.Set("Accept-Encoding", tt.accept)
				}
				a := en.do(t, r)
				if got := a.Header.Get("Content-Encoding"); a.StatusCode != 200 || got != tt.want {
					t.Fatalf("status %d, encoding %q, want %q", a.StatusCode, got, tt.want)
				}
				if a.Header.Get("Vary") != "Accept-Encoding" {
					t.Errorf("Vary %q", a.Header.Get("Vary"))
				}
				if tt.want == "" || tt.encoded != "" {
					if a.body != text && tt.path != "/short" {
						t.Errorf("%d bytes came, want the %d as they are", len(a.body), len(text))
					}
					return
				}
				decoded, err := decoders[tt.want]([]byte(a.body))
				if err != nil {
					t.Fatal(err)
				}
				plain, err := io.ReadAll(decoded)
				if err != nil || string(plain) != text || len(a.body) > len(text)/10 {
					t.Errorf("%d bytes that decode to %d, %v; want %d", len(a.body), len(plain), err, len(text))
				}
				if tag := a.Header.Get("ETag"); tag != `W/"1"` {
					t.Errorf("ETag %s", tag)
				}
			})
		}
	})
}

// What comes piece by piece leaves piece by piece.
func TestCompressedPiecesArriveAtOnce(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		more := make(chan struct{})
		en := filtered(t, m, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "first")
			_ = http.NewResponseController(w).Flush()
			<-more
			_, _ = io.WriteString(w, "second")
		}, func(r *mesh.RouteRule) {
			r.Filters = []mesh.Filter{{Compress: &mesh.Compress{Algorithms: []string{"gzip"}}}}
		})
		r := en.request(t, http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		resp, err := en.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		plain, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(plain, first); err != nil || string(first) != "first" {
			t.Fatalf("got %q, %v", first, err)
		}
		close(more)
		if rest, err := io.ReadAll(plain); err != nil || string(rest) != "second" {
			t.Errorf("got %q, %v", rest, err)
		}
	})
}

func TestAffinityKeepsTheBackend(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"v1", "v2"} {
		w.sidecar("orders-"+v, "n-"+v, w.workload(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, v) }), nil)
	}
	en := w.gateway(overH1)
	split := func(second uint32) {
		first := 100 - second
		w.route("orders-v1", func(r *mesh.RouteRule) {
			r.Backends = []mesh.Backend{{Service: "orders-v1", Weight: &first}, {Service: "orders-v2", Weight: &second}}
			r.Affinity = &mesh.HashKey{Cookie: "sid"}
		})
		w.publish()
	}
	ask := func(user int) string {
		r := en.request(t, http.MethodGet, "/", nil)
		r.Header.Set("Cookie", "a=b; sid=user-"+strconv.Itoa(user))
		return en.do(t, r).body
	}
	const users = 400
	split(10)
	members := map[int]bool{}
	for user := range users {
		if v := ask(user); v == "v2" {
			members[user] = true
		}
		if first, again := ask(user), ask(user); first != again {
			t.Fatalf("user %d got %s and %s", user, first, again)
		}
	}
	if len(members) < users/10-30 || len(members) > users/10+30 { // 5 standard deviations
		t.Errorf("%d of %d users get a tenth", len(members), users)
	}
	split(30)
	for user := range members {
		if ask(user) != "v2" {
			t.Errorf("user %d lost what it had when the share grew", user)
		}
	}
}

func TestIdleTimeoutOfARule(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		en := filtered(t, m, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, func(r *mesh.RouteRule) { r.Timeout, r.IdleTimeout = mesh.Seconds(60), mesh.Seconds(0.2) })
		resp, err := en.client.Do(en.request(t, http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		start := time.Now()
		if _, err := io.ReadAll(resp.Body); err == nil || time.Since(start) > 10*time.Second {
			t.Errorf("a response in which nothing moves ended with %v after %v", err, time.Since(start))
		}
	})
}
