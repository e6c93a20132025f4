package signing

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Bounds of a KeySet.
const (
	// MaxKeySetBytes is the greatest signed KeySet that is read.
	MaxKeySetBytes = 64 << 10
	maxKeys        = 64
	maxRevoked     = 1024
	maxDenied      = 256
	maxGateways    = 64 // of one that is denied
)

// KeySet is what the roots say: which keys may sign, and in which epoch. It is
// one document, so that nobody can leave a part of it out, and its serial only
// grows, so that nobody can bring an older one back.
type KeySet struct {
	Mesh   string    `json:"mesh"`
	Serial uint32    `json:"serial"`
	Time   time.Time `json:"time"`
	// Epoch is that of every head which may be applied from now on. A root
	// raises it to make a mesh forget what a stolen key has signed: heads of a
	// greater epoch are newer, whatever their revision.
	Epoch   uint32      `json:"epoch"`
	Keys    []Delegated `json:"keys"`
	Revoked []string    `json:"revoked,omitempty"` // KeyIDs
	// Denied are nodes that are shut out without a revision of the configuration, for when
	// none can be signed or logged.
	Denied []Denied `json:"denied,omitempty"`
}

// Denied is a node none of whose certificates is taken, whenever it was issued.
type Denied struct {
	Node string    `json:"node"`
	Time time.Time `json:"time"` // since when
	// Gateways are the ids that the node could serve, whose certificates are refused if they
	// may be from before Time.
	Gateways []string `json:"gateways,omitempty"`
}

// Delegated is a key that may sign until NotAfter.
type Delegated struct {
	ID        string    `json:"id"`
	PublicKey []byte    `json:"publicKey"`
	NotAfter  time.Time `json:"notAfter"`
}

// signedKeySet is a KeySet as it is stored and sent. The bytes of KeySet are
// what is signed; they are never marshalled again.
type signedKeySet struct {
	KeySet    []byte `json:"keySet"`
	Root      string `json:"root"` // the KeyID of the root key
	Signature []byte `json:"signature"`
}

