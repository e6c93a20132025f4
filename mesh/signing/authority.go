package signing

import (
	"context"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Authority signs heads as a control plane does: of the epoch that the roots say, and
// never one that data planes would refuse.
type Authority struct {
	Verifier *Verifier
	Signer   Signer
}

// Epoch returns the epoch of every head from now on; 0 while no keys are known.
func (a *Authority) Epoch() uint32 {
	keys, _ := a.Verifier.Keys()
	if keys == nil {
		return 0
	}
	return keys.Epoch
}

// Sign returns the head with its signature. It fails with kind Unavailable: the signer may
// be away, or a root may yet delegate to its key.
func (a *Authority) Sign(ctx context.Context, head mesh.Head) (mesh.Head, error) {
	const op = "signing.Sign"
	signed, err := SignHead(ctx, a.Signer, a.Verifier.Mesh(), head)
	if err != nil {
		return head, &mesh.Error{Op: op, Kind: mesh.Unavailable, Err: err}
	}
	if err := a.Verifier.Head(signed, time.Now()); err != nil {
		return head, mesh.Errorf(op, "", mesh.Unavailable, "no data plane would take it: %w", err).
			WithHint("have a root delegate to key " + signed.KeyID + ": hedgerow root delegate --help")
	}
	return signed, nil
}
