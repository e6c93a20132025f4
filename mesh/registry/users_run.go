package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	usersEvery = 5 * time.Second

	// digestKept is how long the digest of a node's password is used without asking
	// again. A change shows that much later, or at once with Changed.
	digestKept = time.Minute

	usersChunk = 100 // commands in one pipeline
	maxServers = 256 // of one Redis
)

// Admin is how Users logs in: a user of Redis's own for this alone, with the rights
// that docs/redis.md lists. The yaml tags are the keys under "redis.admin".
type Admin struct {
	Username     string `yaml:"username" help:"Redis user that makes the users of nodes; without it they are the operator's"`
	PasswordFile string `yaml:"passwordFile" help:"file with its password"`
}

// PasswordDigest returns the SHA-256 of the password of a node's Redis user, in lower
// hex. Kind NotFound says that it has none, and so is to have no user.
type PasswordDigest func(ctx context.Context, node string) (string, error)

// Users keeps one Redis user for each node on every server: primaries, and replicas
// too, as Redis replicates no users. Its methods may be called from any goroutine, and
// do not block.
type Users struct {
	client  *Client
	cfg     Config
	digest  PasswordDigest
	log     zerolog.Logger
	changes *prometheus.CounterVec
	failed  prometheus.Counter
	wake    chan struct{} // capacity 1: something changed

	// Run's own.
	known   map[string]knownDigest
	servers map[string]*userServer

	mu     sync.Mutex // guards what follows
	wanted []string   // nodes; nil until they are known
	stale  bool       // digests are to be asked for again
	state  UsersState
}

type knownDigest struct {
	digest string
	at     time.Time
}

// UsersState is how the users of nodes stand.
type UsersState struct {
	// At is when the last pass began, which has done what was wanted then; zero before the first.
	At      time.Time
	Servers int
	Users   int // on each server
	// Err is what is wrong with some of them; nil if nothing is.
	Err error
	// Failed is that of it which servers did not do. Passwords that cannot be read are not: they
	// leave no user where none is to be.
	Failed error
	// Unsaved are servers without an aclfile, sorted: users are made anew after each
	// of their restarts.
	Unsaved []string
}

// NewUsers returns what keeps the users of the mesh and the Redis of c. Nothing happens
// before Want was called, and Run runs.
func NewUsers(c *Client, admin Admin, digest PasswordDigest, reg prometheus.Registerer) (*Users, error) {
	const op = "registry.NewUsers"
	if admin.Username == "" {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "redis.admin.username is needed")
	}
	if _, err := readPassword(admin.PasswordFile); err != nil {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "%w", err).WithHint("see redis.admin.passwordFile")
	}
	u := &Users{
		client: c, cfg: c.cfg, digest: digest, log: c.log.With().Str("loop", "users").Logger(),
		wake: make(chan struct{}, 1), known: map[string]knownDigest{}, servers: map[string]*userServer{},
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_registry_user_changes_total",
			Help: "Redis users of nodes that were made, set right or removed on one server.",
		}, []string{"change"}),
		failed: c.metrics.errors.WithLabelValues("users"),
	}
	u.cfg.Username, u.cfg.PasswordFile = admin.Username, admin.PasswordFile
	if err := reg.Register(u.changes); err != nil {
		return nil, mesh.Errorf(op, "", mesh.Internal, "%w", err)
	}
	return u, nil
}

// Want says which nodes are to have a user. All others of the mesh lose theirs, and
// the connections that they have.
func (u *Users) Want(nodes []string) {
	nodes = slices.Sorted(slices.Values(nodes))
	u.mu.Lock()
	same := u.wanted != nil && slices.Equal(u.wanted, nodes)
	u.wanted = append([]string{}, nodes...) // none are not unknown
	u.mu.Unlock()
	if !same {
		signal(u.wake)
	}
}

// Changed says that the password of some node may be another one.
func (u *Users) Changed() {
	u.mu.Lock()
	u.stale = true
	u.mu.Unlock()
	signal(u.wake)
}

