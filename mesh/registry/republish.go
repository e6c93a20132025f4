package registry

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

const (
	// checkEvery is how often the control plane looks whether Redis still holds
	// what was published: three small reads. A Redis that comes back empty is
	// filled again within it and one backoff.
	checkEvery = time.Second

	// verifyEvery is how often it reads everything and checks the digest.
	verifyEvery = 30 * time.Second

	// loadEvery is how often it looks whether Redis has the functions.
	loadEvery = 5 * time.Second
)

// A Source returns the newest logged revision and all of its records. It is
// called about once a second, so it must be cheap, and nobody may change the
// records afterwards. Revision 0 means that nothing was logged yet.
type Source func(ctx context.Context) (mesh.Head, mesh.Records, error)

// Republisher keeps Redis filled: it notices a Redis that came back empty,
// behind or damaged, and publishes the newest logged revision to it.
type Republisher struct {
	client *Client
	source Source
	outage outage
	wake   chan struct{} // capacity 1: look now

	// What follows is owned by Run.
	verifyAt time.Time // when everything is read again
	loadAt   time.Time // when the functions are brought again
	unloaded bool      // the last time they were not taken

	mu    sync.Mutex // guards state; nothing is called under it
	state PublishState
}

// PublishState says how Redis stands to the log.
type PublishState struct {
	// Published is true while Redis is known to hold the newest logged
	// revision. Writes are possible then.
	Published bool
	// Err says why not: Unavailable while Redis is away, Conflict when it
	// holds a later revision than the log, or another of the same number.
	Err  error
	Head mesh.Head // the newest logged one
	// Since is when Published or the kind of Err last changed.
	Since time.Time
}

// NewRepublisher returns a Republisher of what source returns.
func NewRepublisher(c *Client, source Source) *Republisher {
	return &Republisher{
		client: c,
		source: source,
		outage: outage{part: "republisher", log: c.log, failed: c.metrics.errors},
		wake:   make(chan struct{}, 1),
	}
}

// State returns how Redis stands to the log.
func (r *Republisher) State() PublishState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Kick makes Run look now: after a revision was logged that Publish could not
// bring to Redis.
func (r *Republisher) Kick() {
	select {
	case r.wake <- struct{}{}:
	default: // a look is due already
	}
}

