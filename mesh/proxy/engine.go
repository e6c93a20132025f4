package proxy

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// Options is what an Engine is made of.
type Options struct {
	Mesh        string // the mesh's name: the last part of server names
	TrustDomain string
	Node        string // the id of this node, whose locality others are compared with; may be ""
	Name        string // of this process in decision records: "sidecar/edge7"
	Limits      Limits // EdgeLimits or MeshLimits
	Observe     Observe
	KeysDir     string // where the keys of issuers are kept between runs (0600); "" nowhere
	Log         zerolog.Logger
	Registerer  prometheus.Registerer
	// Need is told of each service that traffic goes to, once, so that its
	// instances are watched; the first requests wait up to Limits.FirstUse for
	// an Update that knows the service. It must not block. If nil, every
	// service is taken to be watched.
	Need func(service string)
	// Denies is what the Sources that this engine uses heed. Update sets it, and cuts the
	// connections of whom it denies. If nil, handshakes deny nobody.
	Denies *identity.Denies
	// Tokens keeps the rate limits of scope MESH. If nil, each data plane keeps to its
	// part of them.
	Tokens Tokens
	// Compiled is told how each new configuration compiled. errs name the
	// objects that were left out or closed; the others are in force. It must
	// not call the Engine. May be nil.
	Compiled func(head mesh.Head, errs []error)
}

// Engine decides and forwards requests by the latest snapshot. Its handlers
// read one immutable state through an atomic pointer; a request that began
// under an older one finishes under it.
type Engine struct {
	opt         Options
	metrics     *metrics
	denials     zerolog.Logger // bounded in lines a second
	peers       *peers
	toMesh      *toMesh
	lives       *lifetimes
	tunnels     tunnels
	standing    *standing
	limits      *rateLimits
	shared      *sharedLimits
	mirrors     *mirrors
	keyrings    *keyrings
	encoders    encoders
	records     recordRing
	buffers     sync.Pool // of *[copyBytes]byte
	short       shortBuffers
	linkClients sync.Pool // of *linkClient
	overload    overload
	slots       chan struct{} // one for each connection that may be open
	state       atomic.Pointer[state]

	// update is held by Update and Close, so that states are replaced in order.
	update sync.Mutex
	// needed has the services that Need was told of, with the time when.
	needed sync.Map

	// mu guards workloads. Nothing is called under it.
	mu        sync.Mutex
	workloads []*workload
}

// state is what one snapshot became.
type state struct {
	config    *mesh.Config
	table     *Table
	dial      dialList
	endpoints *Endpoints
	known     map[string]bool // services whose instances were read
	sameDial  bool            // as the state before
	replaced  chan struct{}   // closed when there is a newer state
	gateways  int             // that nodes may be
	callers   int             // sidecars and bridges, which nodes may be too
	grace     *grace          // nil if there is none
}

// enforcers returns among how many data planes l is in force: those of the configuration,
// as nobody knows of all whether they run.
func (s *state) enforcers(l *rateLimit) int {
	n := 0
	if l.atGateway {
		n += s.gateways
	}
	if l.inMesh {
		n += s.callers
	}
	return max(n, 1)
}

// count counts the data planes.
func (s *state) count() {
	for _, node := range s.config.Nodes {
		if slices.Contains(node.Roles, mesh.RoleGateway) {
			s.gateways++
		}
		for _, role := range []string{mesh.RoleSidecar, mesh.RoleBridge} {
			if slices.Contains(node.Roles, role) {
				s.callers++
			}
		}
	}
}

// New returns an Engine without a configuration: it answers 503 not_ready to
// everything until the first Update.
func New(opt Options) (*Engine, error) {
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		opt:     opt,
		metrics: m,
		denials: opt.Log.Sample(&zerolog.BurstSampler{Burst: 100, Period: time.Second}),
		tunnels: tunnels{open: map[*tunnel]struct{}{}},
	}
	e.limits, e.shared, e.mirrors = newRateLimits(), newSharedLimits(opt.Tokens, m), newMirrors()
	e.keyrings = &keyrings{dir: opt.KeysDir, allowed: e.outside, fetches: m.keyFetches, log: opt.Log, running: map[*jwt.Keyring]context.CancelFunc{}}
	e.lives, e.standing = newLifetimes(), newStanding(opt.Denies, m.cut)
	e.peers = newPeers(&opt, m.conns, e.lives, e.standing, e.allowed, e.outside)
	e.toMesh = &toMesh{e}
	e.slots = make(chan struct{}, connectionSlots())
	for _, c := range []prometheus.Collector{newEndpointCollector(e), newPolicyCollector(e), newAuthnCollector(e)} {
		if err := opt.Registerer.Register(c); err != nil {
			return nil, mesh.Errorf("proxy.New", "metrics", mesh.Internal, "%w", err)
		}
	}
	return e, nil
}

