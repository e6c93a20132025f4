package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	heartbeatEvery = LeaseTTL / 3

	// rewriteEvery renews notAfter well before it passes.
	rewriteEvery = 2 * time.Minute

	// writeGap bounds how often a process writes: every revision that it
	// applies changes its document.
	writeGap = 100 * time.Millisecond

	// releaseTimeout bounds the farewell of a process that is asked to end.
	releaseTimeout = 2 * time.Second

	// hintsKept bounds a stream of hints; a hint older than a poll is useless.
	hintsKept = 256

	maxReasonBytes = 1 << 10

	// bridgeNumbers keeps the names of a bridge's instances apart from those of
	// a sidecar on the same node: edge7-1 and edge7-101.
	bridgeNumbers = 100
)

// Lease keeps one process registered: what it offers and what configuration
// it runs. Its methods may be called from any goroutine, before and during Run,
// and do not block.
type Lease struct {
	client *Client
	key    string
	outage outage
	wake   chan struct{} // capacity 1: something changed

	signer Signer

	written []byte            // what the key is to hold; Run's own
	signed  *x509.Certificate // by whose key; likewise

	// mu guards what follows. Nothing is called under it.
	mu    sync.Mutex
	doc   document
	dirty bool // doc differs from what was last written
	hint  bool // and others should know before they look by themselves
	state LeaseState
}

// LeaseState says how a registration stands.
type LeaseState struct {
	// Registered is true from the first successful write on until a heartbeat
	// fails.
	Registered bool
	LastBeat   time.Time // zero before the first
	Err        error     // of the last beat; nil if it succeeded
}

// NewLease returns the lease of the process that runs role ("SIDECAR",
// "BRIDGE", "GATEWAY") on node, whose certificate signer has. It registers nothing
// before Run.
func NewLease(c *Client, node, role string, signer Signer) (*Lease, error) {
	const op = "registry.NewLease"
	if !mesh.ValidID(node) {
		return nil, mesh.Errorf(op, node, mesh.Invalid, "%q is not a node id", node)
	}
	switch role {
	case mesh.RoleSidecar, mesh.RoleBridge, mesh.RoleGateway:
	default:
		return nil, mesh.Errorf(op, node, mesh.Invalid, "%q is not a role", role)
	}
	return &Lease{
		client: c,
		signer: signer,
		key:    c.keys.instance(node, role),
		outage: outage{part: "lease", log: c.log, failed: c.metrics.errors},
		wake:   make(chan struct{}, 1),
		doc:    document{Node: node, Role: role, Instances: []mesh.Instance{}},
		dirty:  true,
		hint:   true,
	}, nil
}

// Update says what the process offers from now on, replacing what it said
// before. Of an instance, Service and Address are needed; an absent Name,
// Weight and Health become "instances/<node>-<n>", 1 and HEALTHY. It fails with
// kind Invalid, changing nothing, when others would refuse the whole document.
func (l *Lease) Update(instances []mesh.Instance) error {
	const op = "registry.Lease.Update"
	if len(instances) > maxInstances {
		return mesh.Errorf(op, l.doc.Node, mesh.Invalid, "%d instances, at most %d can be registered", len(instances), maxInstances)
	}
	first := 1
	if l.doc.Role == mesh.RoleBridge {
		first += bridgeNumbers
	}
	out := make([]mesh.Instance, len(instances))
	for i, in := range instances {
		if in.Name == "" {
			in.Name = fmt.Sprintf("%s/%s-%d", mesh.Instances, l.doc.Node, first+i)
		}
		if in.Health == "" {
			in.Health = mesh.Healthy
		}
		in.Node = l.doc.Node
		in.Weight = max(in.Weight, 1)
		if err := checkText(&in); err != nil {
			return mesh.Errorf(op, in.Name, mesh.Invalid, "%w", err)
		}
		out[i] = in
	}
	// A reason of the greatest length, each byte of which is six in JSON, must
	// still fit beside the instances.
	draft := document{Node: l.doc.Node, Role: l.doc.Role, Instances: out, Rejected: &rejectReport{Reason: string(make([]byte, maxReasonBytes))}, Broker: strings.Repeat("x", maxTextBytes)}
	for range maxContained {
		draft.Contained = append(draft.Contained, Contained{Node: strings.Repeat("x", 63), Since: longTime, Time: longTime})
	}
	if _, err := draft.encode(); err != nil {
		return mesh.Errorf(op, l.doc.Node, mesh.Invalid, "%w", err)
	}
	l.change(true, func(d *document) { d.Instances = out })
	return nil
}

