package vaultpki

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/api"
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
func (v *Vault) openSession(ctx context.Context, refused *session) (*session, error) {
	usable := func(s *session) bool {
		return s != nil && s != refused && (s.expires.IsZero() || time.Now().Round(0).Before(s.renewAt))
	}
	if s := v.session.Load(); usable(s) {
		return s, nil
	}
	select {
	case v.loginSlot <- struct{}{}:
		defer func() { <-v.loginSlot }()
	case <-ctx.Done():
		return nil, v.wrap("vaultpki.Login", ctx.Err())
	}
	s := v.session.Load()
	if usable(s) {
		return s, nil
	}
	// Renewing is preferred to logging in: it does not use up a secret_id.
	if s != nil && s != refused && s.renewable && time.Now().Round(0).Before(s.expires) {
		renewed, err := v.renew(ctx, s)
		if err == nil {
			v.session.Store(renewed)
			return renewed, nil
		}
		// Counted as operation renew; a login makes up for it.
		v.log.Info().Err(err).Msg("token not renewed, logging in again")
	}
	next, err := v.login(ctx)
	if err != nil {
		if s != nil && s != refused && time.Now().Round(0).Before(s.expires) {
			v.log.Info().Err(err).Msg("not logged in again, the token of before lives yet")
			return s, nil
		}
		return nil, err
	}
	v.session.Store(next)
	return next, nil
}

// renew extends the life of a token. Vault decides by how much: near the role's
// token_max_ttl it grants less and less, and in the end a login follows.
func (v *Vault) renew(ctx context.Context, old *session) (*session, error) {
	var secret *api.Secret
	err := v.measure("renew", func() (err error) {
		secret, err = old.client.Auth().Token().RenewSelfWithContext(ctx, 0)
		return err
	})
	if err != nil {
		return nil, v.wrap("vaultpki.RenewToken", err)
	}
	return v.newSession(secret)
}

// newSession reads Vault's answer to a login or a renewal. Its times are wall
// clock, because monotonic time stands still while a machine is suspended.
func (v *Vault) newSession(secret *api.Secret) (*session, error) {
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, errors.New("Vault's answer holds no token")
	}
	// A client of its own per token: the api package's SetToken would change
	// requests of others that are under way.
	client, err := v.newAPI(v.http, secret.Auth.ClientToken)
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
		// Vault renews a certificate's token only over a connection with that
		// certificate, which may have been replaced. To log in costs no more.
		s.renewable = s.renewable && v.access.Certificate.zero()
	}
	return s, nil
}
