// Package gateway is the edge of the mesh: public listeners whose requests
// follow the Routes that target GATEWAY to services inside, over mTLS, with the
// identity /gateway/<id>.
//
// It decides and forwards nothing itself: that is mesh/proxy. It does not fetch
// configuration or its certificate of the mesh either; whoever runs it hands them
// in. Its public certificates it reads from files, or has them issued (acmecert, a
// Signer).
//
// A caller from outside has no identity in the mesh. Whatever headers claim one
// are removed before anything looks at them.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// Config is what a gateway serves and where.
type Config struct {
	ID        string     // the gateway's id: selects routes and policies
	Listeners []Listener // at least one
	Admin     string     // host:port; keep it on loopback
	// Drain is how long requests under way may take to finish at the end. 30 s
	// if 0, which fits systemd's TimeoutStopSec.
	Drain time.Duration
}

// Listener is one public address: HTTP/1.1 and HTTP/2, in clear text by prior
// knowledge, or with a certificate over TLS 1.2 or 1.3.
type Listener struct {
	Address string // host:port
	// CertFile and KeyFile are PEM files. They are read again when they
	// change, so a renewal needs no restart.
	CertFile, KeyFile string
	// Certificates are more of them. A client gets the first that is for the name
	// that it asks for (SNI), or else CertFile's.
	Certificates []CertPair
	// ACME, if set, gets certificates from an ACME server. It answers the server's
	// challenges here (TLS-ALPN-01), and at the gateway's listeners in clear text
	// (HTTP-01).
	ACME *acmecert.Config
	// Signed, if set, is one more certificate, which somebody signs.
	Signed *Signed
	// ClientCAFile is a PEM file with the CAs of which every client must have a
	// certificate; "" asks for none. It is read again when it changes.
	ClientCAFile string
	// Hops says what is believed of what proxies in front of this address tell
	// about their clients. Zero believes nothing.
	Hops proxy.Hops
	// ProxyProtocol is nil where nobody in front announces clients by it.
	ProxyProtocol *proxy.Announcer
	// HTTPSPort is where a listener in clear text redirects to; 0 serves.
	HTTPSPort int
}

// CertPair is a certificate in two PEM files.
type CertPair struct{ CertFile, KeyFile string }

// Options is what a gateway is given by the process that runs it.
type Options struct {
	Mesh        string
	TrustDomain string
	Node        string           // this node's id
	Source      *identity.Source // of /gateway/<id>
	Log         zerolog.Logger
	Registerer  prometheus.Registerer
	Gatherer    prometheus.Gatherer // for /metrics
	Limits      proxy.Limits        // proxy.EdgeLimits if zero
	DataDir     string              // where ACME's key and certificates are kept; created 0700
	KeysDir     string              // as proxy.Options has it
	Name        string              // of this process in decision records
	Observe     proxy.Observe
	// Need, Denies, Tokens, Compiled and Freshness are those of proxy.Options and
	// proxy.AdminOptions. Each may be nil.
	Need      func(service string)
	Denies    *identity.Denies
	Tokens    proxy.Tokens
	Compiled  func(head mesh.Head, errs []error)
	Freshness func() (age time.Duration, stale bool)
}

// defaultDrain is Config.Drain if that is 0.
const defaultDrain = 30 * time.Second

// Gateway is one gateway process. It answers 503 until the first Update.
type Gateway struct {
	engine *proxy.Engine
	admin  proxy.AdminOptions
	plan   proxy.Plan
	public *publicCerts
}

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	if !mesh.ValidID(c.ID) {
		errs = append(errs, fmt.Errorf("id: %q is not an id of 1 to 63 characters a-z, 0-9 and '-'", c.ID))
	}
	if len(c.Listeners) == 0 {
		errs = append(errs, errors.New("listeners: at least one is needed"))
	}
	for i, l := range c.Listeners {
		if (l.CertFile == "") != (l.KeyFile == "") {
			errs = append(errs, fmt.Errorf("listeners[%d].tls: certFile and keyFile go together", i))
		}
		if l.CertFile == "" && len(l.Certificates) > 0 {
			errs = append(errs, fmt.Errorf("listeners[%d].tls: certificates need certFile and keyFile", i))
		}
		if !l.secure() && l.ClientCAFile != "" {
			errs = append(errs, fmt.Errorf("listeners[%d].tls.clientCAFile: it needs a certificate: certFile and keyFile, acme or vault", i))
		}
		errs = append(errs, l.checkIssued(i)...)
		for j, pair := range l.Certificates {
			if pair.CertFile == "" || pair.KeyFile == "" {
				errs = append(errs, fmt.Errorf("listeners[%d].tls.certificates[%d]: certFile and keyFile go together", i, j))
			}
		}
		if l.HTTPSPort < 0 || l.HTTPSPort > 65535 {
			errs = append(errs, fmt.Errorf("listeners[%d].redirectHTTPSPort: %d is not a port", i, l.HTTPSPort))
		}
		if l.HTTPSPort > 0 && l.secure() {
			errs = append(errs, fmt.Errorf("listeners[%d].redirectHTTPSPort: a listener with TLS has nothing to redirect", i))
		}
		if l.Hops.Count < 0 || l.Hops.Count > proxy.MostHops {
			errs = append(errs, fmt.Errorf("listeners[%d].trustedHops: %d is not between 0 and %d", i, l.Hops.Count, proxy.MostHops))
		}
		if l.ProxyProtocol != nil && len(l.ProxyProtocol.From) == 0 {
			errs = append(errs, fmt.Errorf("listeners[%d].proxyProtocol.from: say where the load balancers connect from, e.g. [10.0.0.0/24]", i))
		}
	}
	errs = append(errs, c.checkAuthorities()...)
	if err := errors.Join(errs...); err != nil {
		return &mesh.Error{Op: "gateway.New", Name: c.ID, Kind: mesh.Invalid, Err: err}
	}
	return nil
}

