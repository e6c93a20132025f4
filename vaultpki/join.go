package vaultpki

import (
	"context"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// TradeSecretID trades a secret_id, which is good once, for a token. It needs no login, and
// keeps nothing: the token is the caller's to put where Access.TokenFile says.
func (v *Vault) TradeSecretID(ctx context.Context, roleID, secretID string) (token string, err error) {
	var secret *api.Secret
	err = v.measure("login", func() (err error) {
		secret, err = v.anon.Logical().WriteWithContext(ctx, "auth/approle/login", map[string]any{"role_id": roleID, "secret_id": secretID})
		return err
	})
	if err != nil {
		return "", v.wrap(opLogin, err)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return "", mesh.Errorf(opLogin, v.name, mesh.Unavailable, "Vault's answer holds no token")
	}
	return secret.Auth.ClientToken, nil
}

// Nodes returns the names of the nodes that were Put and not withdrawn.
func (a *Admin) Nodes(ctx context.Context) ([]string, error) {
	return a.v.list(ctx, "admin", MountMesh+"/roles")
}

const kvJoins = "/hedgerow/joins" // what becomes of join tokens: for control planes alone

// Joins returns what PutJoin kept, by node.
func (a *Admin) Joins(ctx context.Context) (map[string]string, error) {
	names, err := a.v.list(ctx, "admin", mountKV+"/metadata"+kvJoins)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(names))
	for _, node := range names {
		answer, err := a.v.read(ctx, "admin", mountKV+"/data"+kvJoins+"/"+node)
		if mesh.KindOf(err) == mesh.NotFound {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		data, _ := answer["data"].(map[string]any)
		if text, ok := data["join"].(string); ok {
			out[node] = text
		}
	}
	return out, nil
}

// PutJoin keeps what is known of the join token of a node, where no node reads it.
func (a *Admin) PutJoin(ctx context.Context, node, text string) error {
	path, err := joinPath("data", node)
	if err != nil {
		return err
	}
	_, err = a.v.write(ctx, "admin", path, map[string]any{"data": map[string]any{"join": text}})
	return err
}

// RemoveJoin forgets what PutJoin kept.
func (a *Admin) RemoveJoin(ctx context.Context, node string) error {
	path, err := joinPath("metadata", node)
	if err != nil {
		return err
	}
	return a.v.remove(ctx, "admin", path)
}

func joinPath(kind, node string) (string, error) {
	if !mesh.ValidID(node) {
		return "", mesh.Errorf("vaultpki.Join", node, mesh.Invalid, "it is not the name of a node")
	}
	return mountKV + "/" + kind + kvJoins + "/" + node, nil
}
