// Package acmecert gets certificates for public hostnames from an ACME server
// (RFC 8555), such as Let's Encrypt, and keeps them and the account's key in
// files.
//
// It does not listen and does not decide when to renew: a gateway shows the
// proofs that it has here (TLS-ALPN-01, HTTP-01), and an identity.Rotator has the
// schedule. The protocol is golang.org/x/crypto/acme's. Its autocert is not used:
// that orders when a client shakes hands, renews by timers that nobody can stop,
// and keeps to itself why it could not.
//
// A key is made for each certificate, here, and leaves only into a file of mode
// 0600. What is in the files is served without asking the server.
package acmecert

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Config says which server issues, to whom, and for which hostnames.
type Config struct {
	// Directory is the URL of the server's directory (RFC 8555 section 7.1.1):
	// https only.
	Directory string
	// Email is where the server may write to about the account. May be empty.
	Email string
	// CAFile is a PEM file with the CAs to trust for Directory, and then only
	// these. Empty: the system's.
	CAFile string
	// Hostnames are exact: ACME proves those with a wildcard by DNS alone.
	Hostnames []string
	// AcceptTerms says that whoever runs the gateway has read and accepts the
	// server's terms of service.
	AcceptTerms bool
}

// Bounds of a Config.
const (
	MostHostnames = 100 // each is an order of its own, and a series of each metric
	maxHostname   = 200 // bytes; it names a file too
)

// hostname is a DNS name of two labels or more, in lower case.
var hostname = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidHostname reports whether name is a DNS name without a wildcard, in lower
// case and of two labels or more, as certificates of public servers are for.
func ValidHostname(name string) bool {
	return len(name) <= maxHostname && hostname.MatchString(name) && strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") != ""
}

// Check returns everything that is wrong with c, whose place in the configuration
// is field.
func (c *Config) Check(field string) []error {
	var errs []error
	add := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+"."+key+": "+format, args...))
	}
	u, err := url.Parse(c.Directory)
	switch {
	case c.Directory == "":
		add("directory", "say which ACME server issues, e.g. https://acme-v02.api.letsencrypt.org/directory")
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		add("directory", "%.200q is not an https URL: an account and its orders do not go over a plain network", c.Directory)
	}
	if c.Email != "" {
		if a, err := mail.ParseAddress(c.Email); err != nil || a.Address != c.Email {
			add("email", "%.200q is not an address such as ops@shop.example", c.Email)
		}
	}
	if !c.AcceptTerms {
		add("acceptTerms", "read the terms of service of the ACME server, and set it to true if you accept them")
	}
	if n := len(c.Hostnames); n == 0 || n > MostHostnames {
		add("hostnames", "%d names, want 1 to %d, e.g. [shop.example]", n, MostHostnames)
	}
	seen := map[string]bool{}
	for i, name := range c.Hostnames {
		key := fmt.Sprintf("hostnames[%d]", i)
		switch {
		case strings.Contains(name, "*"):
			add(key, "%.200q has a wildcard, which ACME proves by DNS alone: list each hostname, or give such a certificate by certFile or tls.vault", name)
		case !ValidHostname(name):
			add(key, "%.200q is not a hostname in lower case of at most %d characters, such as shop.example", name, maxHostname)
		case seen[name]:
			add(key, "%s is there twice", name)
		}
		seen[name] = true
	}
	return errs
}

// Authority is one account at one ACME server, and its certificates.
type Authority struct {
	cfg   Config
	files cache
	http  *client
	log   zerolog.Logger
	slots chan struct{} // one for each order under way

	// clear is set before the first order: HTTP-01 can be answered.
	clear bool

	certs map[string]*Certificate // by hostname; constant after New

	// mu guards what follows: what is shown to the server while an order is under
	// way.
	mu     sync.Mutex
	proofs map[string]*tls.Certificate // TLS-ALPN-01, by hostname
	tokens map[string]string           // HTTP-01, by token
}

// orders is how many may be under way at a time: a gateway with many names does not
// fall upon a server, or into its limits, at once.
const orders = 4