// Update makes s the snapshot that requests are decided by. The table is
// compiled again only if the configuration is another one. Connections to
// endpoints that are gone close when the requests on them have ended; those to and from
// whom s denies are cut, before anything else is done, and none is left when it returns.
func (e *Engine) Update(s *mesh.Snapshot) {
	e.standing.deny(s.Denies)
	e.update.Lock()
	defer e.update.Unlock()
	old := e.state.Load()
	next := &state{config: s.Config, known: make(map[string]bool, len(s.Instances)), replaced: make(chan struct{})}
	for service := range s.Instances {
		next.known[service] = true
	}
	if old != nil && old.config == s.Config {
		next.table, next.dial, next.gateways, next.callers, next.grace = old.table, old.dial, old.gateways, old.callers, old.grace
		next.sameDial = true
	} else {
		next.count()
		next.grace = newGrace(s.Config)
		next.table, next.dial = e.compile(old, s.Config), newDialList(s.Config)
		next.sameDial = old != nil && slices.Equal(old.dial.mesh, next.dial.mesh)
	}
	if old == nil {
		next.endpoints = NewEndpoints(nil, s, e.opt.Node)
	} else {
		next.endpoints = NewEndpoints(old.endpoints, s, e.opt.Node)
	}
	e.state.Store(next)
	if old == nil || old.table != next.table {
		e.keyrings.keep(next.table.rings)
	}
	if old != nil {
		close(old.replaced)
		e.forget(old.config, s.Config)
	}
	e.peers.keep(next.wants)
	for _, w := range e.locals() {
		w.configure(s.Config)
	}
}

func (e *Engine) compile(old *state, c *mesh.Config) *Table {
	before := &Table{}
	if old != nil {
		before = old.table
	}
	table, errs := before.Next(c, e.opt.TrustDomain)
	e.metrics.compile.Set(float64(len(errs)))
	e.metrics.revision.Set(float64(c.Head.Revision))
	for _, err := range errs {
		e.opt.Log.Error().Err(err).Uint32("revision", c.Head.Revision).Msg("an object of the configuration is not in force")
	}
	if e.opt.Compiled != nil {
		e.opt.Compiled(c.Head, errs)
	}
	return table
}

// forget drops what is kept by service of those that old had and next has not.
func (e *Engine) forget(old, next *mesh.Config) {
	for service := range old.Services {
		if next.Services[service] == nil {
			e.metrics.forget(service)
			e.needed.Delete(service)
		}
	}
	if old != next {
		e.metrics.keep(next)
	}
}

// wants reports whether connections of key may still be used.
func (s *state) wants(key peerKey) bool {
	if key.external != nil { // where a name led is not known any more
		service := s.config.Services[key.service]
		return s.sameDial && service != nil && service.External == key.external
	}
	if key.grace && s.grace == nil {
		return false
	}
	addr, err := netip.ParseAddrPort(key.address)
	return err == nil && s.dial.allows(key.node, addr.Addr()) &&
		slices.ContainsFunc(s.endpoints.Of(key.service).All(), func(e *Endpoint) bool {
			return e.Node == key.node && e.Address == key.address
		})
}

// allowed reports whether instances of node may be dialled at addr.
func (e *Engine) allowed(node string, addr netip.Addr) bool {
	s := e.state.Load()
	return s != nil && s.dial.allows(node, addr)
}

// outside reports whether an external service may be dialled at addr.
func (e *Engine) outside(addr netip.Addr) bool {
	s := e.state.Load()
	return s != nil && s.dial.outside(addr)
}