// Applied says which configuration the process runs now. It withdraws an
// earlier Rejected.
func (l *Lease) Applied(head mesh.Head) {
	// Every process applies every revision: hints would make all of them read
	// all of the others for each change.
	l.change(false, func(d *document) {
		d.Applied, d.Rejected = &appliedReport{Epoch: head.Epoch, Revision: head.Revision}, nil
	})
}

// Rejected says that the process cannot run a revision, or parts of it, and
// keeps what it had. The reason is shown to operators, cut to 1 KiB.
func (l *Lease) Rejected(revision uint32, reason string) {
	if len(reason) > maxReasonBytes {
		reason = reason[:maxReasonBytes]
	}
	l.change(true, func(d *document) { d.Rejected = &rejectReport{Revision: revision, Reason: reason} })
}

// longTime is a time of the most digits.
var longTime = time.Date(2999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)

// Contained says which quarantines the process has carried out, now if it did not say so
// before. The newest 64 are told.
func (l *Lease) Contained(quarantines map[string]*mesh.Quarantine) {
	l.mu.Lock()
	next, changed := l.doc.contained(quarantines, time.Now().UTC().Truncate(time.Millisecond))
	l.mu.Unlock()
	if changed { // with a hint: somebody waits for it
		l.change(true, func(d *document) { d.Contained = next })
	}
}

// contained returns what d says of quarantines that are carried out now.
func (d *document) contained(quarantines map[string]*mesh.Quarantine, now time.Time) (next []Contained, changed bool) {
	for node, q := range quarantines {
		if q.Active() && q.Time != nil {
			next = append(next, Contained{Node: node, Since: *q.Time, Time: now})
		}
	}
	slices.SortFunc(next, func(a, b Contained) int { return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Node, b.Node)) })
	next = next[:min(len(next), maxContained)]
	for i, c := range next {
		same := func(o Contained) bool { return o.Node == c.Node && o.Since.Equal(c.Since) }
		if at := slices.IndexFunc(d.Contained, same); at >= 0 {
			next[i].Time = d.Contained[at].Time
		} else {
			changed = true
		}
	}
	return next, changed || len(next) != len(d.Contained)
}

// Broker says where a bridge takes messages from: BrokerEmbedded or an address.
func (l *Lease) Broker(broker string) {
	if !shortText(broker) { // others would refuse the document
		broker = "(an address that cannot be shown)"
	}
	l.change(false, func(d *document) { d.Broker = broker })
}

// State returns how the registration stands.
func (l *Lease) State() LeaseState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *Lease) change(hint bool, edit func(*document)) {
	l.mu.Lock()
	edit(&l.doc)
	l.dirty, l.hint = true, l.hint || hint
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // the loop has yet to take the last call
	}
}

// Run registers the process, keeps it registered until ctx ends, and withdraws
// it then, within 2 s once a call under way has ended. While Redis is away it
// tries on; an error is never returned. When Run returns, what it started has
// ended.
func (l *Lease) Run(ctx context.Context) error {
	written := time.Time{} // of the last whole document; zero: write it whole
	for {
		rung := l.client.alarm.rung()
		wrote, err := l.beat(ctx, time.Since(written) >= rewriteEvery)
		delay := jitter(heartbeatEvery)
		switch {
		case ctx.Err() != nil:
			return l.release(ctx)
		case err != nil:
			written = time.Time{} // Redis may have come back as another, older one
			delay, rung = l.outage.fail(err), nil
		case wrote:
			written = time.Now()
			fallthrough
		default:
			l.outage.ok()
		}
		l.note(err)
		// Two waits: changes that follow each other closely are one write.
		gap := min(writeGap, delay)
		if wait(ctx, gap) != nil || wait(ctx, delay-gap, l.wake, rung) != nil {
			return l.release(ctx)
		}
	}
}

