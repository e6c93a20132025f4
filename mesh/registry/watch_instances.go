package registry

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// fetchKeys bounds one pipeline of reads, and with the bound on a value its
// reply.
const fetchKeys = 200

// instanceKey names the document of one process.
type instanceKey struct{ node, role string }

// instanceState is what a Watcher knows of the processes of the mesh.
type instanceState struct {
	held      map[instanceKey]*held
	streams   []string          // the hints to wait on, sorted
	positions map[string]string // stream to the last id seen
	skipUntil time.Time         // hints are left out until then
	hinted    bool              // poll soon
	read      bool              // a poll was completed with the configuration there is
	stale     bool              // documents or configuration changed since instances were derived
	polled    time.Time         // the last undisturbed poll; zero: count absence anew
	bundle    *identity.Bundle  // of the last poll

	// floors are the last documents of processes that are gone. Until they would have
	// expired nothing older is taken.
	floors map[instanceKey]floor
}

// floor is what a document of a process that is gone leaves.
type floor struct {
	seq   int64
	until time.Time
}

// held is the accepted document of one process.
type held struct {
	raw     string     // its bytes, not verified again while they stand
	doc     *document  // nil when none is accepted
	by      *certified // who signed doc, or what was held before
	refused string     // bytes that were refused, not looked at again either
	wait    time.Time  // when bytes after refused ones are looked at

	// lacking is true since a poll found no acceptable document, and absent is
	// for how long further polls have. What removes the instances is a whole TTL
	// of that, or that the key is gone when it was to expire: its process sends
	// no heartbeats, and this is no Redis that lost its keys.
	lacking bool
	absent  time.Duration

	seen   time.Time // when a poll last found the document
	expire time.Time // when its key expires without another heartbeat; zero if Redis was silent since
}

// bundleEvery is how often roots are asked for while there are none.
const bundleEvery = 50 * time.Millisecond

// refusedRest is how long after a document was refused the next one under its key is
// looked at. To verify one costs a tenth of a millisecond, and whoever writes to Redis
// can write without end.
const refusedRest = time.Second

// expirySlack is how long after a key's time it is looked for again.
const expirySlack = 100 * time.Millisecond

// over reports whether the instances are to be removed.
func (h *held) over(now time.Time) bool {
	return h.absent >= LeaseTTL || h.lacking && !h.expire.IsZero() && now.After(h.expire)
}

// Report is what one process said about itself, and how alive it is.
type Report struct {
	Node, Role       string
	AppliedEpoch     uint32
	AppliedRevision  uint32
	RejectedRevision uint32 // 0: none
	RejectedReason   string
	LastSeen         time.Time
	Contained        []Contained // quarantines that it says are carried out
	Broker           string      // where a bridge takes messages from
	// Instances are the accepted ones, with LeaseExpireTime.
	Instances []*mesh.Instance
}

// Reports returns what every process said, sorted by node and role. It is
// empty unless the watcher watches All. The reports are the caller's, what they
// point to is not.
func (w *Watcher) Reports() []Report { return slices.Clone(*w.reports.Load()) }

// disturbed begins counting absence anew: Redis was silent, or is another one.
func (s *instanceState) disturbed() {
	s.polled = time.Time{}
	for _, h := range s.held {
		h.lacking, h.absent, h.expire = false, 0, time.Time{}
	}
}

// hints reports whether hints are waited for at all.
func (s *instanceState) hints(now time.Time) bool { return !now.Before(s.skipUntil) }

// untilRemoval returns, from the last poll on, when the next instance may have been absent for long
// enough.
func (s *instanceState) untilRemoval(poll time.Time) time.Duration {
	d := pollEvery * 2
	for _, h := range s.held {
		if h.doc != nil && h.lacking {
			d = min(d, LeaseTTL-h.absent)
		}
		if h.doc != nil && !h.expire.IsZero() {
			d = min(d, h.expire.Add(expirySlack).Sub(poll))
		}
	}
	return max(d, pollGap)
}

// interest returns the keys of the documents that matter, sorted: those of
// nodes that may run a service that is needed.
func (w *Watcher) interest() []instanceKey {
	if w.config.decoded == nil {
		return nil
	}
	var out []instanceKey
	for _, id := range slices.Sorted(maps.Keys(w.config.decoded.Nodes)) {
		node := w.config.decoded.Nodes[id]
		if !w.opts.All && (w.config.denies.Node(id) || !slices.ContainsFunc(node.Services, w.needs)) {
			continue
		}
		for _, role := range slices.Sorted(slices.Values(node.Roles)) {
			if key := (instanceKey{id, role}); !slices.Contains(out[max(0, len(out)-3):], key) {
				out = append(out, key)
			}
		}
	}
	return out
}

