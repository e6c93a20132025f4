package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// given is a certificate that was issued, or one that was not yet.
type given struct {
	name string
	cert *tls.Certificate
}

func (g given) Name() string              { return g.name }
func (g given) Current() *tls.Certificate { return g.cert }

// certFor returns a certificate for names, with the serial number.
func certFor(t *testing.T, serial int64, names ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// The name that a client asks for chooses: exact names first, files before what is
// issued; and a name that has no certificate now gets nobody else's.
func TestCertificatesForNames(t *testing.T) {
	file := func(serial int64, names ...string) *certFiles {
		return &certFiles{loaded: certFor(t, serial, names...), now: func() time.Time { return time.Time{} }}
	}
	hello := func(name string) *tls.ClientHelloInfo {
		return &tls.ClientHelloInfo{
			ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
		}
	}
	build := func(files ...*certFiles) *certificates {
		c := &certificates{files: files, exact: map[string][]issued{}, below: map[string][]issued{}}
		c.add(sourced{given{"shop.example", certFor(t, 10, "shop.example")}, fromACME}, "shop.example")
		c.add(sourced{given{"a.wild.example", certFor(t, 11, "a.wild.example")}, fromACME}, "a.wild.example")
		c.add(sourced{given{"away.example", nil}, fromACME}, "away.example")
		c.add(sourced{given{"x.both.example", certFor(t, 12, "x.both.example", "*.both.example")}, fromVault}, "x.both.example", "*.both.example")
		c.add(sourced{given{"*.gone.example", nil}, fromVault}, "*.gone.example")
		return c
	}
	with := build(file(1, "first.example"), file(2, "*.wild.example"), file(3, "b.wild.example"))
	without := build()
	for name, want := range map[string][2]int64{ // with files and without; 0 is none
		"first.example":    {1, 0},
		"FIRST.example":    {1, 0},
		"unknown.example":  {1, 0},
		"":                 {1, 0},
		"b.wild.example":   {3, 0}, // exact in a file, though a wildcard comes before
		"c.wild.example":   {2, 0},
		"a.wild.example":   {11, 11}, // exact and issued, before the wildcard of a file
		"shop.example":     {10, 10},
		"Shop.Example":     {10, 10},
		"sub.shop.example": {1, 0},
		"x.both.example":   {12, 12},
		"y.both.example":   {12, 12},
		"y.z.both.example": {1, 0},
		"away.example":     {0, 0},
		"y.gone.example":   {0, 0},
	} {
		for i, c := range []*certificates{with, without} {
			cert, err := c.get(hello(name))
			got := int64(0)
			if cert != nil {
				got = cert.Leaf.SerialNumber.Int64()
			}
			if err != nil || got != want[i] {
				t.Errorf("%q, files %v: number %d, want %d; %v", name, i == 0, got, want[i], err)
			}
		}
	}
}