// check reports what is wrong with the set itself.
func (k *KeySet) check(meshName string) error {
	switch {
	case k.Mesh != meshName:
		return fmt.Errorf("the keys are of mesh %.70q, this is %q", k.Mesh, meshName)
	case k.Serial == 0 || k.Epoch == 0:
		return fmt.Errorf("the keys have serial %d and epoch %d, both begin at 1", k.Serial, k.Epoch)
	case len(k.Keys) > maxKeys || len(k.Revoked) > maxRevoked:
		return fmt.Errorf("%d keys and %d revoked ones, at most %d and %d are read", len(k.Keys), len(k.Revoked), maxKeys, maxRevoked)
	}
	if len(k.Denied) > maxDenied {
		return fmt.Errorf("%d nodes are denied, at most %d are read", len(k.Denied), maxDenied)
	}
	for _, d := range k.Denied {
		if err := d.check(); err != nil {
			return err
		}
	}
	for _, key := range k.Keys {
		if len(key.PublicKey) != ed25519.PublicKeySize || key.ID != KeyID(key.PublicKey) {
			return fmt.Errorf("key %.40q is not that of its public key", key.ID)
		}
		if key.NotAfter.After(k.Time.Add(MaxKeyLife)) {
			return fmt.Errorf("key %s may sign until %s, over %d days after %s", key.ID, key.NotAfter.UTC().Format(time.RFC3339), MaxKeyLife/(24*time.Hour), k.Time.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func (d *Denied) check() error {
	switch {
	case !mesh.ValidID(d.Node):
		return fmt.Errorf("%.70q, which is denied, is not the id of a node", d.Node)
	case d.Time.IsZero():
		return fmt.Errorf("node %s is denied, and not said since when", d.Node)
	case len(d.Gateways) > maxGateways:
		return fmt.Errorf("node %s is denied with %d gateways, at most %d are read", d.Node, len(d.Gateways), maxGateways)
	}
	for _, id := range d.Gateways {
		if !mesh.ValidID(id) {
			return fmt.Errorf("%.70q, denied with node %s, is not the id of a gateway", id, d.Node)
		}
	}
	return nil
}

// Quarantines returns the denied nodes as quarantines by node, for mesh.NewDenies. A nil
// KeySet has none.
func (k *KeySet) Quarantines() map[string]*mesh.Quarantine {
	if k == nil {
		return nil
	}
	out := make(map[string]*mesh.Quarantine, len(k.Denied))
	for _, d := range k.Denied {
		// What an issuer dates back is not known here, and nothing is always right.
		from := mesh.CertificatesFrom(d.Time, 0)
		out[d.Node] = &mesh.Quarantine{Time: &d.Time, Gateways: d.Gateways, CertificatesFrom: &from}
	}
	return out
}

// key returns the key of the given id, or nil, and whether it was revoked.
func (k *KeySet) key(id string) (key *Delegated, revoked bool) {
	if slices.Contains(k.Revoked, id) {
		return nil, true
	}
	for i := range k.Keys {
		if k.Keys[i].ID == id {
			return &k.Keys[i], false
		}
	}
	return nil, false
}

// EndOf returns until when the key of the given id may sign; zero if it may not.
func (k *KeySet) EndOf(id string) time.Time {
	if key, _ := k.key(id); key != nil {
		return key.NotAfter
	}
	return time.Time{}
}

// Ends returns when the last key that may sign ceases to; zero if there is none.
func (k *KeySet) Ends() time.Time {
	var ends time.Time
	for i := range k.Keys {
		if _, revoked := k.key(k.Keys[i].ID); !revoked && k.Keys[i].NotAfter.After(ends) {
			ends = k.Keys[i].NotAfter
		}
	}
	return ends
}

// openKeySet verifies raw against the roots.
func openKeySet(meshName string, roots map[string]ed25519.PublicKey, raw []byte) (*KeySet, error) {
	if len(raw) > MaxKeySetBytes {
		return nil, refuse(BadKeys, "the keys have %d bytes, at most %d are read", len(raw), MaxKeySetBytes)
	}
	var s signedKeySet
	if err := decodeStrict(raw, &s); err != nil {
		return nil, refuse(BadKeys, "decode the keys: %v", err)
	}
	root, known := roots[s.Root]
	if !known {
		return nil, refuse(BadKeys, "the keys are signed by the root %.40q, which is not pinned here", s.Root)
	}
	if !ed25519.Verify(root, keySetMessage(s.KeySet), s.Signature) {
		return nil, refuse(BadKeys, "the signature of the keys is not that of root %s", s.Root)
	}
	var k KeySet
	if err := decodeStrict(s.KeySet, &k); err != nil {
		return nil, refuse(BadKeys, "decode the keys that root %s signed: %v", s.Root, err)
	}
	if err := k.check(meshName); err != nil {
		return nil, refuse(BadKeys, "%v", err)
	}
	return &k, nil
}

// decodeStrict decodes one JSON value and nothing behind it.
func decodeStrict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("there is more behind it")
	}
	return nil
}

// seal signs k with a root.
func (k *KeySet) seal(root *Key) ([]byte, error) {
	const op = "signing.KeySet"
	if err := k.check(k.Mesh); err != nil {
		return nil, mesh.Errorf(op, "", mesh.Invalid, "%w", err)
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return nil, mesh.Errorf(op, "", mesh.Internal, "%w", err)
	}
	out, err := json.Marshal(signedKeySet{KeySet: raw, Root: root.ID(), Signature: root.sign(keySetMessage(raw))})
	if err != nil {
		return nil, mesh.Errorf(op, "", mesh.Internal, "%w", err)
	}
	out = append(out, '\n')
	if len(out) > MaxKeySetBytes { // which nobody would read, nor edit again
		return nil, mesh.Errorf(op, "", mesh.Invalid, "the keys have %d bytes, at most %d are read", len(out), MaxKeySetBytes)
	}
	return out, nil
}
