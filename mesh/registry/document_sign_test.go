package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// resealed is a good envelope of the sidecar of n1 after edit.
func resealed(t testing.TB, edit func(*envelope)) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(sealed(t, func(*document) {}), &e); err != nil {
		t.Fatal(err)
	}
	edit(&e)
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sealedBy is a document of the sidecar of n1 that another certificate signed.
func sealedBy(t testing.TB, by *signers.Certificate) []byte {
	t.Helper()
	d := document{Node: "n1", Role: mesh.RoleSidecar, Seq: 1, NotAfter: now().Add(documentLife), Instances: []mesh.Instance{}}
	return signed(t, &d, by)
}

// like is a certificate of n1 by ours with something changed.
func like(edit func(*x509.Certificate)) *signers.Certificate {
	return ours.Certificate("spiffe://hedgerow.local/node/n1", edit)
}

// during has a certificate begin and end when told, from now.
func during(begin, end time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now().Add(begin), now().Add(end) }
}

func TestDocumentsAreBelievedOfTheirNodeAlone(t *testing.T) {
	named := func(uri string) []byte {
		return sealedBy(t, ours.Certificate(uri, func(*x509.Certificate) {}))
	}
	for _, tc := range []struct {
		name string
		raw  []byte
		want string // the reason of the refusal, "" for none
	}{
		{"as the node writes it", sealedBy(t, ours.Node("n1")), ""},
		{"by a certificate that is about to end", sealedBy(t, like(during(-time.Hour, time.Second))), ""},

		{"without a signature", resealed(t, func(e *envelope) { e.Signature = nil }), rejectUnsigned},
		{"without a certificate", resealed(t, func(e *envelope) { e.Certificates = nil }), rejectUnsigned},
		{"as it was before documents were signed", []byte(`{"document":{"node":"n1","role":"SIDECAR","seq":1,"notAfter":"2026-01-02T03:04:05Z"},"keyId":"","signature":""}`), rejectUnsigned},

		{"another document", resealed(t, func(e *envelope) { e.Document = []byte(strings.Replace(string(e.Document), `"seq":1`, `"seq":2`, 1)) }), rejectSignature},
		{"the same written otherwise", resealed(t, func(e *envelope) {
			e.Document = []byte(strings.Replace(string(e.Document), `"role":"SIDECAR"`, `"role":"SIDEC\u0041R"`, 1))
		}), rejectSignature},
		{"a signature cut short", resealed(t, func(e *envelope) { e.Signature = e.Signature[:8] }), rejectSignature},
		{"the signature of another key", resealed(t, func(e *envelope) { e.Certificates = ours.Node("n1").Pair.Certificate }), rejectSignature},
		{"signed for another mesh", signedFor(t, "other", "n1", mesh.RoleSidecar), rejectSignature},
		{"signed for another role", signedFor(t, "test", "n1", mesh.RoleBridge), rejectSignature},
		{"signed for another node", signedFor(t, "test", "n2", mesh.RoleSidecar), rejectSignature},

		{"by another node", sealedBy(t, ours.Node("n2")), rejectSigner},
		{"by a service of the node", named("spiffe://hedgerow.local/svc/orders/n/n1"), rejectSigner},
		{"by a node of a longer name", named("spiffe://hedgerow.local/node/n1/x"), rejectSigner},
		{"by a gateway of the node's name", named("spiffe://hedgerow.local/gateway/n1"), rejectSigner},

		{"by another CA", sealedBy(t, theirs.Node("n1")), rejectUntrusted},
		{"of another trust domain", named("spiffe://other.local/node/n1"), rejectUntrusted},
		{"by a certificate that has ended", sealedBy(t, like(during(-time.Hour, -time.Second))), rejectUntrusted},
		{"by a certificate that is yet to begin", sealedBy(t, like(during(time.Second, time.Hour))), rejectUntrusted},
		{"by a CA", sealedBy(t, like(func(c *x509.Certificate) { c.IsCA = true })), rejectUntrusted},
		{"by a certificate without a use", sealedBy(t, like(func(c *x509.Certificate) { c.ExtKeyUsage = nil })), rejectUntrusted},
		{"by a certificate that may not sign", sealedBy(t, like(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), rejectUntrusted},
		{"by a key of another curve", byAnotherCurve(t), rejectUntrusted},
		{"by what is no certificate", resealed(t, func(e *envelope) { e.Certificates = [][]byte{{1, 2, 3}} }), rejectUntrusted},

		{"with more certificates than are read", resealed(t, func(e *envelope) {
			for range maxChain {
				e.Certificates = append(e.Certificates, e.Certificates[0])
			}
		}), rejectOversize},
		{"with larger certificates than are read", resealed(t, func(e *envelope) { e.Certificates = append(e.Certificates, make([]byte, maxChainBytes)) }), rejectOversize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, r := open(tc.raw)
			switch {
			case tc.want == "" && (r != nil || d == nil):
				t.Errorf("refused as %s: %v", r.reason, r.err)
			case tc.want != "" && r == nil:
				t.Errorf("believed: %+v", d)
			case tc.want != "" && r.reason != tc.want:
				t.Errorf("refused as %s: %v; want %s", r.reason, r.err, tc.want)
			}
		})
	}
}

