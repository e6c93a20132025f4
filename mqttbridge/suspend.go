package mqttbridge

import (
	"context"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// suspension is whether the bridge's node is in quarantine.
type suspension struct {
	on       bool
	replaced chan struct{} // closed when there is a newer one
}

func newSuspension(on bool) *suspension { return &suspension{on, make(chan struct{})} }

// suspend takes from denies whether the faces have to end their sessions. updateMu is held.
func (b *Bridge) suspend(denies *mesh.Denies) {
	old, on := b.suspension.Load(), denies.Node(b.opts.Node)
	if old.on == on {
		return
	}
	b.suspension.Store(newSuspension(on))
	close(old.replaced)
	if on {
		b.opts.Log.Error().Str("node", b.opts.Node).Msg("this node is in quarantine: the bridge ends its sessions and takes no messages")
		return
	}
	b.opts.Log.Info().Str("node", b.opts.Node).Msg("this node is not in quarantine any more: the bridge takes messages again")
}

// Suspended reports whether the bridge's node is in quarantine: no face may have a session
// then. changed is closed when that is no longer so.
func (b *Bridge) Suspended() (now bool, changed <-chan struct{}) {
	s := b.suspension.Load()
	return s.on, s.replaced
}

// allowed waits until the node is not in quarantine, and reports false if ctx ends first.
func (b *Bridge) allowed(ctx context.Context) bool {
	for {
		suspended, changed := b.Suspended()
		if !suspended {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
