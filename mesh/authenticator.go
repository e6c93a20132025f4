package mesh

import "slices"

// Authenticator says by what callers who are no peers of the mesh prove who they
// are. Exactly one of JWT, APIKey and ForwardAuth is set. Of those of one target
// with JWT or APIKey a caller has to satisfy one, and of each target that a request
// meets; those with ForwardAuth are all asked, after the policies.
type Authenticator struct {
	Meta
	Targets []AuthenticatorTarget `json:"targets,omitempty"`
	// Optional lets requests without a credential pass as anonymous, if every
	// authenticator of the target says so. One that is not valid is refused.
	Optional    bool                 `json:"optional,omitempty"`
	JWT         *AuthenticatorJWT    `json:"jwt,omitempty"`
	APIKey      *AuthenticatorAPIKey `json:"apiKey,omitempty"`
	ForwardAuth *ForwardAuth         `json:"forwardAuth,omitempty"`
}

// AuthenticatorTarget is what asks for credentials; exactly one field is set, to an
// id. A service's sidecar asks, the first proxy that selects the route, the gateway.
type AuthenticatorTarget struct {
	Service string `json:"service,omitempty"`
	Route   string `json:"route,omitempty"`
	Gateway string `json:"gateway,omitempty"`
}

// AuthenticatorJWT accepts signed JSON Web Tokens of one issuer, by the keys in JWKS
// or those that JWKSURI has.
type AuthenticatorJWT struct {
	Issuer        string         `json:"issuer,omitempty"`
	Audiences     []string       `json:"audiences,omitempty"`  // any if absent
	Algorithms    []string       `json:"algorithms,omitempty"` // as the keys say if absent
	JWKS          string         `json:"jwks,omitempty"`
	JWKSURI       string         `json:"jwksUri,omitempty"`
	JWKSCAPem     string         `json:"jwksCaPem,omitempty"`
	FromHeaders   []TokenHeader  `json:"fromHeaders,omitempty"` // "authorization" with "Bearer " if absent
	ForwardClaims []ForwardClaim `json:"forwardClaims,omitempty"`
}

// TokenHeader is a header that may carry a token, after Prefix in whatever letters.
type TokenHeader struct {
	Name   string `json:"name,omitempty"`
	Prefix string `json:"prefix,omitempty"`
}

// ForwardClaim sends a claim on as a header, which clients cannot set.
type ForwardClaim struct {
	Claim  string `json:"claim,omitempty"`
	Header string `json:"header,omitempty"`
}

// AuthenticatorAPIKey accepts keys that are known by their SHA-256. That is enough
// for what is random: nobody can try 2^128 keys. Claim "sub" is the name of the key.
type AuthenticatorAPIKey struct {
	Header        string         `json:"header,omitempty"` // DefaultKeyHeader if absent
	Keys          []APIKey       `json:"keys,omitempty"`
	ForwardClaims []ForwardClaim `json:"forwardClaims,omitempty"`
}

// DefaultKeyHeader carries API keys where nothing else is said.
const DefaultKeyHeader = "x-api-key"

// APIKey is one key of a caller, who may have several.
type APIKey struct {
	Name   string `json:"name,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // hex
}

// ForwardAuth has a gateway ask Service about each request: 2xx lets it pass, what
// else is below 500 is given to the caller.
type ForwardAuth struct {
	Service         string    `json:"service,omitempty"`
	Path            string    `json:"path,omitempty"`            // "/" if absent
	Timeout         *Duration `json:"timeout,omitempty"`         // 0.5 s if absent
	RequestHeaders  []string  `json:"requestHeaders,omitempty"`  // that are sent; authorization and cookie if absent
	ResponseHeaders []string  `json:"responseHeaders,omitempty"` // of its answer, that the request gets
	FailOpen        bool      `json:"failOpen,omitempty"`
}

// Collection returns Authenticators.
func (*Authenticator) Collection() Collection { return Authenticators }

// Forwarded returns what claims are sent on as.
func (a *Authenticator) Forwarded() []ForwardClaim {
	switch {
	case a.JWT != nil:
		return a.JWT.ForwardClaims
	case a.APIKey != nil:
		return a.APIKey.ForwardClaims
	}
	return nil
}

// namedHeader is a header and the field of an Authenticator that names it.
type namedHeader struct{ field, name string }

// sets returns the headers that only what a has verified may set: every gateway takes them
// out of what clients send, on every route.
func (a *Authenticator) sets() []namedHeader {
	var out []namedHeader
	kind := "jwt"
	if a.APIKey != nil {
		kind = "apiKey"
	}
	for i, f := range a.Forwarded() {
		out = append(out, namedHeader{at(kind+".forwardClaims", i) + ".header", f.Header})
	}
	if a.ForwardAuth != nil {
		for i, name := range a.ForwardAuth.ResponseHeaders {
			out = append(out, namedHeader{at("forwardAuth.responseHeaders", i), name})
		}
	}
	return out
}

// reads returns the headers in which a looks for credentials.
func (a *Authenticator) reads() []namedHeader {
	var out []namedHeader
	switch {
	case a.JWT != nil:
		for i, h := range a.JWT.FromHeaders {
			out = append(out, namedHeader{at("jwt.fromHeaders", i) + ".name", h.Name})
		}
	case a.APIKey != nil && a.APIKey.Header != "":
		out = append(out, namedHeader{"apiKey.header", a.APIKey.Header})
	case a.APIKey != nil:
		out = append(out, namedHeader{"apiKey.header", DefaultKeyHeader})
	}
	return out
}

// losesTo reports whether a would not get a header that other sets: gateways take it from
// clients on every route, and sidecars where other guards the service. What a gateway has set
// a sidecar may well read.
func (a *Authenticator) losesTo(other *Authenticator) bool {
	return slices.ContainsFunc(a.Targets, func(t AuthenticatorTarget) bool {
		return t.Gateway != "" || t.Route != "" || t.Service != "" && slices.Contains(other.Targets, t)
	})
}
