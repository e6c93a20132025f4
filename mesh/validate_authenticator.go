package mesh

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Bounds of an authenticator.
const (
	maxTargets     = 64
	maxListed      = 64 // audiences, headers, claims
	maxAPIKeys     = 1000
	maxJWKSBytes   = 64 << 10
	maxClaimBytes  = 2048
	maxForwardAuth = 10 * time.Second
)

// tokenAlgorithms verify by a public key. Those with a secret are not among them: it
// would be in what every node reads.
func tokenAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (a *Authenticator) normalize() {}

func (a *Authenticator) validate(v *Violations) {
	a.validateTargets(v)
	kinds := 0
	if a.JWT != nil {
		kinds++
		a.JWT.validate("jwt", v)
	}
	if a.APIKey != nil {
		kinds++
		a.APIKey.validate("apiKey", v)
	}
	if a.ForwardAuth != nil {
		kinds++
		a.ForwardAuth.validate("forwardAuth", v)
		if a.Optional {
			v.Add("optional", "leave it out", "a service is asked about every request")
		}
		for i, t := range a.Targets {
			if t.Service != "" {
				v.Add(at("targets", i)+".service", "name the gateway, or its routes to the service", "only gateways ask another service")
			}
		}
	}
	if kinds != 1 {
		v.Add("jwt", "e.g. {\"issuer\": \"https://id.example\", \"jwksUri\": \"https://id.example/jwks.json\"}", "exactly one of jwt, apiKey and forwardAuth is needed")
	}
}

func (a *Authenticator) validateTargets(v *Violations) {
	if len(a.Targets) == 0 || len(a.Targets) > maxTargets {
		v.Add("targets", "e.g. [{\"gateway\": \"demo\"}]", "%d targets, from 1 to %d are needed", len(a.Targets), maxTargets)
	}
	seen := map[AuthenticatorTarget]bool{}
	for i, t := range a.Targets {
		field, set := at("targets", i), 0
		for _, one := range [][2]string{{"service", t.Service}, {"route", t.Route}, {"gateway", t.Gateway}} {
			if one[1] == "" {
				continue
			}
			set++
			if !ValidID(one[1]) {
				v.Add(field+"."+one[0], "", "%q is not an id", one[1])
			}
		}
		if set != 1 {
			v.Add(field, "e.g. {\"gateway\": \"demo\"}", "exactly one of service, route and gateway is needed")
		}
		if seen[t] {
			v.Add(field, "", "is there twice")
		}
		seen[t] = true
	}
}

func (j *AuthenticatorJWT) validate(field string, v *Violations) {
	checkText(field+".issuer", j.Issuer, v)
	checkMany(field+".audiences", len(j.Audiences), v)
	for i, a := range j.Audiences {
		checkText(at(field+".audiences", i), a, v)
	}
	for i, alg := range j.Algorithms {
		if strings.HasPrefix(alg, "HS") {
			v.Add(at(field+".algorithms", i), "have the issuer sign by a key pair, e.g. ES256", "%q needs a secret, and every node would have it", alg)
			continue
		}
		v.oneOf(at(field+".algorithms", i), alg, tokenAlgorithms())
	}
	switch {
	case (j.JWKS == "") == (j.JWKSURI == ""):
		v.Add(field+".jwks", "", "exactly one of jwks and jwksUri is needed")
	case j.JWKS != "":
		checkJWKS(field+".jwks", j.JWKS, v)
	default:
		checkKeyURI(field+".jwksUri", j.JWKSURI, v)
	}
	if j.JWKSCAPem != "" {
		if !strings.HasPrefix(j.JWKSURI, "https:") {
			v.Add(field+".jwksCaPem", "leave it out", "there is no server that it is for")
		}
		checkCAs(field+".jwksCaPem", j.JWKSCAPem, v)
	}
	checkMany(field+".fromHeaders", len(j.FromHeaders), v)
	taken := []string{"authorization", "cookie"}
	for i, h := range j.FromHeaders {
		f := at(field+".fromHeaders", i)
		checkOwnHeader(f+".name", h.Name, taken[2:], v)
		if len(h.Prefix) > 64 || !printable(h.Prefix) {
			v.Add(f+".prefix", "e.g. \"Bearer \"", "is not up to 64 printable ASCII characters")
		}
		taken = append(taken, h.Name)
	}
	checkForwarded(field+".forwardClaims", j.ForwardClaims, taken, v)
}

// checkJWKS checks that text could be a JSON Web Key Set. What its keys are good for is
// known where they are used.
func checkJWKS(field, text string, v *Violations) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	switch {
	case len(text) > maxJWKSBytes:
		v.Add(field, "use jwksUri", "%d bytes, at most %d are allowed", len(text), maxJWKSBytes)
	case json.Unmarshal([]byte(text), &set) != nil || len(set.Keys) == 0:
		v.Add(field, "the text of the document, e.g. '{\"keys\": [...]}'", "is not a JSON Web Key Set")
	}
}