// endpoints returns the endpoints of service. If nobody has asked for the
// service before, it has them read first, and waits a little until there are
// some: a snapshot made meanwhile may list the service without them.
func (e *Engine) endpoints(x *exchange, service string) *EndpointSet {
	s := e.state.Load()
	set := s.endpoints.Of(service)
	if len(set.All()) > 0 || e.opt.Need == nil {
		return set
	}
	first, asked := e.needed.Load(service)
	if !asked {
		if s.known[service] { // watched all along: there are none
			return set
		}
		if first, asked = e.needed.LoadOrStore(service, time.Now()); !asked {
			e.opt.Need(service)
		}
	}
	since, _ := first.(time.Time)
	left := e.opt.Limits.FirstUse - time.Since(since)
	if left <= 0 {
		return set
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	ctx := x.context()
	for len(set.All()) == 0 {
		select {
		case <-s.replaced:
		case <-timer.C:
			return set
		case <-ctx.Done():
			return nil
		}
		s = e.state.Load()
		set = s.endpoints.Of(service)
	}
	return set
}

// Head names the configuration that decides now; ok is false before the first.
func (e *Engine) Head() (head mesh.Head, ok bool) {
	s := e.state.Load()
	if s == nil {
		return mesh.Head{}, false
	}
	return s.config.Head, true
}

// Edge is how a gateway's listener meets strangers.
type Edge struct {
	Hops Hops // in front of it
	// HTTPSPort is the port to which requests in clear text are redirected (308); 0
	// serves them. What a trusted proxy in front got by https is not redirected.
	HTTPSPort int
	// Proof, if set, returns what proves that a path's host is served here, as the
	// server of an ACME account asks for under ProofPrefix (RFC 8555 section 8.3).
	// It is asked before anything else is decided; what it does not know goes on as
	// any request.
	Proof func(token string) (text string, known bool)
}

// ProofPrefix is where Edge.Proof is asked, with what follows it (RFC 8555 section
// 8.3).
const ProofPrefix = "/.well-known/acme-challenge/"

// Gateway returns the door for strangers at the gateway id. It calls services as src.
func (e *Engine) Gateway(id string, src *identity.Source, edge Edge) Door {
	s := &server{
		e: e, face: Face{Kind: Gateway, Gateway: id}, hops: edge.Hops, proof: edge.Proof, forwarder: e.toMesh, counters: e.metrics.at(Face{Kind: Gateway, Gateway: id}),
		caller: func() (*identity.Source, *Refusal) { return src, nil },
	}
	if edge.HTTPSPort != 0 {
		s.toHTTPS = &Rule{Timeout: DefaultTimeout}
		s.toHTTPS.redirect = &mesh.Redirect{Scheme: "https", Port: uint32(edge.HTTPSPort), Status: http.StatusPermanentRedirect}
	}
	return s
}

// Outbound returns the door for the workloads of this node. caller says
// which of them sends what comes by this listener.
func (e *Engine) Outbound(caller CallerOf) Door {
	return &server{e: e, face: Face{Kind: Outbound}, caller: caller, forwarder: e.toMesh, counters: e.metrics.at(Face{Kind: Outbound})}
}

// Inbound returns the door for verified mesh peers, to be served over TLS
// with TLSConfig. Which workload a request is for was settled by the server
// name of its connection, never by its Host. An error is of kind Invalid.
func (e *Engine) Inbound(workloads ...Workload) (Door, *tls.Config, error) {
	in := &inbound{byName: map[string]*server{}, sources: map[string]*identity.Source{}}
	for _, w := range workloads {
		local, err := newWorkload(w, e.opt.Limits, e.metrics.conns, e.lives)
		if err != nil {
			return nil, nil, mesh.Errorf("proxy.Inbound", "services/"+w.Service, mesh.Invalid, "%w", err)
		}
		e.mu.Lock()
		e.workloads = append(e.workloads, local)
		e.mu.Unlock()
		if s := e.state.Load(); s != nil {
			local.configure(s.config)
		}
		name := identity.ServerName(w.Service, w.Node, e.opt.Mesh)
		in.sources[name] = w.Source
		in.byName[name] = &server{
			e: e, face: Face{Kind: Inbound, Service: w.Service}, local: w.Source, counters: e.metrics.at(Face{Kind: Inbound, Service: w.Service}),
			forwarder: &toWorkload{local, e},
		}
	}
	return in, identity.ServerConfig(in.source), nil
}

// overHTTP2 reports whether the workloads of service speak HTTP/2.
func (e *Engine) overHTTP2(service string) bool {
	s := e.state.Load().table.Service(service)
	return s != nil && (s.Protocol == mesh.ProtocolHTTP2 || s.Protocol == mesh.ProtocolGRPC)
}

// RoundTripper returns a transport whose requests, to http://<service>.mesh,
// are decided and forwarded like those of a workload with the identity of
// caller. What the proxy refuses comes back as a response with problem+json, so
// an error means only that the caller's context ended.
func (e *Engine) RoundTripper(caller *identity.Source) http.RoundTripper {
	return &roundTripper{&server{
		e: e, face: Face{Kind: Outbound}, forwarder: e.toMesh, trust: trust{own: true}, plain: true, counters: e.metrics.at(Face{Kind: Outbound}),
		caller: func() (*identity.Source, *Refusal) { return caller, nil },
	}}
}

// Close ends the connections that the engine keeps. Requests still under way
// finish; new ones are refused.
func (e *Engine) Close() {
	e.update.Lock()
	defer e.update.Unlock()
	e.keyrings.close()
	e.mirrors.close()
	e.peers.close()
	for _, w := range e.locals() {
		w.close()
	}
}

// await waits, after Close, for the links that were made. When done is closed it cuts
// those that are left.
func (e *Engine) await(done <-chan struct{}) {
	e.peers.made.await(done)
	for _, w := range e.locals() {
		w.made.await(done)
	}
}

// locals returns the workloads beside this proxy.
func (e *Engine) locals() []*workload {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.workloads
}

// mostConnections is how many connections of clients one process has at once.
const mostConnections = 50_000

// connectionSlots returns mostConnections, or four fifths of the file descriptors
// that this process may have: the rest is for its own connections.
func connectionSlots() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur/5*4 > mostConnections {
		return mostConnections
	}
	return max(int(limit.Cur/5*4), 1)
}
