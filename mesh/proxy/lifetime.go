package proxy

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// lifetimes ends connections of the mesh with the certificates that they were made with:
// a handshake proves who the peer is until then and not longer. To end is to take no more
// requests; what is under way finishes.
//
// Who dials ends first, before its certificate and its peer's do, and dials again, so that
// nothing is ever refused for it. Who accepted ends when they do.
type lifetimes struct {
	wake chan struct{} // something ends sooner than all before

	// mu guards what follows. Nothing is called under it.
	mu   sync.Mutex
	all  map[*lifetime]struct{}
	next time.Time // when the first of them ends; zero if there are none
}

// lifetime is that of one connection.
type lifetime struct {
	at  time.Time // wall clock
	end func()    // must not block
}

// lookEvery is how often the wall clock is looked at while connections are open: the
// timers of a suspended machine stand still.
const lookEvery = time.Second

// The share of what is left of a connection's life at which who dialled ends it, and the
// least of that.
const (
	earlyShare = 0.1
	earlyLeast = time.Second
)

func newLifetimes() *lifetimes {
	return &lifetimes{wake: make(chan struct{}, 1), all: map[*lifetime]struct{}{}}
}

// add has end called at a time, unless remove comes before. Without a time it does
// nothing, and returns nil.
func (ls *lifetimes) add(at time.Time, end func()) *lifetime {
	if at.IsZero() {
		return nil
	}
	l := &lifetime{at, end}
	ls.mu.Lock()
	ls.all[l] = struct{}{}
	sooner := ls.next.IsZero() || at.Before(ls.next)
	if sooner {
		ls.next = at
	}
	ls.mu.Unlock()
	if sooner {
		select {
		case ls.wake <- struct{}{}:
		default: // it is about to look anyway
		}
	}
	return l
}

// remove forgets a connection that has ended by itself; nil is none.
func (ls *lifetimes) remove(l *lifetime) {
	if l == nil {
		return
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.all, l)
	if len(ls.all) == 0 {
		ls.next = time.Time{}
	}
}

// run ends connections until ctx ends.
func (ls *lifetimes) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ls.wake:
		case <-timer.C:
		}
		if next := ls.due(time.Now().Round(0)); !next.IsZero() {
			timer.Reset(max(0, min(time.Until(next), lookEvery)))
		}
	}
}

// due ends what is to end by now and returns when the next is.
func (ls *lifetimes) due(now time.Time) (next time.Time) {
	var over []*lifetime
	ls.mu.Lock()
	if !ls.next.IsZero() && !now.Before(ls.next) {
		ls.next = time.Time{}
		for l := range ls.all {
			switch {
			case !now.Before(l.at):
				over = append(over, l)
				delete(ls.all, l)
			case ls.next.IsZero() || l.at.Before(ls.next):
				ls.next = l.at
			}
		}
	}
	next = ls.next
	ls.mu.Unlock()
	for _, l := range over {
		l.end()
	}
	return next
}

// certifiedUntil returns when the first of a connection's two certificates ends: the
// peer's, or that of src, which may have another by now.
func certifiedUntil(state *tls.ConnectionState, src *identity.Credential) time.Time {
	if len(state.PeerCertificates) == 0 {
		return time.Time{}
	}
	until := state.PeerCertificates[0].NotAfter
	if src != nil && src.Certificate.Leaf.NotAfter.Before(until) {
		until = src.Certificate.Leaf.NotAfter
	}
	return until.Round(0)
}

// endEarly returns when who dialled ends a connection that is certified until a time: a
// little before, and not all at the same moment.
func endEarly(now, until time.Time) time.Time {
	if until.IsZero() {
		return until
	}
	left := until.Sub(now)
	ahead := time.Duration(float64(left) * earlyShare * (0.5 + rand.Float64()))
	return until.Add(-min(max(ahead, earlyLeast), left/2))
}