// New returns the authority of cfg, whose hostnames may be those of several
// listeners, and reads what is in the files below dir. It asks the server nothing.
// clear says that somebody answers HTTP-01. A file that cannot be used is logged,
// and its certificate ordered again. Errors are of kind Invalid.
func New(cfg Config, dir string, clear bool, log zerolog.Logger) (*Authority, error) {
	const op = "acmecert.New"
	if errs := cfg.Check("acme"); len(errs) > 0 {
		return nil, mesh.Errorf(op, cfg.Directory, mesh.Invalid, "%w", errors.Join(errs...))
	}
	roots, err := readRoots(cfg.CAFile)
	if err != nil {
		return nil, mesh.Errorf(op, cfg.Directory, mesh.Invalid, "caFile: %w", err)
	}
	a := &Authority{
		cfg: cfg, files: cache{filepath.Join(dir, folder(cfg.Directory))}, http: newClient(roots),
		log: log.With().Str("acme", cfg.Directory).Logger(), slots: make(chan struct{}, orders), clear: clear,
		certs: map[string]*Certificate{}, proofs: map[string]*tls.Certificate{}, tokens: map[string]string{},
	}
	for _, name := range cfg.Hostnames {
		c := &Certificate{a: a, name: name}
		cert, err := a.files.certificate(name)
		switch {
		case err != nil:
			a.log.Warn().Err(err).Str("hostname", name).Msg("the certificate that is kept cannot be used; it is ordered again")
		case cert != nil:
			c.held.Store(&held{cert, cert.Leaf.NotBefore})
		}
		a.certs[name] = c
	}
	return a, nil
}

// folder names the files of one server: an account and certificates of a server for
// trials are not those of the one that counts.
func folder(directory string) string {
	sum := sha256.Sum256([]byte(directory))
	host := "server"
	if u, err := url.Parse(directory); err == nil && ValidHostname(u.Hostname()) {
		host = u.Hostname()
	}
	return host + "-" + hex.EncodeToString(sum[:4])
}

// Certificate returns the certificate of one of the hostnames, nil of others.
func (a *Authority) Certificate(name string) *Certificate { return a.certs[name] }

// Certificate is that of one hostname: what is in use now, and how it is renewed. It
// is an identity.Renewable, to be kept by a Rotator at the Pace of this package.
type Certificate struct {
	a        *Authority
	name     string
	held     atomic.Pointer[held]
	answered atomic.Pointer[string] // the kind of challenge that the server accepted last
}

// held is a certificate and from when its life counts.
type held struct {
	cert *tls.Certificate
	from time.Time
}

// Name returns the hostname.
func (c *Certificate) Name() string { return c.name }

// Current returns the certificate to serve, or nil while there is none that is valid.
func (c *Certificate) Current() *tls.Certificate {
	if h := c.held.Load(); h != nil && !time.Now().After(h.cert.Leaf.NotAfter) {
		return h.cert
	}
	return nil
}

// Renew orders the next certificate, keeps it in its file and puts it to use. Errors
// are of kind Denied if the server refused, of kind Unavailable if it is away.
func (c *Certificate) Renew(ctx context.Context) error {
	select {
	case c.a.slots <- struct{}{}:
		defer func() { <-c.a.slots }()
	case <-ctx.Done():
		return mesh.Errorf("acmecert.Renew", c.name, mesh.Unavailable, "other orders take so long: %w", ctx.Err())
	}
	cert, err := c.a.order(ctx, c)
	if err != nil {
		return err
	}
	// It is served even if it cannot be kept: the next start then orders again.
	c.held.Store(&held{cert, time.Now()})
	if err := c.a.files.keep(c.name, cert); err != nil {
		c.a.log.Error().Err(err).Str("hostname", c.name).Str("hint", "a restart would order another: see to the data directory").Msg("the certificate is in use but cannot be kept")
	}
	return nil
}

// Life implements identity.Renewable. What was read from a file counts from its
// NotBefore.
func (c *Certificate) Life() (from, until time.Time) {
	h := c.held.Load()
	if h == nil {
		return time.Time{}, time.Time{}
	}
	return h.from, h.cert.Leaf.NotAfter
}

// Ready returns nil while there is a valid certificate; an error is of kind
// Unavailable.
func (c *Certificate) Ready() error {
	const op = "acmecert.Certificate"
	h := c.held.Load()
	switch {
	case h == nil:
		return mesh.Errorf(op, c.name, mesh.Unavailable, "none was issued yet")
	case c.Current() == nil:
		return mesh.Errorf(op, c.name, mesh.Unavailable, "it expired at %s", h.cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Times of orders.
const (
	orderTime   = 10 * time.Minute // with waiting for a slot
	retryAway   = 5 * time.Second  // first wait for a server that is away; it doubles
	retryDenied = 5 * time.Minute  // first wait after a refusal: servers count those
	retryMost   = time.Hour
	laterMost   = 24 * time.Hour // of what a server itself asks to wait
)

// Pace returns when a Rotator orders: with a third of the life left, as the users of
// public servers do, and after failures no more often than their limits allow.
func Pace() identity.Pace {
	return identity.Pace{Share: 2.0 / 3, Timeout: orderTime, Retry: func(n int, err error) time.Duration {
		first := retryDenied
		if mesh.KindOf(err) == mesh.Unavailable {
			first = retryAway
		}
		return max(min(first<<min(n, 16), retryMost), min(later(err), laterMost))
	}}
}
