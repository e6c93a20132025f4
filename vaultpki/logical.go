package vaultpki

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The requests of everything but certificates. operation is what they are counted as.
// Their errors are *mesh.Error of the path.

// read returns the data at path. Where nothing is the error is of kind NotFound.
func (v *Vault) read(ctx context.Context, operation, path string) (map[string]any, error) {
	var secret *api.Secret
	err := v.do(ctx, operation, func(c *api.Client) (err error) {
		secret, err = c.Logical().ReadWithContext(ctx, path)
		return err
	})
	if err != nil {
		return nil, wrapPath("vaultpki.Read", path, err)
	}
	if secret == nil || secret.Data == nil { // the api package's 404
		return nil, mesh.Errorf("vaultpki.Read", path, mesh.NotFound, "Vault has nothing there")
	}
	return secret.Data, nil
}

// list returns the names below path; none if nothing is there.
func (v *Vault) list(ctx context.Context, operation, path string) ([]string, error) {
	var secret *api.Secret
	err := v.do(ctx, operation, func(c *api.Client) (err error) {
		secret, err = c.Logical().ListWithContext(ctx, path)
		return err
	})
	if err != nil && classify(err).kind != mesh.NotFound {
		return nil, wrapPath("vaultpki.List", path, err)
	}
	if secret == nil {
		return nil, nil
	}
	var names []string
	keys, _ := secret.Data["keys"].([]any)
	for _, key := range keys {
		if name, ok := key.(string); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// write writes data to path and returns the answer's.
func (v *Vault) write(ctx context.Context, operation, path string, data map[string]any) (map[string]any, error) {
	secret, err := v.writeSecret(ctx, operation, path, data)
	if err != nil || secret == nil {
		return nil, err
	}
	return secret.Data, nil
}

func (v *Vault) writeSecret(ctx context.Context, operation, path string, data map[string]any) (secret *api.Secret, err error) {
	err = v.do(ctx, operation, func(c *api.Client) (err error) {
		secret, err = c.Logical().WriteWithContext(ctx, path, data)
		return err
	})
	if err != nil {
		return nil, wrapPath("vaultpki.Write", path, err)
	}
	return secret, nil
}

// remove deletes what is at path. That nothing is there is no error.
func (v *Vault) remove(ctx context.Context, operation, path string) error {
	err := v.do(ctx, operation, func(c *api.Client) error {
		_, err := c.Logical().DeleteWithContext(ctx, path)
		return err
	})
	if err == nil {
		return nil
	}
	if wrapped := wrapPath("vaultpki.Delete", path, err); mesh.KindOf(wrapped) != mesh.NotFound {
		return wrapped
	}
	return nil
}

// wrapPath wraps what do returned.
func wrapPath(op, path string, err error) error {
	var known *mesh.Error
	if errors.As(err, &known) {
		return known
	}
	wrapped := wrapCause(op, path, err)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound && !strings.Contains(wrapped.Error(), "no handler") {
		wrapped.Hint = ""
	}
	return wrapped
}
