// Package signing says whose configuration a mesh takes. A few root keys, kept
// offline and pinned on every node, sign a KeySet: the keys that control planes
// may sign with, each for at most ninety days, and the epoch of the mesh. Those
// keys sign heads, and a head's digest covers every record. So whoever owns the
// way between, Redis first of all, can withhold configuration and nothing else.
//
// A Verifier holds the pinned roots and the newest KeySet and is asked about
// each head. The functions on a Root make KeySets; they are for an operator and
// run nowhere else.
//
// It does not fetch, store or publish anything, does not know what is in a
// configuration, and has nothing to do with certificates (package identity).
// Signatures are Ed25519 (RFC 8032) over a message that begins with what it is,
// so that one of a kind never passes for one of another.
package signing

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// MaxKeyLife is how long a key may sign at most.
const MaxKeyLife = 90 * 24 * time.Hour

// A Signer signs with a key that it does not show. Implementations are Key and
// a key of Vault's transit engine.
type Signer interface {
	// Sign returns the Ed25519 signature of message and the KeyID of the key that
	// made it. Errors are of kind Unavailable if the same call may work later.
	Sign(ctx context.Context, message []byte) (signature []byte, keyID string, err error)
}

// KeyID returns the name of a public key: the first 128 bits of its SHA-256, in
// hex.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:16])
}

// SignHead returns head of the mesh with KeyID and Signature.
func SignHead(ctx context.Context, s Signer, meshName string, head mesh.Head) (mesh.Head, error) {
	signature, keyID, err := s.Sign(ctx, headMessage(meshName, head))
	if err != nil {
		return head, err
	}
	head.KeyID, head.Signature = keyID, hex.EncodeToString(signature)
	return head, nil
}

// headMessage is what the signature of a head is over. No field can hold a line
// break, so it reads in one way only.
func headMessage(meshName string, h mesh.Head) []byte {
	return message("hedgerow configuration 1", meshName,
		strconv.FormatUint(uint64(h.Epoch), 10), strconv.FormatUint(uint64(h.Revision), 10),
		h.Digest, h.Time.UTC().Format(time.RFC3339Nano))
}

// keySetMessage is what the signature of a KeySet is over.
func keySetMessage(keySet []byte) []byte { return message("hedgerow keys 1", string(keySet)) }

func message(parts ...string) []byte { return []byte(strings.Join(parts, "\n")) }

// Reason sorts what a Verifier refuses. It is the label of a counter.
type Reason string

// The reasons of a Refusal.
const (
	Unsigned     Reason = "unsigned"      // there is no signature
	UnknownKey   Reason = "unknown_key"   // by a key that no root has delegated to
	RevokedKey   Reason = "revoked_key"   // by one that a root has taken back
	ExpiredKey   Reason = "expired_key"   // by one whose time is over
	BadSignature Reason = "bad_signature" // it is not that of what was signed
	WrongEpoch   Reason = "wrong_epoch"   // of another epoch than the roots say
	BadKeys      Reason = "bad_keys"      // a KeySet that is none, or that no pinned root signed
	OlderKeys    Reason = "older_keys"    // a KeySet before the newest known, or another of its serial
)

// Refusal is the error of everything that is not believed.
type Refusal struct {
	Reason Reason
	what   string
}

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, what: fmt.Sprintf(format, args...)}
}

// Error returns one line.
func (r *Refusal) Error() string { return r.what }
