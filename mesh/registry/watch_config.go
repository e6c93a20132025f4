package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// configState is the configuration as a Watcher holds it: always one that was
// verified whole.
type configState struct {
	head    mesh.Head    // of records
	floor   mesh.Head    // the highest ever applied, by an earlier run too
	records mesh.Records // never changed in place
	leaves  mesh.Leaves  // of records
	decoded *mesh.Config // nil before the first
	denies  *mesh.Denies // of decoded; what is denied later is another

	// wholeAt is when everything is to be read; zero when nothing suggests it.
	wholeAt time.Time
	// behind is a newer revision seen in the head that changes has not brought.
	behind uint32
	// skipUntil leaves changes out of the streams after it brought nothing
	// usable: entries that anyone may have forged must not make a busy loop.
	skipUntil time.Time
}

func (s *configState) follows(now time.Time) bool { return !now.Before(s.skipUntil) }

func (s *configState) position() string { return fmt.Sprintf("%d-0", s.head.Revision) }

// wholeDue returns a channel that delivers when everything is to be read.
func (s *configState) wholeDue() <-chan time.Time {
	if s.wholeAt.IsZero() {
		return nil
	}
	return time.After(time.Until(s.wholeAt))
}

// readLater has everything read soon: at once by a process that has no
// configuration yet, else spread, because others lost the thread too.
func (s *configState) readLater() {
	if !s.wholeAt.IsZero() {
		return
	}
	s.wholeAt = time.Now()
	if s.decoded != nil {
		s.wholeAt = s.wholeAt.Add(rand.N(spreadWhole))
	}
}

// judge says whether head may be applied over what is: signed by who may, newer,
// and not another history. It returns true for newer, and a refusal for what must
// never be.
func (w *Watcher) judge(head mesh.Head) (newer bool, r *refusal) {
	s := &w.config
	if sameSignature(head, s.head) {
		return false, nil // believed before, and a key that expires takes nothing away
	}
	if r := w.believe(head); r != nil {
		return false, r
	}
	if sameRevision(head, s.head) {
		if head.Time.After(s.head.Time) { // signed once more, to say that it still is the newest
			s.head = head
			w.signed()
		}
		return false, nil
	}
	r = s.goesBack(head)
	return r == nil, r
}

// goesBack returns why head is not to be applied after what ever was, or nil.
func (s *configState) goesBack(head mesh.Head) *refusal {
	switch {
	case head.Before(s.floor):
		return refuse(rejectOlder, "revision %d.%d, but %d.%d was applied", head.Epoch, head.Revision, s.floor.Epoch, s.floor.Revision)
	case !s.floor.Before(head) && head.Digest != s.floor.Digest:
		return refuse(rejectFork, "revision %d.%d with digest %.16s, but it was applied with %.16s", head.Epoch, head.Revision, head.Digest, s.floor.Digest)
	}
	return nil
}

// believe returns why head was not signed by who may, or nil.
func (w *Watcher) believe(head mesh.Head) *refusal {
	return unbelieved(w.client.trust.Head(head, w.opts.Now()))
}

// unbelieved makes an error of signing's a refusal; nil stays nil.
func unbelieved(err error) *refusal {
	if err == nil {
		return nil
	}
	reason := rejectMalformed
	var r *signing.Refusal
	if errors.As(err, &r) {
		reason = string(r.Reason)
	}
	return &refusal{reason: reason, err: err}
}

// learn takes the keys that Redis holds, if they are newer.
func (w *Watcher) learn(raw string) {
	if raw == "" {
		return
	}
	changed, err := w.client.trust.Learn([]byte(raw))
	switch {
	case err != nil:
		w.reject("keys", unbelieved(err))
	case changed:
		keys, _ := w.client.trust.Keys()
		w.client.log.Info().Uint32("serial", keys.Serial).Uint32("epoch", keys.Epoch).Time("until", keys.Ends()).Int("denied", len(keys.Denied)).Msg("the roots say something new of who may sign the configuration, and who is shut out")
	}
	// Whoever else has the verifier may have learned them first, as a control plane does of its file.
	if keys, _ := w.client.trust.Keys(); keys != w.deniedBy {
		w.rootsDeny()
	}
	w.client.knowKeys()
}

// rootsDeny makes a snapshot of what the roots deny, if that is something new.
func (w *Watcher) rootsDeny() {
	if w.config.decoded == nil {
		return // adopt will look
	}
	if next := w.denies(w.config.decoded); next != w.config.denies {
		w.config.denies, w.instances.stale = next, true
		w.publish()
	}
}

// signed notes when the configuration was last signed.
func (w *Watcher) signed() {
	w.client.metrics.signedAt.Store(w.config.head.Time.UnixNano())
}

// takeChanges applies entries of changes and reports whether the configuration
// is a new one. Entries that do not follow each other from what is applied, or
// do not add up to their head's digest, make for a whole read.
func (w *Watcher) takeChanges(entries []redis.XMessage) bool {
	var all mesh.Change
	head, broken := w.config.head, false
	for _, e := range entries {
		change, r := decodeEntry(e)
		if r == nil && change.Head.Revision <= head.Revision {
			continue // a whole read was quicker
		}
		if r == nil {
			r = w.believe(change.Head)
		}
		if broken = r != nil || change.whole || !follows(change.Head, head); broken {
			if r != nil {
				w.reject("changes "+limit(e.ID), r)
				if r.reason == string(signing.UnknownKey) || r.reason == string(signing.WrongEpoch) {
					w.config.readLater() // it may be that other keys may sign now
				}
			} else {
				w.config.readLater()
			}
			break
		}
		all.Add(change.Change)
		head = change.Head
	}
	if head.Revision == w.config.head.Revision {
		if broken {
			w.config.skipUntil = time.Now().Add(jitter(pollEvery))
		}
		return false
	}
	if r := w.config.goesBack(head); r != nil {
		w.reject("changes", r)
		w.config.readLater()
		return false
	}
	leaves := w.config.leaves.Next(all)
	if got := leaves.Digest(); got != head.Digest {
		w.reject("changes", refuse(rejectDigest, "the changes up to revision %d lead to %.16s, its head says %.16s", head.Revision, got, head.Digest))
		w.config.skipUntil = time.Now().Add(jitter(pollEvery))
		w.config.readLater()
		return false
	}
	records := maps.Clone(w.config.records)
	records.Apply(all)
	w.adopt(head, records, leaves)
	return true
}

