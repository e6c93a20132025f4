package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/acme"

	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Where a certificate comes from, as metrics and logs call it.
const (
	fromFile  = "file"
	fromACME  = "acme"
	fromVault = "vault"
)

// issued is a certificate that somebody issues to this process.
type issued interface {
	Name() string
	Current() *tls.Certificate // nil while there is none that is valid
}

// certificates are those of one listener.
type certificates struct {
	address   string // where it is bound
	files     []*certFiles
	authority *acmecert.Authority // nil without ACME
	// exact has by name what is issued for it; below has by "shop.example" what is for
	// "*.shop.example". Both are constant.
	exact, below map[string][]issued
	issued       []sourced // each once
}

// sourced is an issued certificate and where it comes from.
type sourced struct {
	issued
	source string
}

// get is GetCertificate: the certificate for the name that a client asks for (SNI), an
// exact one before one with a wildcard, files before what is issued; or else the first
// of the files. There is nothing else to give to somebody who asks for no name, or for
// one that is served but has no certificate now: without any, crypto/tls sends the
// alert unrecognized_name (RFC 6066 section 3).
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(c.files) == 1 && len(c.issued) == 0 {
		return c.files[0].current(), nil // there is nothing to choose
	}
	name := strings.ToLower(hello.ServerName)
	if name == "" {
		return c.nameless(hello), nil
	}
	var fits *tls.Certificate
	for _, f := range c.files {
		cert := f.current()
		if hello.SupportsCertificate(cert) != nil {
			continue
		}
		if slices.ContainsFunc(cert.Leaf.DNSNames, func(of string) bool { return strings.EqualFold(of, name) }) {
			return cert, nil
		}
		if fits == nil {
			fits = cert
		}
	}
	exact := c.exact[name]
	if cert := supported(exact, hello); cert != nil {
		return cert, nil
	}
	if fits != nil {
		return fits, nil
	}
	_, parent, _ := strings.Cut(name, ".")
	below := c.below[parent]
	if cert := supported(below, hello); cert != nil {
		return cert, nil
	}
	if len(exact) > 0 || len(below) > 0 || len(c.files) == 0 {
		return nil, nil
	}
	return c.files[0].current(), nil
}

// nameless returns the certificate for a client that asks for no name.
func (c *certificates) nameless(hello *tls.ClientHelloInfo) *tls.Certificate {
	for _, f := range c.files {
		if cert := f.current(); hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	if len(c.files) > 0 {
		return c.files[0].current()
	}
	return nil
}

// supported returns the first certificate of all that the client takes.
func supported(all []issued, hello *tls.ClientHelloInfo) *tls.Certificate {
	for _, i := range all {
		if cert := i.Current(); cert != nil && hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return nil
}

// proof returns the configuration that answers an ACME server's handshake about one of
// the listener's names (RFC 8737), or nil for all others. It alone offers acme-tls/1,
// and asks for no certificate of the client.
func (c *certificates) proof(hello *tls.ClientHelloInfo) *tls.Config {
	if c.authority == nil || !c.proves(hello.ServerName) {
		return nil
	}
	cert := c.authority.Proof(hello)
	if cert == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto},
		Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true,
	}
}

// proves reports whether name is one of the listener's that ACME is asked for.
func (c *certificates) proves(name string) bool {
	return slices.ContainsFunc(c.exact[name], func(i issued) bool { _, ok := i.(*acmecert.Certificate); return ok })
}

// publicCerts are the certificates of all listeners, and what keeps them fresh.
type publicCerts struct {
	log         zerolog.Logger
	listeners   []*certificates // nil where a listener is in clear text
	authorities map[string]*acmecert.Authority
	kept        []*keeper
	metrics     *certMetrics
}

// keeper keeps one certificate fresh.
type keeper struct {
	sourced
	rotator *identity.Rotator
}

