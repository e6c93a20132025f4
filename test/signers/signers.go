// Package signers makes what signs for a mesh under test: a root of its configuration and
// one key that may sign it, and certificates of nodes.
//
// It is not how an operator makes them: see `hedgerow root`.
package signers

import (
	"context"
	"crypto/ed25519"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// Signers are a root and a key that it has delegated to.
type Signers struct {
	Mesh   string
	Root   *signing.Key
	Signer *signing.Key
	Set    []byte // the signed KeySet
}

// New makes keys for a mesh. It panics if it cannot: then nothing else can go on.
func New(meshName string) *Signers {
	s := &Signers{Mesh: meshName, Root: must(signing.NewKey()), Signer: must(signing.NewKey())}
	s.Set = must(signing.FirstKeys(s.Root, meshName, time.Now()))
	s.Set = must(signing.Delegate(s.Root, s.Roots(), s.Set, s.Signer.Public(), signing.MaxKeyLife, time.Now()))
	return s
}

// Roots are what nodes pin.
func (s *Signers) Roots() []ed25519.PublicKey { return []ed25519.PublicKey{s.Root.Public()} }

// Verifier returns one that knows the keys already.
func (s *Signers) Verifier() *signing.Verifier {
	v := must(signing.NewVerifier(s.Mesh, s.Roots()...))
	must(v.Learn(s.Set))
	return v
}

// Authority returns what a control plane signs with.
func (s *Signers) Authority() *signing.Authority {
	return &signing.Authority{Verifier: s.Verifier(), Signer: s.Signer}
}

// Sign returns the head, signed.
func (s *Signers) Sign(head mesh.Head) mesh.Head {
	return must(signing.SignHead(context.Background(), s.Signer, s.Mesh, head))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
