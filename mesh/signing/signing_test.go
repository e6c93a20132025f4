package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// ceremony is a mesh's keys as an operator makes them.
type ceremony struct {
	t      *testing.T
	roots  []*Key
	pinned []ed25519.PublicKey
	signer *Key
	set    []byte
	now    time.Time
}

func newCeremony(t *testing.T) *ceremony {
	t.Helper()
	c := &ceremony{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for range 2 {
		root := newKey(t)
		c.roots, c.pinned = append(c.roots, root), append(c.pinned, root.Public())
	}
	c.signer = newKey(t)
	c.set = must(t)(FirstKeys(c.roots[0], "m", c.now))
	c.set = must(t)(Delegate(c.roots[0], c.pinned, c.set, c.signer.Public(), MaxKeyLife, c.now))
	return c
}

func newKey(t *testing.T) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must(t *testing.T) func([]byte, error) []byte {
	t.Helper()
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// verifier knows the set.
func (c *ceremony) verifier() *Verifier {
	c.t.Helper()
	v, err := NewVerifier("m", c.pinned...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.learn(v, c.set, true)
	return v
}

func (c *ceremony) learn(v *Verifier, set []byte, want bool) {
	c.t.Helper()
	if changed, err := v.Learn(set); err != nil || changed != want {
		c.t.Fatalf("Learn: %v, %v", changed, err)
	}
}

func (c *ceremony) sign(k *Key, edit func(*mesh.Head)) mesh.Head {
	c.t.Helper()
	h := mesh.Head{Epoch: 1, Revision: 7, Digest: strings.Repeat("ab", 32), Time: c.now}
	if edit != nil {
		edit(&h)
	}
	signed, err := SignHead(c.t.Context(), k, "m", h)
	if err != nil {
		c.t.Fatal(err)
	}
	return signed
}

func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	var r *Refusal
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && !errors.As(err, &r):
		t.Errorf("%v, want reason %s", err, want)
	case want != "" && r.Reason != want:
		t.Errorf("%s: %v, want reason %s", r.Reason, err, want)
	case want != "" && strings.Contains(err.Error(), "\n"):
		t.Errorf("more than one line: %q", err)
	}
}

func TestHeadsThatAreBelieved(t *testing.T) {
	c := newCeremony(t)
	thief := newKey(t)
	good := c.sign(c.signer, nil)
	for name, tt := range map[string]struct {
		head mesh.Head
		at   time.Duration
		want Reason
	}{
		"signed by who may":            {good, 0, ""},
		"in its last second":           {good, MaxKeyLife, ""},
		"after its last second":        {good, MaxKeyLife + time.Second, ExpiredKey},
		"before any key: a bad clock":  {good, -24 * 365 * time.Hour, ""},
		"not signed":                   {mesh.Head{Epoch: 1, Revision: 7, Digest: good.Digest, Time: good.Time}, 0, Unsigned},
		"without a signature":          {with(good, func(h *mesh.Head) { h.Signature = "" }), 0, Unsigned},
		"by nobody":                    {with(good, func(h *mesh.Head) { h.KeyID = "" }), 0, Unsigned},
		"by a stranger":                {c.sign(thief, nil), 0, UnknownKey},
		"by a root itself":             {c.sign(c.roots[0], nil), 0, UnknownKey},
		"a stranger in our name":       {with(c.sign(thief, nil), func(h *mesh.Head) { h.KeyID = good.KeyID }), 0, BadSignature},
		"another revision":             {with(good, func(h *mesh.Head) { h.Revision++ }), 0, BadSignature},
		"another epoch":                {with(good, func(h *mesh.Head) { h.Epoch++ }), 0, BadSignature},
		"another digest":               {with(good, func(h *mesh.Head) { h.Digest = strings.Repeat("cd", 32) }), 0, BadSignature},
		"another time":                 {with(good, func(h *mesh.Head) { h.Time = h.Time.Add(1) }), 0, BadSignature},
		"a signature that is no hex":   {with(good, func(h *mesh.Head) { h.Signature = "zz" }), 0, BadSignature},
		"a signature cut short":        {with(good, func(h *mesh.Head) { h.Signature = h.Signature[:64] }), 0, BadSignature},
		"an epoch the roots never had": {c.sign(c.signer, func(h *mesh.Head) { h.Epoch = 2 }), 0, WrongEpoch},
		"the epoch before the first":   {c.sign(c.signer, func(h *mesh.Head) { h.Epoch = 0 }), 0, WrongEpoch},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, c.verifier().Head(tt.head, c.now.Add(tt.at)), tt.want)
		})
	}
	t.Run("for another mesh", func(t *testing.T) {
		other := must(t)(FirstKeys(c.roots[0], "other", c.now))
		other = must(t)(Delegate(c.roots[0], c.pinned, other, c.signer.Public(), MaxKeyLife, c.now))
		v, err := NewVerifier("other", c.pinned...)
		if err != nil {
			t.Fatal(err)
		}
		c.learn(v, other, true)
		wantReason(t, v.Head(good, c.now), BadSignature)
		_, err = v.Learn(c.set)
		wantReason(t, err, BadKeys)
	})
	t.Run("before any keys are known", func(t *testing.T) {
		v, err := NewVerifier("m", c.pinned...)
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, v.Head(good, c.now), UnknownKey)
	})
}

