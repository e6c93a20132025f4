package controlapi

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// How long a write waits for the registry: before it is stored, and after.
const (
	pingTimeout    = 2 * time.Second
	publishTimeout = 3 * time.Second
)

// writer is the only place where configuration changes. Reads take the state
// without a lock; writes come one after another.
type writer struct {
	logStore  Log
	publisher Publisher
	authority Authority
	now       func() time.Time
	changed   func() // told of every revision
	log       zerolog.Logger
	metrics   *metrics
	audit     *auditor

	turn  chan struct{} // holds one token; who has it may write
	state atomic.Pointer[state]
	// signError is why the newest head could not be signed again; nil if it was.
	signError atomic.Pointer[error]
}

func newWriter(ctx context.Context, opts *Options, log zerolog.Logger, m *metrics) (*writer, error) {
	w := &writer{
		logStore: opts.Log, publisher: opts.Publisher, authority: opts.Authority, now: opts.Now, changed: func() {},
		log: log, metrics: m, turn: make(chan struct{}, 1),
	}
	w.turn <- struct{}{}
	return w, w.load(ctx)
}

// load takes the state from the log.
func (w *writer) load(ctx context.Context) error {
	head, records, err := w.logStore.Load(ctx)
	if err != nil {
		return &mesh.Error{Op: "controlapi.load", Kind: mesh.KindOf(err), Err: err}
	}
	st, errs := newState(head, records)
	for _, err := range errs {
		w.log.Error().Err(err).Msg("a stored object is not accepted by this version, data planes do without it")
	}
	w.metrics.unreadable.Set(float64(len(errs)))
	w.metrics.revision.Set(float64(head.Revision))
	w.state.Store(st)
	return nil
}

// outcome is what a write did, or would do.
type outcome struct {
	*plan
	wrote     bool // a revision was made
	published bool // and the registry holds it
}

// write carries out edits, all or none. With dry it only says what it would
// do. Nothing is stored when it fails; when it succeeds and made a revision,
// that is in the log, and published unless outcome says otherwise.
func (w *writer) write(ctx context.Context, edits []edit, when conditions, dry bool) (*outcome, error) {
	const op = "controlapi.write"
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, mesh.Errorf(op, "", mesh.Unavailable, "other writes took too long: %w", ctx.Err())
	}
	// Another control plane may write the same log. Who loses to it decides again, on what
	// it has written: conditions too.
	for try := 1; ; try++ {
		out, err := w.attempt(ctx, edits, when, dry)
		if !errors.As(err, new(*lostRace)) || try == maxRaces {
			return out, err
		}
		w.metrics.races.Inc()
		if !pause(ctx, try) {
			return nil, err
		}
	}
}

// attempt is one try of write, with the turn.
func (w *writer) attempt(ctx context.Context, edits []edit, when conditions, dry bool) (*outcome, error) {
	st := w.state.Load()
	p, err := st.plan(edits, when, w.now(), callerOf(ctx))
	if err != nil {
		return nil, err
	}
	if dry || p.next == st {
		return &outcome{plan: p}, nil
	}
	if err := w.ping(ctx); err != nil {
		return nil, err
	}
	// From here on the caller's patience does not matter: a revision that is
	// stored is worth publishing, and half of a write is none.
	ctx = context.WithoutCancel(ctx)
	if err := w.sign(ctx, p); err != nil {
		return nil, err
	}
	if err := w.audit.accepted(ctx, p); err != nil {
		return nil, err
	}
	if err := w.store(ctx, p); err != nil {
		w.audit.failed(ctx, p, err)
		return nil, err
	}
	published := w.publish(ctx, p, st.head)
	w.log.Info().Uint32("revision", p.change.Head.Revision).Str("actor", p.change.Actor).Bool("published", published).
		Str("puts", summary(p)).Strs("deletes", p.change.Deletes).Msg("configuration changed")
	return &outcome{plan: p, wrote: true, published: published}, nil
}

func (w *writer) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := w.publisher.Ping(ctx); err != nil {
		return mesh.Errorf("controlapi.write", "", mesh.Unavailable, "the registry is away, nothing was stored: %w", err).
			WithHint("try again when /readyz answers 200")
	}
	return nil
}

// store appends the change to the log and takes it as the state. After an
// error what the log says is loaded again, because nobody knows whether a
// write that failed at the last step is there.
func (w *writer) store(ctx context.Context, p *plan) error {
	if err := w.logStore.Append(ctx, p.change); err != nil {
		hint := mesh.HintOf(err)
		if hint == "" {
			hint = "try again"
		}
		kind, loaded := mesh.KindOf(err), w.load(ctx)
		if kind == mesh.Stale && loaded == nil { // not the caller's etag: another control plane
			err = &lostRace{err}
		}
		if kind != mesh.Internal { // whatever it is, it is not about what the caller sent
			kind = mesh.Unavailable
		}
		return errors.Join(&mesh.Error{Op: "controlapi.write", Kind: kind, Err: err, Hint: hint}, loaded)
	}
	w.state.Store(p.next)
	w.metrics.revision.Set(float64(p.next.head.Revision))
	w.changed()
	return nil
}

// publish reports whether the registry holds the change now. If not, whoever
// watches the registry publishes it when that is back.
func (w *writer) publish(ctx context.Context, p *plan, base mesh.Head) bool {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	result, err := w.publisher.Publish(ctx, p.change.Published(), base, p.next.public)
	if err == nil && result != registry.Newer {
		return true
	}
	w.metrics.unpublished.Inc()
	w.log.Warn().Err(err).Stringer("outcome", result).Uint32("revision", p.change.Head.Revision).
		Msg("the revision is stored and not published yet")
	return false
}

// summary names what was put, shortened: an apply may have thousands.
func summary(p *plan) string {
	var names []string
	for _, c := range p.changes {
		if c.put {
			names = append(names, c.name)
		}
		if len(names) == 20 {
			names = append(names, "...")
			break
		}
	}
	return strings.Join(names, " ")
}
