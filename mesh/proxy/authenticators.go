package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// leastKeyBytes is how short an API key may be: the hash of one that is shorter can be tried.
const leastKeyBytes = 20

// authenticator is a compiled mesh.Authenticator with a credential. Either jwt or keys is set.
type authenticator struct {
	name     string
	from     []mesh.TokenHeader
	forward  []mesh.ForwardClaim
	optional bool
	jwt      *jwt.Verifier
	keys     map[[sha256.Size]byte]*jwt.Claims
	outcomes map[string]*atomic.Uint64 // by reason; which of them there are does not change
}

// outcomes are what becomes of credentials.
func outcomes() []string {
	return []string{
		"ACCEPTED", ReasonKeyNotKnown, jwt.ReasonTooLarge, jwt.ReasonMalformed, jwt.ReasonHeader, jwt.ReasonAlgorithm, jwt.ReasonIssuer, jwt.ReasonAudience,
		jwt.ReasonKeyUnknown, jwt.ReasonSignature, jwt.ReasonExpired, jwt.ReasonNotYetValid, jwt.ReasonNoKeys,
	}
}

func (a *authenticator) count(outcome string) {
	if n := a.outcomes[outcome]; n != nil {
		n.Add(1)
	}
}

// verify returns what is known of who shows the credential.
//
// Keys are compared by their hash. How long that takes tells about the hash of what was sent, and a
// key cannot be found by its hash; so that it need not take the same time for all.
func (a *authenticator) verify(credential string, now time.Time) (*jwt.Claims, *jwt.Rejected) {
	if a.jwt != nil {
		return a.jwt.Verify(credential, now)
	}
	if len(credential) < leastKeyBytes {
		return nil, &jwt.Rejected{Reason: ReasonKeyNotKnown, Detail: fmt.Sprintf("a key of less than %d characters", leastKeyBytes)}
	}
	if claims := a.keys[sha256.Sum256([]byte(credential))]; claims != nil {
		return claims, nil
	}
	return nil, &jwt.Rejected{Reason: ReasonKeyNotKnown, Detail: "no key has this hash"}
}

// compiledAuthenticator is what of an authenticator depends on nothing else; with an error it closes
// its targets.
type compiledAuthenticator struct {
	source *mesh.Authenticator
	accept *authenticator
	asks   *forwardAuth
	err    error
}

// guards are the guards of a configuration, by the id of what they are of.
type guards struct {
	services, routes, gateways map[string]*guard
	// everywhere is of an authenticator that is not understood, and one of whose targets is not: nobody
	// can tell what it protects.
	everywhere *guard
	identity   []string // headers of any guard, which no stranger may set
}

// compileAuthenticators compiles every authenticator and fails closed: one that is invalid lets nobody
// through its targets. Keyrings of old go on.
func (t *Table) compileAuthenticators(old *Table, cfg *mesh.Config) []error {
	if len(cfg.Authenticators) == 0 {
		return nil
	}
	t.authenticators = make(map[string]*compiledAuthenticator, len(cfg.Authenticators))
	t.rings = map[jwt.Source]*jwt.Keyring{}
	t.guards = guards{services: map[string]*guard{}, routes: map[string]*guard{}, gateways: map[string]*guard{}}
	ring := func(source jwt.Source) *jwt.Keyring {
		if k := t.rings[source]; k != nil {
			return k
		}
		if k := old.rings[source]; k != nil {
			return k
		}
		return jwt.NewKeyring(source)
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(cfg.Authenticators)) {
		source := cfg.Authenticators[id]
		c := old.authenticators[id]
		if c == nil || c.source != source {
			c = &compiledAuthenticator{source: source}
			c.err = c.compile(ring)
		}
		if c.err != nil {
			errs = append(errs, fmt.Errorf("proxy.Compile: authenticator fails closed: %w", c.err))
		}
		t.authenticators[id] = c
		if c.accept != nil && c.accept.jwt != nil {
			if k := c.accept.jwt.Keyring(); k.Source() != (jwt.Source{}) {
				t.rings[k.Source()] = k
			}
		}
		t.guards.file(c)
	}
	t.guards.finish(old.guards)
	return errs
}

// file puts c under its targets.
func (g *guards) file(c *compiledAuthenticator) {
	for _, name := range c.identity() {
		if !slices.Contains(g.identity, name) {
			g.identity = append(g.identity, name)
		}
	}
	if c.err != nil && (len(c.source.Targets) == 0 || slices.Contains(c.source.Targets, mesh.AuthenticatorTarget{})) {
		g.everywhere = &guard{invalid: c.source.Name}
	}
	for _, target := range c.source.Targets {
		for _, one := range []struct {
			of map[string]*guard
			id string
		}{{g.services, target.Service}, {g.routes, target.Route}, {g.gateways, target.Gateway}} {
			if one.id == "" {
				continue
			}
			if one.of[one.id] == nil {
				one.of[one.id] = &guard{}
			}
			one.of[one.id].add(c)
		}
	}
}

