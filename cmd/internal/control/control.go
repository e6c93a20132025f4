// Package control wires the control plane: the revision log, the registry's
// client, republisher and watcher, and the control API. It does not know the
// data planes.
//
// What was answered with success is in the log, on disk, before the answer.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/role"
	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Config configures `hedgerow control`.
type Config struct {
	Address     string   `yaml:"address" help:"host:port of the API, gRPC and REST; beyond loopback it needs tls"`
	TLS         TLS      `yaml:"tls"`
	Hosts       []string `yaml:"hosts" help:"names under which the API is reached, beside its address and localhost"`
	Mesh        string   `yaml:"mesh" help:"the mesh's name"`
	TrustDomain string   `yaml:"trustDomain" help:"the SPIFFE trust domain of its nodes"`
	DataDir     string   `yaml:"dataDir" help:"directory for the revision log, the token and keys, created 0700"`
	Trust       Trust    `yaml:"trust"`
	Access      Access   `yaml:"access"`
	Redis       Redis    `yaml:"redis"`
	// Vault is where nodes get their certificates. It is needed if revisions or trust.signer
	// say vault, and for hosts to join.
	Vault     role.VaultLogin `yaml:"vault"`
	Revisions string          `yaml:"revisions" help:"where the log of revisions is: file, in dataDir, of one control plane; vault, which several may share"`
	Log       role.Log        `yaml:"log"`
	// URL and CAFile are what join files say of this API.
	URL    string `yaml:"url" help:"https URL at which hosts that join reach the API, if it is not the address"`
	CAFile string `yaml:"caFile" help:"PEM file with the CA of the API's certificate, for hosts that join; the system's if absent"`
}

// hasVault reports whether there is a Vault in which nodes are made.
func (c *Config) hasVault() bool { return c.Vault.Address != "" || len(c.Vault.Addresses) > 0 }

// TLS is the API's own certificate.
type TLS struct {
	CertFile string `yaml:"certFile" help:"PEM certificate chain"`
	KeyFile  string `yaml:"keyFile" help:"PEM private key"`
	// ClientCAFile is apart from the mesh's CA unless that one signs for operators too.
	ClientCAFile string `yaml:"clientCaFile" help:"PEM CAs of client certificates; who presents one is whom access.certificates says"`
}

// Default returns the defaults of `hedgerow control`.
func Default() Config {
	return Config{
		Address:     "127.0.0.1:7070",
		Mesh:        "default",
		TrustDomain: "hedgerow.local",
		DataDir:     "/var/lib/hedgerow/control",
		Log:         role.Log{Level: "info"},
	}
}

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	c.Redis.Mesh = c.Mesh
	errs := []error{c.Redis.Validate(), c.Redis.Admin.validate()}
	host, _, err := net.SplitHostPort(c.Address)
	switch ip := net.ParseIP(host); {
	case err != nil:
		errs = append(errs, fmt.Errorf("address: %q is not host:port", c.Address))
	case c.TLS.CertFile == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()):
		errs = append(errs, fmt.Errorf("address: %s is not a loopback address: tokens would cross the network in the clear; set tls.certFile and tls.keyFile", c.Address))
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("dataDir is needed"))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("tls: certFile and keyFile go together"))
	}
	errs = append(errs, c.Access.validate(c.TLS))
	if (c.Trust.RootsFile == "") != (c.Trust.KeysFile == "") {
		errs = append(errs, errors.New("trust: rootsFile and keysFile go together; without both the control plane keeps a root of its own"))
	}
	if err := mesh.CheckTrustDomain(c.TrustDomain); err != nil {
		errs = append(errs, fmt.Errorf("trustDomain: %w", err))
	}
	if c.Trust.CAFile == "" {
		errs = append(errs, errors.New("trust.caFile is needed: PEM roots of the certificates of nodes, as from: vault read -field=certificate pki_mesh/cert/ca"))
	}
	return errors.Join(append(errs, c.checkVault()...)...)
}

// Deps are what `hedgerow up` adds.
type Deps struct {
	// First is applied, as the body of POST /v1:apply, if the log is empty.
	First []byte
	// Backdate is how far its issuer dates certificates back, at least.
	Backdate time.Duration
	// Check is one more condition of /readyz. May be nil.
	Check func(context.Context) error
	// Ready is called once when the API serves. May be nil.
	Ready func()
}

// Command returns `control`.
func Command() *cobra.Command {
	cfg := Default()
	return role.Command("control", "Run the control plane",
		`Control serves the API by which routes, policies and everything else of the mesh
are managed, keeps every accepted revision in its log, and publishes it to
Redis. The first start writes admin.token and curlrc into dataDir.`,
		&cfg, (*Config).Validate, func(ctx context.Context, cfg *Config) error { return Run(ctx, cfg, Deps{}) })
}

