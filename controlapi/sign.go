package controlapi

import (
	"context"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// An Authority signs the heads of revisions: data planes take no others.
// *signing.Authority is one.
type Authority interface {
	// Epoch returns the epoch of every head from now on; 0 if that is not known.
	Epoch() uint32
	// Sign returns head with a signature that data planes believe.
	Sign(ctx context.Context, head mesh.Head) (mesh.Head, error)
}

const (
	// signEvery is how often the newest head is signed again: it tells data planes that
	// nothing newer is held back from them.
	signEvery = time.Minute
	// lookEvery is how often it is looked whether that is due, or the epoch another one.
	lookEvery   = time.Second
	signTimeout = 5 * time.Second
)

// sign signs the head that p leads to. It is not stored yet, so no data plane can have seen
// another of its number.
func (w *writer) sign(ctx context.Context, p *plan) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	head := p.change.Head
	head.Epoch = max(w.authority.Epoch(), head.Epoch)
	signed, err := w.authority.Sign(ctx, head)
	if err != nil {
		w.metrics.unsigned.Inc()
		return &mesh.Error{Op: "controlapi.write", Kind: mesh.Unavailable, Err: err, Hint: mesh.HintOf(err)}
	}
	p.change.Head, p.next.head, p.next.config.Head = signed, signed, signed
	return nil
}

// RunSigning has the newest head signed again once a minute, until ctx ends, and makes a
// revision without a change when the roots say another epoch. It returns nil: what fails is
// counted, shows in /readyz, and is tried again.
func (s *Server) RunSigning(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		s.writer.refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// refresh signs the newest head again if that is due.
func (w *writer) refresh(ctx context.Context) {
	st := w.state.Load()
	if st.head.Revision == 0 || !w.stale(st.head) {
		return
	}
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return
	}
	st = w.state.Load()
	err := w.signAgain(ctx, st)
	if err != nil && ctx.Err() == nil {
		w.metrics.unsigned.Inc()
		if w.signError.Load() == nil {
			w.log.Error().Err(err).Str("hint", mesh.HintOf(err)).Msg("the configuration is not signed again, data planes will take it for held back")
		}
		w.signError.Store(&err)
		return
	}
	w.signError.Store(nil)
}

// stale reports whether head is to be signed again.
func (w *writer) stale(head mesh.Head) bool {
	return head.Signature == "" || w.now().Sub(head.Time) >= signEvery || w.authority.Epoch() > head.Epoch || w.signError.Load() != nil
}

// signAgain is called with the turn.
func (w *writer) signAgain(ctx context.Context, st *state) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	head := st.head
	head.Time = w.now().UTC().Truncate(time.Millisecond)
	if w.authority.Epoch() > head.Epoch {
		return w.newEpoch(ctx, st, head)
	}
	signed, err := w.authority.Sign(ctx, head)
	if err != nil {
		return err
	}
	next := *st
	config := *st.config
	config.Head, next.head, next.config = signed, signed, &config
	w.state.Store(&next)
	return nil
}

// newEpoch stores a revision that changes nothing but the epoch.
func (w *writer) newEpoch(ctx context.Context, st *state, head mesh.Head) error {
	head.Revision++
	config := *st.config
	next := *st
	next.config = &config
	p := &plan{change: mesh.Change{Head: head, Actor: "root"}, next: &next}
	if err := w.sign(ctx, p); err != nil {
		return err
	}
	if err := w.store(ctx, p); err != nil {
		return err
	}
	w.log.Info().Uint32("epoch", p.change.Head.Epoch).Uint32("revision", p.change.Head.Revision).Msg("the roots began another epoch")
	w.publish(ctx, p, st.head)
	return nil
}

// signedLately is a check of /readyz.
func (w *writer) signedLately(context.Context) error {
	if err := w.signError.Load(); err != nil {
		return *err
	}
	return nil
}
