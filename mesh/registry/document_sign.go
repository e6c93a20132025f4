package registry

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

const (
	maxChain      = 4 // certificates: the node's, and what leads to a root
	maxChainBytes = 8 << 10

	// maxSignedBytes is what a document may have, so that it fits into its envelope with
	// any chain.
	maxSignedBytes = maxDocumentBytes - 4*maxChainBytes/3 - 1<<10
)

// Signer is the certificate of a node, /node/<node>, with its key, which signs its
// documents. identity.Source is one. It fails while there is none that is valid.
type Signer interface {
	Certificate() (*tls.Certificate, error)
}

// envelope is the value of an inst: key.
type envelope struct {
	// Document is a document. Its bytes, as they stand here, are what is signed.
	Document json.RawMessage `json:"document"`
	// Certificates are DER: the node's, then what leads to a root.
	Certificates [][]byte `json:"certificates"`
	Signature    []byte   `json:"signature"` // ECDSA on P-256 with SHA-256, ASN.1
}

// documentDigest is what the signature of a document is made over. It begins with what
// it is, so that no other signature of the same key passes for it; node and role are
// ids, so that it reads in one way only.
func documentDigest(meshName, node, role string, document []byte) []byte {
	h := sha256.New()
	h.Write([]byte(strings.Join([]string{"hedgerow instance document 1", meshName, node, role, ""}, "\n")))
	h.Write(document)
	return h.Sum(nil)
}

// encode returns the bytes of d that are signed.
func (d *document) encode() ([]byte, error) {
	raw, err := json.Marshal(d)
	if err == nil && len(raw) > maxSignedBytes {
		err = fmt.Errorf("%d bytes, at most %d are read by others", len(raw), maxSignedBytes)
	}
	return raw, err
}

// seal encodes d in its envelope, signed. It must not be re-encoded afterwards.
func (d *document) seal(meshName string, cert *tls.Certificate) ([]byte, error) {
	raw, err := d.encode()
	if err != nil {
		return nil, err
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the node's key is a %T, which cannot sign", cert.PrivateKey)
	}
	signature, err := key.Sign(rand.Reader, documentDigest(meshName, d.Node, d.Role, raw), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	e := envelope{Document: raw, Certificates: cert.Certificate, Signature: signature}
	if err := e.checkChain(); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// checkChain reports a chain that others would not read.
func (e *envelope) checkChain() error {
	n := 0
	for _, der := range e.Certificates {
		n += len(der)
	}
	if len(e.Certificates) > maxChain || n > maxChainBytes {
		return fmt.Errorf("%d certificates of %d bytes, at most %d of %d are read", len(e.Certificates), n, maxChain, maxChainBytes)
	}
	return nil
}

// certified is a node's certificate that was found good. What the same one signs
// later needs no second look at its chain.
type certified struct {
	leaf   []byte // DER
	bundle *identity.Bundle
	key    *ecdsa.PublicKey
	from   time.Time // when it begins
	until  time.Time // the first end in its chain
}

// still reports whether der is the same certificate, and as good as it was.
func (c *certified) still(der []byte, bundle *identity.Bundle, at time.Time) bool {
	return c != nil && c.bundle == bundle && !at.After(c.until) && bytes.Equal(c.leaf, der)
}

// verify returns why the envelope's document was not signed by node: with the
// certificate /node/<node> of the bundle's mesh, valid at the time at. known is the
// certificate that signed before, or nil; the one that signed now is returned.
func (e *envelope) verify(meshName string, key instanceKey, bundle *identity.Bundle, known *certified, at time.Time) (*certified, *refusal) {
	if len(e.Signature) == 0 || len(e.Certificates) == 0 {
		return nil, refuse(rejectUnsigned, "it is not signed")
	}
	if err := e.checkChain(); err != nil {
		return nil, refuse(rejectOversize, "%w", err)
	}
	if !known.still(e.Certificates[0], bundle, at) {
		var r *refusal
		if known, r = e.certify(key.node, bundle, at); r != nil {
			return nil, r
		}
	}
	if !ecdsa.VerifyASN1(known.key, documentDigest(meshName, key.node, key.role, e.Document), e.Signature) {
		return nil, refuse(rejectSignature, "the signature is not that of the document")
	}
	return known, nil
}

// certify verifies the envelope's chain.
func (e *envelope) certify(node string, bundle *identity.Bundle, at time.Time) (*certified, *refusal) {
	want, err := mesh.NodeID(bundle.TrustDomain(), node)
	if err != nil {
		return nil, refuse(rejectSigner, "%w", err)
	}
	chain := make([]*x509.Certificate, len(e.Certificates))
	for i, der := range e.Certificates {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, refuse(rejectUntrusted, "certificate %d: %w", i, err)
		}
	}
	id, err := identity.VerifySVID(chain, bundle, x509.ExtKeyUsageClientAuth, at)
	if err != nil {
		return nil, refuse(rejectUntrusted, "%w", err)
	}
	if id != want {
		return nil, refuse(rejectSigner, "it is signed by %.200s", id)
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, refuse(rejectUntrusted, "%w", errors.New("the certificate's key is not ECDSA P-256"))
	}
	c := &certified{leaf: e.Certificates[0], bundle: bundle, key: key, from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(c.until) {
			c.until = cert.NotAfter
		}
	}
	return c, nil
}
