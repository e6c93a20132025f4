// Package localca is a certificate authority in a directory: it issues what
// Vault issues elsewhere, for `hedgerow up` and for tests, behind the same
// identity.Issuer.
//
// It authorizes nobody: whoever holds a CA gets any identity of its trust
// domain signed, so it must stay inside the process and is not for a mesh of
// more than one machine. It keeps no record of what it issued and revokes
// nothing.
//
// What it signs is an X.509-SVID for exactly the identity asked for, never a CA.
package localca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Backdate is by how much the start of validity of everything lies before it is issued:
// peers' clocks may be this late.
const Backdate = 5 * time.Minute

// The files in the CA's directory, PEM.
const (
	KeyFile  = "ca.key" // the root's private key, 0600
	CertFile = "ca.pem" // the root certificate, 0600 like all of the directory
)

const (
	defaultLeafTTL = 24 * time.Hour
	rootYears      = 10
)

// Config says what a CA issues.
type Config struct {
	// TrustDomain is the only one it signs for. The root certificate names
	// it, so a directory belongs to one trust domain.
	TrustDomain string
	// LeafTTL is how long leaves live unless the request says less.
	// Default 24h.
	LeafTTL time.Duration
}

// CA is an open certificate authority. It is safe for concurrent use.
type CA struct {
	cfg    Config
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	bundle *identity.Bundle
}

var _ identity.Issuer = (*CA)(nil)

// Open loads the CA in dir, or creates dir (0700), a P-256 root key and its
// certificate of 10 years, synced to disk before Open returns. Two processes
// must not create the same CA at once. A directory of another trust domain, an
// expired root and a key that others may read are refused.
func Open(dir string, cfg Config) (*CA, error) {
	const op = "localca.Open"
	if err := mesh.CheckTrustDomain(cfg.TrustDomain); err != nil {
		return nil, mesh.Errorf(op, dir, mesh.Invalid, "%w", err)
	}
	if cfg.LeafTTL == 0 {
		cfg.LeafTTL = defaultLeafTTL
	}
	if cfg.LeafTTL < 0 {
		return nil, mesh.Errorf(op, dir, mesh.Invalid, "a leaf lifetime of %v", cfg.LeafTTL)
	}
	ca := &CA{cfg: cfg}
	if err := ca.load(dir); err != nil {
		return nil, &mesh.Error{Op: op, Name: dir, Kind: mesh.Invalid, Err: err,
			Hint: "move the directory away to start with a new CA; peers that trust the old one will refuse it"}
	}
	var err error
	if ca.bundle, err = identity.NewBundle(cfg.TrustDomain, ca.root); err != nil {
		return nil, err
	}
	return ca, nil
}

// Bundle returns the root of the CA as a trust bundle.
func (ca *CA) Bundle() *identity.Bundle { return ca.bundle }

// Issue signs r after Check, if its ID is of the CA's trust domain. A TTL above
// the CA's LeafTTL is cut to it, as Vault does.
func (ca *CA) Issue(ctx context.Context, r identity.Request) (identity.Issued, error) {
	const op = "localca.Issue"
	name := r.ID.String()
	if err := ctx.Err(); err != nil {
		return identity.Issued{}, &mesh.Error{Op: op, Name: name, Kind: mesh.Unavailable, Err: err}
	}
	key, err := r.Check()
	if err != nil {
		return identity.Issued{}, err
	}
	if r.ID.TrustDomain() != ca.cfg.TrustDomain || r.ID.Path() == "" {
		return identity.Issued{}, mesh.Errorf(op, name, mesh.Denied, "this CA signs identities in %s only", ca.cfg.TrustDomain)
	}
	uri, err := url.Parse(name)
	if err != nil {
		return identity.Issued{}, mesh.Errorf(op, name, mesh.Invalid, "%w", err)
	}
	ttl := ca.cfg.LeafTTL
	if r.TTL > 0 {
		ttl = min(ttl, r.TTL)
	}
	now := time.Now()
	notAfter := now.Add(ttl)
	if notAfter.After(ca.root.NotAfter) {
		notAfter = ca.root.NotAfter
	}
	// The template, not the request, says what the leaf may do: no subject but a node's,
	// no CA, no other name.
	node, _ := r.ID.Node()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject:               pkix.Name{CommonName: node},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              notAfter,
		URIs:                  []*url.URL{uri},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, ca.root, key, ca.key)
	if err != nil {
		return identity.Issued{}, mesh.Errorf(op, name, mesh.Internal, "%w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return identity.Issued{}, mesh.Errorf(op, name, mesh.Internal, "%w", err)
	}
	return identity.Issued{Chain: []*x509.Certificate{leaf}, Bundle: ca.bundle}, nil
}

// load reads key and root, creating what is missing. A key without certificate
// is a creation that was interrupted between the two, and is completed.
func (ca *CA) load(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	keyPath, certPath := filepath.Join(dir, KeyFile), filepath.Join(dir, CertFile)
	_, keyErr := os.Stat(keyPath)
	_, certErr := os.Stat(certPath)
	if errors.Is(keyErr, os.ErrNotExist) {
		if certErr == nil {
			return errors.New(CertFile + " is there but " + KeyFile + " is not")
		}
		if err := createKey(keyPath); err != nil {
			return err
		}
	}
	var err error
	// Read back even what was just written: what is used is what is on disk.
	if ca.key, err = readKey(keyPath); err != nil {
		return err
	}
	if errors.Is(certErr, os.ErrNotExist) {
		if err := ca.createRoot(certPath); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(certPath)
	if err != nil {
		return err
	}
	certs, err := identity.ParseCertificates(data)
	if err != nil {
		return fmt.Errorf("%s: %w", CertFile, err)
	}
	ca.root = certs[0]
	return ca.checkRoot()
}

// checkRoot makes sure that key, certificate and trust domain belong together:
// peers would refuse everything signed by a CA put together from two.
func (ca *CA) checkRoot() error {
	public, ok := ca.root.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || !public.Equal(ca.key.Public()):
		return errors.New(CertFile + " and " + KeyFile + " do not belong together")
	case len(ca.root.URIs) != 1 || ca.root.URIs[0].String() != "spiffe://"+ca.cfg.TrustDomain:
		return errors.New("it is not the CA of the trust domain " + ca.cfg.TrustDomain)
	case time.Now().After(ca.root.NotAfter):
		return errors.New("its root expired at " + ca.root.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// createRoot signs the key's own certificate. Its URI names the trust domain,
// as the SPIFFE specification recommends (X509-SVID 2), and binds the directory.
func (ca *CA) createRoot(path string) error {
	uri, err := url.Parse("spiffe://" + ca.cfg.TrustDomain)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Hedgerow local CA of " + ca.cfg.TrustDomain},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.AddDate(rootYears, 0, 0),
		URIs:                  []*url.URL{uri},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func createKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// readKey refuses a key that others may read, as ssh does: it was exposed, and
// who copied it can be anybody in the mesh.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, errors.New(KeyFile + " has mode " + mode.String() + ": others could read it; chmod 0600")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New(KeyFile + " is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New(KeyFile + " is not an ECDSA key")
	}
	return key, nil
}

// writeFile puts data at path, whole or not at all, and durable when it
// returns: the directory is synced too, or a power cut could lose the name.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
