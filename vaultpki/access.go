package vaultpki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Access says which Vault to use and as whom.
type Access struct {
	// Addresses are the URLs of the nodes of one Vault, "https://10.0.0.6:8200". One
	// that does not serve is left for the next, which then stays. Plain http is
	// refused unless the host is a loopback address.
	Addresses []string
	// CAFile is the PEM file of the CAs to trust for Addresses, and then only
	// these. Empty: the system's.
	CAFile string
	// AppRole, Certificate or TokenFile is what to log in with: one of them.
	AppRole     AppRole
	Certificate Certificate
	// TokenFile has a token, which is neither renewed nor replaced.
	TokenFile string
	// Timeout bounds one request to one address. Default 5s.
	Timeout time.Duration
}

// AppRole names two files, read at each login so that they may be replaced.
// The secret_id must be good for more than one login.
type AppRole struct {
	RoleIDFile   string
	SecretIDFile string
}

// Certificate is a node's certificate, whose common name is that of the entry below
// auth/cert/certs. It is read at each login, because it is renewed.
type Certificate struct {
	CertFile string // PEM, the leaf first
	KeyFile  string // PEM
	// Current, if set, is asked in place of the files.
	Current func() (*tls.Certificate, error)
}

func (c *Certificate) zero() bool {
	return c.CertFile == "" && c.KeyFile == "" && c.Current == nil
}

const (
	defaultTimeout = 5 * time.Second
	maxAnswer      = 2 << 20 // bytes of one answer
	maxAddresses   = 16
)

// Validate reports everything that is wrong with it at once.
func (a *Access) Validate() error {
	var errs []error
	if n := len(a.Addresses); n == 0 || n > maxAddresses {
		errs = append(errs, fmt.Errorf("addresses: %d of them, want 1 to %d, such as https://10.0.0.6:8200", n, maxAddresses))
	}
	for _, address := range a.Addresses {
		if err := checkAddress(address); err != nil {
			errs = append(errs, fmt.Errorf("address: %w", err))
		} else if !a.Certificate.zero() && !strings.HasPrefix(address, "https:") {
			errs = append(errs, fmt.Errorf("address: %s: a certificate logs in over https only", address))
		}
	}
	errs = append(errs, a.checkLogin()...)
	if a.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: %v is negative", a.Timeout))
	}
	return errors.Join(errs...)
}

// checkLogin reports whether there is one way to log in.
func (a *Access) checkLogin() []error {
	var errs []error
	ways := 0
	if a.AppRole != (AppRole{}) {
		ways++
		if a.AppRole.RoleIDFile == "" {
			errs = append(errs, errors.New("appRole.roleIdFile: is missing"))
		}
		if a.AppRole.SecretIDFile == "" {
			errs = append(errs, errors.New("appRole.secretIdFile: is missing"))
		}
	}
	if c := &a.Certificate; !c.zero() {
		ways++
		if c.Current == nil && (c.CertFile == "" || c.KeyFile == "") {
			errs = append(errs, errors.New("certFile and keyFile: go together"))
		}
	}
	if a.TokenFile != "" {
		ways++
	}
	if ways != 1 {
		errs = append(errs, fmt.Errorf("appRole.roleIdFile and appRole.secretIdFile, or certFile and keyFile: one login is needed, there are %d", ways))
	}
	return errs
}

// checkAddress accepts scheme, host and port: anything more would be sent with
// every request, or not at all, without the operator noticing.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil && strings.Contains(address, "://"):
		return err
	case err != nil || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%.100q is not an https URL, such as https://10.0.0.6:8200", address)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("%.100q is more or less than scheme, host and port", u.Redacted())
	}
	return checkTransport(u)
}

// Vault is a Vault that is logged in to when that is needed. It is safe for
// concurrent use; what uses it shares the login.
type Vault struct {
	access  Access
	name    string // of whoever logs in, for errors
	log     zerolog.Logger
	roots   *x509.CertPool
	nodes   *nodes
	http    *http.Client
	anon    *api.Client // carries no token
	metrics metrics

	session atomic.Pointer[session]
	// loginSlot is held by whoever logs in, so that many callers with a
	// dead token make one login. A mutex would not heed their contexts.
	loginSlot chan struct{}
}

