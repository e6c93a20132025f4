package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// Access says who may call the API, beside the bearers of its own tokens.
type Access struct {
	Certificates []controlapi.CertificateGrant `yaml:"certificates" help:"what the bearers of client certificates may do: [{id or subject, role, scopes}]"`
	OIDC         OIDC                          `yaml:"oidc"`
	// RequestsPerSecond is for each caller; twice as many may come at once.
	RequestsPerSecond float64 `yaml:"requestsPerSecond" help:"how many requests a caller may send each second; 50 if absent"`
}

// OIDC says whose signed tokens are bearer tokens.
type OIDC struct {
	Issuer    string                  `yaml:"issuer" help:"the claim iss of tokens that are taken as bearer tokens; none are without it"`
	Audience  string                  `yaml:"audience" help:"what their claim aud has to name"`
	JWKSURI   string                  `yaml:"jwksUri" help:"https URL where the issuer publishes its keys"`
	CAFile    string                  `yaml:"caFile" help:"PEM CAs of that server; else the system's"`
	NameClaim string                  `yaml:"nameClaim" help:"the claim that names the caller in logs; sub if absent"`
	Grants    []controlapi.ClaimGrant `yaml:"grants" help:"what bearers may do, the first that matches: [{claim, value, role, scopes}]"`
}

const (
	maxCAFile = 1 << 20
	// keysOfIssuer, in the data directory, is what the issuer last published.
	keysOfIssuer = "oidc-keys.json"
)

func (a *Access) validate(t TLS) error {
	var errs []error
	if t.ClientCAFile != "" && t.CertFile == "" {
		errs = append(errs, errors.New("tls.clientCaFile: without tls.certFile there is no TLS, and so no client certificate"))
	}
	if (t.ClientCAFile == "") != (len(a.Certificates) == 0) {
		errs = append(errs, errors.New("access.certificates and tls.clientCaFile go together"))
	}
	if a.RequestsPerSecond < 0 {
		errs = append(errs, errors.New("access.requestsPerSecond is less than none"))
	}
	o := a.OIDC
	if o.Issuer == "" {
		if o.Audience+o.JWKSURI+o.CAFile+o.NameClaim != "" || len(o.Grants) > 0 {
			errs = append(errs, errors.New("access.oidc.issuer is needed with the rest of access.oidc"))
		}
		return errors.Join(errs...)
	}
	if o.Audience == "" {
		errs = append(errs, errors.New("access.oidc.audience is needed: a token that was made for another service would be taken here"))
	}
	u, err := url.Parse(o.JWKSURI)
	switch {
	case err != nil || u.Host == "":
		errs = append(errs, fmt.Errorf("access.oidc.jwksUri: %q is not a URL", o.JWKSURI))
	case u.Scheme != "https" && (u.Scheme != "http" || !loopbackHost(u.Hostname())):
		errs = append(errs, fmt.Errorf("access.oidc.jwksUri: %q is not https: whoever is on the way would choose the keys", o.JWKSURI))
	}
	if len(o.Grants) == 0 {
		errs = append(errs, errors.New("access.oidc.grants: without any, nobody of the issuer may do anything"))
	}
	return errors.Join(errs...)
}

func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

// tlsConfig returns what the API serves with, nil for plain HTTP.
func tlsConfig(c TLS) (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("control: tls: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.ClientCAFile == "" {
		return config, nil
	}
	pem, err := readCAs(c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("control: tls.clientCaFile: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("control: tls.clientCaFile: %s holds no PEM certificate", c.ClientCAFile)
	}
	// Bearers of tokens present none.
	config.ClientAuth = tls.VerifyClientCertIfGiven
	config.SessionTicketsDisabled = true // each connection proves who it is
	return config, nil
}

func readCAs(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCAFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxCAFile)
	}
	return os.ReadFile(file)
}

// openOIDC returns what verifies the issuer's tokens, and what keeps its keys fresh until
// ctx ends; both are nil if there is no issuer.
func openOIDC(c OIDC, dataDir string, log zerolog.Logger) (*controlapi.OIDC, func(context.Context) error, error) {
	if c.Issuer == "" {
		return nil, nil, nil
	}
	source := jwt.Source{URI: c.JWKSURI}
	if c.CAFile != "" {
		pem, err := readCAs(c.CAFile)
		if err != nil {
			return nil, nil, fmt.Errorf("control: access.oidc.caFile: %w", err)
		}
		source.CAPem = string(pem)
	}
	log = log.With().Str("part", "oidc").Str("issuer", c.Issuer).Logger()
	ring, file := jwt.NewKeyring(source), filepath.Join(dataDir, keysOfIssuer)
	if err := ring.Load(file); err != nil {
		log.Warn().Err(err).Msg("the keys of the issuer that were kept are no good, they are fetched")
	}
	out := &controlapi.OIDC{
		Verifier:  jwt.NewVerifier(jwt.Rules{Issuer: c.Issuer, Audiences: []string{c.Audience}}, ring),
		NameClaim: c.NameClaim, Grants: c.Grants,
	}
	failing := false
	return out, func(ctx context.Context) error {
		ring.Run(ctx, jwt.Fetching{
			Allowed: func(netip.Addr) bool { return true }, // the operator named the server, not a caller
			File:    file,
			Fetched: func(_ *jwt.KeySet, err error) {
				switch {
				case err != nil && !failing:
					log.Warn().Err(err).Msg("the keys of the issuer cannot be fetched, those that were count on")
				case err == nil && failing:
					log.Info().Msg("the keys of the issuer were fetched again")
				}
				failing = err != nil
			},
		})
		return nil
	}, nil
}

// withAccess adds to opts who may call, and returns what has to run for it, if anything.
func withAccess(opts *controlapi.Options, cfg *Config, log zerolog.Logger) (run func(context.Context) error, err error) {
	if opts.TLS, err = tlsConfig(cfg.TLS); err != nil {
		return nil, err
	}
	opts.RequestsPerSecond = cfg.Access.RequestsPerSecond
	opts.Certificates, opts.TrustDomain = cfg.Access.Certificates, cfg.TrustDomain
	opts.OIDC, run, err = openOIDC(cfg.Access.OIDC, cfg.DataDir, log)
	return run, err
}
