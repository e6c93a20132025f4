package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of a set of keys.
const (
	MaxSetBytes = 256 << 10
	mostKeys    = 100
	leastRSA    = 2048 // bits (RFC 7518 section 3.3)
	mostRSA     = 8192 // more only costs whoever verifies
)

// KeySet is the public keys of an issuer. It never changes.
type KeySet struct {
	keys []*key
	left int
}

// key verifies by algorithms that are settled with it.
type key struct {
	id         string
	algorithms []string // that it could verify by
	usual      string   // the one that counts if nobody says another
	named      bool     // the key itself says usual
	public     any
}

// ParseKeySet parses a JSON Web Key Set (RFC 7517 section 5). Keys that no token can be
// verified by are left out: of an unknown type or for encryption, secret or private ones,
// RSA keys that are too short. It is an error if none is left.
func ParseKeySet(raw []byte) (*KeySet, error) {
	if len(raw) > MaxSetBytes {
		return nil, fmt.Errorf("%d bytes of keys, at most %d are read", len(raw), MaxSetBytes)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set: {\"keys\":[...]}")
	}
	if len(set.Keys) > mostKeys {
		return nil, fmt.Errorf("%d keys, at most %d are used", len(set.Keys), mostKeys)
	}
	out := &KeySet{}
	var last error
	for _, raw := range set.Keys {
		k, err := parseKey(raw)
		if err != nil {
			out.left, last = out.left+1, err
			continue
		}
		out.keys = append(out.keys, k)
	}
	if len(out.keys) == 0 {
		if last == nil {
			last = errors.New("there are none")
		}
		return nil, fmt.Errorf("no key that verifies tokens: %w", last)
	}
	return out, nil
}

// Len returns the number of keys, and of those that were left out.
func (s *KeySet) Len() (keys, leftOut int) { return len(s.keys), s.left }

func parseKey(raw []byte) (*key, error) {
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	var ops struct {
		KeyOps []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &ops); err != nil {
		return nil, err
	}
	if jwk.Use != "" && jwk.Use != "sig" || len(ops.KeyOps) > 0 && !slices.Contains(ops.KeyOps, "verify") {
		return nil, errors.New("a key that is not for signatures")
	}
	k := &key{id: jwk.KeyID, public: jwk.Key}
	switch public := jwk.Key.(type) {
	case *rsa.PublicKey:
		if n := public.N.BitLen(); n < leastRSA || n > mostRSA {
			return nil, fmt.Errorf("an RSA key of %d bits", n)
		}
		k.algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		of := map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}
		k.algorithms = []string{of[public.Curve.Params().BitSize]}
	case ed25519.PublicKey:
		k.algorithms = []string{"EdDSA"}
	default: // a secret or private key: who has it may sign
		return nil, errors.New("a key that is not public")
	}
	k.usual = k.algorithms[0]
	if jwk.Algorithm != "" {
		if !slices.Contains(k.algorithms, jwk.Algorithm) {
			return nil, fmt.Errorf("a key of another type than its algorithm %.20q", jwk.Algorithm)
		}
		k.usual, k.named = jwk.Algorithm, true
	}
	return k, nil
}

// find returns the keys of an id that verify by alg: what a key says itself counts; of one
// that says nothing, what suits its type if the algorithms were chosen, and else only the
// usual one. A token without an id is for the one key there is.
func (s *KeySet) find(id, alg string, chosen bool) []*key {
	var found []*key
	for _, k := range s.keys {
		if id != "" && k.id != id {
			continue
		}
		if alg == k.usual || chosen && !k.named && slices.Contains(k.algorithms, alg) {
			found = append(found, k)
		}
	}
	if id == "" && len(found) > 1 {
		return nil
	}
	return found
}

// same reports whether two sets are of the same keys.
func (s *KeySet) same(other *KeySet) bool {
	return slices.EqualFunc(s.keys, other.keys, func(a, b *key) bool {
		return a.id == b.id && a.usual == b.usual && a.named == b.named && samePublic(a.public, b.public)
	})
}

func samePublic(a, b any) bool {
	key, comparable := a.(interface{ Equal(crypto.PublicKey) bool })
	return comparable && key.Equal(b)
}
