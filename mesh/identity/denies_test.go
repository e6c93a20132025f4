package identity

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// denying is the denies of a quarantine of edge7.
func denying(change func(*mesh.Quarantine)) *mesh.Denies {
	at := time.Now()
	from := mesh.CertificatesFrom(at, 0)
	q := &mesh.Quarantine{Time: &at, CertificatesFrom: &from}
	if change != nil {
		change(q)
	}
	return mesh.NewDenies(map[string]*mesh.Quarantine{"edge7": q})
}

func TestHandshakesRefuseWhoIsDenied(t *testing.T) {
	root := newRoot(t, "root")
	gone := func(q *mesh.Quarantine) { q.ReleaseTime = q.Time }
	early := func(q *mesh.Quarantine) { // every certificate here is later
		at := time.Now().Add(-24 * time.Hour)
		q.ReleaseTime, q.CertificatesFrom = &at, &at
	}
	for _, tt := range []struct {
		name    string
		denies  *mesh.Denies
		refused bool
	}{
		{"nobody", mesh.NewDenies(), false},
		{"nothing known yet", nil, false},
		{"the node", denying(nil), true},
		{"certificates from before its release", denying(gone), true},
		{"certificates from before another time", denying(early), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edge7, edge8 := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
			denies := &Denies{}
			denies.Set(tt.denies)
			edge8.Heed(denies) // and not edge7, which may be a thief's
			t.Run("as the client", func(t *testing.T) {
				_, _, serverErr, _ := connect(t, serverFor(edge8), ClientConfig(edge7, edge8.ID(), ServerName("telemetry", "edge8", "default")))
				if (serverErr != nil) != tt.refused || tt.refused != Quarantined(serverErr) {
					t.Errorf("the server says %v", serverErr)
				}
			})
			t.Run("as the server", func(t *testing.T) {
				_, _, _, clientErr := connect(t, serverFor(edge7), ClientConfig(edge8, edge7.ID(), ServerName("orders", "edge7", "default")))
				if (clientErr != nil) != tt.refused || tt.refused != Quarantined(clientErr) {
					t.Errorf("the client says %v", clientErr)
				}
			})
			for _, side := range []string{sideServer, sideClient} {
				if got := testutil.ToFloat64(edge8.metrics.refused.WithLabelValues(telemID, side, "quarantined")); got == 1 != tt.refused {
					t.Errorf("%s counts %v", side, got)
				}
			}
		})
	}
}

// A certificate that peers refuse because of when it was issued is replaced as soon as a
// new one would be taken, and not asked for before.
func TestACertificateThatPeersRefuseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour) // which dates back by a second
		var log lines
		denies := &Denies{}
		r, src := rotateHeeding(t, from, &log, denies)
		synctest.Wait()
		if err := r.Ready(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		denies.Set(denying(func(q *mesh.Quarantine) { q.ReleaseTime = q.Time }))
		time.Sleep(mesh.ClockSkew - time.Second)
		if n := len(from.times()); n != 1 {
			t.Errorf("asked %d times before a certificate would be taken", n)
		}
		time.Sleep(6 * time.Second)
		times := from.times()
		if len(times) != 2 || times[1].Sub(began) > mesh.ClockSkew+4*time.Second {
			t.Fatalf("asked at %v, after the quarantine of %v", times, began)
		}
		if err := denies.Check(src.ID(), src.Current().Certificate.Leaf.NotBefore); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if n := len(from.times()); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// While the node is shut out nothing that it is issued would be taken.
func TestACertificateOfAQuarantinedNodeIsNotRenewedForThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		var log lines
		denies := &Denies{}
		rotateHeeding(t, from, &log, denies)
		time.Sleep(time.Minute)
		denies.Set(denying(nil))
		time.Sleep(time.Hour)
		if n := len(from.times()); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A node that enrolled again right after its release has a certificate that is dated back to
// before it: what it signs is refused, until its processes have renewed that, once.
func TestTheCertificateOfAReleasedNodeIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, root := t.TempDir(), newRoot(t, "root")
		putNode(t, dir, root)
		issuer := &nodeIssuer{t: t, root: root} // which dates back by a minute
		var log lines
		denies := &Denies{}
		var nodes []*Node
		for range 2 {
			n := openNode(t, dir)
			n.Heed(denies)
			nodes = append(nodes, n)
			start(t, NewRotatorOf(n.Renewable(issuer), LeafPace(), n.Count, zerolog.New(&log)))
		}
		time.Sleep(2 * time.Second)
		if issuer.times() != 1 {
			t.Fatalf("asked %d times at the start", issuer.times())
		}
		denies.Set(denying(func(q *mesh.Quarantine) { q.ReleaseTime = q.Time }))
		time.Sleep(time.Minute)
		if issuer.times() != 1 {
			t.Errorf("asked %d times before a certificate would be taken", issuer.times())
		}
		time.Sleep(mesh.ClockSkew + 10*time.Second)
		if issuer.times() != 2 {
			t.Errorf("asked %d times", issuer.times())
		}
		for _, n := range nodes {
			cert, err := n.Certificate()
			if err != nil {
				t.Fatal(err)
			}
			if err := denies.Check(n.ID(), cert.Leaf.NotBefore); err != nil {
				t.Error(err)
			}
		}
	})
}