func with(h mesh.Head, edit func(*mesh.Head)) mesh.Head {
	edit(&h)
	return h
}

func TestKeysThatAreLearned(t *testing.T) {
	c := newCeremony(t)
	thief := newKey(t)
	own := must(t)(FirstKeys(thief, "m", c.now))
	own = must(t)(Delegate(thief, []ed25519.PublicKey{thief.Public()}, own, thief.Public(), time.Hour, c.now))
	reseal := func(edit func(*KeySet, *signedKeySet)) []byte {
		var s signedKeySet
		var k KeySet
		if err := errors.Join(json.Unmarshal(c.set, &s), json.Unmarshal(s.KeySet, &k)); err != nil {
			t.Fatal(err)
		}
		k.Serial++
		edit(&k, &s)
		return must(t)(json.Marshal(s))
	}
	sign := func(k *KeySet, s *signedKeySet) {
		s.KeySet = must(t)(json.Marshal(k))
		s.Signature = c.roots[0].sign(keySetMessage(s.KeySet))
	}
	for name, tt := range map[string]struct {
		set  []byte
		want Reason
	}{
		"by another pinned root":       {must(t)(Delegate(c.roots[1], c.pinned, c.set, newKey(t).Public(), time.Hour, c.now)), ""},
		"none":                         {nil, BadKeys},
		"no JSON":                      {[]byte("{"), BadKeys},
		"more behind it":               {append(bytes.Clone(c.set), "{}"...), BadKeys},
		"too long":                     {append(bytes.Clone(c.set), bytes.Repeat([]byte(" "), MaxKeySetBytes)...), BadKeys},
		"by a stranger":                {own, BadKeys},
		"by a stranger in our name":    {reseal(func(k *KeySet, s *signedKeySet) { sign(k, s); s.Signature = thief.sign(keySetMessage(s.KeySet)) }), BadKeys},
		"changed after it was signed":  {reseal(func(k *KeySet, s *signedKeySet) { s.KeySet = must(t)(json.Marshal(k)) }), BadKeys},
		"signed as a head":             {reseal(func(k *KeySet, s *signedKeySet) { sign(k, s); s.Signature = c.roots[0].sign(s.KeySet) }), BadKeys},
		"for another mesh":             {reseal(func(k *KeySet, s *signedKeySet) { k.Mesh = "other"; sign(k, s) }), BadKeys},
		"without an epoch":             {reseal(func(k *KeySet, s *signedKeySet) { k.Epoch = 0; sign(k, s) }), BadKeys},
		"a key under another's name":   {reseal(func(k *KeySet, s *signedKeySet) { k.Keys[0].PublicKey = thief.Public(); sign(k, s) }), BadKeys},
		"a key for too long":           {reseal(func(k *KeySet, s *signedKeySet) { k.Keys[0].NotAfter = k.Time.Add(MaxKeyLife + 1); sign(k, s) }), BadKeys},
		"the same serial, other words": {reseal(func(k *KeySet, s *signedKeySet) { k.Serial--; k.Revoked = []string{"x"}; sign(k, s) }), OlderKeys},
		"an older one":                 {must(t)(FirstKeys(c.roots[0], "m", c.now)), OlderKeys},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.verifier()
			_, err := v.Learn(tt.set)
			wantReason(t, err, tt.want)
			if _, raw := v.Keys(); tt.want != "" && !bytes.Equal(raw, c.set) {
				t.Error("what was known is forgotten")
			}
		})
	}
	c.learn(c.verifier(), c.set, false)
}

// What a root takes back is believed no more, and what was applied under it goes on.
func TestRevokeExpireAndBumpEpoch(t *testing.T) {
	c := newCeremony(t)
	head, v := c.sign(c.signer, nil), c.verifier()
	if err := v.Kept(head); err != nil {
		t.Errorf("kept: %v", err)
	}
	next := newKey(t)
	set := must(t)(Delegate(c.roots[0], c.pinned, c.set, next.Public(), time.Hour, c.now))
	c.learn(v, set, true)
	wantReason(t, v.Head(head, c.now), "")

	bumped := must(t)(BumpEpoch(c.roots[1], c.pinned, set, c.now))
	c.learn(v, bumped, true)
	wantReason(t, v.Head(head, c.now), WrongEpoch)
	wantReason(t, v.Kept(head), "") // until something newer comes
	wantReason(t, v.Head(c.sign(c.signer, func(h *mesh.Head) { h.Epoch = 2 }), c.now), "")

	revoked := must(t)(Revoke(c.roots[0], c.pinned, bumped, c.signer.ID(), c.now))
	c.learn(v, revoked, true)
	wantReason(t, v.Head(c.sign(c.signer, func(h *mesh.Head) { h.Epoch = 2 }), c.now), RevokedKey)
	wantReason(t, v.Kept(head), RevokedKey)
	wantReason(t, v.Head(c.sign(next, func(h *mesh.Head) { h.Epoch = 2 }), c.now), "")
	if _, err := Delegate(c.roots[0], c.pinned, revoked, c.signer.Public(), time.Hour, c.now); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("a revoked key may sign again: %v", err)
	}
	keys, _ := v.Keys()
	if got := keys.Ends(); !got.Equal(c.now.Add(time.Hour)) {
		t.Errorf("the last key ends at %v", got)
	}
}

