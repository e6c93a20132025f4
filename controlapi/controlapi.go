// Package controlapi is the control plane's face: gRPC and REST on one port,
// from one contract (package openapi). It authenticates, validates and writes:
// every accepted change becomes one revision, stored in the log before the
// answer and published to the registry after.
//
// It does not route traffic, does not know Redis or Vault, and keeps no
// configuration of its own: what it serves is what the log holds.
//
// Invariant: a request that is not answered with success has stored nothing.
package controlapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"

	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// A Log stores every accepted change. It decides what the configuration is.
type Log interface {
	// Append stores c, whose head follows the stored one, and returns once it
	// is safe. An error of kind Stale means that another writer was first.
	Append(ctx context.Context, c mesh.Change) error
	// Load returns the newest head and all records; revision 0 and no records
	// from an empty log.
	Load(ctx context.Context) (mesh.Head, mesh.Records, error)
}

// A Publisher brings revisions to the data planes. *registry.Client is one.
type Publisher interface {
	// Ping reports whether a revision could be published now.
	Ping(ctx context.Context) error
	// Publish publishes change, which was made on base and leads to all.
	Publish(ctx context.Context, change mesh.Change, base mesh.Head, all mesh.Records) (registry.Outcome, error)
}

// Observed is what the data planes say of themselves. *registry.Watcher is one
// when it watches all.
type Observed interface {
	// Reports returns what every process said, sorted by node and role.
	Reports() []registry.Report
}

var (
	_ Publisher = (*registry.Client)(nil)
	_ Observed  = (*registry.Watcher)(nil)
)

// A Check is something that /readyz looks at. Ready returns nil if all is well.
type Check struct {
	Name  string
	Ready func(ctx context.Context) error
	// Advisory has /readyz tell of it under "warnings", and be ready all the same.
	Advisory bool
}

// Options is what a Server needs.
type Options struct {
	Log       Log       // needed
	Publisher Publisher // needed
	Authority Authority // needed
	// Observed is where instances and the state of nodes come from. If nil,
	// there are no instances and nodes have no state.
	Observed Observed
	// Trust is where what nodes may be is kept equal to the configuration, and Joins keeps
	// what became of tokens. With neither, no host can join.
	Trust nodes.Trust
	Joins nodes.Store
	// Join is what hosts need to join, beside the token.
	Join *hedgerowv1.JoinFile
	// TokenFile holds the tokens that callers may present, one a line: the
	// token itself, or "sha256:" and the hash of it in hex. Empty lines and
	// lines that begin with "#" are ignored. Needed.
	TokenFile string
	// Certificates says who presents a client certificate that TLS has verified; the
	// first that matches counts. IDs are of TrustDomain.
	Certificates []CertificateGrant
	// TrustDomain is that of all identities. Needed with Trust and Certificates.
	TrustDomain string
	// OIDC says whose signed tokens are taken for bearer tokens. May be nil.
	OIDC *OIDC
	// Audit keeps what was asked for. If nil, nothing does.
	Audit Audit
	// RequestsPerSecond is how many a caller may send; 50 if it is 0.
	RequestsPerSecond float64
	// Hosts are names under which the API is reached, beside the loopback
	// names and the address that the connection came to: "mesh.example".
	Hosts []string
	// TLS is served if it is set. It is needed on any listener that is not on
	// a loopback address.
	TLS *tls.Config
	// Access is where nodes log in: it is withdrawn from those in quarantine.
	Access []Access
	// Backdate is how far at least whoever issues the mesh's certificates dates the start of
	// their validity back; see mesh.CertificatesFrom. 0 is always right.
	Backdate time.Duration
	// Checks are looked at by /readyz, beside the registry.
	Checks []Check
	// Metrics is where metrics are registered; Gatherer is what /metrics
	// serves. Without Gatherer there is no /metrics.
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	Logger   zerolog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time

	identify func(*http.Request) caller // of tests; else by TokenFile
}

func (o *Options) validate() error {
	var errs []error
	if o.Log == nil {
		errs = append(errs, errors.New("log: a revision log is needed"))
	}
	if o.Publisher == nil {
		errs = append(errs, errors.New("publisher: a publisher is needed"))
	}
	if o.Authority == nil {
		errs = append(errs, errors.New("authority: nobody would take what nobody signs"))
	}
	if o.Metrics == nil {
		errs = append(errs, errors.New("metrics: a registerer is needed"))
	}
	if o.TokenFile == "" {
		errs = append(errs, errors.New("tokenFile: without a token nobody could call"))
	}
	if (o.Trust == nil) != (o.Joins == nil) || (o.Trust == nil) != (o.Join == nil) {
		errs = append(errs, errors.New("trust: it goes with joins and join"))
	}
	return errors.Join(errs...)
}

// Limits on connections and requests.
const (
	maxConnections = 1024
	maxBodyBytes   = 1 << 20
	maxHeaderBytes = 64 << 10

	headerTimeout  = 10 * time.Second
	requestTimeout = 30 * time.Second // to read a request, and again to answer it
	idleTimeout    = 2 * time.Minute
	drainTimeout   = 10 * time.Second
)

