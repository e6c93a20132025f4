package controlapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// CertificateGrant says what whoever presents a client certificate may do: one whose URI is
// ID, or one without any URI whose subject is Subject.
type CertificateGrant struct {
	ID      string       `yaml:"id"`      // "/op/alice", or "/op/*", of the mesh's trust domain
	Subject string       `yaml:"subject"` // as RFC 2253 writes it: "CN=alice,O=shop"
	Role    string       `yaml:"role"`
	Scopes  []mesh.Scope `yaml:"scopes"`
}

// ClaimGrant says what whoever presents a token of the issuer may do in which Claim is
// Value, or a list with it.
type ClaimGrant struct {
	Claim  string       `yaml:"claim"`
	Value  string       `yaml:"value"`
	Role   string       `yaml:"role"`
	Scopes []mesh.Scope `yaml:"scopes"`
}

// OIDC is whose tokens are bearer tokens here.
type OIDC struct {
	Verifier  *jwt.Verifier
	NameClaim string // whose value names the caller; "sub" if empty
	Grants    []ClaimGrant
}

// operatorPath begins the path of the IDs of those who may be callers. Services, nodes and
// gateways have others, so that no grant can be meant for people and let a workload in.
const operatorPath = "/op/"

// maxNameBytes bounds the name of a caller, which is written to logs.
const maxNameBytes = 256

// grant is what callers may do whom match knows.
type grant[T any] struct {
	match func(T) (name string, ok bool)
	as    principal
}

// find returns who is known by the first grant that matches.
func find[T any](grants []grant[T], who T) (principal, bool) {
	for _, g := range grants {
		if name, ok := g.match(who); ok {
			p := g.as
			p.name = name
			return p, true
		}
	}
	return principal{}, false
}

// granted returns what a role and scopes amount to, which are held to what a token's are.
func granted(role string, scopes []mesh.Scope) (principal, error) {
	t := &mesh.Token{Meta: mesh.Meta{Name: "tokens/x"}, Role: strings.ToUpper(role), Scopes: scopes, ExpireTime: new(time.Time)}
	if role == "" {
		return principal{}, errors.New("role: it is needed: viewer, editor or admin")
	}
	if v := violationsOf(mesh.Validate(t)); len(v) > 0 {
		return principal{}, fmt.Errorf("%s: %s; %s", v[0].Field, v[0].Message, v[0].Hint)
	}
	return principalOf(t), nil
}

// certificateGrants compiles grants and reports everything that is wrong with them.
func certificateGrants(grants []CertificateGrant, trustDomain string) ([]grant[*x509.Certificate], error) {
	var out []grant[*x509.Certificate]
	var errs []error
	for i, g := range grants {
		p, err := granted(g.Role, g.Scopes)
		p.bearer = false // a browser presents certificates on its own
		match, matchErr := certificateMatch(g, trustDomain)
		for _, err := range []error{err, matchErr} {
			if err != nil {
				errs = append(errs, fmt.Errorf("certificates[%d]: %w", i, err))
			}
		}
		out = append(out, grant[*x509.Certificate]{match, p})
	}
	return out, errors.Join(errs...)
}

func certificateMatch(g CertificateGrant, trustDomain string) (func(*x509.Certificate) (string, bool), error) {
	if (g.ID == "") == (g.Subject == "") {
		return nil, errors.New("one of id and subject is needed")
	}
	if g.Subject != "" {
		return func(c *x509.Certificate) (string, bool) {
			return "cert:" + g.Subject, len(c.URIs) == 0 && c.Subject.String() == g.Subject
		}, nil
	}
	who, ok := strings.CutPrefix(g.ID, operatorPath)
	if !ok || strings.Contains(who, "/") {
		return nil, fmt.Errorf("id: %q is not %s and one name, and other identities are those of workloads and nodes", g.ID, operatorPath)
	}
	if _, err := mesh.ParseID("spiffe://" + trustDomain + g.ID); err != nil && who != "*" {
		return nil, fmt.Errorf("id: %w", err)
	}
	return func(c *x509.Certificate) (string, bool) {
		if len(c.URIs) != 1 { // SPIFFE X.509-SVID, section 2
			return "", false
		}
		id, err := mesh.ParseID(c.URIs[0].String())
		if err != nil || id.TrustDomain() != trustDomain {
			return "", false
		}
		name, ok := strings.CutPrefix(id.Path(), operatorPath)
		return id.String(), ok && !strings.Contains(name, "/") && (who == "*" || name == who)
	}, nil
}

