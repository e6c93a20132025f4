package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serverFor is a node's listener with the services of the given sources, named
// as the mesh "default" does.
func serverFor(sources ...*Source) *tls.Config {
	return ServerConfig(func(serverName string) (*Source, error) {
		service, node, ok := SplitServerName(serverName, "default")
		for _, src := range sources {
			if s, n, _ := src.ID().Service(); ok && s == service && n == node {
				return src, nil
			}
		}
		return nil, fmt.Errorf("%q: %w", serverName, ErrUnknownServerName)
	})
}

func withCert(cfg *tls.Config, cert *tls.Certificate) *tls.Config {
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return cfg
}

// connect runs both sides of a handshake and an exchange of one byte each way,
// since in TLS 1.3 a client learns at its first read that it was refused. The
// connections are open if both errors are nil.
func connect(t *testing.T, server, client *tls.Config) (s, c *tls.Conn, serverErr, clientErr error) {
	t.Helper()
	a, b := socketPair(t)
	return connectOver(t, a, b, server, client)
}

// socketPair returns both ends of a TCP connection on loopback.
func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func connectOver(t *testing.T, a, b net.Conn, server, client *tls.Config) (s, c *tls.Conn, serverErr, clientErr error) {
	t.Helper()
	s, c = tls.Server(a, server), tls.Client(b, client)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a loaded machine is slow
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- exchange(ctx, s) }()
	clientErr = exchange(ctx, c)
	if clientErr != nil {
		_ = b.Close() // what the refused side would do
	}
	serverErr = <-done
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return s, c, serverErr, clientErr
}

func exchange(ctx context.Context, conn *tls.Conn) error {
	err := conn.HandshakeContext(ctx)
	if err == nil {
		err = ping(conn)
	}
	if err != nil {
		_ = conn.NetConn().Close()
	}
	return err
}

// ping writes a byte while it reads the peer's: net.Pipe has no buffer.
func ping(conn *tls.Conn) error {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write([]byte{'x'})
		written <- err
	}()
	_, err := io.ReadFull(conn, make([]byte, 1))
	if err != nil {
		_ = conn.NetConn().Close() // ends the write
	}
	return errors.Join(err, <-written)
}

// handshake returns the errors of both sides; the first one that is not a mere
// consequence of the other's tells why.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	_, _, serverErr, clientErr = connect(t, server, client)
	return firstLine(serverErr), firstLine(clientErr)
}

// firstLine undoes the Join of exchange.
func firstLine(err error) error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()[0]
	}
	return err
}

func TestHandshake(t *testing.T) {
	root := newRoot(t, "root")
	orders, telemetry := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	for _, alpn := range []string{ProtocolH2, ProtocolHTTP1} {
		s, c, serverErr, clientErr := connect(t, serverFor(orders), ClientConfig(telemetry, orders.ID(), ServerName("orders", "edge7", "default"), alpn))
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s: server %v, client %v", alpn, serverErr, clientErr)
		}
		state := s.ConnectionState()
		if id, err := PeerID(&state); err != nil || id != telemetry.ID() {
			t.Errorf("the server sees %v (%v)", id, err)
		}
		peer := c.ConnectionState()
		if id, err := PeerID(&peer); err != nil || id != orders.ID() {
			t.Errorf("the client sees %v (%v)", id, err)
		}
		if state.NegotiatedProtocol != alpn || state.Version != tls.VersionTLS13 || state.ServerName != "orders.edge7.default" {
			t.Errorf("state %+v", state)
		}
	}
}

func TestServerNameSelectsTheSource(t *testing.T) {
	root := newRoot(t, "root")
	orders, billing := sourceOf(t, root, ordersID), sourceOf(t, root, "spiffe://hedgerow.local/svc/billing/n/edge7")
	caller := sourceOf(t, root, telemID)
	for _, tt := range []struct {
		name, sni string
		want      *Source
		refusal   string
	}{
		{"one service", "orders.edge7.default", orders, ""},
		{"the other service of the node", "billing.edge7.default", billing, ""},
		{"a service that is not here", "telemetry.edge7.default", orders, "no service here"},
		{"another node", "orders.edge8.default", orders, "no service here"},
		{"another mesh", "orders.edge7.prod", orders, "no service here"},
		{"no server name", "", orders, "sent no server name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := handshake(t, serverFor(orders, billing), ClientConfig(caller, tt.want.ID(), tt.sni))
			checkRefusal(t, "server", serverErr, tt.refusal)
			if (clientErr == nil) != (tt.refusal == "") {
				t.Errorf("client: %v", clientErr)
			}
		})
	}
}

func TestServerNames(t *testing.T) {
	if s, n, ok := SplitServerName(ServerName("orders", "edge7", "default"), "default"); s != "orders" || n != "edge7" || !ok {
		t.Errorf("%q, %q, %v", s, n, ok)
	}
	for _, name := range []string{"", "default", ".default", "orders.default", "a.b.c.default", "orders.edge7.default.", "Orders.edge7.default", "orders..default", "*.edge7.default"} {
		if s, n, ok := SplitServerName(name, "default"); ok {
			t.Errorf("%q is service %q on %q", name, s, n)
		}
	}
}