// poll reads the documents of interest and the head, and makes a snapshot of
// what changed. Where hints will come from is noted first, so that none is
// missed between.
func (w *Watcher) poll(ctx context.Context) error {
	bundle := w.bundle()
	if bundle == nil {
		w.lastPoll, w.nextPoll = time.Now(), time.Now().Add(bundleEvery)
		return nil
	}
	w.takeKept()
	if bundle != w.instances.bundle { // what was refused by other roots may be good by these
		w.instances.bundle = bundle
		for _, h := range w.instances.held {
			h.refused, h.wait = "", time.Time{}
		}
	}
	keys := w.interest()
	if err := w.noteStreams(ctx, keys); err != nil {
		return err
	}
	values, err := w.fetch(ctx, keys)
	if err != nil {
		return err
	}
	now := time.Now()
	w.lastPoll, w.nextPoll = now, now.Add(jitter(pollEvery))
	w.instances.hinted = false
	w.lookAll(keys, values, now)
	w.forget(keys)
	if err := w.readExpiry(ctx, keys, now); err != nil {
		return err
	}
	w.instances.read = w.config.decoded != nil
	w.warnWithheld(now)
	w.publish()
	w.save()
	if w.opts.All {
		w.report()
	}
	return nil
}

// lookAll compares what a poll found with what is held.
func (w *Watcher) lookAll(keys []instanceKey, values fetched, now time.Time) {
	elapsed := time.Duration(0)
	if !w.instances.polled.IsZero() {
		// A process that was suspended has not watched for all that time.
		elapsed = min(now.Sub(w.instances.polled), 2*pollEvery)
	}
	w.learn(values.signers)
	well := w.seeHead(values.head)
	if !well { // what this Redis lacks says nothing, now and until it is well
		w.instances.disturbed()
		elapsed = 0
	}
	for i, key := range keys {
		w.look(key, values.documents[i], elapsed, now)
	}
	w.instances.polled = now
	if !well {
		w.instances.disturbed()
	}
}

// noteStreams settles which hints to wait on, and from where.
func (w *Watcher) noteStreams(ctx context.Context, keys []instanceKey) error {
	old := w.instances.positions
	w.instances.streams, w.instances.positions = nil, map[string]string{}
	if !w.instances.hints(time.Now()) {
		return nil
	}
	set := map[string]bool{}
	for _, k := range keys {
		set[w.client.keys.hints(k.node)] = true
	}
	streams := slices.Sorted(maps.Keys(set))
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	fresh := map[string]*redis.XMessageSliceCmd{}
	_, err := w.client.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, s := range streams {
			if old[s] == "" || w.instances.polled.IsZero() {
				fresh[s] = p.XRevRangeN(ctx, s, "+", "-", 1)
			}
		}
		return nil
	})
	if err != nil {
		return w.survive(wrap("registry.Watch", "", err))
	}
	for _, s := range streams {
		position := old[s]
		if cmd := fresh[s]; cmd != nil {
			position = "0-0"
			if last := cmd.Val(); len(last) > 0 {
				position = last[0].ID
			}
		}
		w.instances.positions[s] = position
	}
	w.instances.streams = streams
	return nil
}

// fetched is what one poll read. An absent value is "".
type fetched struct {
	head      string
	signers   string
	documents []string // by key of interest
}

// fetch reads the head and the documents of keys. It is GETRANGE and not MGET,
// because a node may make its own document as large as it likes.
func (w *Watcher) fetch(ctx context.Context, keys []instanceKey) (fetched, error) {
	names := []string{w.client.keys.head(), w.client.keys.signers()}
	for _, k := range keys {
		names = append(names, w.client.keys.instance(k.node, k.role))
	}
	values := make([]string, 0, len(names))
	for chunk := range slices.Chunk(names, fetchKeys) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		cmds, err := w.client.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, name := range chunk {
				p.GetRange(ctx, name, 0, maxDocumentBytes)
			}
			return nil
		})
		cancel()
		if err != nil && !odd(err) {
			return fetched{}, wrap("registry.Watch", "", err)
		}
		for _, cmd := range cmds {
			value, err := cmd.(*redis.StringCmd).Result()
			if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
				return fetched{}, wrap("registry.Watch", "", err)
			}
			values = append(values, value) // a key of the wrong type is as good as none
		}
	}
	return fetched{head: values[0], signers: values[1], documents: values[2:]}, nil
}

