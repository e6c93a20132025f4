// Package registry distributes the mesh through Redis: the control plane
// publishes configuration by compare-and-set (Client.Publish, Republisher),
// data planes watch it together with the instances (Watcher), and every
// process keeps a lease that says what it offers (Lease). It is the only code
// that knows Redis: standalone, Sentinel or Cluster, with or without TLS.
//
// It does not decide what the configuration is: the revision log does. It does
// not compile, balance or health-check. It uses no keyspace notifications, no
// SCAN and no pub/sub; all of them lose what happens while nobody listens.
//
// Everything read from Redis is hostile input: bounded, checked against the
// digest in its head, whose signature package signing believes, and refused when
// older than what was applied.
//
// Invariant: a Redis that is away, slow, empty or older never takes anything
// away from a data plane. The last good Snapshot stands.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// Times of the protocol.
const (
	dialTimeout  = 2 * time.Second
	readTimeout  = 3 * time.Second
	writeTimeout = 2 * time.Second

	// callTimeout bounds one call, dialling included.
	callTimeout = 5 * time.Second

	// LeaseTTL is how long a registration outlives its last heartbeat.
	// Heartbeats go out every LeaseTTL/3, so two may be lost.
	LeaseTTL = 15 * time.Second
)

// Limits on what is accepted from Redis, and so on what is published.
const (
	maxRecords       = 50_000
	maxRecordBytes   = 1 << 20
	maxConfigBytes   = 64 << 20
	maxHeadBytes     = 4 << 10
	maxDocumentBytes = 64 << 10
	maxInstances     = 64 // of one document
)

// Config says where Redis is and how to log in. The yaml tags are the keys
// under "redis" in a role's configuration file.
type Config struct {
	// Addresses are "host:port": one of a standalone server, several of a
	// Cluster, or the Sentinels' when MasterName is set.
	Addresses  []string `yaml:"addresses" help:"Redis servers, host:port; several mean a Cluster, or Sentinels with redis.masterName"`
	MasterName string   `yaml:"masterName" help:"name of the primary that the Sentinels watch"`
	Username   string   `yaml:"username" help:"Redis ACL user"`
	// PasswordFile holds the password on its first line. It is read again on
	// every new connection, so that a rotated password needs no restart.
	PasswordFile string `yaml:"passwordFile" help:"file with the Redis password"`
	TLS          TLS    `yaml:"tls"`
	// Mesh is the mesh's name, a part of every key.
	Mesh string `yaml:"-"`
}

// TLS is how Redis is reached over TLS. It is used when any field is set.
type TLS struct {
	Enabled    bool   `yaml:"enabled" help:"use TLS with the system's roots"`
	CAFile     string `yaml:"caFile" help:"PEM certificates that Redis's certificate must chain to"`
	CertFile   string `yaml:"certFile" help:"PEM client certificate"`
	KeyFile    string `yaml:"keyFile" help:"PEM client key"`
	ServerName string `yaml:"serverName" help:"name in Redis's certificate, if not the address's host"`
}

// Validate reports everything that is wrong with c, at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.Addresses) == 0 {
		errs = append(errs, errors.New("redis.addresses: at least one address is needed"))
	}
	for i, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("redis.addresses[%d]: %q is not host:port", i, a))
		}
	}
	if !mesh.ValidID(c.Mesh) {
		errs = append(errs, fmt.Errorf("mesh: %q is not a name of 1 to 63 characters a-z, 0-9 and '-'", c.Mesh))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("redis.tls: certFile and keyFile are needed together"))
	}
	return errors.Join(errs...)
}

// Client talks to the Redis of one mesh. Its methods may be called from
// several goroutines, and all of them end within their context or, without a
// deadline, within seconds.
type Client struct {
	redis   redis.UniversalClient
	connect func() redis.UniversalClient // another client, with connections of its own
	cfg     Config
	dial    dialFunc
	keys    keys
	log     zerolog.Logger
	metrics *metrics
	alarm   *alarm
	trust   *signing.Verifier
	scripts atomic.Bool // Redis knows no functions
}

