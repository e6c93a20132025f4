package signers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// TrustDomain is that of Nodes.
const TrustDomain = "hedgerow.local"

// Nodes is a mesh's certificate authority, in memory. It signs whatever it is told to.
type Nodes struct {
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	bundle *identity.Bundle
}

// NewNodes makes one. Its certificates are valid at any time that a test may take for now.
func NewNodes() *Nodes {
	n := &Nodes{key: newKey()}
	n.root = n.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "nodes under test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, n.key)
	n.bundle = must(identity.NewBundle(TrustDomain, n.root))
	return n
}

// Bundle has the root.
func (n *Nodes) Bundle() *identity.Bundle { return n.bundle }

// Node returns the certificate of a node.
func (n *Nodes) Node(name string) *Certificate {
	return n.Certificate("spiffe://"+TrustDomain+"/node/"+name, func(*x509.Certificate) {})
}

// Certificate returns one with the URI, as edit would have it.
func (n *Nodes) Certificate(uri string, edit func(*x509.Certificate)) *Certificate {
	return n.certify(newKey(), uri, edit)
}

// CertificateOf returns one of a key.
func (n *Nodes) CertificateOf(key *ecdsa.PrivateKey, uri string) *Certificate {
	return n.certify(key, uri, func(*x509.Certificate) {})
}

func (n *Nodes) certify(key *ecdsa.PrivateKey, uri string, edit func(*x509.Certificate)) *Certificate {
	template := &x509.Certificate{
		URIs: []*url.URL{must(url.Parse(uri))}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	edit(template)
	leaf := n.sign(template, key)
	return &Certificate{tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}}
}

func (n *Nodes) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Unix(0, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	parent := n.root
	if parent == nil {
		parent = template
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), n.key))))
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// Certificate is a certificate with its key.
type Certificate struct{ Pair tls.Certificate }

// Certificate returns it, as an identity.Source does.
func (c *Certificate) Certificate() (*tls.Certificate, error) { return &c.Pair, nil }
