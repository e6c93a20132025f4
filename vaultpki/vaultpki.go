// Package vaultpki is the only code that knows Vault: elsewhere a Client is an
// identity.Issuer, a ServerRole a gateway's Signer, a Signer signs configuration, and a
// Log keeps its revisions. Bootstrap sets a Vault up for all that, and an Admin makes and
// withdraws nodes in it.
//
// It logs in by AppRole or by a node's certificate and uses `sign` on one role of
// one mount, never `issue`, which would make the key on the server. It does not
// store tokens or certificates, and retries nothing by itself but a refused token,
// once, and an address that does not serve, at the next: identity.Rotator has the
// schedule. It starts no goroutine, and a Client keeps no connection between calls.
//
// Nothing but Access decides whom it talks to: VAULT_* variables are ignored
// (HTTPS_PROXY is not), and a secret never leaves over plain HTTP except to
// loopback.
package vaultpki

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Config says which Vault signs, as whom to log in to it, and with which role.
type Config struct {
	Access
	// Mount is the path of the PKI engine, "pki_mesh". All issuers of the
	// mount are roots of the mesh.
	Mount string
	// Role is the role of that engine which allows this node's identities.
	Role string
}

var (
	// Mounts and roles go into URL paths as they are.
	mountPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
	rolePattern  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)
)

// Validate reports everything that is wrong with the configuration at once.
func (c *Config) Validate() error {
	return errors.Join(c.Access.Validate(), c.checkRole())
}

func (c *Config) checkRole() error {
	var errs []error
	if !mountPattern.MatchString(c.Mount) {
		errs = append(errs, fmt.Errorf("mount: %.100q is not the path of a mount, such as pki_mesh", c.Mount))
	}
	if !rolePattern.MatchString(c.Role) {
		errs = append(errs, fmt.Errorf("role: %.100q is not the name of a PKI role", c.Role))
	}
	return errors.Join(errs...)
}

// Client signs certificates with one role of one Vault. It is safe for
// concurrent use.
type Client struct {
	*Vault
	cfg Config
}

var (
	_ identity.Issuer  = (*Client)(nil)
	_ identity.Prober  = (*Client)(nil)
	_ identity.Bundler = (*Client)(nil)
)

// New returns a client and registers its metrics with reg. It reads CAFile but
// does not talk to Vault, which may be away now. Errors are of kind Invalid.
func New(cfg Config, log zerolog.Logger, reg prometheus.Registerer) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, mesh.Errorf("vaultpki.New", cfg.Role, mesh.Invalid, "%s", oneLine(err.Error()))
	}
	v, err := Open(cfg.Access, cfg.Role, log, reg)
	if err != nil {
		return nil, err
	}
	return &Client{Vault: v, cfg: cfg}, nil
}

// Client returns a client of another mount and role, which shares the login.
func (v *Vault) Client(mount, role string) (*Client, error) {
	cfg := Config{Access: v.access, Mount: mount, Role: role}
	if err := cfg.checkRole(); err != nil {
		return nil, mesh.Errorf("vaultpki.Client", role, mesh.Invalid, "%s", oneLine(err.Error()))
	}
	return &Client{Vault: v, cfg: cfg}, nil
}

// metrics are the series of one Vault.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_vaultpki_requests_total",
			Help: "Requests to Vault by operation (login, renew, sign, issuers, health, admin, secret, log, transit) and result: ok or the kind of error.",
		}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hedgerow_vaultpki_request_seconds",
			Help:    "How long requests to Vault take.",
			Buckets: []float64{.005, .02, .1, .5, 2, 5},
		}, []string{"operation"}),
	}
	return m, errors.Join(reg.Register(m.requests), reg.Register(m.seconds))
}
