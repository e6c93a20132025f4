package registry

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

const (
	// pollEvery is how often the documents of instances, and with them the
	// head, are read; hints make it sooner.
	pollEvery = 5 * time.Second

	// pollGap bounds how often hints may do so.
	pollGap = 100 * time.Millisecond

	// blockFor is how long XREAD waits. It is short so that a connection on
	// which nothing arrives any more is noticed.
	blockFor = 2 * time.Second

	// spreadWhole spreads the whole reads of a fleet that lost the thread
	// together.
	spreadWhole = 5 * time.Second

	// streamEntries bounds one XREAD, a stream.
	streamEntries = 64

	// skipHints is for how long hints are left out after one could not be read.
	skipHints = time.Minute

	// rejectLogEvery bounds the log of refusals, by reason.
	rejectLogEvery = 10 * time.Second

	// maxNeeded bounds the services that one process may ask for.
	maxNeeded = 4096
)

// WatcherOptions says what a Watcher watches and whom it tells. The functions
// are called from Run, one at a time; they must not block, nor call back.
type WatcherOptions struct {
	// All watches every node and service, and keeps Reports: for the control
	// plane. Otherwise only the services given to Need are watched.
	All bool
	// File, if set, keeps the last snapshot on disk. Run starts from it, so that
	// a process that begins while Redis is away has a configuration and
	// instances. Its directory must exist, and be the process's own.
	File string
	// Now is the time by which signing keys expire. Default: time.Now.
	Now func() time.Time
	// OnSnapshot, if set, gets every new snapshot.
	OnSnapshot func(*mesh.Snapshot)
	// OnReject, if set, learns of configuration that was refused, in whole or,
	// where single records do not validate, in part. The rest was applied.
	OnReject func(revision uint32, err error)
}

// Watcher follows the configuration and the instances of a mesh.
type Watcher struct {
	client *Client
	opts   WatcherOptions
	bundle func() *identity.Bundle

	snapshot atomic.Pointer[mesh.Snapshot]
	reports  atomic.Pointer[[]Report]
	status   atomic.Pointer[WatchStatus]
	needed   chan struct{} // capacity 1: need grew

	mu   sync.Mutex // guards need; nothing is called under it
	need map[string]bool

	// The rest belongs to Run.
	outage        outage
	config        configState
	deniedBy      *signing.KeySet // whose denied nodes config.denies has
	instances     instanceState
	savedSnapshot *mesh.Snapshot // what File holds
	savedKeys     []byte         // likewise
	savedSigner   string         // the KeyID of its head
	kept          *saved         // what a run before left, whose documents are yet to be verified
	saves         pace
	changes       pace
	lastPoll      time.Time
	nextPoll      time.Time
	logged        map[string]time.Time // when a refusal was last logged, by reason
}

// WatchStatus says how fresh a snapshot is.
type WatchStatus struct {
	// Connected is false while Redis is away, from the first failed call on.
	Connected bool
	// SyncedAt is when Redis last confirmed that the snapshot's configuration
	// is the newest; zero before the first. A snapshot older than half a
	// minute is stale: Redis is away, or holds what was refused.
	SyncedAt time.Time
	// Head is of the applied configuration. Its Time is when a control plane last
	// signed that it is the newest: every minute. If that is over five minutes ago,
	// either none is there, or Redis holds back what they say.
	Head mesh.Head
}

// NewWatcher returns a Watcher. bundle has the roots that certificates of nodes lead
// to, nil while they are not known: documents wait for it, and so does the first
// snapshot, which there is none of before Run.
func NewWatcher(c *Client, bundle func() *identity.Bundle, opts WatcherOptions) *Watcher {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	w := &Watcher{
		client:  c,
		bundle:  bundle,
		opts:    opts,
		changes: pace{times: restAfterChange, most: mostChangeRest},
		saves:   pace{times: restAfterSave, most: mostSaveRest},
		needed:  make(chan struct{}, 1),
		need:    map[string]bool{},
		logged:  map[string]time.Time{},
		outage:  outage{part: "watcher", log: c.log, failed: c.metrics.errors},
		config:  configState{records: mesh.Records{}},
		instances: instanceState{
			held:      map[instanceKey]*held{},
			positions: map[string]string{},
			floors:    map[instanceKey]floor{},
		},
	}
	w.status.Store(&WatchStatus{})
	w.reports.Store(&[]Report{})
	return w
}

// Snapshot returns the newest snapshot, or nil before the first. A service
// that is watched has an entry in Instances, though it may be empty; one that
// was needed a moment ago has none yet.
func (w *Watcher) Snapshot() *mesh.Snapshot { return w.snapshot.Load() }

// Status returns how fresh the snapshot is.
func (w *Watcher) Status() WatchStatus { return *w.status.Load() }

