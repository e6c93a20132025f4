// Package nodes is how machines become nodes: it keeps what Vault allows each node equal to
// what the configuration says of it, makes the tokens with which hosts join, and watches
// what becomes of these.
//
// It does not know Vault (a Trust does), answers no requests (package controlapi does), and
// issues nothing itself: a token is worth what Vault makes of it.
//
// Invariant: of a token only the SHA-256 is kept, and that nowhere where nodes read.
package nodes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Grant is what a node may be.
type Grant struct {
	Node string
	IDs  []string // SPIFFE IDs of its services and gateways, sorted
	// Since is from when on it is this node, and not one that had its name before or was
	// shut out: of those no certificate counts any more.
	Since time.Time
}

// equal reports whether g and other allow the same.
func (g Grant) equal(other Grant) bool {
	return g.Node == other.Node && slices.Equal(g.IDs, other.IDs) && g.Since.Equal(other.Since)
}

// Invitation is a token with which a host can become a node, once.
type Invitation struct {
	Token    string // secret
	Accessor string // names the token, and is worth nothing
	RoleID   string
	Expires  time.Time
}

// Trust is where nodes get their certificates: Vault. Calls are repeated after an error, so
// each does nothing if it was done.
type Trust interface {
	// Put lets the node have certificates for exactly the identities of g. Who has only a
	// certificate of before g.Since has to enrol again.
	Put(ctx context.Context, g Grant) error
	// Withdraw has the node get no more certificates.
	Withdraw(ctx context.Context, node string) error
	// Nodes returns every node that was Put and not withdrawn.
	Nodes(ctx context.Context) ([]string, error)
	// Invite makes a token for a node that was Put. The one that replaces names, if any, is
	// worth nothing afterwards.
	Invite(ctx context.Context, node, replaces string) (Invitation, error)
	// Unused reports whether the token exists: nobody has used it, and it has not ended.
	Unused(ctx context.Context, accessor string) (bool, error)
}

// Store keeps joins over restarts, where no node reads them, and for every control plane.
type Store interface {
	// Joins returns all that were saved and not deleted.
	Joins(ctx context.Context) ([]Join, error)
	// SaveJoin keeps j in place of what was saved for its node.
	SaveJoin(ctx context.Context, j Join) error
	// DeleteJoin forgets the node's.
	DeleteJoin(ctx context.Context, node string) error
}

// Join is what is known of the newest token of a node. The zero Time is never.
type Join struct {
	Node     string    `json:"node"`
	Proof    string    `json:"proof"` // the token's SHA-256, in hex
	Accessor string    `json:"accessor"`
	Expires  time.Time `json:"expires"`
	Seen     time.Time `json:"seen"`              // when it was last known to be unused
	Used     time.Time `json:"used,omitzero"`     // when it was first known to be used, or gone
	Enrolled time.Time `json:"enrolled,omitzero"` // when a host said that it has enrolled with it
	Before   bool      `json:"before,omitempty"`  // a host had enrolled with an earlier token
	Reason   string    `json:"reason,omitempty"`  // of the alarm; empty for none
	Alarm    time.Time `json:"alarm,omitzero"`
}

// Reasons of an alarm, as mesh.JoinAlarm has them.
const (
	Refused     = "REFUSED"
	NotEnrolled = "NOT_ENROLLED"
	Unwatched   = "UNWATCHED"
)

const (
	lookEvery   = 2 * time.Second  // between looks at nodes and tokens
	loadEvery   = 10 * time.Second // between reads of what other control planes did
	putAgain    = time.Hour        // after which what Vault has is put again, whoever changed it
	callTimeout = 10 * time.Second // of one call to Vault
	retryFirst  = 2 * time.Second
	retryMost   = time.Minute

	// enrolWithin is how long a host may take from using its token to having enrolled.
	enrolWithin = 2 * time.Minute
	// unwatchedMost is how long before its end a token must have been seen unused to be
	// taken for one that nobody used.
	unwatchedMost = 30 * time.Second
)

// Options is what a Manager needs.
type Options struct {
	Trust Trust
	Store Store
	// Wanted returns every node that shall be in Vault. It is false while that is not known,
	// as before anything was ever configured: then no node is withdrawn.
	Wanted  func() (grants map[string]Grant, known bool)
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Manager keeps nodes and tokens. Its methods may be called from several goroutines.
type Manager struct {
	opt     Options
	log     zerolog.Logger
	metrics *metrics
	limit   *limiter
	wake    chan struct{} // holds one

	mu     sync.Mutex
	nodes  map[string]*entry // guarded by mu
	joins  map[string]Join   // as they are stored; guarded by mu, and changed by who holds turn
	loaded time.Time         // when joins were read; guarded by mu
	turn   chan struct{}     // holds one: who changes joins

	listed bool // Vault's nodes are in nodes; Run's goroutine's
}

// entry is what is known of one node in Vault.
type entry struct {
	has      Grant // what was put last; no Node if that is not known
	at       time.Time
	failures int
	next     time.Time // when to try again
	err      error     // of the last try
	turn     chan struct{}
}

// New returns a Manager, which does nothing by itself until Run.
func New(o Options) (*Manager, error) {
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, mesh.Errorf("nodes.New", "", mesh.Internal, "%w", err)
	}
	return &Manager{
		opt: o, log: o.Log.With().Str("part", "nodes").Logger(), metrics: m, limit: newLimiter(),
		wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), nodes: map[string]*entry{}, joins: map[string]Join{},
	}, nil
}

// Changed says that Wanted may return something else now.
func (m *Manager) Changed() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run keeps Vault and the configuration equal, and watches tokens, until ctx ends. It returns
// nil: what fails is counted, logged, shown by State, and tried again.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		m.refresh(ctx)
		m.reconcile(ctx)
		m.watch(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-m.wake:
		}
	}
}

// refresh reads the joins now and then.
func (m *Manager) refresh(ctx context.Context) {
	release, err := m.hold(ctx)
	if err != nil {
		return
	}
	defer release()
	_ = m.load(ctx, loadEvery) // which counts its error, and is repeated
}

// proofOf is what is kept of a token.
func proofOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// State is what is known of a node.
type State struct {
	Joining  bool // a token for it is out
	Enrolled bool // a host said that it has enrolled
	Reason   string
	Alarm    time.Time
	Err      error // why Vault does not yet allow it what it may be
}

// State returns what is known of a node.
func (m *Manager) State(node string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s State
	if e := m.nodes[node]; e != nil {
		s.Err = e.err
	}
	j, ok := m.joins[node]
	if !ok {
		return s
	}
	s.Enrolled = j.Before || !j.Enrolled.IsZero()
	s.Joining = j.Enrolled.IsZero() && time.Now().Before(j.Expires)
	s.Reason, s.Alarm = j.Reason, j.Alarm
	return s
}