// follows reports whether next is the revision after head.
func follows(next, head mesh.Head) bool {
	return next.Revision == head.Revision+1 && next.Epoch >= head.Epoch
}

// entry is an entry of changes.
type entry struct {
	mesh.Change
	whole bool // it does not say what changed
}

// decodeEntry decodes one entry; its id must be its revision.
func decodeEntry(m redis.XMessage) (entry, *refusal) {
	var e entry
	raw, _ := m.Values[fieldHead].(string)
	head, err := decodeHead("registry.Watch", []byte(raw))
	if err != nil {
		return e, refuse(rejectMalformed, "%w", err)
	}
	if revision, ok := entryRevision(m.ID); !ok || revision != head.Revision {
		return e, refuse(rejectMalformed, "the entry's head is of revision %d", head.Revision)
	}
	e.Head, e.Puts = head, mesh.Records{}
	for field, value := range m.Values {
		raw, _ := value.(string)
		switch {
		case field == fieldWhole:
			e.whole = true
		case strings.HasPrefix(field, fieldDel):
			e.Deletes = append(e.Deletes, field[len(fieldDel):])
		case strings.HasPrefix(field, fieldPut):
			if len(raw) > maxRecordBytes {
				return e, refuse(rejectOversize, "a record of %d bytes", len(raw))
			}
			e.Puts[field[len(fieldPut):]] = []byte(raw)
		}
	}
	return e, nil
}

// readWhole reads everything, and applies it if it is newer. Only Redis being
// away is an error.
func (w *Watcher) readWhole(ctx context.Context) error {
	w.config.wholeAt = time.Time{}
	head, records, signers, err := w.client.read(ctx)
	w.learn(signers)
	switch {
	case err != nil && mesh.KindOf(err) == mesh.Unavailable:
		w.config.readLater()
		return err
	case err != nil && mesh.KindOf(err) == mesh.NotFound:
		return nil // nothing was published yet, or all of it was lost
	case err != nil:
		w.refuseWhole(head, err)
		return nil
	}
	newer, r := w.judge(head)
	switch {
	case r != nil:
		w.reject("head", r)
	case newer:
		w.adopt(head, records, records.Leaves())
	default:
		w.synced()
	}
	return nil
}

// refuseWhole handles a head that is none, or records that it does not describe.
func (w *Watcher) refuseWhole(head mesh.Head, err error) {
	reason := rejectMalformed
	if errors.Is(err, errDigest) {
		reason = rejectDigest
		// The head may be good and the records damaged; the control plane
		// notices, and publishes again.
		w.config.readLater()
	}
	w.reject("config", &refusal{reason: reason, err: err})
	if w.opts.OnReject != nil && w.config.head.Before(head) && w.believe(head) == nil {
		w.opts.OnReject(head.Revision, err)
	}
}

// seeHead looks at the head that came with a poll and reports whether Redis is
// the one it was: it holds what was applied, or something newer.
func (w *Watcher) seeHead(raw string) bool {
	if raw == "" {
		return w.config.head.Revision == 0
	}
	head, err := decodeHead("registry.Watch", []byte(raw))
	if err != nil {
		w.reject("head", refuse(rejectMalformed, "%w", err))
		return false
	}
	newer, r := w.judge(head)
	switch {
	case r != nil:
		w.reject("head", r)
		return false
	case !newer:
		w.config.behind = 0
		w.synced()
	case w.config.behind != 0 || !w.config.follows(time.Now()):
		// changes had a whole poll's time to bring it.
		w.config.behind = 0
		w.config.readLater()
	default:
		w.config.behind = head.Revision
	}
	return true
}

// adopt makes verified records the configuration. That nothing before them may be
// applied any more is on disk first.
func (w *Watcher) adopt(head mesh.Head, records mesh.Records, leaves mesh.Leaves) {
	w.raiseFloor(head)
	before := w.config.decoded
	if before == nil {
		before = mesh.NewConfig()
	}
	decoded, errs := before.Next(head, w.config.records, records)
	w.config = configState{head: head, floor: head, records: records, leaves: leaves, decoded: decoded, denies: w.denies(decoded)}
	w.signed()
	w.client.metrics.revision.Set(float64(head.Revision))
	w.synced()
	w.instances.stale = true
	for _, err := range errs {
		w.reject("config", refuse(rejectRecord, "%w", err))
	}
	if len(errs) > 0 && w.opts.OnReject != nil {
		w.opts.OnReject(head.Revision, errors.Join(errs...))
	}
	w.publish()
}

// denies returns whose certificates are refused, by config and by the roots: what there was,
// if it is the same.
func (w *Watcher) denies(config *mesh.Config) *mesh.Denies {
	keys, _ := w.client.trust.Keys()
	w.deniedBy = keys
	next := mesh.NewDenies(config.Quarantines, keys.Quarantines())
	if next.Equal(w.config.denies) {
		return w.config.denies
	}
	return next
}

// limit cuts text from Redis to a length fit for a log.
func limit(s string) string { return fmt.Sprintf("%.60q", s) }