// Open returns a Vault for whoever has name, and registers its metrics with reg. It
// reads CAFile but does not talk to Vault, which may be away now. Errors are of kind
// Invalid.
func Open(access Access, name string, log zerolog.Logger, reg prometheus.Registerer) (*Vault, error) {
	const op = "vaultpki.Open"
	if err := access.Validate(); err != nil {
		return nil, mesh.Errorf(op, name, mesh.Invalid, "%s", oneLine(err.Error()))
	}
	if access.Timeout == 0 {
		access.Timeout = defaultTimeout
	}
	roots, err := readRoots(access.CAFile)
	if err != nil {
		return nil, mesh.Errorf(op, name, mesh.Invalid, "caFile %s: %w", access.CAFile, err)
	}
	v := &Vault{
		access:    access,
		name:      name,
		log:       log.With().Strs("vault", access.Addresses).Str("vault_role", name).Logger(),
		roots:     roots,
		loginSlot: make(chan struct{}, 1),
	}
	if v.nodes, err = newNodes(access.Addresses); err != nil {
		return nil, mesh.Errorf(op, name, mesh.Invalid, "%w", err)
	}
	v.http = v.newHTTP(nil)
	if v.anon, err = v.newAPI(v.http, ""); err != nil {
		return nil, mesh.Errorf(op, name, mesh.Invalid, "%w", err)
	}
	if v.metrics, err = newMetrics(reg); err != nil {
		return nil, mesh.Errorf(op, name, mesh.Internal, "%w", err)
	}
	return v, nil
}

// Close gives idle connections back. What uses v opens others.
func (v *Vault) Close() { v.http.CloseIdleConnections() }

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

// newAPI returns a client of the api package that obeys Access alone.
func (v *Vault) newAPI(over *http.Client, token string) (*api.Client, error) {
	// No retries: a Rotator knows better when to ask again. The time is that of all
	// addresses; each has its own in the transport.
	client, err := api.NewClient(&api.Config{
		Address: anyNode, HttpClient: over, Timeout: v.access.Timeout * time.Duration(len(v.access.Addresses)),
	})
	if err != nil {
		return nil, err
	}
	// NewClient takes token, namespace and headers from the environment.
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetToken(token)
	client.SetWrappingLookupFunc(wrapping)
	return client, nil
}

// wrapping says which answers Vault is to wrap: the secret_ids of nodes, which no control
// plane sees.
func wrapping(_, path string) string {
	if strings.HasSuffix(path, "/secret-id") && !strings.HasSuffix(path, "/"+controlRole+"/secret-id") {
		return invitationLife.String()
	}
	return ""
}

// do makes a request with a token: the current one and, if Vault refuses it, once more
// with that of another login. A 403 may mean a dead token or a policy. Errors are those
// of the api package, or a *mesh.Error if there is no token.
func (v *Vault) do(ctx context.Context, operation string, request func(*api.Client) error) error {
	s, err := v.openSession(ctx, nil)
	if err != nil {
		return err
	}
	err = v.measure(operation, func() error { return request(s.client) })
	if !forbidden(err) {
		return err
	}
	if s, err = v.openSession(ctx, s); err != nil {
		return err
	}
	return v.measure(operation, func() error { return request(s.client) })
}

// Probe reports whether Vault is there, initialized and unsealed, at one of the
// addresses. A standby forwards requests and counts as there.
func (v *Vault) Probe(ctx context.Context) error {
	const op = "vaultpki.Probe"
	defer v.http.CloseIdleConnections()
	health := api.HealthResponse{Initialized: true}
	err := v.measure("health", func() error {
		answer, err := v.anon.Logical().ReadRawWithDataWithContext(ctx, "sys/health", url.Values{"standbyok": {"true"}, "perfstandbyok": {"true"}})
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		health.Initialized = false
		return answer.DecodeJSON(&health)
	})
	var refused *api.ResponseError
	if errors.As(err, &refused) { // its body is a health, not errors
		health = api.HealthResponse{Initialized: refused.StatusCode != http.StatusNotImplemented, Sealed: refused.StatusCode == http.StatusServiceUnavailable}
	}
	where := strings.Join(v.access.Addresses, " ")
	switch {
	case !health.Initialized && (err == nil || refused != nil):
		return mesh.Errorf(op, where, mesh.Unavailable, "Vault is not initialized")
	case health.Sealed:
		return mesh.Errorf(op, where, mesh.Unavailable, "Vault is sealed").WithHint(hintSealed)
	case err != nil:
		return v.wrap(op, err)
	}
	return nil
}
