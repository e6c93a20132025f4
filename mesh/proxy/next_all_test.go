package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

const anyDomain = "hedgerow.local"

// one returns a random one of list.
func one[T any](rnd *rand.Rand, list ...T) T { return list[rnd.IntN(len(list))] }

// anyKey is a key that is long enough.
func anyKey(n int) string { return fmt.Sprintf("a-key-of-some-characters-%d", n) }

func anyTarget(rnd *rand.Rand) *mesh.PolicyTarget {
	return one(rnd, &mesh.PolicyTarget{Service: "s1"}, &mesh.PolicyTarget{Service: "s1"}, &mesh.PolicyTarget{Route: fmt.Sprintf("r%d", rnd.IntN(4))}, &mesh.PolicyTarget{Gateway: "edge"}, nil)
}

func anyPolicy(rnd *rand.Rand) *mesh.Policy {
	p := &mesh.Policy{Meta: mesh.Meta{Name: fmt.Sprintf("policies/p%d", rnd.IntN(24))}, Action: one(rnd, mesh.Allow, mesh.Allow, mesh.Deny, mesh.Audit), Target: anyTarget(rnd)}
	if p.Target == nil && rnd.IntN(8) > 0 { // it closes everything
		p.Target = &mesh.PolicyTarget{Service: "s1"}
	}
	for range 1 + rnd.IntN(2) {
		var rule mesh.PolicyRule
		for range rnd.IntN(3) {
			rule.From = append(rule.From, one(rnd,
				mesh.PolicyFrom{Identities: []string{fmt.Sprintf("/svc/c%d", rnd.IntN(3))}},
				mesh.PolicyFrom{Identities: []string{"/svc/*/n/n1"}},
				mesh.PolicyFrom{Identities: []string{"spiffe://elsewhere.test/svc/c1/n/*"}},
				mesh.PolicyFrom{NotIdentities: []string{"/svc/c1"}},
				mesh.PolicyFrom{Nodes: []string{"n1"}, Identities: []string{"/svc/c0", "/gateway/*"}},
				mesh.PolicyFrom{IPBlocks: []string{"10.0.0.0/8"}},
				mesh.PolicyFrom{Claims: []mesh.PolicyClaim{{Name: "sub", Values: []string{"u1"}}}},
			))
		}
		for range rnd.IntN(3) {
			rule.To = append(rule.To, one(rnd,
				mesh.PolicyTo{Methods: []string{one(rnd, "GET", "POST")}},
				mesh.PolicyTo{Paths: []string{fmt.Sprintf("/p%d/**", rnd.IntN(3)), "/q"}},
				mesh.PolicyTo{Paths: []string{fmt.Sprintf("/p%d/x", rnd.IntN(3))}},
				mesh.PolicyTo{Paths: []string{"/{a}/x"}, NotPaths: []string{"/p1/x"}},
				mesh.PolicyTo{Paths: []string{"/P1/X"}, IgnoreCase: true},
				mesh.PolicyTo{Paths: []string{one(rnd, "/", "/**", "/p1/x/y/z/deep/**", "/p2/")}},
			))
		}
		rule.When = one(rnd, "", "", "", "request.method == 'GET'", "request.headers['x-a'] == '1'", "auth.authenticator == 'a1'", "this is none")
		p.Rules = append(p.Rules, rule)
	}
	return p
}

func anyAuthenticator(rnd *rand.Rand) *mesh.Authenticator {
	sum := sha256.Sum256([]byte(anyKey(rnd.IntN(2))))
	a := &mesh.Authenticator{
		Meta: mesh.Meta{Name: fmt.Sprintf("authenticators/a%d", rnd.IntN(3))}, Optional: rnd.IntN(2) == 0,
		APIKey: &mesh.AuthenticatorAPIKey{Header: one(rnd, "", "x-b"), Keys: []mesh.APIKey{{Name: "u1", SHA256: hex.EncodeToString(sum[:])}}},
	}
	if rnd.IntN(2) == 0 {
		a.APIKey.ForwardClaims = []mesh.ForwardClaim{{Claim: "sub", Header: one(rnd, "x-user", "x-who")}}
	}
	if rnd.IntN(12) == 0 {
		a.APIKey.Keys[0].SHA256 = "none"
	}
	for range 1 + rnd.IntN(2) {
		a.Targets = append(a.Targets, one(rnd, mesh.AuthenticatorTarget{Service: "s1"}, mesh.AuthenticatorTarget{Route: fmt.Sprintf("r%d", rnd.IntN(4))}, mesh.AuthenticatorTarget{Gateway: "edge"}))
	}
	return a
}

// changeAny is changeOne, and all else that decides.
func changeAny(rnd *rand.Rand, records mesh.Records, put func(mesh.Object)) {
	switch rnd.IntN(10) {
	case 0, 1, 2:
		put(anyPolicy(rnd))
	case 3:
		delete(records, fmt.Sprintf("policies/p%d", rnd.IntN(24)))
	case 4:
		put(anyAuthenticator(rnd))
	case 5:
		delete(records, fmt.Sprintf("authenticators/a%d", rnd.IntN(3)))
	case 6:
		put(&mesh.Defaults{Meta: mesh.Meta{Name: "defaults/mesh"}, Authorization: one(rnd, mesh.Allow, mesh.Deny)})
	default:
		changeOne(rnd, records, put)
	}
}

