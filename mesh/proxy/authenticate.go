package proxy

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Codes of refusals for want of a valid credential.
const (
	CodeUnauthenticated = "unauthenticated"        // 401
	CodeAuthUnavailable = "authentication_unready" // 503: whether the credential is good cannot be told
)

// Reasons why credentials are refused, beside those of package jwt. They are for the operator.
const (
	ReasonCredentialMissing    = "CREDENTIAL_MISSING"
	ReasonCredentialRepeated   = "CREDENTIAL_REPEATED"   // two, of which one would have to be chosen
	ReasonKeyNotKnown          = "API_KEY_UNKNOWN"       // no key has this hash
	ReasonInvalidAuthenticator = "INVALID_AUTHENTICATOR" // one does not compile: nobody gets in
)

// guard is what one target asks of the credentials of a request: that one of accept is satisfied, and
// then that all of asks agree. A nil guard asks nothing.
type guard struct {
	accept    []*authenticator
	asks      []*forwardAuth
	invalid   string   // the name of one that does not compile
	optional  bool     // whoever shows none is anonymous
	identity  []string // headers that only what was verified may set
	challenge string   // of who shows none (RFC 9110 section 11.6.1)
	rebuke    string   // of who shows one that is not good
}

// proof is what one guard found of a request.
type proof struct {
	by       *authenticator // that accepted, or refused; nil if none has an opinion
	claims   *jwt.Claims
	rejected *jwt.Rejected
}

// check returns what the guard finds of r.
func (g *guard) check(r *Request) proof {
	if g.invalid != "" {
		return proof{rejected: &jwt.Rejected{Reason: ReasonInvalidAuthenticator, Detail: g.invalid}}
	}
	if len(g.accept) == 0 {
		return proof{}
	}
	credential, found, several := g.credential(r.Fields)
	switch {
	case several:
		return proof{rejected: &jwt.Rejected{Reason: ReasonCredentialRepeated, Detail: "two credentials, of which one would have to be chosen"}}
	case !found && g.optional:
		return proof{}
	case !found:
		return proof{rejected: &jwt.Rejected{Reason: ReasonCredentialMissing, Detail: "no credential that an authenticator looks for"}}
	}
	var worst proof
	now := time.Now()
	for _, a := range g.accept {
		if text, n := a.find(r.Fields); n == 0 || text != credential {
			continue
		}
		claims, no := a.verify(credential, now)
		if no == nil {
			a.count("ACCEPTED")
			return proof{by: a, claims: claims}
		}
		// Of several that refuse, the one counts that the credential is for.
		if worst.rejected == nil || worst.rejected.Reason == jwt.ReasonIssuer || worst.rejected.Reason == ReasonKeyNotKnown {
			worst = proof{by: a, rejected: no}
		}
	}
	worst.by.count(worst.rejected.Reason)
	return worst
}

// credential returns the one credential that the fields carry for any of g.
func (g *guard) credential(fields header.List) (credential string, found, several bool) {
	for _, a := range g.accept {
		text, n := a.find(fields)
		if n > 1 || n == 1 && found && text != credential {
			return "", true, true
		}
		if n == 1 {
			credential, found = text, true
		}
	}
	return credential, found, false
}

// authenticate has g check the caller, and takes over what it proved. It reports whether the
// request goes on.
func (d *Decision) authenticate(g *guard, face Face, c *call) bool {
	if g == nil {
		return true
	}
	if face.Kind != Gateway {
		if len(g.asks) > 0 { // validation keeps them to gateways
			d.reject(g, proof{rejected: &jwt.Rejected{Reason: ReasonInvalidAuthenticator, Detail: g.asks[0].name + " is for gateways"}})
			return false
		}
		d.strip(g.identity, c)
	}
	p := g.check(c.Request)
	if p.rejected != nil {
		d.reject(g, p)
		return false
	}
	for _, a := range g.asks {
		if !slices.Contains(d.asks, a) { // it may be of the gateway and of the route
			d.asks = append(d.asks, a)
		}
	}
	if p.by != nil { // else what another guard has proved still holds
		d.proof, c.proof = p, p
		d.forward(p, c)
	}
	return true
}

// reject refuses the request as p says. The caller learns only that its credential is not good.
func (d *Decision) reject(g *guard, p proof) {
	d.proof = p
	switch p.rejected.Reason {
	case jwt.ReasonNoKeys, ReasonInvalidAuthenticator:
		d.Refusal = &Refusal{http.StatusServiceUnavailable, CodeAuthUnavailable, "whether the credentials are valid cannot be told now"}
	case ReasonCredentialMissing:
		d.Refusal, d.challenge = &Refusal{http.StatusUnauthorized, CodeUnauthenticated, "credentials are needed"}, g.challenge
	default:
		d.Refusal, d.challenge = &Refusal{http.StatusUnauthorized, CodeUnauthenticated, "the credentials are not valid"}, g.rebuke
	}
}

// strip takes the headers that are only for what was verified out of the request that is decided
// about, in every spelling that some program takes for them.
func (d *Decision) strip(identity []string, c *call) {
	if len(identity) == 0 {
		return
	}
	d.identity = identity
	if !slices.ContainsFunc(c.Fields, func(f header.Field) bool { return isIdentity(identity, f.Name) }) {
		return
	}
	kept := make(header.List, 0, len(c.Fields))
	for _, f := range c.Fields {
		if !isIdentity(identity, f.Name) {
			kept = append(kept, f)
		}
	}
	d.replace(kept, c)
}

// forward adds the headers that tell of the claims.
func (d *Decision) forward(p proof, c *call) {
	if len(p.by.forward) == 0 {
		return
	}
	fields := append(make(header.List, 0, len(c.Fields)+len(p.by.forward)), c.Fields...)
	for _, f := range p.by.forward {
		if value, ok := p.claims.Header(f.Claim); ok {
			fields = fields.Set(f.Header, value)
		}
	}
	d.replace(fields, c)
}

// replace has the rest of the decision, and what is sent, be about other fields.
func (d *Decision) replace(fields header.List, c *call) {
	r := *c.Request
	r.Fields, c.Request, d.fields = fields, &r, fields
}

// isIdentity reports whether a program could take name for one of the headers, which are folded.
func isIdentity(identity []string, name string) bool {
	for _, folded := range identity {
		if folds(name, folded) {
			return true
		}
	}
	return false
}

// foldName returns a name as folds compares it.
func foldName(name string) string {
	out := []byte(name)
	for i := range out {
		out[i] = foldByte(out[i])
	}
	return string(out)
}

// find returns the credential for a among the fields, and how often there is one.
func (a *authenticator) find(fields header.List) (credential string, n int) {
	for i := range fields {
		for j := range a.from {
			h := &a.from[j]
			value := fields[i].Value
			if !header.Equal(fields[i].Name, h.Name) || len(value) < len(h.Prefix) || !strings.EqualFold(value[:len(h.Prefix)], h.Prefix) {
				continue
			}
			credential = strings.TrimLeft(value[len(h.Prefix):], " ")
			n++
		}
	}
	return credential, n
}

// authentication returns by whom a caller was accepted or refused, for records; "" is nobody.
func (d *Decision) authentication() (authenticator, subject, reason, detail string) {
	if d.proof.by != nil {
		authenticator = d.proof.by.name
	}
	if d.proof.claims != nil {
		subject = d.proof.claims.Subject
	}
	if d.proof.rejected != nil {
		reason, detail = d.proof.rejected.Reason, d.proof.rejected.Detail
	}
	return authenticator, subject, reason, detail
}