// look compares what a poll found under key with what is held.
func (w *Watcher) look(key instanceKey, raw string, elapsed time.Duration, now time.Time) {
	h := w.instances.held[key]
	if h == nil {
		if raw == "" {
			return
		}
		h = &held{}
		w.instances.held[key] = h
	}
	if raw != "" && raw != h.raw && raw != h.refused && !now.Before(h.wait) {
		w.accept(key, h, raw, now)
	}
	if raw != "" && !w.outlived(key, h, now) {
		// What was refused takes nothing away: the last good document stands.
		h.lacking, h.absent = false, 0
		if raw == h.raw {
			h.seen = now
		}
		return
	}
	if h.lacking {
		h.absent += elapsed
	}
	h.lacking = true
	if h.doc != nil && h.over(now) {
		w.instances.floors[key] = floor{seq: h.doc.Seq, until: h.doc.NotAfter.Add(skewTolerated)}
		h.doc, h.raw, h.refused, h.expire = nil, "", "", time.Time{}
		w.instances.stale = true
	}
	if raw == "" && h.doc == nil {
		delete(w.instances.held, key)
	}
}

// outlived reports whether the document that is held would not be taken any more, though
// Redis has it, or something refused in its place: its process has long renewed it, or is
// gone, and somebody else keeps the key.
func (w *Watcher) outlived(key instanceKey, h *held, now time.Time) bool {
	if h.doc == nil || !h.doc.expired(now) {
		return false
	}
	if !h.lacking {
		w.reject("inst:"+key.node+"/"+key.role, refuse(rejectExpired, "not valid after %s, and still there", h.doc.NotAfter.UTC().Format(time.RFC3339)))
	}
	return true
}

// denied reports whether what node signed with a certificate is dropped.
func (w *Watcher) denied(node string, by *certified) bool {
	return w.config.denies.Node(node) || by != nil && w.config.denies.RefusesNode(node, by.from)
}

// accept takes a new document, or leaves the old one and remembers not to look
// again.
func (w *Watcher) accept(key instanceKey, h *held, raw string, now time.Time) {
	v := verification{mesh: w.client.trust.Mesh(), bundle: w.instances.bundle, at: now}
	d, by, r := v.openDocument([]byte(raw), key, h.by)
	if r == nil && !w.config.denies.Node(key.node) && w.denied(key.node, by) {
		r = refuse(rejectQuarantined, "it is signed with a certificate from before the release of nodes/%s", key.node)
	}
	if r == nil {
		r = w.replayed(key, h, d.Seq, now)
	}
	if r != nil {
		h.refused, h.wait = raw, now.Add(refusedRest)
		w.reject("inst:"+key.node+"/"+key.role, r)
		return
	}
	h.raw, h.doc, h.by, h.refused = raw, d, by, ""
	w.instances.stale = true
}

// replayed reports a document that is older than what its process, or the one before,
// has said.
func (w *Watcher) replayed(key instanceKey, h *held, seq int64, now time.Time) *refusal {
	if h.doc != nil && seq < h.doc.Seq {
		return refuse(rejectReplayed, "document %d, but %d was accepted", seq, h.doc.Seq)
	}
	f, ok := w.instances.floors[key]
	if ok && now.After(f.until) { // nothing that old would be taken
		delete(w.instances.floors, key)
		return nil
	}
	if ok && seq < f.seq {
		return refuse(rejectReplayed, "document %d of a process that is gone, but %d was accepted", seq, f.seq)
	}
	return nil
}

// forget drops the documents that are of no interest any more.
func (w *Watcher) forget(keys []instanceKey) {
	wanted := make(map[instanceKey]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
	}
	maps.DeleteFunc(w.instances.held, func(k instanceKey, _ *held) bool {
		if !wanted[k] {
			w.instances.stale = true
		}
		return !wanted[k]
	})
	maps.DeleteFunc(w.instances.floors, func(k instanceKey, _ floor) bool { return !wanted[k] })
}

