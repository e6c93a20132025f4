package vaultpki

import (
	"context"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Unwrap trades the token of an invitation of the node for a secret_id, which Vault does
// once. It needs no login. A token that was wrapped by something else, one that was used
// and one that has expired are of kind Denied: somebody else may have the secret_id.
func (v *Vault) Unwrap(ctx context.Context, token, node string) (string, error) {
	const op = "vaultpki.Unwrap"
	const hint = "if you have not used it, somebody else has: have a new join token made, and tell who runs the mesh"
	var found, unwrapped *api.Secret
	err := v.measure("unwrap", func() (err error) {
		found, err = v.anon.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": token})
		return err
	})
	refuse := func(err error) error {
		wrapped := wrapCause(op, node, err)
		if wrapped.Kind == mesh.Invalid || wrapped.Kind == mesh.Denied {
			wrapped.Kind, wrapped.Hint = mesh.Denied, hint
		}
		return wrapped
	}
	if err != nil {
		return "", refuse(err)
	}
	// A thief may have wrapped something of his own in place of what he took out.
	want := "auth/approle/role/" + node + "/secret-id"
	if found == nil || found.Data["creation_path"] != want {
		return "", mesh.Errorf(op, node, mesh.Denied, "the token was not made for this node's login").WithHint(hint)
	}
	as, err := v.newAPI(v.http, token)
	if err != nil {
		return "", mesh.Errorf(op, node, mesh.Internal, "%w", err)
	}
	err = v.measure("unwrap", func() (err error) {
		unwrapped, err = as.Logical().WriteWithContext(ctx, "sys/wrapping/unwrap", nil)
		return err
	})
	if err != nil {
		return "", refuse(err)
	}
	secret := ""
	if unwrapped != nil {
		secret, _ = unwrapped.Data["secret_id"].(string)
	}
	if secret == "" {
		return "", mesh.Errorf(op, node, mesh.Unavailable, "Vault's answer holds no secret_id")
	}
	return secret, nil
}
