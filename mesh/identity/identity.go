// Package identity gives a process its SPIFFE identity and checks that of its
// peers: Bundle holds the trust roots, Source the current certificate, Rotator
// renews it through an Issuer, ServerConfig and ClientConfig are the mTLS
// configurations built on them, and VerifySVID is the only place that decides
// whether a certificate is a peer. Node is the certificate of the machine itself, which is
// for Vault and for signatures; VerifyNode decides whether a certificate is one.
//
// It does not decide what a peer may do (that is policy), does not know Vault
// (package vaultpki) or files (package localca), and dials and listens nowhere.
//
// Private keys are made here and are never sent: an Issuer sees a signing request
// only. They are in memory, and in a file (0600) if a Source is told to KeepIn a
// directory, so that a process starts while its issuer is away. A Source never goes
// back to having no certificate, and what it holds was verified before it was put there.
package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// An Issuer signs certificates. Implementations are localca.CA and
// vaultpki.Client. They are safe for concurrent use.
type Issuer interface {
	// Issue has the request signed. The caller verifies what comes back, so
	// an Issuer need not. Errors are of kind Denied if asking again is
	// pointless until somebody changes a role or policy, and Unavailable if
	// the same request may succeed later.
	Issue(ctx context.Context, r Request) (Issued, error)
}

// A Prober is an Issuer that can tell cheaply whether it is able to issue. A
// Rotator whose renewal failed asks it every two seconds, and renews as soon as
// the answer turns from an error to nil, whatever its backoff says.
type Prober interface {
	Probe(ctx context.Context) error
}

// A Bundler is an Issuer that tells which roots there are without issuing. A Rotator asks
// it between renewals, so that peers know a new root before they see what it signed.
type Bundler interface {
	Bundle(ctx context.Context, trustDomain string) (*Bundle, error)
}

// Issued is the answer of an Issuer.
type Issued struct {
	Chain  []*x509.Certificate // the leaf first, then intermediates, no root
	Bundle *Bundle             // the roots that peers are verified against from now on
}

// maxRoots bounds a Bundle. A mesh has one root, and two while it changes CA.
const maxRoots = 32

// Bundle is the trust roots of one trust domain: several while issuers change,
// so that leaves of the old and of the new one are both accepted. It is
// immutable.
type Bundle struct {
	trustDomain string
	roots       []*x509.Certificate
	pool        *x509.CertPool
}

// NewBundle returns the bundle of the given CA certificates, without
// duplicates. No root, more than 32 or a certificate that is not a CA's are
// refused (kind Invalid). A root need not be self-signed.
func NewBundle(trustDomain string, roots ...*x509.Certificate) (*Bundle, error) {
	const op = "identity.NewBundle"
	if err := mesh.CheckTrustDomain(trustDomain); err != nil {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "%w", err)
	}
	b := &Bundle{trustDomain: trustDomain, pool: x509.NewCertPool()}
	for _, root := range roots {
		if !root.BasicConstraintsValid || !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, mesh.Errorf(op, trustDomain, mesh.Invalid, "%q is not the certificate of a CA", root.Subject)
		}
		if slices.ContainsFunc(b.roots, root.Equal) {
			continue
		}
		b.roots = append(b.roots, root)
		b.pool.AddCert(root)
	}
	if n := len(b.roots); n == 0 || n > maxRoots {
		return nil, mesh.Errorf(op, trustDomain, mesh.Invalid, "%d roots, want 1 to %d", n, maxRoots)
	}
	return b, nil
}

// TrustDomain returns the trust domain whose peers the bundle verifies.
func (b *Bundle) TrustDomain() string { return b.trustDomain }

// Roots returns the trust roots, in the order in which they were given.
func (b *Bundle) Roots() []*x509.Certificate { return slices.Clone(b.roots) }

// equal reports whether other has the same roots, in any order.
func (b *Bundle) equal(other *Bundle) bool {
	return b.trustDomain == other.trustDomain && len(b.roots) == len(other.roots) &&
		!slices.ContainsFunc(other.roots, func(root *x509.Certificate) bool { return !slices.ContainsFunc(b.roots, root.Equal) })
}

// ParseCertificates reads one or more PEM certificates and nothing else.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q where a CERTIFICATE was expected", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate")
	}
	return certs, nil
}

// HandshakeTimeout is how long either side of a mesh connection may take for
// its TLS handshake. Whoever dials or accepts sets it on the connection: a
// tls.Config cannot.
const HandshakeTimeout = 5 * time.Second