// State returns how the users stand.
func (u *Users) State() UsersState {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

// Ready returns why not every node has its user on every server that keeps it, or nil.
func (u *Users) Ready(context.Context) error {
	s := u.State()
	if s.Err == nil && len(s.Unsaved) > 0 {
		return fmt.Errorf("the Redis at %s has no aclfile: the users of nodes are missing there for some seconds after each restart", strings.Join(s.Unsaved, ", "))
	}
	return s.Err
}

// Run keeps the users until ctx ends. It looks every five seconds, when what is wanted
// changes, and when Redis was lost.
func (u *Users) Run(ctx context.Context) error {
	defer func() {
		for _, s := range u.servers {
			_ = s.redis.Close() // nothing is under way
		}
	}()
	for {
		rung := u.client.alarm.rung()
		u.pass(ctx)
		if wait(ctx, jitter(usersEvery), u.wake, rung) != nil {
			return nil
		}
	}
}

// pass looks at every server once.
func (u *Users) pass(ctx context.Context) {
	began := time.Now()
	u.mu.Lock()
	nodes, stale := u.wanted, u.stale
	u.stale = false
	u.mu.Unlock()
	if nodes == nil {
		return // to know nothing is no reason to remove anybody
	}
	want, unread := u.digests(ctx, nodes, stale)
	var errs []error
	addresses, err := u.discover(ctx)
	if err != nil {
		errs = append(errs, err)
	}
	u.keepServers(addresses)
	var all sync.WaitGroup
	for _, s := range u.servers {
		all.Go(func() { s.err = u.reconcile(ctx, s, want) })
	}
	all.Wait()
	state := UsersState{At: began, Servers: len(u.servers)}
	for _, digest := range want {
		if digest != "" {
			state.Users++
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(u.servers)) {
		s := u.servers[addr]
		if s.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, s.err))
		}
		if s.fileless {
			state.Unsaved = append(state.Unsaved, addr)
		}
	}
	if ctx.Err() != nil {
		return
	}
	state.Failed = wrap("registry.Users", "", errors.Join(errs...))
	state.Err = wrap("registry.Users", "", errors.Join(append(unread, errs...)...))
	u.tell(state)
}

// tell keeps the state, and logs what has changed in it.
func (u *Users) tell(state UsersState) {
	u.mu.Lock()
	before := u.state
	u.state = state
	u.mu.Unlock()
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	switch {
	case state.Err != nil:
		u.failed.Inc()
		if text(state.Err) != text(before.Err) {
			u.log.Error().Err(state.Err).Msg("not every node has its Redis user on every server")
		}
	case before.Err != nil:
		u.log.Info().Int("servers", state.Servers).Int("users", state.Users).Msg("every node has its Redis user again")
	}
	if !slices.Equal(state.Unsaved, before.Unsaved) && len(state.Unsaved) > 0 {
		u.log.Warn().Strs("servers", state.Unsaved).Msg("Redis has no aclfile: the users of nodes are made anew after each restart; see docs/redis.md")
	}
}

// digests returns the digest by node, "" where it is not known now: such a node keeps the
// user that it has. A node without password is left out.
func (u *Users) digests(ctx context.Context, nodes []string, stale bool) (map[string]string, []error) {
	out := make(map[string]string, len(nodes))
	var errs []error
	away := false
	for _, node := range nodes {
		k, ok := u.known[node]
		if (!ok || stale || time.Since(k.at) > digestKept) && !away {
			digest, err := u.digest(ctx, node)
			switch {
			case err == nil:
				k = knownDigest{digest, time.Now()}
				u.known[node] = k
			case mesh.KindOf(err) == mesh.NotFound:
				delete(u.known, node)
				continue
			default:
				away = mesh.KindOf(err) == mesh.Unavailable // of the others too, each for as long
				errs = append(errs, fmt.Errorf("the password of node %s: %w", node, err))
			}
		}
		out[node] = k.digest
	}
	maps.DeleteFunc(u.known, func(node string, _ knownDigest) bool { _, ok := out[node]; return !ok })
	return out, errs
}
