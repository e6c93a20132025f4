package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// svidCase is one leaf that a peer may present.
type svidCase struct {
	name   string
	make   func(t *testing.T, root *pair) []*pair // the leaf first
	want   string                                 // part of the error; "" if it is good
	looser bool                                   // go-spiffe accepts it; the reason is in the name
}

// one makes the case of a single leaf.
func one(change func(*x509.Certificate), uris ...string) func(*testing.T, *pair) []*pair {
	return func(t *testing.T, root *pair) []*pair {
		template := leafTemplate(t, uris...)
		if change != nil {
			change(template)
		}
		return []*pair{root.sign(t, template)}
	}
}

func svidCases() []svidCase {
	return append(idCases(), append(usageCases(), chainCases()...)...)
}

func idCases() []svidCase {
	long := ordersID + strings.Repeat("a", 2049-len(ordersID))
	return []svidCase{
		{name: "a good leaf", make: one(nil, ordersID)},
		{name: "two URI SANs", make: one(nil, ordersID, telemID), want: "more than one URI SAN"},
		{name: "the same URI SAN twice", make: one(nil, ordersID, ordersID), want: "more than one URI SAN"},
		{name: "no SAN", make: one(nil), want: "no URI SAN"},
		{name: "DNS names only", make: one(func(c *x509.Certificate) { c.DNSNames = []string{"orders"} }), want: "no URI SAN"},
		{name: "another trust domain", make: one(nil, "spiffe://other.local/svc/orders/n/edge7"), want: "another trust domain"},
		{name: "our trust domain as a prefix", make: one(nil, "spiffe://hedgerow.local.evil/svc/orders/n/edge7"), want: "another trust domain"},
		{name: "dot-dot segments", make: one(nil, "spiffe://hedgerow.local/svc/a/../b"), want: "dot segment"},
		{name: "upper-case scheme (go-spiffe reads what net/url lower-cased)", make: one(nil, "SPIFFE://hedgerow.local/svc/orders/n/edge7"), want: "lower case", looser: true},
		{name: "upper-case trust domain", make: one(nil, "spiffe://HEDGEROW.local/svc/orders/n/edge7"), want: "trust domain"},
		{name: "query", make: one(nil, ordersID+"?a=b"), want: "may not be in a path"},
		{name: "fragment", make: one(nil, ordersID+"#a"), want: "may not be in a path"},
		{name: "empty fragment (go-spiffe reads what net/url dropped)", make: one(nil, ordersID+"#"), want: "may not be in a path", looser: true},
		{name: "percent encoding", make: one(nil, "spiffe://hedgerow.local/svc/%6frders/n/edge7"), want: "may not be in a path"},
		{name: "user and port", make: one(nil, "spiffe://u@hedgerow.local:1/svc/orders/n/edge7"), want: "trust domain"},
		{name: "another scheme", make: one(nil, "https://hedgerow.local/svc/orders/n/edge7"), want: "spiffe://"},
		{name: "trailing slash", make: one(nil, ordersID+"/"), want: "empty segment"},
		{name: "2049 bytes (go-spiffe has no limit)", make: one(nil, long), want: "longer than 2048", looser: true},
		{name: "the trust domain itself (go-spiffe leaves that to the caller)", make: one(nil, "spiffe://hedgerow.local"), want: "nobody in it", looser: true},
	}
}

func usageCases() []svidCase {
	return []svidCase{
		{name: "a CA", make: one(func(c *x509.Certificate) { c.IsCA = true }, ordersID), want: "is a CA's"},
		{name: "keyCertSign", make: one(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, ordersID), want: "may sign"},
		{name: "cRLSign", make: one(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, ordersID), want: "may sign"},
		{name: "no digitalSignature (go-spiffe does not look)", make: one(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, ordersID), want: "digitalSignature", looser: true},
		{name: "an extended key usage for e-mail only (go-spiffe asks for any)", make: one(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		}, ordersID), want: "extended key usage", looser: true},
		{name: "no extended key usage (go-spiffe asks for any)", make: one(func(c *x509.Certificate) { c.ExtKeyUsage = nil }, ordersID), want: "extended key usage", looser: true},
		{name: "anyExtendedKeyUsage (go-spiffe asks for any)", make: one(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, ordersID), want: "extended key usage", looser: true},
		{name: "expired", make: one(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
		}, ordersID), want: "expired or is not yet valid"},
		{name: "not yet valid", make: one(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		}, ordersID), want: "expired or is not yet valid"},
		{name: "an unknown critical extension", make: one(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
		}, ordersID), want: "unhandled critical extension"},
	}
}

