package root

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// run runs `root` with args and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// TestTheLifeOfAKey is what an operator does over the years, in the directory that init made.
func TestTheLifeOfAKey(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	must := func(want string, args ...string) {
		t.Helper()
		out, err := run(t, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("root %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	must("root-2.key: root ", "init", "--mesh", "site")
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := signing.FormatPublicKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("signing.pub", public, 0o600); err != nil {
		t.Fatal(err)
	}
	must("serial 1, epoch 1", "show")
	must("key "+key.ID()+" may sign until ", "delegate", "signing.pub", "--life", "24h")
	must("serial 3, epoch 2", "bump-epoch", "--key", "root-2.key") // another root, the first is lost

	roots, err := signing.ReadPublicKeys("roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("keys.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := signing.NewVerifier("site", roots...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Learn(raw); err != nil {
		t.Fatal(err)
	}
	head, err := signing.SignHead(t.Context(), key, "site", mesh.Head{Epoch: 2, Revision: 1, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Head(head, time.Now()); err != nil {
		t.Errorf("what the key signs: %v", err)
	}

	must("key "+key.ID()+" was revoked", "revoke", key.ID())
	must("key "+key.ID()+" was revoked", "show")
	must("node edge7 is denied since ", "deny", "edge7", "--gateway", "public,private")
	must("gateways public, private", "show")
	must("mesh site, serial", "allow", "edge7")
	if out, err := run(t, "show"); err != nil || strings.Contains(out, "edge7") {
		t.Errorf("after allow: %v\n%s", err, out)
	}
	for name, args := range map[string][]string{
		"a node that is not denied": {"allow", "edge7"},
		"a node that can be none":   {"deny", "Edge*"},
		"a gateway that is none":    {"deny", "edge7", "--gateway", "a/b"},
		"a second init":             {"init", "--mesh", "site"},
		"a life of a year":          {"delegate", "signing.pub", "--life", "8760h"},
		"a revoked key":             {"delegate", "signing.pub"},
		"two keys at once":          {"delegate", "roots.pem"},
		"a key that is none":        {"delegate", "keys.json"},
		"no such key":               {"revoke", "abc"},
		"a root that is not here":   {"bump-epoch", "--key", "root-9.key"},
		"no keys":                   {"show", "--keys", "none.json"},
		"no mesh":                   {"init", "--dir", "other", "--mesh", "A B"},
		"no roots":                  {"init", "--dir", "more", "--count", "0"},
	} {
		before, err := os.ReadFile("keys.json")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := run(t, args...); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if after, err := os.ReadFile("keys.json"); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s changed keys.json: %v", name, err)
		}
	}
	for _, name := range []string{"root-1.key", "root-2.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