// Open returns a client for cfg that takes the configuration which trust believes, and
// shares with it the keys that Redis holds. It reads the TLS files, and connects only
// when used: Redis may be away now. Close it after everything that uses it has
// ended. Metrics are registered with reg; one registry takes one Client.
func Open(cfg Config, trust *signing.Verifier, log zerolog.Logger, reg prometheus.Registerer) (*Client, error) {
	const op = "registry.Open"
	if err := cfg.Validate(); err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Invalid, Err: err}
	}
	if trust.Mesh() != cfg.Mesh {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "mesh: it is %q, the configuration keys are of %q", cfg.Mesh, trust.Mesh())
	}
	tlsConfig, err := cfg.TLS.load()
	if err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Invalid, Err: err}
	}
	// The library logs every failed dial through a global of its own, to
	// stderr. All of it reaches the loops here as errors, which they count, and
	// log now and then. No other package uses the library.
	redis.SetLogger(silent{})
	if _, err := readPassword(cfg.PasswordFile); err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Invalid, Err: err, Hint: "see redis.passwordFile"}
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Internal, Err: err}
	}
	return newClient(cfg, trust, dialer(tlsConfig), log, m), nil
}

// silent is the library's logger.
type silent struct{}

// Printf does nothing.
func (silent) Printf(context.Context, string, ...any) {}

func newClient(cfg Config, trust *signing.Verifier, dial dialFunc, log zerolog.Logger, m *metrics) *Client {
	connect := func() redis.UniversalClient { return redis.NewUniversalClient(options(cfg, dial)) }
	return &Client{
		redis:   connect(),
		connect: connect,
		cfg:     cfg,
		dial:    dial,
		keys:    keys{prefix: "{hedgerow:" + cfg.Mesh + "}:"},
		log:     log.With().Str("part", "registry").Logger(),
		metrics: m,
		alarm:   newAlarm(),
		trust:   trust,
	}
}

func options(cfg Config, dial dialFunc) *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs:      cfg.Addresses,
		MasterName: cfg.MasterName,
		CredentialsProviderContext: func(context.Context) (string, string, error) {
			password, err := readPassword(cfg.PasswordFile)
			return cfg.Username, password, err
		},
		// RESP2: no pushed frames, which nothing here uses.
		Protocol:                 2,
		DisableIdentity:          true, // CLIENT SETINFO is in no node's ACL
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		ContextTimeoutEnabled:    true,
		Dialer:                   dial,
		DialTimeout:              dialTimeout,
		ReadTimeout:              readTimeout,
		WriteTimeout:             writeTimeout,
		// The loops here retry, with a backoff that spreads a fleet. The
		// library's own retries would hide failures from them.
		MaxRetries:    -1,
		DialerRetries: 1,
		// After PoolSize failed dials the library probes once a second on its
		// own, which no backoff spreads; so the pool is nominally large and
		// its connections are bounded apart.
		PoolSize:        16_384,
		MaxActiveConns:  64,
		MaxIdleConns:    8,
		ConnMaxIdleTime: 5 * time.Minute,
	}
}

// Close closes all connections.
func (c *Client) Close() error {
	if err := c.redis.Close(); err != nil {
		return wrap("registry.Close", "", err)
	}
	return nil
}

// Ping reports whether Redis answers.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return wrap("registry.Ping", "", c.redis.Ping(ctx).Err())
}

// keys names everything that a mesh has in Redis. One hash tag keeps a mesh in
// one slot of a Cluster, so that scripts over several keys are atomic.
type keys struct{ prefix string }

func (k keys) head() string    { return k.prefix + "head" }
func (k keys) config() string  { return k.prefix + "config" }
func (k keys) changes() string { return k.prefix + "changes" }

// signers is the signed document that says who may sign heads.
func (k keys) signers() string { return k.prefix + "keys" }

// rate is the key of a rate that the mesh shares.
func (k keys) rate(bucket string) string { return k.prefix + "rl:" + bucket }

// instance is the key of the document of one process.
func (k keys) instance(node, role string) string {
	return k.prefix + "inst:" + node + "/" + role
}

// hints is the stream that says that a document of node changed. There are 64
// for the whole mesh, so a watcher waits on a bounded number of streams.
func (k keys) hints(node string) string {
	return fmt.Sprintf("%sev:%d", k.prefix, sha256.Sum256([]byte(node))[0]%64)
}

// wrap makes err a *mesh.Error: Unavailable for everything that a Redis that
// is well again would not answer. nil stays nil.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var known *mesh.Error
	if errors.As(err, &known) {
		return err
	}
	return (&mesh.Error{Op: op, Name: name, Kind: mesh.Unavailable, Err: err}).
		WithHint("check that Redis is reachable and that its user may use the mesh's keys")
}

func readPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the Redis password: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// load returns nil when TLS is not asked for.
func (t TLS) load() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.tls.caFile: %s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("redis.tls.certFile: %w", err)
		}
		// Read for every handshake: certificates are renewed on disk.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &cert, err
		}
	}
	return cfg, nil
}
