// Package jwt verifies signed JSON Web Tokens (RFC 7519) by the public keys of
// their issuer, which are configured or fetched (RFC 7517).
//
// It issues and decrypts no tokens, knows no secret keys (a secret that every
// proxy needs is none), and does not say what the caller may do. One thing
// always holds: a token chooses nothing. Which keys are fetched from where, and by
// which algorithm each verifies, was settled before the token came; of its header only
// "alg" and "kid" are read, to find one of those keys, and have to agree with it.
package jwt

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of a token.
const (
	// MaxTokenBytes bounds what is looked at: a header of a request carries no more
	// (Envoy and nginx keep header lines to 8 KiB).
	MaxTokenBytes = 8 << 10
	// Skew is by how much clocks may differ (Envoy's clock_skew_seconds).
	Skew = 60 * time.Second
)

// Reasons why a token is not accepted. They are for the operator: a caller who gets
// them could search for a token that passes.
const (
	ReasonTooLarge    = "TOKEN_TOO_LARGE"
	ReasonMalformed   = "TOKEN_MALFORMED"   // not three parts of base64url, or JSON that has two readings
	ReasonHeader      = "TOKEN_HEADER"      // asks for an extension ("crit")
	ReasonAlgorithm   = "TOKEN_ALGORITHM"   // not one that is accepted; "none" never is
	ReasonIssuer      = "TOKEN_ISSUER"      // by somebody else
	ReasonAudience    = "TOKEN_AUDIENCE"    // for somebody else
	ReasonKeyUnknown  = "TOKEN_KEY_UNKNOWN" // no key of that id and algorithm
	ReasonSignature   = "TOKEN_SIGNATURE"   // not made by the key
	ReasonExpired     = "TOKEN_EXPIRED"     // or it has no expiry at all
	ReasonNotYetValid = "TOKEN_NOT_YET_VALID"
	ReasonNoKeys      = "KEYS_ABSENT" // no keys are known yet: whether it is good cannot be told
)

// Rejected is why a token is not accepted.
type Rejected struct {
	Reason string
	Detail string // for the operator; may quote a little of the token's header or claims, never its signature
}

// Error implements error.
func (r *Rejected) Error() string { return r.Reason + ": " + r.Detail }

func rejected(reason, format string, args ...any) *Rejected {
	return &Rejected{reason, fmt.Sprintf(format, args...)}
}

// Rules are what a token has to say to be accepted.
type Rules struct {
	Issuer     string
	Audiences  []string // one of them; empty is any
	Algorithms []string // empty: as each key says, or the usual one of its type
}

// Algorithms are those that can be verified by a public key.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// Verifier verifies tokens of one issuer. It may be used by many goroutines.
type Verifier struct {
	rules Rules
	ring  *Keyring
	known cache
}

// NewVerifier returns a Verifier by the keys of ring.
func NewVerifier(rules Rules, ring *Keyring) *Verifier {
	return &Verifier{rules: rules, ring: ring}
}

// Keyring returns the keys that v verifies by.
func (v *Verifier) Keyring() *Keyring { return v.ring }

// Verify returns what the token says if it is good at now, and else why not. The
// claims are shared: nobody changes them. For a token that was verified before, of which
// some are remembered, it allocates nothing.
func (v *Verifier) Verify(token string, now time.Time) (*Claims, *Rejected) {
	if len(token) > MaxTokenBytes {
		return nil, rejected(ReasonTooLarge, "%d bytes, at most %d are looked at", len(token), MaxTokenBytes)
	}
	keys := v.ring.Keys()
	name := v.known.name(token)
	if c := v.known.get(name, keys); c != nil {
		return c, c.timely(now)
	}
	c, no := v.verify(token, keys)
	if no != nil {
		return nil, no
	}
	if no = c.timely(now); no != nil {
		return nil, no
	}
	v.known.put(name, keys, c, len(token))
	return c, nil
}

// parts of a token.
type parts struct {
	alg, kid string
	payload  []byte
}

