package vaultpki

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// session is one token's life. It is immutable.
type session struct {
	client    *api.Client // carries the token
	renewable bool
	renewAt   time.Time // wall clock; zero: the token does not expire
	expires   time.Time
}

// expiryMargin is how long before its end a token counts as expired, so that it
// does not end on the way.
const expiryMargin = 5 * time.Second

// openSession returns a session with a usable token: the current one, the
// current one renewed when half of its life is over, or that of a new login.
// refused is a session whose token Vault just refused, or nil. Of concurrent
// callers one does the work and the others take its result.
func (c *Client) openSession(ctx context.Context, refused *session) (*session, error) {
	usable := func(s *session) bool {
		return s != nil && s != refused && (s.expires.IsZero() || time.Now().Round(0).Before(s.renewAt))
	}
	if s := c.session.Load(); usable(s) {
		return s, nil
	}
	select {
	case c.loginSlot <- struct{}{}:
		defer func() { <-c.loginSlot }()
	case <-ctx.Done():
		return nil, c.wrap("vaultpki.Login", ctx.Err())
	}
	s := c.session.Load()
	if usable(s) {
		return s, nil
	}
	// Renewing is preferred to logging in: it does not use up a secret_id.
	if s != nil && s != refused && s.renewable && time.Now().Round(0).Before(s.expires) {
		renewed, err := c.renew(ctx, s)
		if err == nil {
			c.session.Store(renewed)
			return renewed, nil
		}
		// Counted as operation renew; a login makes up for it.
		c.log.Info().Err(err).Msg("token not renewed, logging in again")
	}
	s, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	c.session.Store(s)
	return s, nil
}

// login trades role_id and secret_id for a token, over a client that carries
// none. Who cannot log in is Unauthentic, which a Rotator reports but retries:
// the files may be put right while it runs.
func (c *Client) login(ctx context.Context) (*session, error) {
	const op = "vaultpki.Login"
	roleID, err := readSecret(c.cfg.AppRole.RoleIDFile)
	if err == nil {
		_, err = readSecret(c.cfg.AppRole.SecretIDFile) // approle reads it again
	}
	if err != nil {
		return nil, mesh.Errorf(op, c.cfg.Role, mesh.Unauthentic, "%w", err).
			WithHint("enrol the node again, or put role_id and secret_id where appRole.roleIdFile and secretIdFile say")
	}
	auth, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromFile: c.cfg.AppRole.SecretIDFile})
	if err != nil {
		return nil, mesh.Errorf(op, c.cfg.Role, mesh.Unauthentic, "%w", err)
	}
	var secret *api.Secret
	err = c.measure("login", func() (err error) {
		secret, err = auth.Login(ctx, c.anon)
		return err
	})
	if err != nil {
		return nil, c.wrap(op, err)
	}
	s, err := c.newSession(secret)
	if err != nil {
		return nil, mesh.Errorf(op, c.cfg.Role, mesh.Unavailable, "%w", err)
	}
	c.log.Info().Time("token_expires", s.expires).Bool("renewable", s.renewable).Msg("logged in to Vault")
	return s, nil
}

// renew extends the life of a token. Vault decides by how much: near the role's
// token_max_ttl it grants less and less, and in the end a login follows.
func (c *Client) renew(ctx context.Context, old *session) (*session, error) {
	var secret *api.Secret
	err := c.measure("renew", func() (err error) {
		secret, err = old.client.Auth().Token().RenewSelfWithContext(ctx, 0)
		return err
	})
	if err != nil {
		return nil, c.wrap("vaultpki.RenewToken", err)
	}
	return c.newSession(secret)
}

// newSession reads Vault's answer to a login or a renewal. Its times are wall
// clock, because monotonic time stands still while a machine is suspended.
func (c *Client) newSession(secret *api.Secret) (*session, error) {
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, errors.New("Vault's answer holds no token")
	}
	// A client of its own per token: the api package's SetToken would change
	// requests of others that are under way.
	client, err := c.newAPI(secret.Auth.ClientToken)
	if err != nil {
		return nil, err
	}
	s := &session{client: client, renewable: secret.Auth.Renewable}
	// A lease of 0 is a token without end, which root tokens are.
	if ttl := time.Duration(max(0, secret.Auth.LeaseDuration)) * time.Second; ttl > 0 {
		now := time.Now().Round(0)
		s.expires = now.Add(ttl - min(expiryMargin, ttl/2))
		s.renewAt = s.expires
		if s.renewable {
			s.renewAt = now.Add(ttl / 2)
		}
	}
	return s, nil
}

// readSecret reads a file of one short line.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 1000))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return secret, nil
}
