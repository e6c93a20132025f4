package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// outside is a server that is no part of the mesh.
type outside struct {
	*httptest.Server
	got  atomic.Pointer[http.Request] // the last one
	open atomic.Int64                 // connections
}

// outsider starts one; secure is over TLS, with the certificate that caPem returns.
func outsider(t *testing.T, secure, http2 bool, h http.HandlerFunc) *outside {
	t.Helper()
	o := &outside{}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.got.Store(r.Clone(context.Background()))
		w.Header().Set("Hedgerow-Decision", "forged")
		if h != nil {
			h(w, r)
			return
		}
		_, _ = io.WriteString(w, r.Proto)
	}))
	o.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			o.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			o.open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	o.EnableHTTP2 = http2
	if secure {
		o.StartTLS()
	} else {
		if http2 {
			var p http.Protocols
			p.SetUnencryptedHTTP2(true)
			o.Config.Protocols = &p
		}
		o.Start()
	}
	t.Cleanup(o.Close)
	return o
}

// external is o as a service, found at the host name or address.
func (o *outside) external(t *testing.T, address string) *mesh.External {
	t.Helper()
	_, port, err := net.SplitHostPort(o.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	e := &mesh.External{Address: address, Port: uint32(n)}
	if o.TLS != nil && len(o.TLS.Certificates) > 0 {
		e.TLS = &mesh.ExternalTLS{
			ServerName: "example.com", // as httptest's certificate has it
			CAPem:      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw})),
		}
	}
	return e
}

// leaving makes a mesh whose route at the gateway leads to the service "bank" outside.
func leaving(t *testing.T, protocol string, e *mesh.External, change func(*mesh.RouteRule)) *world {
	t.Helper()
	w := newWorld(t)
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/bank"}, Protocol: protocol, External: e})
	w.route("bank", change)
	return w
}

func TestExternalService(t *testing.T) {
	for _, tt := range []struct {
		name          string
		protocol      string
		secure, http2 bool
		want          string
	}{
		{"clear text", mesh.ProtocolHTTP, false, false, "HTTP/1.1"},
		{"TLS", mesh.ProtocolHTTP, true, false, "HTTP/1.1"},
		{"HTTP/2 over TLS", mesh.ProtocolHTTP2, true, true, "HTTP/2.0"},
		{"HTTP/2 in clear text", mesh.ProtocolGRPC, false, true, "HTTP/2.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, m mode) {
				o := outsider(t, tt.secure, tt.http2, nil)
				e := o.external(t, "localhost") // which is looked up
				w := leaving(t, tt.protocol, e, nil)
				en := w.gateway(m)
				w.publish()
				for range 3 {
					r := en.request(t, http.MethodPost, "/a?b=c", strings.NewReader("body"))
					r.Header.Set("Hedgerow-Deadline", "1000")
					if a := en.do(t, r); a.StatusCode != http.StatusOK || a.body != tt.want || a.Header.Get("Hedgerow-Decision") != "" {
						t.Fatalf("got %d %q %v", a.StatusCode, a.body, a.Header)
					}
				}
				host := net.JoinHostPort("localhost", strconv.Itoa(int(e.Port)))
				if tt.secure {
					host = net.JoinHostPort("example.com", strconv.Itoa(int(e.Port)))
				}
				got := o.got.Load()
				if got.Host != host || got.URL.RequestURI() != "/a?b=c" || got.Header.Get("X-Forwarded-For") != "127.0.0.1" {
					t.Errorf("the service got %s %s, %v; want host %s", got.Host, got.URL, got.Header, host)
				}
				for name := range got.Header {
					if strings.HasPrefix(name, "Hedgerow-") {
						t.Errorf("the service outside got %s", name)
					}
				}
			})
		})
	}
}