// Run checks and publishes until ctx ends. It returns nil: everything that may
// fail is tried again, and shows in State.
func (r *Republisher) Run(ctx context.Context) error {
	defer r.client.metrics.inSync.Set(0)
	for {
		rung := r.client.alarm.rung()
		head, err := r.check(ctx)
		if err != nil {
			r.loadAt = time.Time{} // who comes back may be another
		} else if !time.Now().Before(r.loadAt) {
			r.load(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		r.note(head, err)
		delay := jitter(checkEvery)
		if err != nil {
			// There are few control planes, and writes wait for this one: it
			// does not back off for as long as a fleet has to.
			delay, rung = min(r.outage.fail(err), checkEvery), nil
		} else {
			r.outage.ok()
		}
		if wait(ctx, delay, r.wake, rung) != nil {
			return nil
		}
	}
}

// load brings the functions, again and again: a server that took over may lack them.
// Without them nodes keep to their shares of the mesh's rates, which is no reason to hold
// up anything else.
func (r *Republisher) load(ctx context.Context) {
	r.loadAt = time.Now().Add(jitter(loadEvery))
	err := r.client.load(ctx)
	if err != nil {
		r.client.metrics.errors.WithLabelValues("functions").Inc()
		if !r.unloaded {
			r.client.log.Warn().Err(err).Msg("Redis did not take the functions: rate limits of scope MESH are kept by each data plane for itself")
		}
	}
	r.unloaded = err != nil
}

func (r *Republisher) note(head mesh.Head, err error) {
	published := 0.0
	if err == nil {
		published = 1
	}
	r.client.metrics.inSync.Set(published)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Since.IsZero() || r.state.Published != (err == nil) || mesh.KindOf(r.state.Err) != mesh.KindOf(err) {
		r.state.Since = time.Now()
	}
	r.state.Published, r.state.Err, r.state.Head = err == nil, err, head
}

// check brings Redis to the newest logged revision, if it is not there.
func (r *Republisher) check(ctx context.Context) (mesh.Head, error) {
	head, records, err := r.source(ctx)
	if err != nil {
		return head, err
	}
	if head.Revision == 0 {
		return head, r.checkEmpty(ctx)
	}
	if err := r.client.trust.Head(head, time.Now()); err != nil {
		return head, mesh.Errorf("registry.Republish", "", mesh.Denied, "nobody would take it: %w", err).
			WithHint("see hedgerow root show, and docs/signing.md")
	}
	found, err := r.client.holds(ctx, head, len(records))
	if err != nil {
		return head, err
	}
	if _, keys := r.client.trust.Keys(); found.keys != string(keys) {
		if err := r.client.publishKeys(ctx, keys); err != nil {
			return head, err
		}
	}
	intact := found.intact
	if intact && (head.Time.After(found.head.Time) || r.client.trust.Head(found.head, time.Now()) != nil) {
		if err := r.client.sign(ctx, head); err != nil {
			return head, err
		}
	}
	if intact && time.Now().Before(r.verifyAt) {
		return head, nil
	}
	if intact {
		stored, _, err := r.client.Read(ctx)
		switch {
		case err != nil && mesh.KindOf(err) == mesh.Unavailable:
			return head, err
		case err == nil && sameRevision(stored, head):
			r.verifyAt = time.Now().Add(verifyEvery/2 + rand.N(verifyEvery))
			return head, nil
		}
	}
	r.loadAt = time.Time{} // what lost that may have lost more
	outcome, err := r.client.republish(ctx, head, records, sameRevision(found.head, head))
	switch {
	case err != nil:
		return head, err
	case outcome == Newer:
		return head, foreign(head)
	case outcome == AlreadyPublished: // by a write, since it was looked at
		return head, nil
	}
	r.client.log.Info().Uint32("revision", head.Revision).Msg("Redis was empty, behind or damaged: configuration published again")
	return head, nil
}

// checkEmpty reports a Redis that holds something while nothing was logged: the
// first write would not get past it.
func (r *Republisher) checkEmpty(ctx context.Context) error {
	head, err := r.client.Head(ctx)
	switch {
	case err == nil && r.client.trust.Head(head, time.Now()) == nil:
		return foreign(mesh.Head{})
	case err != nil && mesh.KindOf(err) == mesh.Unavailable:
		return err
	}
	return nil
}

func foreign(logged mesh.Head) error {
	return mesh.Errorf("registry.Republish", "", mesh.Conflict, "Redis holds a configuration that is not older than revision %d and not from this log", logged.Revision).
		WithHint("two control planes with logs of their own share one mesh name, or the log was lost; restore the log, or delete the mesh's keys in Redis")
}

// found is what Redis was seen to hold.
type found struct {
	// intact says that it looks as if it held exactly a head: that, the number of
	// records, and no entry in changes beyond it.
	intact bool
	head   mesh.Head
	keys   string
}

// holds looks whether Redis holds head.
func (c *Client) holds(ctx context.Context, head mesh.Head, records int) (found, error) {
	const op = "registry.Republish"
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var stored, keys *redis.StringCmd
	var count *redis.IntCmd
	var last *redis.XMessageSliceCmd
	_, err := c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		keys = p.GetRange(ctx, c.keys.signers(), 0, signing.MaxKeySetBytes)
		stored = p.GetRange(ctx, c.keys.head(), 0, maxHeadBytes)
		count = p.HLen(ctx, c.keys.config())
		last = p.XRevRangeN(ctx, c.keys.changes(), "+", "-", 1)
		return nil
	})
	for _, e := range []error{stored.Err(), count.Err(), last.Err()} {
		if e == nil {
			continue
		}
		// What is not there, or not what it should be, can be written anew.
		if k := mesh.KindOf(readError(op, e)); k == mesh.NotFound || k == mesh.Malformed {
			head, _ := decodeHead(op, []byte(stored.Val()))
			return found{keys: keys.Val(), head: head}, nil
		}
		return found{}, wrap(op, "", e)
	}
	if err != nil && keys.Err() == nil {
		return found{}, wrap(op, "", err)
	}
	f := found{keys: keys.Val()} // of another type they are as good as none
	if f.head, err = decodeHead(op, []byte(stored.Val())); err != nil || !sameRevision(f.head, head) || count.Val() != int64(records) {
		return f, nil //nolint:nilerr // a head that is none is overwritten
	}
	if len(last.Val()) != 1 {
		return f, nil
	}
	revision, ok := entryRevision(last.Val()[0].ID)
	f.intact = ok && revision == head.Revision
	return f, nil
}

func sameRevision(a, b mesh.Head) bool {
	return a.Epoch == b.Epoch && a.Revision == b.Revision && a.Digest == b.Digest
}

// sameSignature reports whether a and b are one signed head.
func sameSignature(a, b mesh.Head) bool {
	return sameRevision(a, b) && a.Time.Equal(b.Time) && a.KeyID == b.KeyID && a.Signature == b.Signature
}

// entryRevision returns the revision in the id of an entry of changes.
func entryRevision(id string) (uint32, bool) {
	number, zero, _ := strings.Cut(id, "-")
	n, err := parseRevision(number)
	return n, err == nil && zero == "0"
}