// Need adds services to those whose instances are watched. New ones are
// fetched at once. Names that are no ids are ignored, as are those beyond 4096.
func (w *Watcher) Need(service ...string) {
	w.mu.Lock()
	before := len(w.need)
	for _, s := range service {
		if mesh.ValidID(s) && len(w.need) < maxNeeded {
			w.need[s] = true
		}
	}
	grown := len(w.need) > before
	w.mu.Unlock()
	if grown {
		signal(w.needed)
	}
}

func (w *Watcher) needs(service string) bool {
	if w.opts.All {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.need[service]
}

// withheldAfter is how old the signature of a head may be: it is signed again every minute.
const withheldAfter = 5 * time.Minute

// Withheld reports whether a newer configuration than head's may be kept from this process: no
// control plane has said for five minutes that it is the newest. What is applied stands.
func Withheld(head mesh.Head, now time.Time) bool {
	return head.Revision > 0 && now.Sub(head.Time) > withheldAfter
}

// warnWithheld says so, now and then.
func (w *Watcher) warnWithheld(now time.Time) {
	if !Withheld(w.config.head, now) || now.Sub(w.logged[logWithheld]) < withheldAfter {
		return
	}
	w.logged[logWithheld] = now
	w.client.log.Warn().Uint32("revision", w.config.head.Revision).Time("signed", w.config.head.Time).
		Msg("no control plane has confirmed the configuration for a while: either none runs, or Redis holds back what they say")
}

// logWithheld is the key of that in logged, beside the reasons of refusals.
const logWithheld = "withheld"

func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default: // the last signal is still to be taken
	}
}

// Run watches until ctx ends. While Redis is away the last snapshot stands and
// Run tries on; it returns nil. When it returns, what it started has ended.
func (w *Watcher) Run(ctx context.Context) error {
	if w.opts.File != "" {
		w.loadFloor()
		w.load()
	}
	for {
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.setStatus(func(s *WatchStatus) { s.Connected = false })
		w.client.alarm.ring()
		w.takeKept()
		if wait(ctx, w.outage.fail(err)) != nil {
			return nil
		}
	}
}

// session watches over connections that work, and ends with the first error.
func (w *Watcher) session(ctx context.Context) error {
	defer w.saveNow()
	if err := w.resync(ctx); err != nil {
		return err
	}
	w.outage.ok()
	w.setStatus(func(s *WatchStatus) { s.Connected = true })

	f := w.startFollower(ctx)
	defer f.stop()
	var resume <-chan time.Time // what comes meanwhile is taken together
	poll := time.NewTimer(w.untilPoll())
	defer poll.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-w.needed:
			err = w.poll(ctx)
		case answer := <-f.answers:
			err = w.take(ctx, answer)
			resume = time.After(w.changes.left())
		case <-resume:
			f.asks <- w.positions()
		case <-poll.C:
			err = w.poll(ctx)
		case <-w.config.wholeDue():
			err = w.readWhole(ctx)
		case <-w.saveDue():
			w.saveNow()
		}
		if err != nil {
			return err
		}
		poll.Reset(w.untilPoll())
	}
}

// resync catches up when a session begins. What Redis lacked before says
// nothing now: it was silent, and may be another one.
func (w *Watcher) resync(ctx context.Context) error {
	w.instances.disturbed()
	if w.config.head.Revision == 0 || !w.config.wholeAt.IsZero() {
		if err := w.readWhole(ctx); err != nil {
			return err
		}
	}
	return w.poll(ctx)
}

// untilPoll returns how long to wait for the next poll: for less than usual if
// a hint asks for one, or if an instance may be removed then.
func (w *Watcher) untilPoll() time.Duration {
	at := w.nextPoll
	if removal := w.lastPoll.Add(w.instances.untilRemoval(w.lastPoll)); removal.Before(at) {
		at = removal
	}
	if w.instances.hinted {
		at = w.lastPoll.Add(pollGap)
	}
	return max(time.Until(at), 0)
}

// answer is what one XREAD brought; streams is empty when nothing came.
type answer struct {
	streams []redis.XStream
	err     error
}

// follower waits on streams, on connections of its own.
type follower struct {
	asks    chan []string // streams, then as many ids; one at a time
	answers chan answer
	stop    func()
}

func (w *Watcher) startFollower(ctx context.Context) *follower {
	f := &follower{asks: make(chan []string, 1), answers: make(chan answer, 1)}
	client := w.client.connect()
	// A read that blocks does not see ctx; closing its connection ends it.
	unhook := context.AfterFunc(ctx, func() { _ = client.Close() })
	var wg sync.WaitGroup
	wg.Go(func() {
		for streams := range f.asks {
			f.answers <- follow(ctx, client, streams)
		}
	})
	f.stop = func() {
		unhook()
		close(f.asks)
		_ = client.Close() // a second close says so, and nothing else
		wg.Wait()
	}
	f.asks <- w.positions()
	return f
}