// anyRequest is one that is in canonical form.
func anyRequest(t *testing.T, rnd *rand.Rand, face Face) *Request {
	t.Helper()
	r := &Request{
		Method: one(rnd, "GET", "POST", "OPTIONS"), Host: one(rnd, "h0.test", "h1.test", "h2.test", "s2.mesh", "s1.mesh"),
		Path:     one(rnd, "/", "/p0/x", "/p1/x", "/p1/x/", "/p2/", "/p2", "/q", "/p1/x;v=1", "/p1/x/y/z/deep/er", "/P1/x"),
		RawQuery: one(rnd, "", "a=1"), Remote: one(rnd, "10.1.2.3", "192.0.2.1", ""), TCP: face.Kind == Inbound && rnd.IntN(10) == 0,
	}
	if rnd.IntN(8) == 0 {
		r.Path, r.DecodedPath = "/p1%2Fx", "/p1/x"
	}
	for _, f := range []header.Field{{Name: "X-A", Value: "1"}, {Name: "X-Api-Key", Value: anyKey(rnd.IntN(3))}, {Name: "X-B", Value: anyKey(0)}, {Name: "x_user", Value: "forged"}, {Name: "X-Who", Value: "forged"}} {
		if rnd.IntN(2) == 0 {
			r.Fields = append(r.Fields, f)
		}
	}
	if face.Kind != Gateway && rnd.IntN(6) > 0 {
		id := one(rnd, "spiffe://hedgerow.local/svc/c0/n/n1", "spiffe://hedgerow.local/svc/c1/n/n2", "spiffe://hedgerow.local/gateway/edge", "spiffe://elsewhere.test/svc/c1/n/n1")
		peer, err := mesh.ParseID(id)
		if err != nil {
			t.Fatal(err)
		}
		r.Peer = peer
	}
	return r
}

// allOf says all of a decision, whatever objects it points to.
func allOf(d Decision) string {
	by, subject, reason, detail := d.authentication()
	audited := ""
	if d.Authorization.audited != nil {
		audited = d.Authorization.audited.name
	}
	challenge := d.challenge
	fields := fmt.Sprint(d.fields, d.identity)
	d.Authorization.audited = nil
	return fmt.Sprint(summaryOf(d), "|", by, subject, reason, detail, "|", audited, "|", challenge, "|", fields)
}

// unindexed is t without what finds the policies that could match.
func unindexed(t *Table) *Table {
	bare := *t
	for _, sets := range []*setsByTarget{&bare.servicePolicies, &bare.gatewayPolicies} {
		plain := setsByTarget{}
		for id, set := range *sets {
			plain[id] = &policySet{deny: policyList{all: set.deny.all}, allow: policyList{all: set.allow.all}, audit: set.audit}
		}
		*sets = plain
	}
	return &bare
}

// As TestNextDecidesAsCompile, of everything that decides, with so many policies that
// they are indexed; and an index changes no decision either.
func TestNextDecidesAsCompileOfEverything(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	records, was := mesh.Records{}, mesh.Records{}
	put := func(o mesh.Object) {
		mesh.Normalize(o)
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		records[o.Header().Name] = raw
	}
	config, kept := mesh.NewConfig(), &Table{}
	outcomes := map[string]int{}
	for revision := range uint32(400) {
		for range 1 + rnd.IntN(4) {
			changeAny(rnd, records, put)
		}
		head := mesh.Head{Epoch: 1, Revision: revision + 1}
		next, _ := config.Next(head, was, records)
		fresh, _ := mesh.DecodeRecords(head, records)
		table, errs := kept.Next(next, anyDomain)
		want, wantErrs := Compile(fresh, anyDomain)
		if a, b := fmt.Sprint(errs), fmt.Sprint(wantErrs); a != b {
			t.Fatalf("compiling reports %s, want %s", a, b)
		}
		bare := unindexed(table)
		for _, face := range []Face{{Kind: Gateway, Gateway: "edge"}, {Kind: Outbound}, {Kind: Inbound, Service: "s1"}} {
			for range 40 {
				r := anyRequest(t, rnd, face)
				d := Decide(table, face, r, 0.5)
				outcomes[d.Authorization.Reason]++
				outcomes[d.proof.reason()]++
				got := allOf(d)
				if want := allOf(Decide(want, face, r, 0.5)); got != want {
					t.Fatalf("revision %d, %+v: %+v is decided\n%s, want\n%s", revision, face, r, got, want)
				}
				if want := allOf(Decide(bare, face, r, 0.5)); got != want {
					t.Fatalf("revision %d, %+v: %+v is decided by the index\n%s, without\n%s", revision, face, r, got, want)
				}
			}
		}
		config, kept = next, table
		was = mesh.Records{}
		for name, raw := range records {
			was[name] = slices.Clone(raw)
		}
	}
	for _, outcome := range []string{ReasonDenyMatched, ReasonAllowMatched, ReasonNoAllowMatched, ReasonNoDenyMatched, ReasonInvalidPolicy, ReasonDefault, "accepted", ReasonKeyNotKnown, ReasonCredentialMissing, ReasonCredentialRepeated, ReasonInvalidAuthenticator} {
		if outcomes[outcome] == 0 {
			t.Errorf("no decision was %s, of %v", outcome, outcomes)
		}
	}
}

// reason says what became of a credential.
func (p proof) reason() string {
	switch {
	case p.rejected != nil:
		return p.rejected.Reason
	case p.by != nil:
		return "accepted"
	}
	return "no credential"
}
