package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// An expired certificate does for the routes of defaults.identityGrace, within a site, and
// for nothing else; and not without it.
func TestIdentityGrace(t *testing.T) {
	for _, tt := range []struct {
		name   string
		short  string // whose certificate expires
		window float64
		zone   string // of the callee; the caller is in eu/a
		listed int    // the status of a request by the route that is listed
		code   string // of it, if it is refused
	}{
		{"the caller's", "caller", 3600, "eu/a", http.StatusOK, ""},
		{"the callee's", "callee", 3600, "eu/a", http.StatusOK, ""},
		{"off", "caller", 0, "eu/a", http.StatusServiceUnavailable, "no_certificate"},
		{"the window has passed", "caller", 0.5, "eu/a", http.StatusServiceUnavailable, "no_certificate"},
		{"another zone, the caller's", "caller", 3600, "eu/b", http.StatusBadGateway, ""},
		{"another zone, the callee's", "callee", 3600, "eu/b", http.StatusServiceUnavailable, "endpoint_identity"},
		{"nobody says where", "callee", 3600, "", http.StatusServiceUnavailable, "endpoint_unreachable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			caller, callee := w.source("/gateway/edge"), w.source("/svc/orders/n/n1")
			addr := w.workload(func(http.ResponseWriter, *http.Request) {})
			to := w.sidecarAs(callee, addr)
			w.register("orders", "n1", to.addr, nil)
			w.config.Nodes = map[string]*mesh.Node{
				"n1": {Meta: mesh.Meta{Name: "nodes/n1"}, Locality: tt.zone},
				"g":  {Meta: mesh.Meta{Name: "nodes/g"}, Locality: "eu/a", Gateways: []string{"edge"}},
			}
			w.route("orders", nil)
			w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/other"}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"other.test"}, Rules: []mesh.RouteRule{{Backends: []mesh.Backend{{Service: "orders"}}}}})
			w.config.Defaults.IdentityGrace = &mesh.IdentityGrace{Window: mesh.Seconds(tt.window), Routes: []string{"shop"}}
			e, reg := w.engine(proxy.EdgeLimits())
			n := w.run(e, reg, e.Gateway("edge", caller, proxy.Edge{}), nil, 5*time.Second)
			en := &entry{n, "http://" + n.addr, &http.Client{Transport: &http.Transport{}}}
			t.Cleanup(en.client.CloseIdleConnections)
			w.publish()
			caller.SetGrace(proxy.GraceOf(w.config, "g"))
			callee.SetGrace(proxy.GraceOf(w.config, "n1"))
			short := caller
			if tt.short == "callee" {
				short = callee
			}
			end := w.renew(short, time.Second)
			<-time.After(time.Until(end) + 600*time.Millisecond)
			listed := en.get(t, "/")
			if tt.code != "" {
				wantProblem(t, listed, tt.listed, tt.code)
			} else if listed.StatusCode != tt.listed && (tt.listed == http.StatusOK || listed.StatusCode < 500) {
				t.Errorf("by the route that is listed: %d %s", listed.StatusCode, listed.body)
			}
			r := en.request(t, http.MethodGet, "/", nil)
			r.Host = "other.test"
			if other := en.do(t, r); other.StatusCode < 500 {
				t.Errorf("by another route: %d", other.StatusCode)
			}
		})
	}
}

// A destination takes an expired certificate for the services that the listed routes lead
// to, whatever a caller takes for a route.
func TestGraceIsForTheServicesOfRoutes(t *testing.T) {
	w := newWorld(t)
	caller := w.source("/svc/client/n/n2")
	w.config.Nodes = map[string]*mesh.Node{
		"n1": {Meta: mesh.Meta{Name: "nodes/n1"}, Locality: "eu/a"},
		"n2": {Meta: mesh.Meta{Name: "nodes/n2"}, Locality: "eu/a"},
	}
	w.config.Defaults.IdentityGrace = &mesh.IdentityGrace{Window: mesh.Seconds(3600), Routes: []string{"shop"}}
	workload := w.workload(func(http.ResponseWriter, *http.Request) {})
	addresses := map[string]string{}
	w.route("orders", nil)
	for _, service := range []string{"orders", "carts"} {
		src := w.source("/svc/" + service + "/n/n1")
		src.SetGrace(proxy.GraceOf(w.config, "n1"))
		addresses[service] = w.sidecarAs(src, workload).addr
		w.register(service, "n1", addresses[service], nil)
	}
	w.publish()
	caller.SetGrace(proxy.GraceOf(w.config, "n2"))
	<-time.After(time.Until(w.renew(caller, time.Second)) + 100*time.Millisecond)
	for service, want := range map[string]int{"orders": http.StatusOK, "carts": http.StatusForbidden} {
		id, err := mesh.ServiceID(testDomain, service, "n1")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", addresses[service], identity.LenientConfig(caller, id, identity.ServerName(service, "n1", testMesh), identity.ProtocolHTTP1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer := read(t, resp)
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", service, answer.StatusCode, want)
		}
		if want == http.StatusForbidden {
			wantProblem(t, answer, want, proxy.CodeExpired)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