// verify is Verify without what changes with time.
func (v *Verifier) verify(token string, keys *KeySet) (*Claims, *Rejected) {
	p, no := cut(token)
	if no != nil {
		return nil, no
	}
	if !v.accepts(p.alg) {
		return nil, rejected(ReasonAlgorithm, "%.20q is not accepted", p.alg)
	}
	all, err := decodeObject(p.payload)
	if err != nil {
		return nil, rejected(ReasonMalformed, "its claims: %v", err)
	}
	c, err := newClaims(all)
	if err != nil {
		return nil, rejected(ReasonMalformed, "its claims: %v", err)
	}
	if c.Issuer != v.rules.Issuer { // whose keys would be the wrong ones
		return nil, rejected(ReasonIssuer, "is by %.200q", c.Issuer)
	}
	if keys == nil {
		v.ring.want()
		return nil, rejected(ReasonNoKeys, "the keys of the issuer have not been fetched yet")
	}
	candidates := keys.find(p.kid, p.alg, len(v.rules.Algorithms) > 0)
	if len(candidates) == 0 {
		v.ring.want()
		return nil, rejected(ReasonKeyUnknown, "no key %.100q of the issuer verifies %s", p.kid, p.alg)
	}
	if !signedBy(candidates, token, &p) {
		return nil, rejected(ReasonSignature, "is not signed by key %.100q of the issuer", p.kid)
	}
	if len(v.rules.Audiences) > 0 && !slices.ContainsFunc(c.audience, func(a string) bool { return slices.Contains(v.rules.Audiences, a) }) {
		return nil, rejected(ReasonAudience, "is for %.200q", c.audience)
	}
	return c, nil
}

// accepts reports whether alg is one that a token may name.
func (v *Verifier) accepts(alg string) bool {
	if len(v.rules.Algorithms) > 0 {
		return slices.Contains(v.rules.Algorithms, alg) && slices.Contains(Algorithms(), alg)
	}
	return slices.Contains(Algorithms(), alg)
}

// cut takes a token apart. Of its header "jku", "jwk", "x5u", "x5c" and whatever else
// could lead to a key of the sender's choice are not read.
func cut(token string) (parts, *Rejected) {
	header, rest, ok := strings.Cut(token, ".")
	body, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || header == "" || body == "" || signature == "" || strings.Contains(signature, ".") {
		return parts{}, rejected(ReasonMalformed, "not three parts")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(header)
	if err != nil {
		return parts{}, rejected(ReasonMalformed, "its header is not base64url")
	}
	h, err := decodeObject(raw)
	if err != nil {
		return parts{}, rejected(ReasonMalformed, "its header: %v", err)
	}
	if _, has := h["crit"]; has {
		return parts{}, rejected(ReasonHeader, "asks for an extension (crit)")
	}
	var p parts
	if p.alg, ok = h["alg"].(string); !ok {
		return parts{}, rejected(ReasonMalformed, "its header names no algorithm")
	}
	if kid, has := h["kid"]; has {
		if p.kid, ok = kid.(string); !ok || p.kid == "" {
			return parts{}, rejected(ReasonMalformed, "its header has a key id that is no text")
		}
	}
	if p.payload, err = base64.RawURLEncoding.Strict().DecodeString(body); err != nil {
		return parts{}, rejected(ReasonMalformed, "its claims are not base64url")
	}
	return p, nil
}

// signedBy reports whether one of the keys made the signature of token.
func signedBy(keys []*key, token string, p *parts) bool {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(p.alg)})
	if err != nil {
		return false
	}
	for _, k := range keys {
		if payload, err := jws.Verify(k.public); err == nil && bytes.Equal(payload, p.payload) {
			return true
		}
	}
	return false
}

// timely returns why the claims do not count now, or nil.
func (c *Claims) timely(now time.Time) *Rejected {
	at := float64(now.UnixMilli()) / 1000
	switch {
	case math.IsInf(c.expires, -1):
		return rejected(ReasonExpired, "has no expiry (exp)")
	case at >= c.expires+Skew.Seconds():
		return rejected(ReasonExpired, "expired %.0f s ago", at-c.expires)
	case at < c.notBefore-Skew.Seconds():
		return rejected(ReasonNotYetValid, "counts only in %.0f s", c.notBefore-at)
	}
	return nil
}