func TestClientRefusesTheWrongPeer(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	want := mustID(t, "spiffe://hedgerow.local/svc/orders/n/edge9")
	_, err := handshake(t, serverFor(orders), ClientConfig(caller, want, "orders.edge7.default"))
	checkRefusal(t, "client", err, "the peer at this address is "+ordersID)
	if mesh.KindOf(err) != mesh.Denied || mesh.HintOf(err) == "" {
		t.Errorf("kind %v, hint %q", mesh.KindOf(err), mesh.HintOf(err))
	}
	if n := testutil.ToFloat64(caller.metrics.refused.WithLabelValues(telemID, "client", "wrong_peer")); n != 1 {
		t.Errorf("counted %v times", n)
	}
}

func TestProtocolIsEnforced(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	client := func(change func(*tls.Config)) *tls.Config {
		cfg := ClientConfig(caller, orders.ID(), "orders.edge7.default")
		change(cfg)
		return cfg
	}
	for name, tt := range map[string]struct {
		client *tls.Config
		want   string
	}{
		"TLS 1.2":        {client(func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }), "unsupported versions"},
		"TLS 1.0":        {client(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }), "unsupported versions"},
		"wrong ALPN":     {client(func(c *tls.Config) { c.NextProtos = []string{"mqtt"} }), "unsupported application protocols"},
		"no ALPN":        {client(func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }), "no ALPN protocol of the mesh"},
		"no certificate": {client(func(c *tls.Config) { withCert(c, &tls.Certificate{}) }), "client didn't provide a certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			err, clientErr := handshake(t, serverFor(orders), tt.client)
			checkRefusal(t, "server", err, tt.want)
			if clientErr == nil {
				t.Error("the client is served")
			}
		})
	}
	t.Run("a server that chooses no ALPN", func(t *testing.T) {
		cert, err := orders.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		plain := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}}
		_, err = handshake(t, plain, ClientConfig(caller, orders.ID(), "orders.edge7.default"))
		checkRefusal(t, "client", err, "no ALPN protocol of the mesh")
	})
	t.Run("a server of TLS 1.2", func(t *testing.T) {
		cert, err := orders.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		old := &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}, NextProtos: []string{ProtocolH2}}
		_, err = handshake(t, old, ClientConfig(caller, orders.ID(), "orders.edge7.default"))
		checkRefusal(t, "client", err, "protocol version not supported")
	})
}