// claimGrants compiles grants and reports everything that is wrong with them.
func claimGrants(o *OIDC) ([]grant[*jwt.Claims], error) {
	if o == nil {
		return nil, nil
	}
	var out []grant[*jwt.Claims]
	var errs []error
	for i, g := range o.Grants {
		p, err := granted(g.Role, g.Scopes)
		if err == nil && (g.Claim == "" || g.Value == "") {
			err = errors.New("claim and value are needed")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("oidc.grants[%d]: %w", i, err))
		}
		out = append(out, grant[*jwt.Claims]{func(c *jwt.Claims) (string, bool) { return "", c.Has(g.Claim, []string{g.Value}) }, p})
	}
	if len(out) == 0 {
		errs = append(errs, errors.New("oidc.grants: without any, nobody of the issuer may do anything"))
	}
	return out, errors.Join(errs...)
}

// byCertificate returns who presents the client certificate of a connection. ok is false if
// there is none.
func (c *callers) byCertificate(state *tls.ConnectionState) (p principal, ok bool, err error) {
	const op = "controlapi.authenticate"
	if state == nil || len(state.VerifiedChains) == 0 {
		return p, false, nil
	}
	leaf := state.PeerCertificates[0]
	now := c.now()
	// A connection may outlive what was verified as it began.
	if slices.ContainsFunc(state.VerifiedChains[0], func(c *x509.Certificate) bool { return now.After(c.NotAfter) || now.Before(c.NotBefore) }) {
		return p, true, mesh.Errorf(op, "", mesh.Unauthentic, "the client certificate has expired").WithHint("connect with a new one")
	}
	if p, ok = find(c.certificates, leaf); !ok || len(p.name) > maxNameBytes {
		return p, true, mesh.Errorf(op, "", mesh.Unauthentic, "the client certificate is of nobody who is known here").
			WithHint("add its identity or subject to access.certificates, or send a bearer token")
	}
	return p, true, nil
}

// byClaims returns who presents a token of the issuer. Why one is refused, the log says:
// whoever tries could search for one that passes.
func (c *callers) byClaims(token string) (principal, error) {
	const op = "controlapi.authenticate"
	refused := mesh.Errorf(op, "", mesh.Unauthentic, "the bearer token is not accepted").
		WithHint("the log of the control plane says why, at level debug")
	claims, no := c.oidc.Verifier.Verify(token, c.now())
	if no != nil {
		c.log.Debug().Str("reason", no.Reason).Str("detail", no.Detail).Msg("a token of OIDC was refused")
		return principal{}, refused
	}
	nameClaim := c.oidc.NameClaim
	if nameClaim == "" {
		nameClaim = "sub"
	}
	name, ok := claims.Header(nameClaim)
	if !ok || len(name) > maxNameBytes {
		c.log.Debug().Str("claim", nameClaim).Msg("a token of OIDC was refused: it does not name the caller, or not printably")
		return principal{}, refused
	}
	p, ok := find(c.claims, claims)
	if !ok {
		return principal{}, mesh.Errorf(op, "", mesh.Denied, "oidc:%s is known, and no grant gives them a role", name).
			WithHint("add one of their claims to access.oidc.grants")
	}
	p.name = "oidc:" + name
	return p, nil
}