func TestExternalServiceWebSocket(t *testing.T) {
	var ended atomic.Int32
	o := outsider(t, true, false, wsEcho(&ended))
	w := leaving(t, mesh.ProtocolHTTP, o.external(t, "127.0.0.1"), nil)
	en := w.gateway(overH1)
	w.publish()
	conn, _, err := dialWS(t, en)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteMessage(1, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := conn.ReadMessage(); err != nil || string(msg) != "hi" {
		t.Errorf("got %q, %v", msg, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server learns of the end", func() bool { return ended.Load() == 1 })
}

// Nobody stands beside a service outside: its policies are the caller's proxy's to keep,
// about what is sent.
func TestExternalServicePolicies(t *testing.T) {
	o := outsider(t, false, false, nil)
	w := leaving(t, mesh.ProtocolHTTP, o.external(t, "127.0.0.1"), func(r *mesh.RouteRule) {
		r.Matches = []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: "/pay"}}}
		r.Filters = []mesh.Filter{{Rewrite: &mesh.Rewrite{ReplacePathPrefix: "/v1"}}}
	})
	w.config.Defaults.Authorization = mesh.Deny
	en := w.gateway(overH1)
	e, _ := w.engine(proxy.MeshLimits())
	w.nodes = append(w.nodes, &node{engine: e, stop: e.Close})
	web := &http.Client{Transport: e.RoundTripper(w.source("/svc/web/n/n9"))}
	asWeb := func() answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bank.mesh/v1/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return read(t, resp)
	}
	w.publish()
	wantProblem(t, en.get(t, "/pay/x"), http.StatusForbidden, "denied")
	wantProblem(t, asWeb(), http.StatusForbidden, "denied")
	if o.got.Load() != nil {
		t.Fatal("a request that nobody allowed left the mesh")
	}
	if text := w.logs.String(); !strings.Contains(text, `"reason":"DEFAULT"`) {
		t.Errorf("the log does not say why: %s", text)
	}
	allow := func(who, path string) {
		w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/bank"}, Action: mesh.Allow, Target: &mesh.PolicyTarget{Service: "bank"}, Rules: []mesh.PolicyRule{{
			From: []mesh.PolicyFrom{{Identities: []string{who}}}, To: []mesh.PolicyTo{{Methods: []string{"GET"}, Paths: []string{path}}},
		}}})
		w.publish()
	}
	allow("/gateway/edge", "/pay/**")
	wantProblem(t, en.get(t, "/pay/x"), http.StatusForbidden, "denied") // that is not what would be sent
	allow("/gateway/edge", "/v1/**")
	if a := en.get(t, "/pay/x"); a.StatusCode != http.StatusOK || o.got.Load().URL.Path != "/v1/x" {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	wantProblem(t, asWeb(), http.StatusForbidden, "denied")
	allow("/svc/web", "/v1/**")
	if a := asWeb(); a.StatusCode != http.StatusOK {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	wantProblem(t, en.get(t, "/pay/x"), http.StatusForbidden, "denied")
}

// A copy leaves the mesh by the same rules.
func TestExternalServiceMirrored(t *testing.T) {
	o := outsider(t, false, false, nil)
	w := newWorld(t)
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/bank"}, External: o.external(t, "127.0.0.1")})
	w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/bank"}, Action: mesh.Deny, Target: &mesh.PolicyTarget{Service: "bank"}, Rules: []mesh.PolicyRule{{
		To: []mesh.PolicyTo{{Paths: []string{"/secret"}}},
	}, {
		From: []mesh.PolicyFrom{{IPBlocks: []string{"127.0.0.0/8"}}}, To: []mesh.PolicyTo{{Paths: []string{"/from-here"}}},
	}}})
	w.sidecar("orders", "n1", w.workload(func(http.ResponseWriter, *http.Request) {}), nil)
	w.route("orders", func(r *mesh.RouteRule) { r.Filters = []mesh.Filter{{Mirror: &mesh.Mirror{Service: "bank"}}} })
	en := w.gateway(overH1)
	w.publish()
	en.get(t, "/secret")
	en.get(t, "/from-here")
	en.get(t, "/open")
	eventually(t, "all were tried", func() bool {
		return counted(t, en.registry, "hedgerow_mirrored_requests_total", nil) == 3
	})
	if got := o.got.Load(); got == nil || got.URL.Path != "/open" || got.Host != strings.TrimPrefix(o.URL, "http://") {
		t.Errorf("the service outside got %v", got)
	}
	if failed := counted(t, en.registry, "hedgerow_mirrored_requests_total", map[string]string{"outcome": "failed"}); failed != 2 {
		t.Errorf("%v copies failed, want the two that were denied", failed)
	}
}

// Where a name leads is held against the mesh's list when it is dialled.
func TestExternalServiceAddresses(t *testing.T) {
	o := outsider(t, true, false, nil)
	for _, address := range []string{"localhost", "127.0.0.1"} {
		e := o.external(t, address)
		w := leaving(t, mesh.ProtocolHTTP, e, nil)
		en := w.gateway(overH1)
		w.publish()
		if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", address, a.StatusCode, a.body)
		}
		defaults := *w.config.Defaults
		defaults.DialCidrs = []string{"10.0.0.0/8"}
		w.config.Defaults = &defaults
		w.publish()
		wantProblem(t, en.get(t, "/"), http.StatusServiceUnavailable, proxy.CodeAddress) // not by an old connection
	}
}

