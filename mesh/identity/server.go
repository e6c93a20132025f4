package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// ServerRequest asks for the certificate of a public server. That is no
// identity of the mesh: it names hosts, and clients verify it by CAs of theirs.
type ServerRequest struct {
	Hostnames []string      // at least one; in lower case, "*.shop.example" for those below
	CSR       []byte        // PKCS #10, DER: the key's proof of possession and the names
	TTL       time.Duration // how long it shall live; 0: what the issuer is set to
}

// NewServerRequest makes a P-256 key and the request to certify it for hostnames.
// An error is of kind Internal.
func NewServerRequest(ttl time.Duration, hostnames ...string) (*ecdsa.PrivateKey, ServerRequest, error) {
	const op = "identity.NewServerRequest"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, ServerRequest{}, mesh.Errorf(op, hostnames[0], mesh.Internal, "%w", err)
	}
	// No common name: it holds 64 characters, and RFC 9110 section 4.3.4 has
	// clients read alternative names.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: hostnames}, key)
	if err != nil {
		return nil, ServerRequest{}, mesh.Errorf(op, hostnames[0], mesh.Internal, "%w", err)
	}
	return key, ServerRequest{Hostnames: hostnames, CSR: csr, TTL: ttl}, nil
}

// ServerCertificate returns the certificate to serve hostnames with. chain is
// what the issuer answered, the leaf first. It is refused (kind Invalid) if it is
// for another key, not for one of the names, not for servers, or not valid now.
// Who issued it is for the clients to judge.
func ServerCertificate(key crypto.Signer, chain []*x509.Certificate, hostnames ...string) (*tls.Certificate, error) {
	refuse := func(format string, args ...any) (*tls.Certificate, error) {
		return nil, mesh.Errorf("identity.ServerCertificate", hostnames[0], mesh.Invalid, "the issuer's answer is refused: "+format, args...)
	}
	if len(chain) == 0 {
		return refuse("it holds no certificate")
	}
	leaf, now := chain[0], time.Now()
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return refuse("it certifies another key")
	}
	for _, name := range hostnames {
		if !slices.ContainsFunc(leaf.DNSNames, func(of string) bool { return strings.EqualFold(of, name) }) {
			return refuse("it is not for %s", name)
		}
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return refuse("it is not for servers")
	}
	// A clock that is a little behind the issuer's is no reason to serve nothing.
	if now.Add(5*time.Minute).Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return refuse("it is valid from %s to %s", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}