func follow(ctx context.Context, client redis.UniversalClient, streams []string) answer {
	ctx, cancel := context.WithTimeout(ctx, blockFor+readTimeout)
	defer cancel()
	got, err := client.XRead(ctx, &redis.XReadArgs{Streams: streams, Count: streamEntries, Block: blockFor}).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return answer{streams: got, err: wrap("registry.Watch", "", err)}
}

// positions returns the streams to wait on, then where to begin in each. That
// of changes is the applied revision itself.
func (w *Watcher) positions() []string {
	var streams, ids []string
	if w.config.follows(time.Now()) {
		streams, ids = append(streams, w.client.keys.changes()), append(ids, w.config.position())
	}
	for _, s := range w.instances.streams {
		if !w.instances.hints(time.Now()) {
			break
		}
		streams, ids = append(streams, s), append(ids, w.instances.positions[s])
	}
	if len(streams) == 0 {
		// Nothing to wait on for a moment; a stream that nobody writes keeps
		// the rhythm.
		streams, ids = []string{w.client.keys.changes()}, []string{"18446744073709551615-18446744073709551615"}
	}
	return slices.Concat(streams, ids)
}

// take works on what came in.
func (w *Watcher) take(ctx context.Context, a answer) error {
	if a.err != nil {
		return w.survive(a.err)
	}
	began, changed := time.Now(), false
	for _, s := range a.streams {
		if len(s.Messages) == 0 {
			continue
		}
		if s.Stream == w.client.keys.changes() {
			changed = w.takeChanges(s.Messages)
			continue
		}
		w.instances.positions[s.Stream] = s.Messages[len(s.Messages)-1].ID
		w.instances.hinted = true
	}
	if changed {
		// The new configuration may entitle nodes that were not read so far.
		err := w.poll(ctx)
		w.changes.took(began)
		return err
	}
	return nil
}

// survive handles a stream that cannot be read although Redis answers: every
// node may write hints, and one that writes a huge or odd one must not cut all
// others off from the rest. First the hints are left out for a while, then, if
// it was not they, changes: polls and whole reads do their work meanwhile.
func (w *Watcher) survive(err error) error {
	if !odd(err) {
		return err
	}
	w.reject("streams", &refusal{reason: rejectMalformed, err: err})
	now := time.Now()
	switch {
	case w.instances.hints(now):
		w.instances.skipUntil = now.Add(skipHints)
	case w.config.follows(now):
		w.config.skipUntil = now.Add(jitter(pollEvery))
	default:
		return err
	}
	return nil
}

// odd reports whether err is about what Redis holds rather than Redis being
// away: a reply beyond the bounds, or a key of the wrong type.
func odd(err error) bool {
	return errors.Is(err, errReply) || redis.HasErrorPrefix(err, "WRONGTYPE")
}

// publish makes a new snapshot, if there is anything to tell.
func (w *Watcher) publish() {
	if w.config.decoded == nil || !w.instances.read {
		return
	}
	old := w.snapshot.Load()
	instances := w.deriveInstances()
	if old != nil && sameInstances(old.Instances, instances) {
		if old.Config == w.config.decoded && old.Denies == w.config.denies {
			return
		}
		instances = old.Instances
	}
	s := &mesh.Snapshot{Config: w.config.decoded, Denies: w.config.denies, Instances: instances}
	w.snapshot.Store(s)
	total := 0
	for _, list := range instances {
		total += len(list)
	}
	w.client.metrics.instances.Set(float64(total))
	if w.opts.OnSnapshot != nil {
		w.opts.OnSnapshot(s)
	}
}

func (w *Watcher) setStatus(edit func(*WatchStatus)) {
	s := *w.status.Load()
	edit(&s)
	w.status.Store(&s)
}

// synced notes that Redis confirmed the applied configuration.
func (w *Watcher) synced() {
	now := time.Now()
	w.client.metrics.syncedAt.Store(now.UnixNano())
	w.setStatus(func(s *WatchStatus) { s.SyncedAt, s.Head = now, w.config.head })
}

// reject counts something in Redis that was not accepted, and logs it now and
// then: what is wrong there stays wrong, and anyone may write much of it.
func (w *Watcher) reject(what string, r *refusal) {
	w.client.metrics.rejects.WithLabelValues(r.reason).Inc()
	if now := time.Now(); now.Sub(w.logged[r.reason]) >= rejectLogEvery {
		w.logged[r.reason] = now
		w.client.log.Warn().Err(r.err).Str("reason", r.reason).Str("what", what).Msg("refused what Redis holds")
	}
}