// signedFor is a document of the sidecar of n1 whose signature is of another place.
func signedFor(t testing.TB, meshName, node, role string) []byte {
	t.Helper()
	cert := ours.Node("n1").Pair
	return resealed(t, func(e *envelope) {
		signature, err := ecdsa.SignASN1(rand.Reader, cert.PrivateKey.(*ecdsa.PrivateKey), documentDigest(meshName, node, role, e.Document))
		if err != nil {
			t.Fatal(err)
		}
		e.Certificates, e.Signature = cert.Certificate, signature
	})
}

// byAnotherCurve is by a certificate of n1 whose key is of P-384.
func byAnotherCurve(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sealedBy(t, ours.CertificateOf(key, "spiffe://hedgerow.local/node/n1"))
}

// A certificate is verified once, and anew as soon as that may come out otherwise.
func TestACertificateIsVerifiedOnce(t *testing.T) {
	cert := like(during(-time.Hour, time.Hour))
	raw, key := sealedBy(t, cert), instanceKey{"n1", mesh.RoleSidecar}
	v := verification{mesh: "test", bundle: ours.Bundle(), at: now()}
	_, first, r := v.openDocument(raw, key, nil)
	if r != nil {
		t.Fatal(r.err)
	}
	if _, again, r := v.openDocument(raw, key, first); r != nil || again != first {
		t.Errorf("verified again: %+v", r)
	}
	later := v
	later.at = now().Add(time.Hour + time.Second)
	d := document{Node: "n1", Role: mesh.RoleSidecar, Seq: 2, NotAfter: later.at.Add(documentLife)}
	if _, _, r := later.openDocument(signed(t, &d, cert), key, first); r == nil || r.reason != rejectUntrusted {
		t.Errorf("after its end: %+v", r)
	}
	other := v
	other.bundle = theirs.Bundle()
	if _, _, r := other.openDocument(raw, key, first); r == nil || r.reason != rejectUntrusted {
		t.Errorf("by other roots: %+v", r)
	}
	if _, _, r := v.openDocument(sealedBy(t, theirs.Node("n1")), key, first); r == nil || r.reason != rejectUntrusted {
		t.Errorf("another certificate: %+v", r)
	}
}

// Whoever registers no more than Update takes fits in with every chain that is read.
func TestTheLargestDocumentFitsItsEnvelope(t *testing.T) {
	cert := ours.Node("n1").Pair
	cert.Certificate = append(cert.Certificate, make([]byte, maxChainBytes-len(cert.Certificate[0])))
	d := document{Node: "n1", Role: mesh.RoleSidecar, Rejected: &rejectReport{}}
	empty, err := d.encode()
	if err != nil {
		t.Fatal(err)
	}
	d.Rejected.Reason = strings.Repeat("x", maxSignedBytes-len(empty))
	raw, err := d.seal("test", &cert)
	if err != nil || len(raw) > maxDocumentBytes {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	d.Rejected.Reason += "x"
	if _, err := d.seal("test", &cert); err == nil {
		t.Error("a larger one is sealed")
	}
	cert.Certificate[1] = append(cert.Certificate[1], 0)
	d.Rejected.Reason = ""
	if _, err := d.seal("test", &cert); err == nil {
		t.Error("a larger chain is sealed")
	}
}

// BenchmarkOpenDocument is what a reader pays for a document of one instance.
func BenchmarkOpenDocument(b *testing.B) {
	key := instanceKey{"n1", mesh.RoleSidecar}
	raw := sealed(b, func(d *document) {
		d.Instances = []mesh.Instance{{Meta: mesh.Meta{Name: "instances/n1-1"}, Service: "orders", Address: "127.0.0.1:1"}}
	})
	v := verification{mesh: "test", bundle: ours.Bundle(), at: now()}
	_, known, r := v.openDocument(raw, key, nil)
	if r != nil {
		b.Fatal(r.err)
	}
	for name, known := range map[string]*certified{"of a new certificate": nil, "of a known certificate": known} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, r := v.openDocument(raw, key, known); r != nil {
					b.Fatal(r.err)
				}
			}
		})
	}
}
