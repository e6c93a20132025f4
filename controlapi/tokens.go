package controlapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

const (
	// secretPrefix lets scanners for leaked secrets know ours.
	secretPrefix = "hgt_"
	secretBytes  = 32
	hashPrefix   = "sha256:"

	// maxTokenLife leaves a month to whoever renews once a year.
	maxTokenLife = 400 * 24 * time.Hour
	maxObjects   = 1000 // of tokens
)

// hash is of a secret. Secrets are random, so that no salt and no slow hash is needed.
type hash = [sha256.Size]byte

// newSecret returns a secret and its hash as Token.Hash has it.
func newSecret() (secret, stored string, err error) {
	raw := make([]byte, secretBytes)
	if _, err := rand.Read(raw); err != nil {
		return "", "", &mesh.Error{Op: "controlapi.token", Kind: mesh.Internal, Err: err}
	}
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(secret))
	return secret, hashPrefix + hex.EncodeToString(sum[:]), nil
}

// tokensByHash returns the tokens of config. One whose hash is none is not there:
// nothing can be presented for it.
func tokensByHash(config *mesh.Config) map[hash]*mesh.Token {
	out := make(map[hash]*mesh.Token, len(config.Tokens))
	for _, t := range config.Tokens {
		if h, ok := parseHash(t.Hash); ok {
			out[h] = t
		}
	}
	return out
}

func parseHash(s string) (h hash, ok bool) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(h) {
		return h, false
	}
	return hash(b), true
}

// principalOf returns who presents the secret of t.
func principalOf(t *mesh.Token) principal {
	p := principal{name: t.Name, role: viewer, bearer: true}
	switch t.Role {
	case mesh.RoleAdmin:
		p.role = admin
	case mesh.RoleEditor:
		p.role = editor
	}
	for _, s := range t.Scopes {
		own := scope{labels: s.Labels}
		for _, c := range s.Collections {
			own.collections = append(own.collections, mesh.Collection(c))
		}
		p.scopes = append(p.scopes, own)
	}
	return p
}

// keepHash gives t the hash that is stored, or the edit's if it is new.
func keepHash(t *mesh.Token, e edit, stored *mesh.Token) {
	if t.Hash = e.hash; stored != nil {
		t.Hash = stored.Hash
	}
}

// checkToken reports what is wrong with a token in view of what is stored and the time.
func checkToken(t, stored *mesh.Token, tokens int, now time.Time) (v mesh.Violations) {
	if t.Hash == "" {
		v.Add("name", "PUT /v1/"+t.Name+", or hedgerow token create", "a token is created by a request of its own, which answers its secret")
	}
	if tokens > maxObjects {
		v.Add("name", "delete those that have expired", "there would be %d tokens, at most %d are allowed", tokens, maxObjects)
	}
	if t.ExpireTime == nil || stored != nil && stored.ExpireTime != nil && stored.ExpireTime.Equal(*t.ExpireTime) {
		return v
	}
	switch left := t.ExpireTime.Sub(now); {
	case left <= 0:
		v.Add("expireTime", "delete the token instead", "%s is over", t.ExpireTime.Format(time.RFC3339))
	case left > maxTokenLife:
		v.Add("expireTime", "", "%s is more than %d days ahead", t.ExpireTime.Format(time.RFC3339), maxTokenLife/(24*time.Hour))
	}
	return v
}

// lastUse remembers when tokens were presented, by their hashes. It is not written
// down: reading must write nothing.
type lastUse struct {
	mu   sync.Mutex
	when map[hash]time.Time
}

func (l *lastUse) note(h hash, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.when == nil || len(l.when) > 4*maxObjects { // most are of tokens that are gone
		l.when = map[hash]time.Time{}
	}
	l.when[h] = now
}

func (l *lastUse) fill(tokens ...*hedgerowv1.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tokens {
		h, ok := parseHash(t.GetHash())
		if at, used := l.when[h]; ok && used {
			t.LastUsedTime = timestamppb.New(at.UTC().Truncate(time.Second))
		}
	}
}

// GetToken returns a token, without its secret.
func (s *service) GetToken(ctx context.Context, r *hedgerowv1.GetTokenRequest) (*hedgerowv1.Token, error) {
	t, err := get(ctx, s, mesh.Tokens, r.GetId(), new(hedgerowv1.Token))
	if err != nil {
		return nil, err
	}
	s.used.fill(t)
	return t, nil
}

// ListTokens returns a page of tokens, without their secrets.
func (s *service) ListTokens(ctx context.Context, r *hedgerowv1.ListTokensRequest) (*hedgerowv1.ListTokensResponse, error) {
	page, next, err := list(ctx, s, mesh.Tokens, r, newOf[hedgerowv1.Token])
	s.used.fill(page...)
	return &hedgerowv1.ListTokensResponse{Tokens: page, NextPageToken: next}, err
}

// PutToken creates or replaces a token. Only who creates it sees the secret, once.
func (s *service) PutToken(ctx context.Context, r *hedgerowv1.PutTokenRequest) (*hedgerowv1.Token, error) {
	secret, stored, err := newSecret()
	if err != nil {
		return nil, err
	}
	t, err := put(ctx, s, mesh.Tokens, r.GetId(), r.GetToken(), r.GetValidateOnly(), func(e *edit) { e.hash = stored })
	switch {
	case err != nil:
		return nil, err
	case t.GetHash() != stored: // it has one already
	case r.GetValidateOnly():
		t.Hash = ""
	default:
		t.Secret = secret
	}
	return t, nil
}

// DeleteToken deletes a token.
func (s *service) DeleteToken(ctx context.Context, r *hedgerowv1.DeleteTokenRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Tokens, r)
}
