package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	td       = "hedgerow.local"
	ordersID = "spiffe://hedgerow.local/svc/orders/n/edge7"
	telemID  = "spiffe://hedgerow.local/svc/telemetry/n/edge8"
)

func mustID(t testing.TB, s string) mesh.ID {
	t.Helper()
	id, err := mesh.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair is a certificate with its key: a root, an intermediate or a leaf.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate; without by it signs itself. It signs whatever it is
// told to: the hostile ones are made here too.
func (by *pair) sign(t testing.TB, template *x509.Certificate) *pair {
	t.Helper()
	key := newKey(t)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert, key}
}

func newRoot(t testing.TB, name string) *pair {
	t.Helper()
	return (*pair)(nil).sign(t, caTemplate(name))
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

// leafTemplate is a good leaf with the given URIs, whose bytes need not be URIs.
func leafTemplate(t testing.TB, uris ...string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if len(uris) > 0 {
		template.ExtraExtensions = []pkix.Extension{sanOf(t, uris...)}
	}
	return template
}

// sanOf returns a subject alternative name extension of raw URI bytes, as a
// hostile issuer would write it.
func sanOf(t testing.TB, uris ...string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

func newMetrics(t testing.TB) *Metrics {
	t.Helper()
	m, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustBundle(t testing.TB, roots ...*x509.Certificate) *Bundle {
	t.Helper()
	b, err := NewBundle(td, roots...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sourceOf returns a Source with a leaf of root for id.
func sourceOf(t testing.TB, root *pair, id string) *Source {
	t.Helper()
	src := NewSource(mustID(t, id), newMetrics(t))
	template := leafTemplate(t, id)
	template.Subject.CommonName, _ = src.ID().Node()
	leaf := root.sign(t, template)
	issued := Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}
	if err := src.Swap(leaf.key, issued); err != nil {
		t.Fatal(err)
	}
	return src
}

func TestNewBundle(t *testing.T) {
	one, two := newRoot(t, "one"), newRoot(t, "two")
	b := mustBundle(t, one.cert, two.cert, one.cert)
	if roots := b.Roots(); len(roots) != 2 || !roots[0].Equal(one.cert) || b.TrustDomain() != td {
		t.Errorf("bundle of %s with %d roots", b.TrustDomain(), len(roots))
	}
	noSign := caTemplate("encrypts only")
	noSign.KeyUsage = x509.KeyUsageKeyEncipherment
	many := make([]*x509.Certificate, 0, maxRoots+1)
	for range maxRoots + 1 {
		many = append(many, newRoot(t, "r").cert)
	}
	for name, roots := range map[string][]*x509.Certificate{
		"no root":                     nil,
		"a leaf":                      {one.sign(t, leafTemplate(t, ordersID)).cert},
		"a CA that may not sign":      {(*pair)(nil).sign(t, noSign).cert},
		"more roots than a mesh uses": many,
	} {
		if _, err := NewBundle(td, roots...); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewBundle("Upper", one.cert); err == nil {
		t.Error("a bundle of an invalid trust domain")
	}
}

func TestSwapRefuses(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "other")
	src := sourceOf(t, root, ordersID)
	before := src.Current()
	leaf := root.sign(t, leafTemplate(t, ordersID))
	bundle := mustBundle(t, root.cert)
	clientOnly := leafTemplate(t, ordersID)
	clientOnly.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	half := root.sign(t, clientOnly)
	admin := root.sign(t, leafTemplate(t, "spiffe://hedgerow.local/svc/admin/n/edge7"))
	for name, tt := range map[string]struct {
		key    *ecdsa.PrivateKey
		issued Issued
	}{
		"nothing":                       {leaf.key, Issued{}},
		"no bundle":                     {leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}}},
		"no chain":                      {leaf.key, Issued{Bundle: bundle}},
		"another key":                   {newKey(t), Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: bundle}},
		"another identity":              {admin.key, Issued{Chain: []*x509.Certificate{admin.cert}, Bundle: bundle}},
		"a bundle it does not chain to": {leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, other.cert)}},
		"one direction only":            {half.key, Issued{Chain: []*x509.Certificate{half.cert}, Bundle: bundle}},
	} {
		var e *mesh.Error
		if err := src.Swap(tt.key, tt.issued); !errors.As(err, &e) {
			t.Errorf("%s: error %v", name, err)
		}
		if src.Current() != before {
			t.Fatalf("%s: the working certificate was replaced", name)
		}
	}
	if err := src.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: bundle}); err != nil {
		t.Errorf("the answer they all vary is refused itself: %v", err)
	}
}

func TestParseCertificates(t *testing.T) {
	for name, in := range map[string]string{
		"empty":        "",
		"spaces":       " \n ",
		"not PEM":      "hello",
		"another type": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"not DER":      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if certs, err := ParseCertificates([]byte(in)); err == nil {
			t.Errorf("%s: %d certificates", name, len(certs))
		}
	}
}