// Server is one control plane. Make it with New.
type Server struct {
	writer  *writer
	http    http.Handler
	grpc    *grpc.Server
	tls     *tls.Config
	log     zerolog.Logger
	service *service
}

// New loads the log and the tokens and returns a Server that serves nothing
// yet. It fails with kind Invalid for wrong options and with the log's error
// when that cannot be loaded.
func New(ctx context.Context, opts Options) (*Server, error) {
	const op = "controlapi.New"
	if err := opts.validate(); err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Invalid, Err: err}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	log := opts.Logger.With().Str("part", "controlapi").Logger()
	tokens, err := loadTokens(opts.TokenFile)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Internal, Err: err}
	}
	w, err := newWriter(ctx, &opts, log, m)
	if err != nil {
		return nil, err
	}
	known := &callers{file: tokens, writer: w, now: opts.Now, used: new(lastUse), log: log, oidc: opts.OIDC}
	var certErr, claimErr error
	known.certificates, certErr = certificateGrants(opts.Certificates, opts.TrustDomain)
	known.claims, claimErr = claimGrants(opts.OIDC)
	if err := errors.Join(certErr, claimErr); err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Invalid, Err: err}
	}
	identify := known.identify
	if opts.identify != nil {
		identify = opts.identify
	}
	w.audit = newAuditor(opts.Audit, opts.Now, log, m)
	limits := newLimiter(opts.Now, opts.RequestsPerSecond)
	limited := func(r *http.Request) caller { return limits.check(identify(r)) }
	s := &Server{writer: w, tls: opts.TLS, log: log, service: &service{writer: w, observed: opts.Observed, used: known.used, containments: newContainments(&opts, log, m), join: opts.Join, trustDomain: opts.TrustDomain}}
	if opts.Trust != nil {
		s.service.nodes, err = nodes.New(nodes.Options{Trust: opts.Trust, Store: opts.Joins, Wanted: s.service.grants, Log: log, Metrics: opts.Metrics})
		if err != nil {
			return nil, err
		}
		w.changed = s.service.nodes.Changed
	}
	s.grpc = newGRPC(s.service, log, m)
	s.http, err = newHandler(handlerOptions{
		service: s.service, grpc: s.grpc, identify: limited, hosts: opts.Hosts,
		checks: append(slices.Clone(opts.Checks), Check{Name: "signed", Ready: w.signedLately}), gatherer: opts.Gatherer, log: log, metrics: m,
	})
	if err != nil {
		return nil, &mesh.Error{Op: op, Kind: mesh.Internal, Err: err}
	}
	return s, nil
}

// Serve serves l until ctx ends, lets requests under way finish for a while,
// and closes l. It refuses a listener that is not on a loopback address when
// there is no TLS: tokens would cross the network in the clear.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	const op = "controlapi.Serve"
	if s.tls == nil && !loopback(l.Addr()) {
		err := mesh.Errorf(op, l.Addr().String(), mesh.Invalid, "not a loopback address, and there is no TLS").
			WithHint("listen on 127.0.0.1, or configure a certificate")
		return errors.Join(err, l.Close())
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.tls != nil)
	protocols.SetUnencryptedHTTP2(s.tls == nil)
	srv := &http.Server{
		Handler:           s.http,
		Protocols:         protocols,
		TLSConfig:         s.tls,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 100},
		ErrorLog:          errorLog(s.log),
	}
	l = netutil.LimitListener(l, maxConnections)
	served := make(chan error, 1)
	go func() {
		if s.tls != nil {
			served <- srv.ServeTLS(l, "", "")
		} else {
			served <- srv.Serve(l)
		}
	}()
	select {
	case err := <-served:
		return &mesh.Error{Op: op, Name: l.Addr().String(), Kind: mesh.Internal, Err: err}
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		// Someone holds a connection open; it is cut.
		err = errors.Join(fmt.Errorf("requests were cut after %v: %w", drainTimeout, err), srv.Close())
	}
	s.grpc.Stop()
	<-served //nolint:errcheck // http.ErrServerClosed
	return err
}

// Source returns the newest stored revision and all of its records that are
// published, which nobody may change. It is what is published to a registry that comes back
// empty (registry.Source).
func (s *Server) Source(context.Context) (mesh.Head, mesh.Records, error) {
	st := s.writer.state.Load()
	return st.head, st.public, nil
}

// Apply writes the objects of batch, the JSON body of POST /v1:apply, as actor.
// It is how a program that embeds the control plane sets up its objects.
func (s *Server) Apply(ctx context.Context, actor string, batch []byte) error {
	b := new(hedgerowv1.Batch)
	if err := decodeJSON(batch, b); err != nil {
		return err
	}
	_, err := s.service.Apply(ourselves(ctx, actor), &hedgerowv1.ApplyRequest{Batch: b})
	return err
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
