// Package vaultpki has certificates signed by the PKI engine of a Vault. It is
// the only code that knows Vault: elsewhere a Client is an identity.Issuer, and a
// ServerRole a gateway's Signer.
//
// It logs in by AppRole and uses `sign` on one role of one mount, never
// `issue`, which would make the key on the server. It does not set up a Vault,
// does not store tokens or certificates, and retries nothing by itself but a
// refused token, once: identity.Rotator has the schedule. It starts no
// goroutine and keeps no connection between calls.
//
// Nothing but Config decides whom it talks to: VAULT_* variables are ignored
// (HTTPS_PROXY is not), and a secret never leaves over plain HTTP except to
// loopback.
package vaultpki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Config says which Vault to use and as whom.
type Config struct {
	// Address is the URL of Vault, "https://10.0.0.6:8200". Plain http is
	// refused unless the host is a loopback address.
	Address string
	// CAFile is the PEM file of the CAs to trust for Address, and then only
	// these. Empty: the system's.
	CAFile string
	// Mount is the path of the PKI engine, "pki_mesh". All issuers of the
	// mount are roots of the mesh.
	Mount string
	// Role is the role of that engine which allows this node's identities.
	Role string
	// AppRole is what to log in with.
	AppRole AppRole
	// Timeout bounds one request to Vault. Default 5s.
	Timeout time.Duration
}

// AppRole names two files, read at each login so that they may be replaced.
// The secret_id must be good for more than one login.
type AppRole struct {
	RoleIDFile   string
	SecretIDFile string
}

const (
	defaultTimeout = 5 * time.Second
	maxAnswer      = 1 << 20 // bytes of one answer
)

var (
	// Mounts and roles go into URL paths as they are.
	mountPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
	rolePattern  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)
)

// Validate reports everything that is wrong with the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	if err := checkAddress(c.Address); err != nil {
		errs = append(errs, fmt.Errorf("address: %w", err))
	}
	if !mountPattern.MatchString(c.Mount) {
		errs = append(errs, fmt.Errorf("mount: %.100q is not the path of a mount, such as pki_mesh", c.Mount))
	}
	if !rolePattern.MatchString(c.Role) {
		errs = append(errs, fmt.Errorf("role: %.100q is not the name of a PKI role", c.Role))
	}
	if c.AppRole.RoleIDFile == "" {
		errs = append(errs, errors.New("appRole.roleIdFile: is missing"))
	}
	if c.AppRole.SecretIDFile == "" {
		errs = append(errs, errors.New("appRole.secretIdFile: is missing"))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: %v is negative", c.Timeout))
	}
	return errors.Join(errs...)
}

// checkAddress accepts scheme, host and port: anything more would be sent with
// every request, or not at all, without the operator noticing.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%.100q is not an https URL, such as https://10.0.0.6:8200", address)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("%.100q is more or less than scheme, host and port", u.Redacted())
	}
	return checkTransport(u)
}

// checkTransport refuses to send secrets where others can read them.
func checkTransport(u *url.URL) error {
	if u.Scheme == "https" || u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback() {
		return nil
	}
	return fmt.Errorf("plain http to %s would show tokens to the network; use https", u.Host)
}

// Client signs certificates with one role of one Vault. It is safe for
// concurrent use.
type Client struct {
	cfg     Config
	log     zerolog.Logger
	http    *http.Client
	anon    *api.Client // carries no token
	metrics metrics

	session atomic.Pointer[session]
	// loginSlot is held by whoever logs in, so that many callers with a
	// dead token make one login. A mutex would not heed their contexts.
	loginSlot chan struct{}
}

var (
	_ identity.Issuer  = (*Client)(nil)
	_ identity.Prober  = (*Client)(nil)
	_ identity.Bundler = (*Client)(nil)
)

// New returns a client and registers its metrics with reg. It reads CAFile but
// does not talk to Vault, which may be away now. Errors are of kind Invalid.
func New(cfg Config, log zerolog.Logger, reg prometheus.Registerer) (*Client, error) {
	const op = "vaultpki.New"
	if err := cfg.Validate(); err != nil {
		return nil, mesh.Errorf(op, cfg.Role, mesh.Invalid, "%s", oneLine(err.Error()))
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	roots, err := readRoots(cfg.CAFile)
	if err != nil {
		return nil, mesh.Errorf(op, cfg.Role, mesh.Invalid, "caFile %s: %w", cfg.CAFile, err)
	}
	c := &Client{
		cfg:       cfg,
		log:       log.With().Str("vault", cfg.Address).Str("vault_role", cfg.Role).Logger(),
		http:      newHTTPClient(roots, cfg.Timeout),
		loginSlot: make(chan struct{}, 1),
	}
	if c.anon, err = c.newAPI(""); err != nil {
		return nil, mesh.Errorf(op, cfg.Role, mesh.Invalid, "%w", err)
	}
	if c.metrics, err = newMetrics(reg); err != nil {
		return nil, mesh.Errorf(op, cfg.Role, mesh.Internal, "%w", err)
	}
	return c, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// newHTTPClient bounds every phase of a request by itself too, so that a Vault
// that accepts and says nothing costs one timeout and not the caller's patience.
func newHTTPClient(roots *x509.CertPool, timeout time.Duration) *http.Client {
	return &http.Client{
		Transport: guard{&http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:   timeout,
			ResponseHeaderTimeout: timeout,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   2,
			IdleConnTimeout:       timeout,
		}},
		// The api package follows one redirect itself, through the guard.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newAPI returns a client of the api package that obeys Config alone.
func (c *Client) newAPI(token string) (*api.Client, error) {
	// No retries: a Rotator knows better when to ask again.
	client, err := api.NewClient(&api.Config{Address: c.cfg.Address, HttpClient: c.http, Timeout: c.cfg.Timeout})
	if err != nil {
		return nil, err
	}
	// NewClient takes token, namespace and headers from the environment.
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetToken(token)
	return client, nil
}

// guard is the transport to Vault: no secret over a plain network, even when
// redirected, and no answer without end.
type guard struct{ next *http.Transport }

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkTransport(req.URL); err != nil {
		return nil, err
	}
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	return res, nil
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (g guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// metrics are the series of one Client.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_vaultpki_requests_total",
			Help: "Requests to Vault by operation (login, renew, sign, issuers, health) and result: ok or the kind of error.",
		}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hedgerow_vaultpki_request_seconds",
			Help:    "How long requests to Vault take.",
			Buckets: []float64{.005, .02, .1, .5, 2, 5},
		}, []string{"operation"}),
	}
	return m, errors.Join(reg.Register(m.requests), reg.Register(m.seconds))
}
