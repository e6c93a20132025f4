package signing

import (
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What an operator does with a root key. Each returns the next signed KeySet; the
// one before is given as it was signed, and verified against the roots.

// FirstKeys returns the signed KeySet of a new mesh: epoch 1, and no key may sign.
func FirstKeys(root *Key, meshName string, now time.Time) ([]byte, error) {
	if !mesh.ValidID(meshName) {
		return nil, mesh.Errorf("signing.FirstKeys", meshName, mesh.Invalid, "the mesh %q is not a name of 1 to 63 characters a-z, 0-9 and '-'", meshName)
	}
	k := KeySet{Mesh: meshName, Serial: 1, Epoch: 1, Time: stamp(now)}
	return k.seal(root)
}

// Delegate has the key of public sign for life, at most MaxKeyLife. Keys whose time was
// over that long ago are left out of the new set.
func Delegate(root *Key, roots []ed25519.PublicKey, before []byte, public ed25519.PublicKey, life time.Duration, now time.Time) ([]byte, error) {
	const op = "signing.Delegate"
	id := KeyID(public)
	if life <= 0 || life > MaxKeyLife {
		return nil, mesh.Errorf(op, id, mesh.Invalid, "a life of %v, it may be up to %v", life, MaxKeyLife)
	}
	return next(op, root, roots, before, now, func(k *KeySet) error {
		if _, revoked := k.key(id); revoked {
			return mesh.Errorf(op, id, mesh.Invalid, "the key was revoked").WithHint("have the control plane make another")
		}
		k.Keys = slices.DeleteFunc(k.Keys, func(d Delegated) bool { return d.ID == id || now.After(d.NotAfter.Add(MaxKeyLife)) })
		k.Keys = append(k.Keys, Delegated{ID: id, PublicKey: public, NotAfter: k.Time.Add(life)})
		return nil
	})
}

// Revoke has nothing believed any more that the key of the given KeyID signs.
func Revoke(root *Key, roots []ed25519.PublicKey, before []byte, keyID string, now time.Time) ([]byte, error) {
	const op = "signing.Revoke"
	return next(op, root, roots, before, now, func(k *KeySet) error {
		if key, revoked := k.key(keyID); key == nil && !revoked {
			return mesh.Errorf(op, keyID, mesh.NotFound, "no such key was delegated to")
		}
		k.Keys = slices.DeleteFunc(k.Keys, func(d Delegated) bool { return d.ID == keyID })
		if !slices.Contains(k.Revoked, keyID) {
			k.Revoked = append(k.Revoked, keyID)
		}
		return nil
	})
}

// Deny shuts a node out, and the older certificates of gateways that it could serve: what a
// quarantine does, for when no control plane can sign or log one. Again it is since now.
func Deny(root *Key, roots []ed25519.PublicKey, before []byte, node string, gateways []string, now time.Time) ([]byte, error) {
	const op = "signing.Deny"
	return next(op, root, roots, before, now, func(k *KeySet) error {
		denied := Denied{Node: node, Time: k.Time, Gateways: gateways}
		if err := denied.check(); err != nil {
			return mesh.Errorf(op, node, mesh.Invalid, "%w", err)
		}
		k.undeny(node)
		k.Denied = append(k.Denied, denied)
		return nil
	})
}

// Allow takes back what Deny said of a node. A quarantine of it stays.
func Allow(root *Key, roots []ed25519.PublicKey, before []byte, node string, now time.Time) ([]byte, error) {
	const op = "signing.Allow"
	return next(op, root, roots, before, now, func(k *KeySet) error {
		if !k.undeny(node) {
			return mesh.Errorf(op, node, mesh.NotFound, "no root denies that node").WithHint("see hedgerow root show; of a quarantine: hedgerow release")
		}
		return nil
	})
}

// undeny removes a node from those that are denied, and reports whether it was one.
func (k *KeySet) undeny(node string) bool {
	n := len(k.Denied)
	k.Denied = slices.DeleteFunc(k.Denied, func(d Denied) bool { return d.Node == node })
	return len(k.Denied) < n
}

// BumpEpoch has nodes take the control plane's configuration over whatever they have
// applied, also over a later revision: after a key was stolen, or a log was restored
// from a backup.
func BumpEpoch(root *Key, roots []ed25519.PublicKey, before []byte, now time.Time) ([]byte, error) {
	return next("signing.BumpEpoch", root, roots, before, now, func(k *KeySet) error {
		k.Epoch++
		return nil
	})
}

func next(op string, root *Key, roots []ed25519.PublicKey, before []byte, now time.Time, edit func(*KeySet) error) ([]byte, error) {
	pinned := map[string]ed25519.PublicKey{}
	for _, r := range roots {
		pinned[KeyID(r)] = r
	}
	if pinned[root.ID()] == nil {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "root %s is not one of the pinned roots", root.ID())
	}
	k, err := openAny(pinned, before)
	if err != nil {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "%w", err)
	}
	k.Serial++
	k.Time = stamp(now)
	if err := edit(k); err != nil {
		return nil, err
	}
	return k.seal(root)
}

// openAny verifies a KeySet of whatever mesh.
func openAny(roots map[string]ed25519.PublicKey, raw []byte) (*KeySet, error) {
	var s signedKeySet
	var k KeySet
	if decodeStrict(raw, &s) == nil {
		_ = decodeStrict(s.KeySet, &k) // openKeySet says what is wrong with it
	}
	return openKeySet(k.Mesh, roots, raw)
}

// ReadKeys verifies a signed KeySet of whatever mesh, to show it.
func ReadKeys(roots []ed25519.PublicKey, raw []byte) (*KeySet, error) {
	pinned := map[string]ed25519.PublicKey{}
	for _, r := range roots {
		pinned[KeyID(r)] = r
	}
	k, err := openAny(pinned, raw)
	if err != nil {
		return nil, mesh.Errorf("signing.ReadKeys", "", mesh.Invalid, "%w", err)
	}
	return k, nil
}

func stamp(now time.Time) time.Time { return now.UTC().Truncate(time.Second) }
