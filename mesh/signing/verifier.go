package signing

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Verifier decides whose heads a process takes. Its methods may be called from
// several goroutines.
type Verifier struct {
	mesh  string
	roots map[string]ed25519.PublicKey

	mu      sync.Mutex // held by Learn
	current atomic.Pointer[learned]
}

// learned is a KeySet that a pinned root signed.
type learned struct {
	keys *KeySet
	raw  []byte
}

// NewVerifier returns a Verifier of the mesh that believes the given root keys.
// It knows no keys before Learn, and so refuses every head. Without roots it
// fails with kind Invalid.
func NewVerifier(meshName string, roots ...ed25519.PublicKey) (*Verifier, error) {
	const op = "signing.NewVerifier"
	if len(roots) == 0 {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "no root keys of the configuration are given")
	}
	v := &Verifier{mesh: meshName, roots: map[string]ed25519.PublicKey{}}
	for _, root := range roots {
		if len(root) != ed25519.PublicKeySize {
			return nil, mesh.Errorf(op, "", mesh.Invalid, "a root key of %d bytes, Ed25519's have %d", len(root), ed25519.PublicKeySize)
		}
		v.roots[KeyID(root)] = root
	}
	return v, nil
}

// Mesh returns the name of the mesh.
func (v *Verifier) Mesh() string { return v.mesh }

// Learn takes a signed KeySet, if a pinned root signed it and it is the newest.
// changed is false for the one that is known. Errors are Refusals.
func (v *Verifier) Learn(raw []byte) (changed bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := v.current.Load()
	if known != nil && bytes.Equal(raw, known.raw) {
		return false, nil
	}
	keys, err := openKeySet(v.mesh, v.roots, raw)
	if err != nil {
		return false, err
	}
	if known != nil && keys.Serial <= known.keys.Serial {
		return false, refuse(OlderKeys, "the keys have serial %d, those of serial %d are known", keys.Serial, known.keys.Serial)
	}
	v.current.Store(&learned{keys: keys, raw: bytes.Clone(raw)})
	return true, nil
}

// Keys returns the newest KeySet and its signed bytes, or nil before the first.
// Neither may be changed.
func (v *Verifier) Keys() (keys *KeySet, raw []byte) {
	if l := v.current.Load(); l != nil {
		return l.keys, l.raw
	}
	return nil, nil
}

// Head reports why a head is not to be applied at the time now; nil means that
// a key which may sign has signed it. The error is a *Refusal.
func (v *Verifier) Head(h mesh.Head, now time.Time) error {
	key, keys, err := v.signer(h)
	switch {
	case err != nil:
		return err
	case now.After(key.NotAfter):
		return refuse(ExpiredKey, "key %s could sign until %s; have a root delegate to a new one", key.ID, key.NotAfter.UTC().Format(time.RFC3339))
	case h.Epoch != keys.Epoch:
		return refuse(WrongEpoch, "revision %d.%d, but the roots say epoch %d", h.Epoch, h.Revision, keys.Epoch)
	}
	return nil
}

// Kept reports why a head that was applied before is not to be believed any
// more: as Head, but its key may have expired and the epoch may have grown
// since. What was good goes on until something newer comes.
func (v *Verifier) Kept(h mesh.Head) error {
	_, keys, err := v.signer(h)
	if err == nil && h.Epoch > keys.Epoch {
		err = refuse(WrongEpoch, "revision %d.%d, but the roots say epoch %d", h.Epoch, h.Revision, keys.Epoch)
	}
	return err
}

// signer returns the key that signed h.
func (v *Verifier) signer(h mesh.Head) (*Delegated, *KeySet, error) {
	l := v.current.Load()
	switch {
	case h.Signature == "" || h.KeyID == "":
		return nil, nil, refuse(Unsigned, "revision %d.%d is not signed", h.Epoch, h.Revision)
	case l == nil:
		return nil, nil, refuse(UnknownKey, "no keys are known yet")
	}
	key, revoked := l.keys.key(h.KeyID)
	switch {
	case revoked:
		return nil, nil, refuse(RevokedKey, "key %.40q was revoked", h.KeyID)
	case key == nil:
		return nil, nil, refuse(UnknownKey, "no root has delegated to key %.40q", h.KeyID)
	}
	signature, err := hex.DecodeString(h.Signature)
	if err != nil || !ed25519.Verify(key.PublicKey, headMessage(v.mesh, h), signature) {
		return nil, nil, refuse(BadSignature, "the signature of revision %d.%d is not that of key %s", h.Epoch, h.Revision, key.ID)
	}
	return key, l.keys, nil
}