// Run runs the control plane until ctx ends.
func Run(ctx context.Context, cfg *Config, deps Deps) (err error) {
	log, err := role.NewLog(os.Stderr, cfg.Log.Level)
	if err != nil {
		return err
	}
	log = log.With().Str("role", "CONTROL").Logger()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("control: data directory: %w", err)
	}
	if err := ensureToken(cfg.DataDir); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	vault, err := cfg.openVault(log, reg)
	if err != nil {
		return err
	}
	if vault != nil {
		defer vault.Close()
	}
	revisions, err := cfg.openLog(ctx, vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, revisions.close()) }()
	audit, err := auditlog.Open(filepath.Join(cfg.DataDir, auditFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	trust, err := openTrust(ctx, cfg, vault, log)
	if err != nil {
		return err
	}
	client, err := registry.Open(cfg.Redis.Config, trust.authority.Verifier, log, reg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	roots, err := openRoots(cfg.Trust.CAFile, cfg.TrustDomain, log)
	if err != nil {
		return err
	}
	var admin *vaultpki.Admin
	if vault != nil {
		admin = vault.Admin(cfg.TrustDomain)
	}
	users, err := cfg.Redis.Admin.newUsers(client, admin, reg)
	if err != nil {
		return err
	}
	followed := usersOf(users)
	watcher := registry.NewWatcher(client, roots.bundle, registry.WatcherOptions{All: true, OnSnapshot: followed.follow})
	opts := controlapi.Options{
		Log: revisions.Log, Publisher: client, Authority: trust.authority, Observed: watcher, TokenFile: filepath.Join(cfg.DataDir, tokenFile),
		Audit: audit, Hosts: cfg.Hosts, Metrics: reg, Gatherer: reg, Logger: log, Backdate: deps.Backdate,
	}
	if vault != nil {
		trusted := vaultNodes{admin}
		opts.Trust, opts.Joins, opts.TrustDomain = trusted, trusted, cfg.TrustDomain
		if opts.Join, err = joinFile(cfg, trust.cfg.RootsFile); err != nil {
			return err
		}
	}
	opts.Access = withdrawals(opts.Trust, followed)
	var republisher *registry.Republisher // set before anybody can ask
	opts.Checks = []controlapi.Check{
		{Name: "published", Ready: func(context.Context) error { return conflict(republisher.State(), cfg.Revisions == inVault) }},
		{Name: "observed", Ready: func(context.Context) error { return observed(republisher.State(), watcher.Snapshot()) }},
	}
	opts.Checks = append(append(opts.Checks, usersCheck(users)...), vaultCheck(vault)...)
	if deps.Check != nil {
		opts.Checks = append(opts.Checks, controlapi.Check{Name: "demo", Ready: deps.Check})
	}
	keys, err := withAccess(&opts, cfg, log)
	if err != nil {
		return err
	}
	api, err := controlapi.New(ctx, opts)
	if err != nil {
		return err
	}
	republisher = registry.NewRepublisher(client, api.Source)
	group := role.NewGroup(log)
	group.Go("keys", trust.run)
	group.Go("roots", roots.run)
	if users != nil {
		group.Go("redis users", users.Run)
	}
	group.Go("signing", api.RunSigning)
	if keys != nil {
		group.Go("keys of OIDC", keys)
	}
	group.Go("following", api.RunFollowing)
	group.Go("revision log", revisions.run)
	group.Go("nodes", api.RunNodes)
	return serve(ctx, cfg, deps, group, republisher, watcher, api)
}

// observed reports that the data planes were not read yet: what the API would
// say of them now is nothing.
func observed(s registry.PublishState, seen *mesh.Snapshot) error {
	if s.Head.Revision > 0 && seen == nil {
		return errors.New("the registry was not read yet")
	}
	return nil
}

// conflict reports that Redis holds what the log did not write. While Redis is
// merely away or behind, readiness is not this check's affair: writes ask
// Redis themselves, and what it lacks is on its way.
// With a log that is shared, another control plane may have published what is taken from
// the log a moment later.
func conflict(s registry.PublishState, shared bool) error {
	if mesh.KindOf(s.Err) != mesh.Conflict || shared && time.Since(s.Since) < conflictAfter {
		return nil
	}
	return fmt.Errorf("%w; is another control plane publishing to this mesh?", s.Err)
}

// conflictAfter is how long another control plane may be ahead in Redis.
const conflictAfter = 10 * time.Second

// serve runs the parts until ctx ends or one fails.
func serve(ctx context.Context, cfg *Config, deps Deps, group *role.Group, republisher *registry.Republisher, watcher *registry.Watcher, api *controlapi.Server) error {
	listener, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return mesh.Errorf("control.Listen", cfg.Address, mesh.Unavailable, "%w", err).WithHint("is another process listening there? choose another address")
	}
	group.Go("registry watch", watcher.Run)
	group.Go("republisher", republisher.Run)
	group.Go("quarantines", api.RunQuarantines)
	if err := first(ctx, deps, api); err != nil {
		return errors.Join(err, group.Stop(), listener.Close())
	}
	group.Go("control API", func(ctx context.Context) error { return api.Serve(ctx, listener) })
	if deps.Ready != nil {
		deps.Ready()
	}
	group.Wait(ctx)
	return group.Stop()
}

// first applies deps.First if nothing was ever written.
func first(ctx context.Context, deps Deps, api *controlapi.Server) error {
	if deps.First == nil {
		return nil
	}
	head, _, err := api.Source(ctx)
	if err != nil || head.Revision > 0 {
		return err
	}
	return api.Apply(ctx, "up", deps.First)
}
