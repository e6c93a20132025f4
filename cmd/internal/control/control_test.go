package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

func TestEnsureTokenMakesItOnceAndForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	if err := ensureToken(dir); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil || len(strings.TrimSpace(string(first))) < 40 {
		t.Fatalf("token %q, %v", first, err)
	}
	for _, name := range []string{tokenFile, "curlrc"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", name, info, err)
		}
	}
	curlrc, err := os.ReadFile(filepath.Join(dir, "curlrc"))
	if err != nil || !strings.Contains(string(curlrc), "Bearer "+strings.TrimSpace(string(first))) {
		t.Errorf("curlrc %q, %v", curlrc, err)
	}
	if err := ensureToken(dir); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, tokenFile)); string(again) != string(first) {
		t.Error("the second start made another token")
	}
	if err := os.Chmod(filepath.Join(dir, tokenFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ensureToken(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token that everybody can read: %v", err)
	}
}

func TestConflictIsNotReadyAndAwayIsNotItsAffair(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		ready bool
	}{
		"published":           {nil, true},
		"away":                {mesh.Errorf("registry.Head", "", mesh.Unavailable, "no answer"), true},
		"held by another log": {mesh.Errorf("registry.Republish", "", mesh.Conflict, "revision 9"), false},
		"anything else":       {errors.New("x"), true},
	} {
		if err := conflict(registry.PublishState{Err: tt.err}, false); (err == nil) != tt.ready {
			t.Errorf("%s: %v", name, err)
		}
		if err := conflict(registry.PublishState{Err: tt.err}, true); (err == nil) != tt.ready {
			t.Errorf("%s, for long, with a log that is shared: %v", name, err)
		}
		if err := conflict(registry.PublishState{Err: tt.err, Since: time.Now()}, true); err != nil {
			t.Errorf("%s, since a moment, with a log that is shared: %v", name, err)
		}
	}
}

func TestValidate(t *testing.T) {
	c := Default()
	c.Address, c.TLS.CertFile, c.DataDir, c.TrustDomain = "7070", "cert.pem", "", "Upper"
	c.Revisions, c.Trust.Signer, c.Trust.SigningKeyFile = "disk", inVault, "signing.key"
	err := c.Validate()
	for _, want := range []string{"redis.addresses", "address: \"7070\"", "dataDir", "tls: certFile", "trust.caFile", "trustDomain", `revisions: "disk"`, "vault.addresses", "trust.signingKeyFile"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %s: %v", want, err)
		}
	}
}
