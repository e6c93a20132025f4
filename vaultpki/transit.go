package vaultpki

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// Signer signs configuration with the transit key of a Vault that Bootstrap has set up.
// Nobody has that key; it is the version that was newest when the Signer was made, so that
// a rotated key signs nothing before a root has delegated to it.
type Signer struct {
	v       *Vault
	version int
	public  ed25519.PublicKey
}

var _ signing.Signer = (*Signer)(nil)

// Signer reads the public half of the key. Errors are of kind Unavailable if Vault is away.
func (v *Vault) Signer(ctx context.Context) (*Signer, error) {
	const op, path = "vaultpki.SigningKey", mountTransit + "/keys/" + transitKey
	data, err := v.read(ctx, "signing key", path)
	if mesh.KindOf(err) == mesh.NotFound {
		return nil, mesh.Errorf(op, path, mesh.NotFound, "Vault has no such key").WithHint("hedgerow vault bootstrap makes one")
	}
	if err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) (*Signer, error) {
		return nil, mesh.Errorf(op, path, mesh.Invalid, format, args...).WithHint("hedgerow vault bootstrap makes one")
	}
	newest, _ := data["latest_version"].(json.Number)
	version, err := newest.Int64()
	if err != nil || data["type"] != "ed25519" {
		return wrong("it is of type %v, version %v", data["type"], data["latest_version"])
	}
	keys, _ := data["keys"].(map[string]any)
	key, _ := keys[newest.String()].(map[string]any)
	text, _ := key["public_key"].(string)
	public, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return wrong("its public half is not an Ed25519 key")
	}
	return &Signer{v: v, version: int(version), public: public}, nil
}

// Public returns the public half, which a root delegates to.
func (s *Signer) Public() ed25519.PublicKey { return s.public }

// ID returns the KeyID of the public half.
func (s *Signer) ID() string { return signing.KeyID(s.public) }

// Sign implements signing.Signer. What Vault answers is verified.
func (s *Signer) Sign(ctx context.Context, message []byte) (signature []byte, keyID string, err error) {
	const op, path = "vaultpki.SignConfiguration", mountTransit + "/sign/" + transitKey
	data, err := s.v.write(ctx, "transit", path, map[string]any{
		"input": base64.StdEncoding.EncodeToString(message), "key_version": s.version,
	})
	if err != nil {
		hint := mesh.HintOf(err)
		if mesh.KindOf(err) == mesh.Unavailable {
			hint = "the key that signs is in Vault: what is published serves on, and writes work again when Vault does"
		}
		return nil, "", &mesh.Error{Op: op, Name: transitKey, Kind: mesh.Unavailable, Err: err, Hint: hint}
	}
	text, _ := data["signature"].(string)
	signature, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(text, fmt.Sprintf("vault:v%d:", s.version)))
	if err != nil || !ed25519.Verify(s.public, message, signature) {
		return nil, "", mesh.Errorf(op, transitKey, mesh.Unavailable, "Vault's answer is not the key's signature")
	}
	return signature, s.ID(), nil
}
