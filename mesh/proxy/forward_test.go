package proxy_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// seen is what a workload got.
type seen struct {
	method, uri, host, body string
	header                  http.Header
}

// echo answers 200 with the request's URI and remembers the last request.
func echo(last *atomic.Pointer[seen]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		last.Store(&seen{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone()})
		w.Header().Set("X-From", "workload")
		_, _ = io.WriteString(w, r.RequestURI)
	}
}

func TestForwardsThroughTheMesh(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()

		r := en.request(t, http.MethodPost, "/a/./b/%7Ec/%61?x=1;2&y=%zz", strings.NewReader("body"))
		r.Header.Set("X-Custom", "kept")
		a := en.do(t, r)
		if a.StatusCode != 200 || a.Header.Get("X-From") != "workload" {
			t.Fatalf("got %d %q", a.StatusCode, a.body)
		}
		got := last.Load()
		if got.method != "POST" || got.body != "body" || got.host != "shop.test" || got.header.Get("X-Custom") != "kept" {
			t.Errorf("the workload got %+v", got)
		}
		if want := "/a/b/~c/a?x=1;2&y=%zz"; got.uri != want {
			t.Errorf("the workload got target %q, want the canonical path and the query as it was, %q", got.uri, want)
		}
		eventually(t, "the request is counted, and over", func() bool {
			return counted(t, en.registry, "hedgerow_requests_total", map[string]string{"face": "gateway", "service": "orders", "code_class": "2xx"}) == 1 &&
				counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0
		})
	})
}

func TestClientCertHasTheCallersLeaf(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	n := w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.publish()
	caller := w.source("/svc/web/n/n9")
	client, done := peerClient(t, caller, "orders", "n1")
	defer done()
	a := getFrom(t, client, "https://"+n.addr+"/")
	if a.StatusCode != 200 {
		t.Fatalf("got %d %s", a.StatusCode, a.body)
	}
	sum := sha256.Sum256(caller.Current().Certificate.Leaf.Raw)
	want := "By=spiffe://hedgerow.test/svc/orders/n/n1;Hash=" + hex.EncodeToString(sum[:]) + ";URI=spiffe://hedgerow.test/svc/web/n/n9"
	if got := last.Load().header.Get("X-Forwarded-Client-Cert"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// peerClient returns a stock HTTP/2 client that speaks mTLS to an inbound.
func peerClient(t *testing.T, src *identity.Source, service, node string) (*http.Client, func()) {
	t.Helper()
	id, err := mesh.ServiceID(testDomain, service, node)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: identity.ClientConfig(src, id, identity.ServerName(service, node, testMesh)), ForceAttemptHTTP2: true}
	return &http.Client{Transport: tr}, tr.CloseIdleConnections
}

func getFrom(t *testing.T, client *http.Client, url string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func TestInboundBelievesPeersOnlyWhatIsTheirs(t *testing.T) {
	for _, tt := range []struct {
		name, peer      string
		forwarded, mqtt bool
	}{
		{"a gateway says where a request came from", "/gateway/edge", true, false},
		{"the bridge says which device", "/svc/mqtt-bridge/n/b", false, true},
		{"a service says neither", "/svc/web/n/n9", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var last atomic.Pointer[seen]
			n := w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
			w.publish()
			client, done := peerClient(t, w.source(tt.peer), "orders", "n1")
			defer done()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+n.addr+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Forwarded-For", "10.9.9.9")
			r.Header.Set("Hedgerow-Message-Id", "m1")
			r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://hedgerow.test/svc/admin/n/x")
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			h := last.Load().header
			if got := h.Get("X-Forwarded-For") != ""; got != tt.forwarded {
				t.Errorf("X-Forwarded-For kept: %v", got)
			}
			if got := h.Get("Hedgerow-Message-Id") != ""; got != tt.mqtt {
				t.Errorf("Hedgerow-Message-Id kept: %v", got)
			}
			if got := h["X-Forwarded-Client-Cert"]; len(got) != 1 || !strings.HasSuffix(got[0], ";URI=spiffe://hedgerow.test"+tt.peer) {
				t.Errorf("X-Forwarded-Client-Cert is %q", got)
			}
		})
	}
}

func TestDenialAtTheInbound(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		rec := w.recorder("")
		in := w.sidecar("orders", "n1", rec.addr, nil)
		w.config.Defaults = &mesh.Defaults{Meta: w.config.Defaults.Meta, Authorization: mesh.Deny, DialCidrs: w.config.Defaults.DialCidrs}
		w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/orders-read"}, Target: &mesh.PolicyTarget{Service: "orders"}, Action: mesh.Allow,
			Rules: []mesh.PolicyRule{{From: []mesh.PolicyFrom{{Identities: []string{"/svc/web"}}}, To: []mesh.PolicyTo{{Methods: []string{"GET"}}}}}})
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		a := en.get(t, "/orders/7")
		wantProblem(t, a, 403, "denied")
		if strings.Contains(a.body, "orders-read") {
			t.Errorf("the caller is told of the policy: %s", a.body)
		}
		if got := rec.bytes.String(); got != "" {
			t.Errorf("the workload got %q", got)
		}
		line := ""
		for l := range strings.SplitSeq(w.logs.String(), "\n") {
			if strings.Contains(l, a.Header.Get("Hedgerow-Decision")) {
				line = l
			}
		}
		for _, want := range []string{`"peer_id":"spiffe://hedgerow.test/gateway/edge"`, `"policies/orders-read from.identities"`, `"reason":"NO_ALLOW_MATCHED"`, `"face":"inbound"`} {
			if !strings.Contains(line, want) {
				t.Errorf("the log line of the denial lacks %s: %s", want, line)
			}
		}
		if n := counted(t, in.registry, "hedgerow_refusals_total", map[string]string{"code": "denied", "service": "orders"}); n != 1 {
			t.Errorf("hedgerow_refusals_total is %v, want 1", n)
		}
	})
}

