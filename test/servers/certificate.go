package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TLSFiles are a server's PEM files, all mode 0600.
type TLSFiles struct {
	CAFile   string // the CA to trust
	CertFile string // the server's certificate
	KeyFile  string // its key
}

// LoopbackTLS makes a CA of its own and a certificate for 127.0.0.1 and
// localhost, valid for a day, that serves a client too. The files go with the
// test.
func LoopbackTLS(t testing.TB) TLSFiles {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test servers"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caKey, leafKey := newKey(t), newKey(t)
	leafKeyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatalf("marshal a key: %v", err)
	}
	write := func(name, kind string, der []byte) string {
		block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		return writeSecret(t, filepath.Join(dir, name), string(block))
	}
	return TLSFiles{
		CAFile:   write("ca.pem", "CERTIFICATE", newCertificate(t, ca, ca, caKey, caKey)),
		CertFile: write("cert.pem", "CERTIFICATE", newCertificate(t, leaf, ca, leafKey, caKey)),
		KeyFile:  write("key.pem", "PRIVATE KEY", leafKeyDER),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate a key: %v", err)
	}
	return key
}

func newCertificate(t testing.TB, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatalf("sign a certificate: %v", err)
	}
	return der
}