func TestWhatARootRefusesToSign(t *testing.T) {
	c := newCeremony(t)
	stranger := newKey(t)
	for name, act := range map[string]func() ([]byte, error){
		"a life over 90 days": func() ([]byte, error) {
			return Delegate(c.roots[0], c.pinned, c.set, stranger.Public(), MaxKeyLife+1, c.now)
		},
		"no life": func() ([]byte, error) { return Delegate(c.roots[0], c.pinned, c.set, stranger.Public(), 0, c.now) },
		"a root that is none": func() ([]byte, error) {
			return Delegate(stranger, c.pinned, c.set, stranger.Public(), time.Hour, c.now)
		},
		"keys of others":         func() ([]byte, error) { return BumpEpoch(c.roots[0], c.pinned, []byte("{}"), c.now) },
		"to revoke what is none": func() ([]byte, error) { return Revoke(c.roots[0], c.pinned, c.set, stranger.ID(), c.now) },
		"a mesh without a name":  func() ([]byte, error) { return FirstKeys(c.roots[0], "No Name", c.now) },
	} {
		if out, err := act(); err == nil || out != nil {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
	if _, err := NewVerifier("m"); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("no roots: %v", err)
	}
	if _, err := NewVerifier("m", ed25519.PublicKey("short")); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("a short root: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "root.key")
	key := newKey(t)
	if err := key.Write(name); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := ReadKey(name)
	if err != nil || again.ID() != key.ID() {
		t.Fatalf("read again: %v", err)
	}
	if err := key.Write(name); err == nil {
		t.Error("a key was written over another")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(name); err == nil || !strings.Contains(mesh.HintOf(err), "chmod 600") {
			t.Errorf("a key of mode %v: %v", mode, err)
		}
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"rsa":   pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}),
		"empty": nil,
		"text":  []byte("no key"),
		"large": bytes.Repeat([]byte("x"), maxKeyFileBytes+1),
	} {
		file := filepath.Join(dir, what)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(file); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%s as a private key: %v", what, err)
		}
		if _, err := ReadPublicKeys(file); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%s as public keys: %v", what, err)
		}
	}
	public := must(t)(FormatPublicKeys(key.Public(), newKey(t).Public()))
	file := filepath.Join(dir, "roots.pem")
	if err := WriteFile(file, public); err != nil {
		t.Fatal(err)
	}
	if roots, err := ReadPublicKeys(file); err != nil || len(roots) != 2 || KeyID(roots[0]) != key.ID() {
		t.Errorf("%d roots, %v", len(roots), err)
	}
}

func FuzzLearn(f *testing.F) {
	root, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	set, err := FirstKeys(root, "m", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(set)
	f.Add([]byte(`{"keySet":"e30=","root":"` + root.ID() + `","signature":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := NewVerifier("m", root.Public())
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := v.Learn(raw); err == nil && (!changed || !bytes.Contains(raw, []byte(root.ID()))) {
			t.Errorf("learned %q", raw)
		}
	})
}

// What a root says stays what everybody reads, and the next ceremony too, however many are denied.
func TestMoreThanCanBeReadIsNotSigned(t *testing.T) {
	root, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	roots, now := []ed25519.PublicKey{root.Public()}, time.Now()
	set, err := FirstKeys(root, "default", now)
	if err != nil {
		t.Fatal(err)
	}
	gateways := make([]string, maxGateways)
	for i := range gateways {
		gateways[i] = fmt.Sprintf("%063d", i)
	}
	for i := range maxDenied + 1 {
		next, err := Deny(root, roots, set, fmt.Sprintf("node-%d", i), gateways, now)
		if err != nil {
			if mesh.KindOf(err) != mesh.Invalid || len(set) > MaxKeySetBytes {
				t.Errorf("with %d denied in %d bytes: %v", i, len(set), err)
			}
			if _, err := Allow(root, roots, set, "node-0", now); err != nil {
				t.Errorf("what was there is not edited any more: %v", err)
			}
			return
		}
		set = next
	}
	t.Errorf("%d bytes were signed", len(set))
}
