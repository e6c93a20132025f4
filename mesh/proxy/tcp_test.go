package proxy_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// tcpService adds a service of protocol TCP with an instance before workload, and
// returns the address of a listener for the service web's connections to it.
func tcpService(t *testing.T, w *world, workload string) string {
	t.Helper()
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/db"}, Protocol: mesh.ProtocolTCP})
	w.sidecar("db", "n1", workload, nil)
	e, reg := w.engine(proxy.MeshLimits())
	src := w.source("/svc/web/n/n2")
	door := e.TCP("db", func() (*identity.Source, *proxy.Refusal) { return src, nil })
	return w.run(e, reg, door, nil, time.Second).addr
}

// exchange sends request to address, ends what it sends, and returns all that comes
// back.
func exchangeTCP(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	tcp, _ := conn.(*net.TCPConn)
	if _, err := io.WriteString(conn, request); err == nil {
		_ = tcp.CloseWrite()
	}
	reply, _ := io.ReadAll(conn)
	return string(reply)
}

// upper answers with what it got in upper case, once the client has ended.
func upper(t *testing.T) string {
	return accepting(t, func(conn net.Conn) {
		all, err := io.ReadAll(conn)
		if err == nil {
			_, _ = conn.Write(bytes.ToUpper(all))
		}
	})
}

func TestTCPService(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, upper(t))
	w.publish()
	for _, size := range []int{0, 5, 1 << 20} {
		if got, want := exchangeTCP(t, address, strings.Repeat("x", size)), strings.Repeat("X", size); got != want {
			t.Errorf("%d bytes came back as %d", len(want), len(got))
		}
	}
	client := w.nodes[1]
	eventually(t, "the connections and their bytes are counted", func() bool {
		labels := map[string]string{"service": "db", "face": "outbound"}
		return counted(t, client.registry, "hedgerow_tcp_connections_total", labels) == 3 &&
			counted(t, client.registry, "hedgerow_tcp_bytes_total", labels) == 2*(5+1<<20) &&
			counted(t, client.registry, "hedgerow_tcp_connections", nil) == 0
	})
}

// Who speaks first is heard, and what ends in one direction goes on in the other.
func TestTCPServiceSpeaksFirst(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, accepting(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(all)
	}))
	w.publish()
	if got := exchangeTCP(t, address, "quit"); got != "220 ready\r\nquit" {
		t.Errorf("got %q", got)
	}
}

func TestTCPServicePolicies(t *testing.T) {
	web := []mesh.PolicyFrom{{Identities: []string{"/svc/web"}}}
	get := []mesh.PolicyTo{{Methods: []string{"GET"}}}
	for _, tt := range []struct {
		name   string
		action string
		rule   mesh.PolicyRule
		want   string
	}{
		{"allowed", mesh.Allow, mesh.PolicyRule{From: web}, "HI"},
		{"allowed to others", mesh.Allow, mesh.PolicyRule{From: []mesh.PolicyFrom{{Identities: []string{"/svc/other"}}}}, ""},
		{"an operation allowed is not a connection", mesh.Allow, mesh.PolicyRule{From: web, To: get}, ""},
		{"denied", mesh.Deny, mesh.PolicyRule{From: web}, ""},
		{"an operation denied may be any", mesh.Deny, mesh.PolicyRule{From: web, To: get}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			address := tcpService(t, w, upper(t))
			w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/db"}, Action: tt.action, Target: &mesh.PolicyTarget{Service: "db"}, Rules: []mesh.PolicyRule{tt.rule}})
			w.publish()
			if got := exchangeTCP(t, address, "hi"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			denied := counted(t, w.nodes[0].registry, "hedgerow_tcp_connections_total", map[string]string{"face": "inbound", "outcome": "denied"})
			if (denied == 1) != (tt.want == "") {
				t.Errorf("%v connections are counted as denied", denied)
			}
		})
	}
}

// A connection finds its way around an instance that is not there.
func TestTCPServiceTriesAnother(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, upper(t))
	w.register("db", "n3", deadAddr(t), nil)
	w.publish()
	for range 30 {
		if got := exchangeTCP(t, address, "hi"); got != "HI" {
			t.Fatalf("got %q", got)
		}
	}
}

func TestTCPServiceBoundsConnections(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, accepting(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	w.config.Services["db"].CircuitBreaker = &mesh.CircuitBreaker{MaxConnections: 1}
	w.publish()
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, err := io.WriteString(first, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got := exchangeTCP(t, address, "second"); got != "" {
		t.Errorf("the second got %q", got)
	}
	_ = first.Close()
	eventually(t, "another is taken when the first has ended", func() bool { return exchangeTCP(t, address, "y") == "y" })
}

// HTTP is not taken to a service of TCP, nor a raw stream to one of HTTP.
func TestTCPAndHTTPAreKeptApart(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, upper(t))
	w.route("db", nil) // which the control plane would refuse
	en := w.gateway(overH1)
	w.publish()
	wantProblem(t, en.get(t, "/"), 404, proxy.CodeNoRoute)
	w.config.Services["db"].Protocol = mesh.ProtocolHTTP
	w.publish()
	if got := exchangeTCP(t, address, "hi"); got != "" {
		t.Errorf("got %q of a service of HTTP", got)
	}
}

func TestTCPConnectionsEndWithTheDrain(t *testing.T) {
	w := newWorld(t)
	address := tcpService(t, w, accepting(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	w.publish()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w.nodes[1].stop() // its drain is a second
	if took := time.Since(start); took < 900*time.Millisecond || took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}