func TestHeaderFilters(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", func(r *mesh.RouteRule) {
		r.Filters = []mesh.Filter{
			{RequestHeaders: &mesh.HeaderOps{Set: map[string]string{"x-demo": "1"}, Remove: []string{"x-debug"}}},
			{ResponseHeaders: &mesh.HeaderOps{Add: map[string]string{"x-from": "route"}}},
		}
	})
	en := w.gateway(overH1)
	w.publish()
	r := en.request(t, http.MethodGet, "/", nil)
	r.Header.Set("X-Debug", "1")
	a := en.do(t, r)
	if h := last.Load().header; h.Get("X-Demo") != "1" || h.Get("X-Debug") != "" {
		t.Errorf("the workload got %v", h)
	}
	if got := a.Header["X-From"]; !slices.Equal(got, []string{"workload", "route"}) {
		t.Errorf("the client got X-From %q", got)
	}
}

func TestStreamsAndTrailers(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		release := make(chan struct{})
		var gotTrailer atomic.Pointer[http.Header]
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex()
			rw.Header().Set("Trailer", "Grpc-Status")
			_, _ = io.WriteString(rw, "first")
			_ = http.NewResponseController(rw).Flush()
			<-release
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
			gotTrailer.Store(&r.Trailer)
			_, _ = io.WriteString(rw, "second")
			rw.Header().Set("Grpc-Status", "0")
			rw.Header().Set(http.TrailerPrefix+"X-Late", "1")
			rw.Header().Set(http.TrailerPrefix+"Hedgerow-Decision", "spoofed")
		}), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		pr, pw := io.Pipe()
		r := en.request(t, http.MethodPost, "/", pr)
		r.Trailer = http.Header{"X-Sum": nil, "X-Real-Ip": nil}
		go func() {
			_, _ = io.WriteString(pw, "request")
			<-release
			r.Trailer["X-Sum"], r.Trailer["X-Real-Ip"] = []string{"42"}, []string{"spoofed"}
			_ = pw.Close()
		}()
		resp, err := en.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "first" {
			t.Fatalf("before the end of the request got %q, %v", buf, err)
		}
		close(release)
		a := read(t, resp)
		if a.body != "second" || a.Trailer.Get("Grpc-Status") != "0" || a.Trailer.Get("X-Late") != "1" || a.Trailer.Get("Hedgerow-Decision") != "" {
			t.Errorf("body %q, trailers %v", a.body, a.Trailer)
		}
		if got := *gotTrailer.Load(); got.Get("X-Sum") != "42" || got.Get("X-Real-Ip") != "" {
			t.Errorf("the workload got the trailers %v", got)
		}
	})
}

