package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// TestGrace lets a certificate expire on one side and looks who still takes it.
func TestGrace(t *testing.T) {
	root := graceRoot(t)
	near := func(mesh.ID) bool { return true }
	week := &Grace{Window: 7 * 24 * time.Hour, Near: near}
	for _, tt := range []struct {
		name           string
		ended          time.Duration // ago
		presents, sees *Grace        // of whose certificate has ended, and of the other
		strict         bool          // the client is
		refusal        string
	}{
		{"no grace", time.Hour, nil, nil, false, "expired"},
		{"both have it", time.Hour, week, week, false, ""},
		{"only who presents it", time.Hour, week, nil, false, "expired or is not yet valid"},
		{"only who sees it: it is not presented", time.Hour, nil, week, false, "it expired at"},
		{"longer ago than the window", 3 * time.Hour, &Grace{Window: 4 * time.Hour, Near: near}, &Grace{Window: 2 * time.Hour, Near: near}, false, "expired or is not yet valid"},
		{"too long ago to be presented", 3 * time.Hour, &Grace{Window: 2 * time.Hour, Near: near}, week, false, "it expired at"},
		{"of another site", time.Hour, week, &Grace{Window: week.Window, Near: func(mesh.ID) bool { return false }}, false, "expired or is not yet valid"},
		{"for what grace is not", time.Hour, week, week, true, "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, side := range []string{sideServer, sideClient} {
				server, client := NewSource(mustID(t, ordersID), newMetrics(t)), NewSource(mustID(t, telemID), newMetrics(t))
				old, fresh := client, server
				if side == sideServer {
					old, fresh = server, client
				}
				endedAt(t, root, old, tt.ended)
				endedAt(t, root, fresh, -time.Hour)
				old.SetGrace(tt.presents)
				fresh.SetGrace(tt.sees)
				config := LenientConfig
				if tt.strict {
					config = ClientConfig
				}
				serverErr, clientErr := handshake(t, serverFor(server), config(client, server.ID(), "orders.edge7.default"))
				if (serverErr == nil && clientErr == nil) != (tt.refusal == "") {
					t.Fatalf("the %s's has ended: server %v, client %v", side, serverErr, clientErr)
				}
				if both := fmt.Sprint(serverErr, clientErr); !strings.Contains(both, tt.refusal) {
					t.Errorf("the %s's has ended: %s", side, both)
				}
				other := sideClient
				if side == sideClient {
					other = sideServer
				}
				counted := testutil.ToFloat64(fresh.metrics.graced.WithLabelValues(fresh.ID().String(), other))
				if (counted == 1) != (tt.refusal == "") {
					t.Errorf("the %s's has ended: counted %v times", side, counted)
				}
			}
		})
	}
}

// graceRoot is a CA that was there before what they signed ended.
func graceRoot(t *testing.T) *pair {
	t.Helper()
	ca := caTemplate("old")
	ca.NotBefore, ca.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(48*time.Hour)
	return (*pair)(nil).sign(t, ca)
}

// endedAt gives src a leaf that ended some time ago, as one from disk may have.
func endedAt(t *testing.T, root *pair, src *Source, ago time.Duration) {
	t.Helper()
	template := leafTemplate(t, src.ID().String())
	template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(-ago)
	leaf := root.sign(t, template)
	if err := src.put(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}, template.NotBefore, template.NotBefore); err != nil {
		t.Fatal(err)
	}
}

// What cannot be excused by time is not: who it is for, who signed it, and what it may do.
func TestGraceExcusesTimeAlone(t *testing.T) {
	us := NewSource(mustID(t, telemID), newMetrics(t))
	root := graceRoot(t)
	endedAt(t, root, us, -time.Hour)
	us.SetGrace(&Grace{Window: time.Hour, Near: func(mesh.ID) bool { return true }})
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	}
	for name, tt := range map[string]struct {
		by     *pair
		change func(*x509.Certificate)
		id     string
		good   bool
	}{
		"only expired":   {root, past, ordersID, true},
		"a stranger's":   {newRoot(t, "stranger"), past, ordersID, false},
		"a node's":       {root, past, "spiffe://hedgerow.local/node/edge7", false},
		"another mesh's": {root, past, "spiffe://other.local/svc/orders/n/edge7", false},
		"not yet valid": {root, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		}, ordersID, false},
		"for servers alone": {root, func(c *x509.Certificate) { past(c); c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, ordersID, false},
	} {
		t.Run(name, func(t *testing.T) {
			template := leafTemplate(t, tt.id)
			tt.change(template)
			leaf := tt.by.sign(t, template)
			hostile := &tls.Certificate{PrivateKey: leaf.key, Certificate: [][]byte{leaf.cert.Raw}}
			err, _ := handshake(t, serverFor(us), withCert(ClientConfig(us, us.ID(), "telemetry.edge8.default"), hostile))
			if (err == nil) != tt.good {
				t.Errorf("%v", err)
			}
		})
	}
}

// A process in grace is ready, and says that it is.
func TestGraceShows(t *testing.T) {
	src := NewSource(mustID(t, ordersID), newMetrics(t))
	endedAt(t, graceRoot(t), src, time.Hour)
	checkRefusal(t, "without grace", src.Ready(), "it expired at")
	src.SetGrace(&Grace{Window: 2 * time.Hour, Near: func(mesh.ID) bool { return true }})
	if got := src.Degraded(); src.Ready() != nil || len(got) != 1 {
		t.Fatalf("ready %v, degraded %v", src.Ready(), got)
	}
	checkRefusal(t, "degraded", src.Degraded()[0], "in grace until")
	if _, err := src.Certificate(); err == nil {
		t.Error("it is presented to everybody")
	}
	src.SetGrace(&Grace{Window: 30 * time.Minute})
	checkRefusal(t, "after the window", src.Ready(), "it expired at")
}