func TestSessionsDoNotResume(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	server := serverFor(orders)
	client := ClientConfig(caller, orders.ID(), "orders.edge7.default")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for range 3 {
		s, _, serverErr, clientErr := connect(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		if s.ConnectionState().DidResume {
			t.Fatal("the session resumed")
		}
		if _, got := client.ClientSessionCache.Get("orders.edge7.default"); got {
			t.Fatal("the server gave a ticket")
		}
	}
}

// Even where a client keeps tickets and a server gives them, what resumes is refused: its
// certificates were not verified. That is also what 0-RTT data need, which crypto/tls has no
// way to send or take over TCP.
func TestResumedSessionsAreRefused(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	server, client := orders.serverConfig(), ClientConfig(caller, orders.ID(), "orders.edge7.default")
	server.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	if serverErr, clientErr := handshake(t, server, client); serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	serverErr, clientErr := handshake(t, server, client)
	for side, err := range map[string]error{"server": serverErr, "client": clientErr} {
		if err == nil {
			t.Errorf("the %s resumed a session", side)
		}
	}
	if !strings.Contains(fmt.Sprint(serverErr, clientErr), "the session is resumed, not verified") {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

// A node's own certificate is of the same root and is no peer, nor is anything that is
// neither a service nor a gateway.
func TestOnlyServicesAndGatewaysArePeers(t *testing.T) {
	root := newRoot(t, "root")
	us := sourceOf(t, root, telemID)
	for id, want := range map[string]string{
		ordersID:                                     "",
		"spiffe://hedgerow.local/gateway/edge":       "",
		"spiffe://hedgerow.local/node/edge7":         "neither a service's nor a gateway's",
		"spiffe://hedgerow.local/node/edge7/n/edge7": "neither a service's nor a gateway's",
		"spiffe://hedgerow.local/svc/orders":         "neither a service's nor a gateway's",
		"spiffe://hedgerow.local/svc/orders/n/EDGE7": "neither a service's nor a gateway's",
		"spiffe://hedgerow.local/operator/ann":       "neither a service's nor a gateway's",
	} {
		t.Run(id, func(t *testing.T) {
			peer := sourceOf(t, root, id)
			server, _ := handshake(t, serverFor(us), ClientConfig(peer, us.ID(), "telemetry.edge8.default"))
			checkRefusal(t, "as a client", server, want)
			_, client := handshake(t, peer.serverConfig(), ClientConfig(us, peer.ID(), "orders.edge7.default"))
			checkRefusal(t, "as a server", client, want)
		})
	}
}

func TestHandshakeWithoutCertificate(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	empty := NewSource(mustID(t, ordersID), newMetrics(t))
	serverErr, clientErr := handshake(t, serverFor(empty), ClientConfig(caller, empty.ID(), "orders.edge7.default"))
	checkRefusal(t, "server", serverErr, "identity.Certificate "+ordersID+": none was issued yet")
	if clientErr == nil {
		t.Error("the client is served")
	}
	_, clientErr = handshake(t, serverFor(orders), ClientConfig(empty, orders.ID(), "orders.edge7.default"))
	// Either the certificate or, earlier, the bundle to verify with is missing.
	checkRefusal(t, "client", clientErr, "yet")
	if mesh.KindOf(clientErr) != mesh.Unavailable {
		t.Errorf("kind %v", mesh.KindOf(clientErr))
	}
}

// An expired leaf is refused by the peer, and not even presented by its owner.
func TestExpiredLeafIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newRoot(t, "root")
		orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
		template := leafTemplate(t, telemID)
		template.NotBefore, template.NotAfter = time.Now(), time.Now().Add(10*time.Minute)
		short := root.sign(t, template)
		if err := caller.Swap(short.key, Issued{Chain: []*x509.Certificate{short.cert}, Bundle: mustBundle(t, root.cert)}); err != nil {
			t.Fatal(err)
		}
		cfg := ClientConfig(caller, orders.ID(), "orders.edge7.default")
		// A bubble's time stands still while a socket waits: pipes, then.
		over := func(client *tls.Config) (s, c *tls.Conn, serverErr, clientErr error) {
			a, b := net.Pipe()
			s, c, serverErr, clientErr = connectOver(t, a, b, serverFor(orders), client)
			return s, c, firstLine(serverErr), firstLine(clientErr)
		}
		s, c, serverErr, clientErr := over(cfg)
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		time.Sleep(10*time.Minute + time.Second)
		_, _, _, clientErr = over(cfg)
		checkRefusal(t, "its owner", clientErr, "it expired at")
		held := caller.Current().Certificate
		_, _, serverErr, _ = over(withCert(ClientConfig(caller, orders.ID(), "orders.edge7.default"), held))
		checkRefusal(t, "the peer", serverErr, "expired or is not yet valid")
		// The connection made in time is not cut.
		both(t, s, c)
	})
}

// both sends a byte each way over an open connection.
func both(t *testing.T, s, c *tls.Conn) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- ping(s) }()
	if err := errors.Join(ping(c), <-done); err != nil {
		t.Errorf("the open connection is cut: %v", err)
	}
}

func TestSwapUnderLiveConnections(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	server, client := serverFor(orders), ClientConfig(caller, orders.ID(), "orders.edge7.default")
	s, c, serverErr, clientErr := connect(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	leaf := root.sign(t, leafTemplate(t, ordersID))
	if err := orders.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}); err != nil {
		t.Fatal(err)
	}
	_, c2, serverErr, clientErr := connect(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if !c2.ConnectionState().PeerCertificates[0].Equal(leaf.cert) {
		t.Error("a new handshake got the old leaf")
	}
	if c.ConnectionState().PeerCertificates[0].Equal(leaf.cert) {
		t.Error("the old connection shows the new leaf")
	}
	both(t, s, c)
}

// While issuers change, bundles hold both roots; the same configurations see
// each swap.
func TestRootsChangeUnderTheConfigs(t *testing.T) {
	old, next := newRoot(t, "old"), newRoot(t, "next")
	orders, caller := sourceOf(t, old, ordersID), sourceOf(t, old, telemID)
	server, client := serverFor(orders), ClientConfig(caller, orders.ID(), "orders.edge7.default")
	swap := func(src *Source, by *pair, roots ...*x509.Certificate) {
		t.Helper()
		leaf := by.sign(t, leafTemplate(t, src.ID().String()))
		if err := src.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, roots...)}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(step string, wantOK bool) {
		t.Helper()
		serverErr, clientErr := handshake(t, server, client)
		if (serverErr == nil && clientErr == nil) != wantOK {
			t.Errorf("%s: server %v, client %v, want ok %v", step, serverErr, clientErr, wantOK)
		}
	}
	check("both old", true)
	swap(orders, next, next.cert)
	check("the server changed without overlap", false)
	swap(orders, next, old.cert, next.cert)
	check("the client does not know the new root", false)
	swap(caller, old, old.cert, next.cert)
	check("overlap", true)
	swap(caller, next, next.cert)
	swap(orders, next, next.cert)
	check("the old root is gone", true)
	swap(caller, old, old.cert, next.cert)
	check("a straggler of the old root", false)
}