// identity returns the headers that c alone may set, folded.
func (c *compiledAuthenticator) identity() []string {
	var out []string
	for _, f := range c.source.Forwarded() {
		out = append(out, foldName(f.Header))
	}
	if c.source.ForwardAuth != nil {
		for _, name := range c.source.ForwardAuth.ResponseHeaders {
			out = append(out, foldName(name))
		}
	}
	return out
}

func (g *guard) add(c *compiledAuthenticator) {
	switch {
	case c.err != nil:
		g.invalid = c.source.Name
	case c.asks != nil:
		g.asks = append(g.asks, c.asks)
	default:
		g.accept = append(g.accept, c.accept)
	}
	g.identity = append(g.identity, c.identity()...)
}

// finish completes the guards. Those that are the same in old are those of old.
func (g *guards) finish(old guards) {
	for _, pair := range [][2]map[string]*guard{{g.services, old.services}, {g.routes, old.routes}, {g.gateways, old.gateways}} {
		for id, one := range pair[0] {
			if was := pair[1][id]; was != nil && was.same(one) {
				pair[0][id] = was
				continue
			}
			one.finish()
		}
	}
}

func (g *guard) same(other *guard) bool {
	return g.invalid == other.invalid && slices.Equal(g.accept, other.accept) && slices.Equal(g.asks, other.asks)
}

func (g *guard) finish() {
	var challenges, rebukes []string
	g.optional = true
	for _, a := range g.accept {
		g.optional = g.optional && a.optional
		challenge, rebuke := "ApiKey", "ApiKey"
		if a.jwt != nil {
			challenge, rebuke = "Bearer", `Bearer error="invalid_token"` // RFC 6750 section 3
		}
		if !slices.Contains(challenges, challenge) {
			challenges, rebukes = append(challenges, challenge), append(rebukes, rebuke)
		}
	}
	g.challenge, g.rebuke = strings.Join(challenges, ", "), strings.Join(rebukes, ", ")
}

// compile fills c in. ring returns the keys of a source.
func (c *compiledAuthenticator) compile(ring func(jwt.Source) *jwt.Keyring) error {
	if err := mesh.Validate(c.source); err != nil {
		return err
	}
	a := &authenticator{name: c.source.ID(), optional: c.source.Optional, forward: c.source.Forwarded(), outcomes: map[string]*atomic.Uint64{}}
	for _, outcome := range outcomes() {
		a.outcomes[outcome] = new(atomic.Uint64)
	}
	switch {
	case c.source.JWT != nil:
		v, err := newVerifier(c.source.JWT, ring)
		if err != nil {
			return fmt.Errorf("%s: %w", c.source.Name, err)
		}
		a.jwt, a.from = v, c.source.JWT.FromHeaders
		if len(a.from) == 0 {
			a.from = []mesh.TokenHeader{{Name: "authorization", Prefix: "Bearer "}}
		}
	case c.source.APIKey != nil:
		name := c.source.APIKey.Header
		if name == "" {
			name = mesh.DefaultKeyHeader
		}
		a.from, a.keys = []mesh.TokenHeader{{Name: name}}, make(map[[sha256.Size]byte]*jwt.Claims, len(c.source.APIKey.Keys))
		for _, key := range c.source.APIKey.Keys {
			raw, err := hex.DecodeString(key.SHA256)
			if err != nil || len(raw) != sha256.Size {
				return fmt.Errorf("%s: the hash of a key of %q is none", c.source.Name, key.Name)
			}
			a.keys[[sha256.Size]byte(raw)] = jwt.Named(key.Name)
		}
	case c.source.ForwardAuth != nil:
		c.asks = newForwardAuth(c.source)
		return nil
	}
	c.accept = a
	return nil
}

func newVerifier(j *mesh.AuthenticatorJWT, ring func(jwt.Source) *jwt.Keyring) (*jwt.Verifier, error) {
	rules := jwt.Rules{Issuer: j.Issuer, Audiences: j.Audiences, Algorithms: j.Algorithms}
	if j.JWKS != "" {
		keys, err := jwt.ParseKeySet([]byte(j.JWKS))
		if err != nil {
			return nil, err
		}
		return jwt.NewVerifier(rules, jwt.Fixed(keys)), nil
	}
	return jwt.NewVerifier(rules, ring(jwt.Source{URI: j.JWKSURI, CAPem: j.JWKSCAPem})), nil
}

// CheckAuthenticator reports what of a no proxy could use, as violations of its fields.
func CheckAuthenticator(a *mesh.Authenticator) error {
	if a.JWT == nil || a.JWT.JWKS == "" {
		return nil
	}
	keys, err := jwt.ParseKeySet([]byte(a.JWT.JWKS))
	if err == nil {
		if _, left := keys.Len(); left > 0 {
			err = errors.New("some of its keys cannot verify tokens")
		}
	}
	if err == nil {
		return nil
	}
	var found mesh.Violations
	found.Add("jwt.jwks", "public keys of type RSA (2048 bits or more), EC or OKP, for signatures", "%v", err)
	return mesh.Refuse(a.Name, found)
}