// New binds the listeners; what connects waits until Run. Whoever does not call
// Run calls Close.
func New(cfg Config, opt Options) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if opt.Limits == (proxy.Limits{}) {
		opt.Limits = proxy.EdgeLimits()
	}
	engine, err := proxy.New(proxy.Options{
		Mesh: opt.Mesh, TrustDomain: opt.TrustDomain, Node: opt.Node, Name: opt.Name, Limits: opt.Limits, Observe: opt.Observe, KeysDir: opt.KeysDir,
		Log: opt.Log, Registerer: opt.Registerer, Need: opt.Need, Denies: opt.Denies, Tokens: opt.Tokens, Compiled: opt.Compiled,
	})
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		engine: engine,
		admin:  proxy.AdminOptions{Gatherer: opt.Gatherer, Sources: []*identity.Source{opt.Source}, Freshness: opt.Freshness},
		plan:   proxy.Plan{Drain: cfg.Drain},
	}
	if g.plan.Drain == 0 {
		g.plan.Drain = defaultDrain
	}
	if g.public, err = newPublicCerts(cfg.Listeners, opt); err != nil {
		return nil, err
	}
	g.admin.Degraded = g.public.lacking
	configs := make([]*tls.Config, len(cfg.Listeners))
	addresses := []string{cfg.Admin}
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		if l.secure() {
			if configs[i], err = publicTLS(l, g.public.listeners[i], opt.Log); err != nil {
				return nil, err
			}
		}
		addresses = append(addresses, l.Address)
	}
	listeners, err := proxy.ListenAll(addresses...)
	if err != nil {
		return nil, err
	}
	g.plan.Admin = proxy.Site{Listener: listeners[0], Handler: engine.Admin(g.admin)}
	public := make([]proxy.Site, len(configs))
	for i, config := range configs {
		l := &cfg.Listeners[i]
		edge := proxy.Edge{Hops: l.Hops, HTTPSPort: l.HTTPSPort}
		if config == nil && len(g.public.authorities) > 0 {
			edge.Proof = g.public.token
		}
		public[i] = proxy.Site{
			Listener: listeners[i+1], Door: engine.Gateway(cfg.ID, opt.Source, edge),
			TLS: config, ProxyProtocol: l.ProxyProtocol,
		}
		g.public.bound(i, listeners[i+1].Addr())
	}
	g.plan.Stages = [][]proxy.Site{public}
	return g, nil
}

// Update makes s the snapshot that requests are decided by.
func (g *Gateway) Update(s *mesh.Snapshot) { g.engine.Update(s) }

// Ready reports whether a configuration and a valid certificate are loaded.
func (g *Gateway) Ready() bool { return g.engine.Ready(g.admin) }

// Addrs returns where the public listeners are bound, in the order of the
// configuration.
func (g *Gateway) Addrs() []net.Addr {
	var out []net.Addr
	for _, s := range g.plan.Stages[0] {
		out = append(out, s.Listener.Addr())
	}
	return out
}

// AdminAddr returns where the admin port is bound.
func (g *Gateway) AdminAddr() net.Addr { return g.plan.Admin.Listener.Addr() }

// Run serves and renews certificates until ctx ends or a listener fails, then
// drains. When it returns, every goroutine of the gateway has ended and every
// listener is closed.
func (g *Gateway) Run(ctx context.Context) error {
	renewing, stop := context.WithCancel(ctx)
	ended := g.public.renew(renewing)
	defer ended()
	defer stop()
	return g.engine.Run(ctx, g.plan)
}

// Close releases the listeners of a gateway that was never run.
func (g *Gateway) Close() error { return g.engine.Discard(g.plan) }
