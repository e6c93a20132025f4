package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// A Signer signs certificates of public servers; vaultpki.ServerRole is one.
type Signer interface {
	identity.Prober
	// SignServer returns the certificate, the leaf first, without its root. Its kinds
	// of error are those of identity.Issuer.
	SignServer(ctx context.Context, r identity.ServerRequest) ([]*x509.Certificate, error)
}

// Signed is a certificate whose key is made here and which a Signer signs. It is in
// memory only, as the leaves of the mesh are.
type Signed struct {
	Signer    Signer
	Hostnames []string      // of one certificate; "*.shop.example" is for those one label below
	TTL       time.Duration // how long it shall live; 0: what the signer is set to
}

// mostSignedNames bounds the names of one certificate.
const mostSignedNames = 100

// shortestTTL is as short as a life may be: renewal at a third of it, and seconds for
// a signer that is slow or away.
const shortestTTL = 30 * time.Second

// Check returns what is wrong with s, whose place in the configuration is field. It
// does not look at the Signer.
func (s *Signed) Check(field string) []error {
	var errs []error
	if n := len(s.Hostnames); n == 0 || n > mostSignedNames {
		errs = append(errs, fmt.Errorf("%s.hostnames: %d names, want 1 to %d, e.g. [shop.example]", field, n, mostSignedNames))
	}
	seen := map[string]bool{}
	for i, name := range s.Hostnames {
		switch {
		case !acmecert.ValidHostname(strings.TrimPrefix(name, "*.")):
			errs = append(errs, fmt.Errorf("%s.hostnames[%d]: %.200q is not a hostname in lower case, such as shop.example or *.shop.example", field, i, name))
		case seen[name]:
			errs = append(errs, fmt.Errorf("%s.hostnames[%d]: %s is there twice", field, i, name))
		}
		seen[name] = true
	}
	if s.TTL != 0 && s.TTL < shortestTTL {
		errs = append(errs, fmt.Errorf("%s.ttl: %v is shorter than %v, in which no renewal could be tried twice", field, s.TTL, shortestTTL))
	}
	return errs
}

// secure reports whether l serves TLS.
func (l *Listener) secure() bool { return l.CertFile != "" || l.ACME != nil || l.Signed != nil }

// checkIssued returns what is wrong with the certificates that are issued for the i-th
// listener.
func (l *Listener) checkIssued(i int) []error {
	var errs []error
	if l.ACME != nil {
		errs = append(errs, l.ACME.Check(fmt.Sprintf("listeners[%d].tls.acme", i))...)
	}
	if l.Signed != nil {
		errs = append(errs, l.Signed.Check(fmt.Sprintf("listeners[%d].tls.vault", i))...)
		if l.Signed.Signer == nil {
			errs = append(errs, fmt.Errorf("listeners[%d].tls.vault: nobody is here to sign", i))
		}
	}
	return errs
}

// checkAuthorities returns where listeners contradict each other about ACME: one
// hostname has one certificate, and one server one account.
func (c *Config) checkAuthorities() []error {
	var errs []error
	of := map[string]string{}              // directory by hostname
	first := map[string]*acmecert.Config{} // by directory
	for i := range c.Listeners {
		a := c.Listeners[i].ACME
		if a == nil {
			continue
		}
		if f := first[a.Directory]; f != nil && (f.Email != a.Email || f.CAFile != a.CAFile) {
			errs = append(errs, fmt.Errorf("listeners[%d].tls.acme: email and caFile differ from another listener's of the same directory; say the same", i))
		}
		first[a.Directory] = a
		for j, name := range a.Hostnames {
			if d, ok := of[name]; ok && d != a.Directory {
				errs = append(errs, fmt.Errorf("listeners[%d].tls.acme.hostnames[%d]: another listener gets the certificate of %s from %s; name one directory", i, j, name, d))
			}
			of[name] = a.Directory
		}
	}
	return errs
}

// signed is the certificate of a Signed, kept by a Rotator.
type signed struct {
	of   *Signed
	held atomic.Pointer[heldCert]
}

// heldCert is a certificate and when it was received.
type heldCert struct {
	cert *tls.Certificate
	from time.Time
}

// Name returns the first hostname.
func (s *signed) Name() string { return s.of.Hostnames[0] }

// Current returns the certificate to serve, or nil while there is none that is valid.
func (s *signed) Current() *tls.Certificate {
	if h := s.held.Load(); h != nil && !time.Now().After(h.cert.Leaf.NotAfter) {
		return h.cert
	}
	return nil
}

// Renew implements identity.Renewable.
func (s *signed) Renew(ctx context.Context) error {
	key, request, err := identity.NewServerRequest(s.of.TTL, s.of.Hostnames...)
	if err != nil {
		return err
	}
	chain, err := s.of.Signer.SignServer(ctx, request)
	if err != nil {
		return err
	}
	cert, err := identity.ServerCertificate(key, chain, s.of.Hostnames...)
	if err != nil {
		return err
	}
	s.held.Store(&heldCert{cert, time.Now()})
	return nil
}

// Life implements identity.Renewable.
func (s *signed) Life() (from, until time.Time) {
	h := s.held.Load()
	if h == nil {
		return time.Time{}, time.Time{}
	}
	return h.from, h.cert.Leaf.NotAfter
}

// Ready implements identity.Renewable.
func (s *signed) Ready() error {
	h := s.held.Load()
	switch {
	case h == nil:
		return mesh.Errorf("gateway.Certificate", s.Name(), mesh.Unavailable, "none was signed yet")
	case s.Current() == nil:
		return mesh.Errorf("gateway.Certificate", s.Name(), mesh.Unavailable, "it expired at %s", h.cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Probe implements identity.Prober.
func (s *signed) Probe(ctx context.Context) error { return s.of.Signer.Probe(ctx) }
