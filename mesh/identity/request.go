package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Request asks an Issuer for one leaf certificate.
type Request struct {
	ID  mesh.ID
	CSR []byte        // PKCS #10, DER: the key's proof of possession and the URI SAN
	TTL time.Duration // how long the leaf shall live; 0: what the Issuer is set to
}

// NewRequest makes a P-256 key and the request to certify it as id; see RequestFor.
func NewRequest(id mesh.ID) (*ecdsa.PrivateKey, Request, error) {
	const op = "identity.NewRequest"
	// A new key for each certificate: a stolen one is good for one leaf's life.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Request{}, mesh.Errorf(op, id.String(), mesh.Internal, "%w", err)
	}
	request, err := RequestFor(key, id)
	return key, request, err
}

// RequestFor makes the request to certify key as id, with no SAN but the one URI. The
// certificate of a node has the node as common name, without which Vault lets nobody log in;
// others have none.
func RequestFor(key *ecdsa.PrivateKey, id mesh.ID) (Request, error) {
	const op = "identity.RequestFor"
	uri, err := url.Parse(id.String())
	if err != nil {
		return Request{}, mesh.Errorf(op, id.String(), mesh.Invalid, "%w", err)
	}
	node, _ := id.Node()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: node}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		return Request{}, mesh.Errorf(op, id.String(), mesh.Internal, "%w", err)
	}
	return Request{ID: id, CSR: csr}, nil
}

// Check verifies a request as an issuer must before it signs: the CSR is signed
// by its own P-256 key, and asks for exactly the URI r.ID: no other SAN of any
// kind, no common name but a node's. It returns the key to certify. Errors are of kind
// Invalid.
func (r Request) Check() (*ecdsa.PublicKey, error) {
	refuse := func(format string, args ...any) (*ecdsa.PublicKey, error) {
		return nil, mesh.Errorf("identity.CheckRequest", r.ID.String(), mesh.Invalid, format, args...)
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return refuse("%w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return refuse("it is not signed by its key: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return refuse("the key is not ECDSA P-256")
	}
	// The raw names, as in VerifySVID: csr.URIs were normalized on the way.
	uris, others, err := altNames(csr.Extensions)
	node, _ := r.ID.Node()
	switch {
	case err != nil:
		return refuse("%w", err)
	case len(uris) != 1 || others != 0:
		return refuse("asks for %d URIs and %d other names, want one URI only", len(uris), others)
	case uris[0] != r.ID.String() || r.ID.IsZero():
		return refuse("asks for %.200q instead", uris[0])
	case csr.Subject.CommonName != node:
		return refuse("asks for the common name %.200q", csr.Subject.CommonName)
	case r.TTL < 0:
		return refuse("asks for a lifetime of %v", r.TTL)
	}
	return key, nil
}