// http2Workload makes h the workload of orders, spoken to in HTTP/2.
func (w *world) http2Workload(h http.HandlerFunc) {
	w.t.Helper()
	l, err := proxy.ListenAll("127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: &p}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l[0]) }()
	w.t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolHTTP2})
	w.sidecar("orders", "n1", l[0].Addr().String(), nil)
}

func TestHTTP2Workload(t *testing.T) {
	w := newWorld(t)
	var proto atomic.Value
	w.http2Workload(func(_ http.ResponseWriter, r *http.Request) { proto.Store(r.Proto) })
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	if a := en.get(t, "/"); a.StatusCode != 200 || proto.Load() != "HTTP/2.0" {
		t.Errorf("got %d, the workload was spoken to in %v", a.StatusCode, proto.Load())
	}
}

func TestRoundTripper(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("telemetry", "n1", w.workload(echo(&last)), nil)
	e, reg := w.engine(proxy.MeshLimits())
	w.runSite(e, reg, proxy.Site{Handler: http.NotFoundHandler()}, time.Second)
	client := &http.Client{Transport: e.RoundTripper(w.source("/svc/mqtt-bridge/n/b"))}
	w.publish()

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://telemetry.mesh/v1/devices/a%20b/telemetry", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Hedgerow-Message-Id", "m1")
	r.Header.Set("Forwarded", "for=spoofed")
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if a := read(t, resp); a.StatusCode != 200 || a.body != "/v1/devices/a%20b/telemetry" {
		t.Fatalf("got %d %q", a.StatusCode, a.body)
	}
	got := last.Load()
	if got.host != "telemetry.mesh" || got.body != "{}" || got.header.Get("Hedgerow-Message-Id") != "m1" || got.header.Get("Forwarded") != "" ||
		!strings.HasSuffix(got.header.Get("X-Forwarded-Client-Cert"), ";URI=spiffe://hedgerow.test/svc/mqtt-bridge/n/b") {
		t.Errorf("the workload got %+v", got)
	}
	wantProblem(t, getFrom(t, client, "http://nothing.mesh/"), 404, "no_route")
	wantProblem(t, getFrom(t, client, "http://example.com/"), 404, "no_route")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r = r.Clone(ctx)
	r.Body = io.NopCloser(strings.NewReader("{}"))
	if _, err := client.Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context got %v", err)
	}
	if n := counted(t, reg, "hedgerow_requests_in_flight", nil); n != 0 {
		t.Errorf("%v requests in flight", n)
	}
}

func TestFirstRequestWaitsForEndpoints(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	addr := w.workload(echo(&last))
	w.sidecar("orders", "n1", addr, nil)
	instances := w.instances["orders"]
	delete(w.instances, "orders")
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/never"}, Protocol: mesh.ProtocolHTTP})
	needed := make(chan string, 8)
	e, reg := w.engine(proxy.MeshLimits(), func(o *proxy.Options) {
		o.Need = func(s string) { needed <- s }
		o.Limits.FirstUse = 5 * time.Second
	})
	w.runSite(e, reg, proxy.Site{Handler: http.NotFoundHandler()}, time.Second)
	client := &http.Client{Transport: e.RoundTripper(w.source("/svc/web/n/n9"))}
	w.publish()
	go func() {
		if s := <-needed; s == "orders" {
			e.Update(&mesh.Snapshot{Config: w.config, Instances: map[string][]*mesh.Instance{"orders": {}}}) // listed, not read yet
			e.Update(&mesh.Snapshot{Config: w.config, Instances: map[string][]*mesh.Instance{"orders": instances}})
		}
	}()
	if a := getFrom(t, client, "http://orders.mesh/"); a.StatusCode != 200 {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	if a := getFrom(t, client, "http://orders.mesh/"); a.StatusCode != 200 || len(needed) != 0 {
		t.Errorf("got %d, asked again %d times", a.StatusCode, len(needed))
	}
	e.Update(&mesh.Snapshot{Config: w.config, Instances: map[string][]*mesh.Instance{"orders": instances, "never": {}}})
	begin := time.Now()
	wantProblem(t, getFrom(t, client, "http://never.mesh/"), 503, "no_healthy_endpoint")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("a service that is watched and has no instance: %v", took)
	}
}