// checkKeyURI checks where keys are fetched from: whoever can change them on their way can
// be anybody.
func checkKeyURI(field, uri string, v *Violations) {
	u, err := url.Parse(uri)
	if err != nil || len(uri) > maxClaimBytes || !printable(uri) || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		v.Add(field, "e.g. \"https://id.example/jwks.json\"", "is not a URL with a host, and without user and fragment")
		return
	}
	checkRemoteName(field, u.Hostname(), v)
	switch u.Scheme {
	case "https":
	case "http":
		addr, err := netip.ParseAddr(u.Hostname())
		if u.Hostname() != "localhost" && (err != nil || !addr.IsLoopback()) {
			v.Add(field, "use https", "keys come in clear text only from the same machine")
		}
	default:
		v.Add(field, "use https", "%q is not https", u.Scheme)
	}
}

func (k *AuthenticatorAPIKey) validate(field string, v *Violations) {
	header := DefaultKeyHeader
	if k.Header != "" {
		header = k.Header
		checkOwnHeader(field+".header", header, nil, v)
	}
	if len(k.Keys) == 0 || len(k.Keys) > maxAPIKeys {
		v.Add(field+".keys", "e.g. [{\"name\": \"billing\", \"sha256\": \"<hex>\"}]", "%d keys, from 1 to %d are needed", len(k.Keys), maxAPIKeys)
	}
	seen := map[string]bool{}
	for i, key := range k.Keys {
		f := at(field+".keys", i)
		checkText(f+".name", key.Name, v)
		if raw, err := hex.DecodeString(key.SHA256); err != nil || len(raw) != 32 || key.SHA256 != strings.ToLower(key.SHA256) {
			v.Add(f+".sha256", "printf %s \"$key\" | sha256sum", "is not a SHA-256 of 64 characters 0-9 and a-f")
		}
		if seen[key.SHA256] {
			v.Add(f+".sha256", "", "is there twice")
		}
		seen[key.SHA256] = true
	}
	checkForwarded(field+".forwardClaims", k.ForwardClaims, []string{"authorization", "cookie", header}, v)
}

func (f *ForwardAuth) validate(field string, v *Violations) {
	if !ValidID(f.Service) {
		v.Add(field+".service", "the id of a service", "%q is not an id", f.Service)
	}
	if f.Path != "" {
		checkPlainPath(field+".path", f.Path, v)
	}
	checkDuration(field+".timeout", f.Timeout, time.Millisecond, maxForwardAuth, v)
	checkMany(field+".requestHeaders", len(f.RequestHeaders), v)
	for i, name := range f.RequestHeaders {
		checkOwnHeader(at(field+".requestHeaders", i), name, f.RequestHeaders[:i], v)
	}
	checkMany(field+".responseHeaders", len(f.ResponseHeaders), v)
	for i, name := range f.ResponseHeaders {
		checkSetHeader(at(field+".responseHeaders", i), name, append([]string{"authorization", "cookie"}, f.ResponseHeaders[:i]...), v)
	}
}

func checkForwarded(field string, list []ForwardClaim, taken []string, v *Violations) {
	checkMany(field, len(list), v)
	for i, f := range list {
		checkText(at(field, i)+".claim", f.Claim, v)
		checkSetHeader(at(field, i)+".header", f.Header, taken, v)
		taken = append(taken, f.Header)
	}
}

// checkSetHeader checks a header that clients may not set any more, whatever they ask for.
func checkSetHeader(field, name string, taken []string, v *Violations) {
	n := strings.ToLower(name)
	known := slices.Contains([]string{"expect", "range", "origin", "referer", "user-agent", "cache-control", "traceparent", "tracestate", "idempotency-key"}, n)
	for _, prefix := range []string{"accept", "access-control-", "content-", "grpc-", "if-", "sec-"} {
		known = known || strings.HasPrefix(n, prefix)
	}
	if known {
		v.Add(field, "e.g. \"x-user\"", "%q is what clients say of their requests, and would be taken from all of them", name)
		return
	}
	checkOwnHeader(field, name, taken, v)
}

// checkOwnHeader checks a header that is none of the mesh's own, nor one of taken.
func checkOwnHeader(field, name string, taken []string, v *Violations) {
	switch {
	case !token(name):
		v.Add(field, "", "%q is not a header name", name)
	case ReservedHeader(name):
		v.Add(field, "", "%q is set by the mesh alone", name)
	case slices.ContainsFunc(taken, func(other string) bool { return sameHeader(other, name) }):
		v.Add(field, "use another one", "%q has another meaning here", name)
	}
}

// sameHeader reports whether two names are one to programs that see '_' and '.' as '-'.
func sameHeader(a, b string) bool {
	fold := strings.NewReplacer("_", "-", ".", "-")
	return strings.EqualFold(fold.Replace(a), fold.Replace(b))
}

// checkText checks a text that is compared as it is.
func checkText(field, text string, v *Violations) {
	if text == "" || len(text) > maxClaimBytes || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.Add(field, "", "is not a text of 1 to %d bytes without control characters", maxClaimBytes)
	}
}

func checkMany(field string, n int, v *Violations) {
	if n > maxListed {
		v.Add(field, "", "%d entries, at most %d are allowed", n, maxListed)
	}
}
