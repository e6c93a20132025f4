package acmecert

import (
	"crypto/tls"

	"golang.org/x/crypto/acme"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The kinds of challenge that are answered, the first tried first: it needs nothing
// but the listener that the certificate is for.
const (
	tlsALPN01 = "tls-alpn-01" // RFC 8737
	http01    = "http-01"     // RFC 8555 section 8.3
)

// Proof returns what to answer a handshake with whose only protocol is acme-tls/1
// (RFC 8737 section 3), or nil: only while an order of one of the names is under way
// is there anything to prove, and then for that name.
func (a *Authority) Proof(hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.ALPNProto {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proofs[hello.ServerName]
}

// Token returns the key authorization of a token of HTTP-01 (RFC 8555 section 8.3),
// while its order is under way.
func (a *Authority) Token(token string) (text string, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text, known = a.tokens[token]
	return text, known
}

// kinds returns which challenges to try, in this order: what the server accepted last
// comes first, because servers count what they could not verify.
func (c *Certificate) kinds() []string {
	all := []string{tlsALPN01}
	if c.a.clear {
		all = append(all, http01)
		if last := c.answered.Load(); last != nil && *last == http01 {
			all[0], all[1] = all[1], all[0]
		}
	}
	return all
}

// show has the proof that ch asks for shown, until the returned function is called.
func (c *Certificate) show(client *acme.Client, ch *acme.Challenge) (hide func(), err error) {
	a := c.a
	if ch.Type == http01 {
		text, err := client.HTTP01ChallengeResponse(ch.Token)
		if err != nil {
			return nil, mesh.Errorf("acmecert.Prove", c.name, mesh.Internal, "%w", err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tokens[ch.Token] = text
		return func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.tokens, ch.Token)
		}, nil
	}
	cert, err := client.TLSALPN01ChallengeCert(ch.Token, c.name)
	if err != nil {
		return nil, mesh.Errorf("acmecert.Prove", c.name, mesh.Internal, "%w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proofs[c.name] = &cert
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.proofs, c.name)
	}, nil
}