func (l *Lease) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Registered, l.state.Err = err == nil, err
	if err == nil {
		l.state.LastBeat = time.Now()
	}
}

// beat prolongs the key if it holds what it should, and writes it otherwise.
func (l *Lease) beat(ctx context.Context, whole bool) (wrote bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cert, err := l.signer.Certificate()
	if err != nil {
		return false, wrap("registry.Lease", l.key, err)
	}
	l.mu.Lock()
	// What a certificate signed is to be there no longer than the certificate.
	whole = whole || l.dirty || cert.Leaf != l.signed
	l.mu.Unlock()
	if !whole {
		alive, err := l.prolong(ctx)
		if err != nil {
			return false, wrap("registry.Lease", l.key, err)
		}
		if alive {
			return false, nil
		}
	}
	return true, l.write(ctx, cert)
}

// prolong resets the key's time to live and reports whether the key still holds
// what was written. Whoever else can write to Redis may have put something in
// its place, which would otherwise stand until the document changes.
func (l *Lease) prolong(ctx context.Context) (bool, error) {
	var alive *redis.BoolCmd
	var value *redis.StringCmd
	_, err := l.client.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		alive = p.PExpire(ctx, l.key, LeaseTTL)
		value = p.GetRange(ctx, l.key, 0, int64(len(l.written))) // one byte more, if it is longer
		return nil
	})
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return false, err
	}
	return alive.Val() && value.Val() == string(l.written), nil
}

// write stores the document, signed with cert's key, and hints at it if others wait
// for the change.
func (l *Lease) write(ctx context.Context, cert *tls.Certificate) error {
	l.mu.Lock()
	l.doc.renew(time.Now())
	doc, hint := l.doc, l.hint
	l.dirty, l.hint = false, false
	l.mu.Unlock()
	sealed, err := doc.seal(l.client.trust.Mesh(), cert)
	if err == nil {
		err = l.client.redis.Set(ctx, l.key, sealed, LeaseTTL).Err()
	}
	if err != nil {
		l.mu.Lock()
		l.dirty, l.hint = true, l.hint || hint
		l.mu.Unlock()
		return wrap("registry.Lease", l.key, err)
	}
	l.written, l.signed = sealed, cert.Leaf
	l.client.metrics.leaseWrites.Inc()
	if hint {
		l.sendHint(ctx)
	}
	return nil
}

// sendHint makes watchers look now instead of within seconds. A hint that
// fails costs only that.
func (l *Lease) sendHint(ctx context.Context) {
	err := l.client.redis.XAdd(ctx, &redis.XAddArgs{
		Stream: l.client.keys.hints(l.doc.Node),
		MaxLen: hintsKept,
		Values: []string{"node", l.doc.Node},
	}).Err()
	if err != nil {
		l.client.metrics.errors.WithLabelValues("hint").Inc()
		l.client.log.Debug().Err(err).Msg("hint not sent, watchers will poll")
	}
}

// release withdraws the process: a last document that offers nothing, which
// watchers act on at once, and which expires by itself. To delete the key would
// look like a loss, which they rightly do not act on for a whole TTL.
func (l *Lease) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	l.change(true, func(d *document) { d.Instances = []mesh.Instance{} })
	cert, err := l.signer.Certificate()
	if err == nil {
		err = l.write(ctx, cert)
	}
	l.mu.Lock()
	l.state.Registered, l.state.Err = false, err
	l.mu.Unlock()
	if err != nil {
		l.client.metrics.errors.WithLabelValues("lease").Inc()
		l.client.log.Warn().Err(err).Msg("registration not withdrawn, it expires by itself")
	}
	return nil
}