func chainCases() []svidCase {
	return []svidCase{
		{name: "an intermediate of the root", make: func(t *testing.T, root *pair) []*pair {
			intermediate := root.sign(t, caTemplate("intermediate"))
			return []*pair{intermediate.sign(t, leafTemplate(t, ordersID)), intermediate}
		}},
		{name: "an intermediate that is not sent", make: func(t *testing.T, root *pair) []*pair {
			return []*pair{root.sign(t, caTemplate("intermediate")).sign(t, leafTemplate(t, ordersID))}
		}, want: "unknown authority"},
		{name: "signed by a stranger with the root's name", make: func(t *testing.T, root *pair) []*pair {
			return []*pair{newRoot(t, root.cert.Subject.CommonName).sign(t, leafTemplate(t, ordersID))}
		}, want: "unknown authority"},
		{name: "the stranger's root sent along", make: func(t *testing.T, _ *pair) []*pair {
			stranger := newRoot(t, "stranger")
			return []*pair{stranger.sign(t, leafTemplate(t, ordersID)), stranger}
		}, want: "unknown authority"},
		{name: "self-signed", make: func(t *testing.T, _ *pair) []*pair {
			return []*pair{(*pair)(nil).sign(t, leafTemplate(t, ordersID))}
		}, want: "unknown authority"},
		{name: "a node's leaf signs another", make: func(t *testing.T, root *pair) []*pair {
			node := root.sign(t, leafTemplate(t, telemID))
			return []*pair{node.sign(t, leafTemplate(t, ordersID)), node}
		}, want: "certificate"},
		{name: "an intermediate below one that may have none", make: func(t *testing.T, root *pair) []*pair {
			template := caTemplate("leaves only")
			template.MaxPathLenZero = true
			top := root.sign(t, template)
			below := top.sign(t, caTemplate("a node's own"))
			return []*pair{below.sign(t, leafTemplate(t, ordersID)), below, top}
		}, want: "too many intermediates"},
		{name: "an intermediate for clients only (go-spiffe asks for any)", make: func(t *testing.T, root *pair) []*pair {
			template := caTemplate("mail")
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
			intermediate := root.sign(t, template)
			return []*pair{intermediate.sign(t, leafTemplate(t, ordersID)), intermediate}
		}, want: "incompatible key usage", looser: true},
	}
}

// TestSVID presents every case to VerifySVID, to go-spiffe, and in two real
// handshakes, as client and as server. We must never accept what go-spiffe
// refuses.
func TestSVID(t *testing.T) {
	root := newRoot(t, "root")
	oracle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(td), []*x509.Certificate{root.cert})
	for _, tt := range svidCases() {
		t.Run(tt.name, func(t *testing.T) {
			pairs := tt.make(t, root)
			var certs []*x509.Certificate
			hostile := &tls.Certificate{PrivateKey: pairs[0].key}
			for _, p := range pairs {
				certs = append(certs, p.cert)
				hostile.Certificate = append(hostile.Certificate, p.cert.Raw)
			}
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				id, err := VerifySVID(certs, mustBundle(t, root.cert), usage, time.Now())
				checkRefusal(t, "VerifySVID", err, tt.want)
				if err == nil && id.String() != ordersID || err != nil && (!id.IsZero() || mesh.KindOf(err) != mesh.Unauthentic) {
					t.Errorf("id %q with error %v of kind %v", id, err, mesh.KindOf(err))
				}
			}
			_, _, err := x509svid.Verify(certs, oracle)
			if accepted := err == nil; accepted != (tt.want == "" || tt.looser) {
				t.Errorf("go-spiffe: %v", err)
			}
			us := sourceOf(t, root, telemID)
			server, _ := handshake(t, serverFor(us), withCert(ClientConfig(us, mustID(t, telemID), "telemetry.edge8.default"), hostile))
			checkRefusal(t, "as a client", server, tt.want)
			hostileServer := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*hostile}, NextProtos: []string{ProtocolH2}, ClientAuth: tls.RequestClientCert}
			_, client := handshake(t, hostileServer, ClientConfig(us, mustID(t, ordersID), "orders.edge7.default"))
			checkRefusal(t, "as a server", client, tt.want)
		})
	}
}