// readExpiry learns when the leases end.
func (w *Watcher) readExpiry(ctx context.Context, keys []instanceKey, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ttl := map[instanceKey]*redis.DurationCmd{}
	_, err := w.client.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, k := range keys {
			if h := w.instances.held[k]; h != nil && h.doc != nil {
				ttl[k] = p.PTTL(ctx, w.client.keys.instance(k.node, k.role))
			}
		}
		return nil
	})
	if redis.HasErrorPrefix(err, "NOPERM") {
		return nil // a user of an older mesh: absence counts for a whole TTL then
	}
	if err != nil {
		return wrap("registry.Watch", "", err)
	}
	for k, cmd := range ttl {
		if left := cmd.Val(); left > 0 {
			w.instances.held[k].expire = now.Add(min(left, LeaseTTL))
		}
	}
	return nil
}

// deriveInstances returns the instances that the held documents offer and the
// configuration allows, by service, sorted by name.
func (w *Watcher) deriveInstances() map[string][]*mesh.Instance {
	old := w.snapshot.Load()
	watched := 0
	for id := range w.config.decoded.Services {
		if w.needs(id) {
			watched++
		}
	}
	if old != nil && !w.instances.stale && len(old.Instances) == watched {
		return old.Instances
	}
	w.instances.stale = false
	out := make(map[string][]*mesh.Instance, watched)
	for id := range w.config.decoded.Services {
		if w.needs(id) {
			out[id] = []*mesh.Instance{}
		}
	}
	names := map[string]bool{}
	for _, key := range slices.SortedFunc(maps.Keys(w.instances.held), compareKeys) {
		for _, in := range w.allowed(key, names) {
			if list, ok := out[in.Service]; ok {
				out[in.Service] = append(list, in)
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *mesh.Instance) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out
}

// allowed returns the instances of one document that the configuration allows,
// and counts the others. names holds those seen so far.
func (w *Watcher) allowed(key instanceKey, names map[string]bool) []*mesh.Instance {
	h := w.instances.held[key]
	if h.doc == nil || w.denied(key.node, h.by) { // who watches all still reads what it says
		return nil
	}
	var out []*mesh.Instance
	for i := range h.doc.Instances {
		in, r := h.doc.instance(&h.doc.Instances[i], w.config.decoded)
		if r == nil && names[in.Name] {
			r = refuse(rejectDuplicate, "%s is registered twice", in.Name)
		}
		if r != nil {
			w.reject("inst:"+key.node+"/"+key.role, r)
			continue
		}
		names[in.Name] = true
		out = append(out, in)
	}
	return out
}

func compareKeys(a, b instanceKey) int {
	return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.role, b.role))
}

func sameInstances(a, b map[string][]*mesh.Instance) bool {
	return maps.EqualFunc(a, b, func(x, y []*mesh.Instance) bool {
		return slices.EqualFunc(x, y, func(p, q *mesh.Instance) bool { return p == q || reflect.DeepEqual(p, q) })
	})
}

// report rebuilds Reports from the held documents and the snapshot.
func (w *Watcher) report() {
	byNode := map[instanceKey][]*mesh.Instance{}
	owner := map[string]instanceKey{}
	for key, h := range w.instances.held {
		if h.doc == nil {
			continue
		}
		for i := range h.doc.Instances {
			owner[h.doc.Instances[i].Name] = key
		}
	}
	if s := w.snapshot.Load(); s != nil {
		for _, service := range slices.Sorted(maps.Keys(s.Instances)) {
			for _, in := range s.Instances[service] {
				key := owner[in.Name]
				shown := *in
				if h := w.instances.held[key]; h != nil && !h.expire.IsZero() {
					expire := h.expire.UTC()
					shown.LeaseExpireTime = &expire
				}
				byNode[key] = append(byNode[key], &shown)
			}
		}
	}
	reports := []Report{}
	for _, key := range slices.SortedFunc(maps.Keys(w.instances.held), compareKeys) {
		h := w.instances.held[key]
		if h.doc == nil {
			continue
		}
		r := Report{Node: key.node, Role: key.role, LastSeen: h.seen, Contained: h.doc.Contained, Broker: h.doc.Broker, Instances: byNode[key]}
		if a := h.doc.Applied; a != nil {
			r.AppliedEpoch, r.AppliedRevision = a.Epoch, a.Revision
		}
		if j := h.doc.Rejected; j != nil {
			r.RejectedRevision, r.RejectedReason = j.Revision, j.Reason
		}
		reports = append(reports, r)
	}
	w.reports.Store(&reports)
}