// newPublicCerts reads the files of all listeners, those of ACME included. It asks
// nobody for anything.
func newPublicCerts(listeners []Listener, opt Options) (*publicCerts, error) {
	p := &publicCerts{log: opt.Log, listeners: make([]*certificates, len(listeners))}
	p.metrics = newCertMetrics(p)
	if err := opt.Registerer.Register(p.metrics); err != nil {
		return nil, mesh.Errorf("gateway.New", "hedgerow_gateway_certificate", mesh.Internal, "%w", err)
	}
	if err := p.openAuthorities(listeners, opt); err != nil {
		return nil, err
	}
	for i := range listeners {
		l := &listeners[i]
		if !l.secure() {
			continue
		}
		c := &certificates{address: l.Address, exact: map[string][]issued{}, below: map[string][]issued{}}
		p.listeners[i] = c
		if err := c.loadFiles(l, opt.Log); err != nil {
			return nil, err
		}
		if l.ACME != nil {
			c.authority = p.authorities[l.ACME.Directory]
			for _, name := range l.ACME.Hostnames {
				cert := c.authority.Certificate(name)
				c.add(sourced{cert, fromACME}, name)
				p.keep(sourced{cert, fromACME}, cert, acmecert.Pace())
			}
		}
		if l.Signed != nil {
			cert := &signed{of: l.Signed}
			c.add(sourced{cert, fromVault}, l.Signed.Hostnames...)
			p.keep(sourced{cert, fromVault}, cert, identity.LeafPace())
		}
	}
	return p, nil
}

// openAuthorities opens each ACME server with the names of all listeners.
func (p *publicCerts) openAuthorities(listeners []Listener, opt Options) error {
	configs := map[string]acmecert.Config{}
	clear := false
	for i := range listeners {
		l := &listeners[i]
		clear = clear || !l.secure()
		if l.ACME == nil {
			continue
		}
		merged, ok := configs[l.ACME.Directory]
		if !ok {
			merged = *l.ACME
			merged.Hostnames = nil
		}
		for _, name := range l.ACME.Hostnames {
			if !slices.Contains(merged.Hostnames, name) {
				merged.Hostnames = append(merged.Hostnames, name)
			}
		}
		configs[l.ACME.Directory] = merged
	}
	if len(configs) > 0 && opt.DataDir == "" {
		return mesh.Errorf("gateway.New", "", mesh.Invalid, "listeners[].tls.acme needs dataDir, where the account's key and the certificates are kept")
	}
	p.authorities = map[string]*acmecert.Authority{}
	for directory, config := range configs {
		a, err := acmecert.New(config, acmeDir(opt.DataDir), clear, opt.Log)
		if err != nil {
			return err
		}
		p.authorities[directory] = a
	}
	return nil
}

func (c *certificates) loadFiles(l *Listener, log zerolog.Logger) error {
	if l.CertFile == "" {
		return nil
	}
	for _, pair := range append([]CertPair{{l.CertFile, l.KeyFile}}, l.Certificates...) {
		f := &certFiles{cert: pair.CertFile, key: pair.KeyFile, log: log, now: time.Now}
		if err := f.load(); err != nil {
			return mesh.Errorf("gateway.New", l.Address, mesh.Invalid, "certificate of the listener: %w", err)
		}
		c.files = append(c.files, f)
	}
	return nil
}

// add files an issued certificate under its names.
func (c *certificates) add(s sourced, names ...string) {
	c.issued = append(c.issued, s)
	for _, name := range names {
		if parent, ok := strings.CutPrefix(name, "*."); ok {
			c.below[parent] = append(c.below[parent], s.issued)
		} else {
			c.exact[name] = append(c.exact[name], s.issued)
		}
	}
}

// keep has a certificate kept fresh, once if several listeners serve it.
func (p *publicCerts) keep(s sourced, of identity.Renewable, pace identity.Pace) {
	if slices.ContainsFunc(p.kept, func(k *keeper) bool { return k.issued == s.issued }) {
		return
	}
	log := p.log.With().Str("certificate", s.source).Str("hostname", s.Name()).Logger()
	r := identity.NewRotatorOf(of, pace, func(err error) { p.metrics.count(s.source, s.Name(), err) }, log)
	p.kept = append(p.kept, &keeper{s, r})
}

// bound notes where the i-th listener is bound, which tells it from others.
func (p *publicCerts) bound(i int, at net.Addr) {
	if c := p.listeners[i]; c != nil {
		c.address = at.String()
	}
}

// renew keeps all certificates fresh until ctx ends; the returned function waits for
// the end of that.
func (p *publicCerts) renew(ctx context.Context) (ended func()) {
	var all sync.WaitGroup
	for _, k := range p.kept {
		all.Go(func() { _ = k.rotator.Run(ctx) }) // it returns nil; failures are its log's
	}
	return all.Wait
}

// lacking returns why certificates are not there, in the order of the configuration.
func (p *publicCerts) lacking() []error {
	var errs []error
	for _, k := range p.kept {
		if err := k.rotator.Ready(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// token is proxy.Edge.Proof.
func (p *publicCerts) token(token string) (text string, known bool) {
	for _, a := range p.authorities {
		if text, known = a.Token(token); known {
			return text, true
		}
	}
	return "", false
}