func checkRefusal(t *testing.T, where string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: refused: %v", where, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
		t.Errorf("%s: error %v, want one line with %q", where, err, want)
	}
}

func TestSVIDUsageMatchesDirection(t *testing.T) {
	root := newRoot(t, "root")
	template := leafTemplate(t, ordersID)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	client := root.sign(t, template)
	certs, bundle := []*x509.Certificate{client.cert}, mustBundle(t, root.cert)
	if _, err := VerifySVID(certs, bundle, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Errorf("as a client: %v", err)
	}
	_, err := VerifySVID(certs, bundle, x509.ExtKeyUsageServerAuth, time.Now())
	checkRefusal(t, "a client's certificate as a server", err, "lacks the extended key usage serverAuth")
	_, err = VerifySVID(nil, bundle, x509.ExtKeyUsageServerAuth, time.Now())
	checkRefusal(t, "nothing", err, "no certificate")
}

func TestPeerIDWithoutPeer(t *testing.T) {
	for _, state := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{newRoot(t, "no URI").cert}}} {
		if id, err := PeerID(state); err == nil || !id.IsZero() {
			t.Errorf("PeerID = %v, %v", id, err)
		}
	}
}

// FuzzIDAgainstGoSPIFFE holds mesh.ParseID to go-spiffe's parser: the same
// inputs, but for the two length limits, which go-spiffe does not have.
func FuzzIDAgainstGoSPIFFE(f *testing.F) {
	for _, s := range []string{ordersID, "spiffe://td", "spiffe://td/", "SPIFFE://td/a", "spiffe://td/a/../b", "spiffe://t%64/a", "spiffe://td/a?b", "spiffe://", "spiffe:///a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ours, err := mesh.ParseID(s)
		theirs, oracle := spiffeid.FromString(s)
		long := len(s) > 2048 || len(theirs.TrustDomain().Name()) > 255
		if (err == nil) != (oracle == nil && !long) {
			t.Fatalf("%q: ours %v, go-spiffe %v", s, err, oracle)
		}
		if err == nil && (ours.String() != theirs.String() || ours.TrustDomain() != theirs.TrustDomain().Name() || ours.Path() != theirs.Path()) {
			t.Fatalf("%q: ours %v, go-spiffe %v", s, ours, theirs)
		}
	})
}

// FuzzAltNames feeds the SAN parser bytes of an issuer gone mad. Whatever
// crypto/x509 reads as URIs too, both must read alike.
func FuzzAltNames(f *testing.F) {
	f.Add(sanOf(f, ordersID).Value)
	f.Add(sanOf(f, ordersID, telemID).Value)
	f.Add([]byte{0x30, 0x80, 0x86, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		ext := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
		uris, others, err := altNames([]pkix.Extension{ext})
		if err != nil && (uris != nil || others != 0) {
			t.Fatalf("%v and %d others with error %v", uris, others, err)
		}
		total := 0
		for _, uri := range uris {
			total += len(uri) + 2
		}
		if total+2*others > len(value) {
			t.Fatalf("%d bytes hold names of %d", len(value), total)
		}
	})
}
