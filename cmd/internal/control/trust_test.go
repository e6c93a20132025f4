package control

import (
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

func head() mesh.Head {
	return mesh.Head{Epoch: 1, Revision: 1, Digest: strings.Repeat("00", 32), Time: time.Now()}
}

// A control plane without roots of others makes its own, once, and its key goes on signing.
func TestAControlPlaneOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	first, err := openTrust(t.Context(), &Config{Mesh: "default", DataDir: dir}, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := first.authority.Sign(t.Context(), head())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{rootKeyName, "signing.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	again, err := openTrust(t.Context(), &Config{Mesh: "default", DataDir: dir}, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.authority.Verifier.Head(signed, time.Now()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	// As a node reads it.
	roots, err := signing.ReadPublicKeys(filepath.Join(dir, RootsFile))
	if err != nil || len(roots) != 1 {
		t.Fatalf("%d roots, %v", len(roots), err)
	}
	// The delegation is about to end: it is renewed in time, and what was signed stands.
	_, raw := again.authority.Verifier.Keys()
	short, err := signing.Delegate(again.root, again.roots, raw, again.key.Public(), time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteFile(again.cfg.KeysFile, short); err != nil {
		t.Fatal(err)
	}
	if err := again.look(); err != nil {
		t.Fatal(err)
	}
	keys, _ := again.authority.Verifier.Keys()
	if left := time.Until(keys.EndOf(again.key.ID())); left < signing.MaxKeyLife-time.Minute {
		t.Errorf("renewed for %v", left)
	}
}

// With roots kept elsewhere nothing is signed until one delegates; then without a restart.
func TestAControlPlaneWithRootsElsewhere(t *testing.T) {
	dir, offline := t.TempDir(), t.TempDir()
	root, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	roots := []ed25519.PublicKey{root.Public()}
	public, err := signing.FormatPublicKeys(roots...)
	if err != nil {
		t.Fatal(err)
	}
	set, err := signing.FirstKeys(root, "default", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Trust{RootsFile: filepath.Join(offline, "roots.pem"), KeysFile: filepath.Join(offline, "keys.json")}
	for file, content := range map[string][]byte{cfg.RootsFile: public, cfg.KeysFile: set} {
		if err := signing.WriteFile(file, content); err != nil {
			t.Fatal(err)
		}
	}
	c, err := openTrust(t.Context(), &Config{Mesh: "default", DataDir: dir, Trust: cfg}, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.authority.Sign(t.Context(), head()); mesh.KindOf(err) != mesh.Unavailable || !strings.Contains(mesh.HintOf(err), c.key.ID()) {
		t.Errorf("signed by a key that may not: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, rootDir)); err == nil {
		t.Error("it made a root of its own beside")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	own, err := signing.ReadPublicKeys(filepath.Join(dir, "signing.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if set, err = signing.Delegate(root, roots, set, own[0], time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteFile(cfg.KeysFile, set); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err = c.authority.Sign(t.Context(), head()); err == nil || time.Now().After(deadline) {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("after the root delegated: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// What is damaged is refused at the start, by name.
	if err := os.WriteFile(cfg.KeysFile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTrust(t.Context(), &Config{Mesh: "default", DataDir: dir, Trust: cfg}, nil, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "trust.keysFile") {
		t.Errorf("damaged keys: %v", err)
	}
}