func TestExternalServiceProvesItsName(t *testing.T) {
	o := outsider(t, true, false, nil)
	for name, change := range map[string]func(*mesh.ExternalTLS){
		"another name": func(c *mesh.ExternalTLS) { c.ServerName = "bank.example" },
		"another CA":   func(c *mesh.ExternalTLS) { c.CAPem = "" }, // the system's
	} {
		e := o.external(t, "127.0.0.1")
		change(e.TLS)
		w := leaving(t, mesh.ProtocolHTTP, e, nil)
		en := w.gateway(overH1)
		w.publish()
		a := en.get(t, "/")
		if wantProblem(t, a, http.StatusServiceUnavailable, proxy.CodeIdentity); o.got.Load() != nil {
			t.Errorf("%s: the request was sent", name)
		}
	}
}

// A service that moves is found where it is now.
func TestExternalServiceMoves(t *testing.T) {
	first := outsider(t, false, false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "first") })
	second := outsider(t, true, false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "second") })
	w := leaving(t, mesh.ProtocolHTTP, first.external(t, "127.0.0.1"), nil)
	en := w.gateway(overH2)
	w.register("bank", "n1", "127.0.0.1:1", nil) // nobody may stand for it
	for _, step := range []struct {
		at   *outside
		want string
	}{{first, "first"}, {second, "second"}, {first, "first"}} {
		w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/bank"}, External: step.at.external(t, "127.0.0.1")})
		w.publish()
		for range 3 {
			if a := en.get(t, "/"); a.body != step.want {
				t.Errorf("got %d %q, want %q", a.StatusCode, a.body, step.want)
			}
		}
		eventually(t, "there are connections only to where it is", func() bool {
			return first.open.Load()+second.open.Load() == step.at.open.Load()
		})
	}
}

// Its failures are its own: there is no other endpoint that could be used instead.
func TestExternalServiceIsNotEjected(t *testing.T) {
	o := outsider(t, false, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	w := leaving(t, mesh.ProtocolHTTP, o.external(t, "127.0.0.1"), nil)
	en := w.gateway(overH1)
	w.publish()
	for range 10 {
		if a := en.get(t, "/"); a.StatusCode != http.StatusInternalServerError {
			t.Errorf("got %d", a.StatusCode)
		}
	}
	if n := counted(t, en.registry, "hedgerow_ejections_total", nil); n != 0 {
		t.Errorf("%v ejections", n)
	}
}

func TestExternalServiceOfTCP(t *testing.T) {
	cert, _ := publicCert(t)
	echo := func(conn net.Conn) {
		all, err := io.ReadAll(conn)
		if err == nil {
			_, _ = conn.Write([]byte(strings.ToUpper(string(all))))
		}
	}
	plain := accepting(t, echo)
	secure := accepting(t, func(raw net.Conn) {
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
		echo(conn)
		_ = conn.Close()
	})
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	for _, tt := range []struct {
		name, address string
		tls           *mesh.ExternalTLS
		denied        bool
		want          string
	}{
		{"clear text", plain, nil, false, "HI"},
		{"TLS", secure, &mesh.ExternalTLS{CAPem: ca}, false, "HI"},
		{"another name", secure, &mesh.ExternalTLS{CAPem: ca, ServerName: "db.example"}, false, ""},
		{"denied", plain, nil, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			at := netip.MustParseAddrPort(tt.address)
			w.put(&mesh.Service{
				Meta: mesh.Meta{Name: "services/ledger"}, Protocol: mesh.ProtocolTCP,
				External: &mesh.External{Address: at.Addr().String(), Port: uint32(at.Port()), TLS: tt.tls},
			})
			if tt.denied {
				w.config.Defaults.Authorization = mesh.Deny
			}
			e, reg := w.engine(proxy.MeshLimits())
			src := w.source("/svc/web/n/n2")
			door := e.TCP("ledger", func() (*identity.Source, *proxy.Refusal) { return src, nil })
			n := w.run(e, reg, door, nil, time.Second)
			w.publish()
			if got := exchangeTCP(t, n.addr, "hi"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			denied := counted(t, reg, "hedgerow_tcp_connections_total", map[string]string{"outcome": "denied"})
			if (denied == 1) != tt.denied {
				t.Errorf("%v connections are counted as denied", denied)
			}
		})
	}
}

func TestPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "93.184.215.14": true, "192.0.1.1": true, "100.63.0.1": true, "198.17.0.1": true, "2606:4700::1111": true, "2a00:1450:4001::1": true,
		"127.0.0.1": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false, "0.1.2.3": false,
		"100.64.0.1": false, "100.127.255.255": false, "192.0.0.1": false, "192.0.2.1": false, "192.88.99.1": false, "198.18.0.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:1.1.1.1": true, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "fe80::1": false, "fe80::1%lo": false,
		"fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "2002:7f00:1::1": false, "2001::1": false, "2001:1ff::1": false, "2001:200::1": true,
		"2001:db8::1": false, "3fff:1::1": false, "4000::1": false, "100::1": false,
	} {
		if got := proxy.MayBeOutside(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}
