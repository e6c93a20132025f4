package vaultpki

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What control planes hash and what a node logs in with is one password, whoever stored it.
func TestRealVaultPasswordsInRedis(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	if err := admin.Put(t.Context(), Node{Name: "edge7", Services: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	var made [4]string
	var all sync.WaitGroup
	for i := range made {
		all.Go(func() {
			var err error
			if made[i], err = admin.EnsureRedisPassword(t.Context(), "edge7"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	node := s.join(t, "edge7")
	if got, err := node.RedisPassword(t.Context(), "edge7"); err != nil || len(got) != 64 || made != [4]string{got, got, got, got} {
		t.Errorf("made %q, the node has %q, %v", made, got, err)
	}

	if err := admin.PutSecret(t.Context(), "edge7", "redis", map[string]string{"password": "s3cret\r\n"}); err != nil {
		t.Fatal(err)
	}
	theirs, err := admin.EnsureRedisPassword(t.Context(), "edge7")
	own, failed := node.RedisPassword(t.Context(), "edge7")
	if err != nil || failed != nil || theirs != "s3cret" || own != "s3cret" {
		t.Errorf("of a file with an end of line: %q and %q, %v, %v", theirs, own, err, failed)
	}

	must(t, s.VaultServer, http.MethodDelete, "kv/data/hedgerow/nodes/edge7/redis", nil)
	if _, err = admin.EnsureRedisPassword(t.Context(), "edge7"); mesh.KindOf(err) != mesh.Invalid || !strings.Contains(mesh.HintOf(err), "metadata delete") {
		t.Errorf("of one that was deleted: %v, %q", err, mesh.HintOf(err))
	}
	must(t, s.VaultServer, http.MethodDelete, "kv/metadata/hedgerow/nodes/edge7/redis", nil)
	if got, err := admin.EnsureRedisPassword(t.Context(), "edge7"); err != nil || len(got) != 64 || got == made[0] {
		t.Errorf("as the hint says: %q, %v", got, err)
	}
}

// A Vault that lost its KV engine is no reason to take away the users of all nodes: that is what
// NotFound says.
func TestAVaultThatKeepsNothingHasNoNodeWithoutPassword(t *testing.T) {
	f := newFake(t)
	admin := openVault(t, f.config(t).Access).Admin(td)
	_, err := admin.EnsureRedisPassword(t.Context(), "edge7")
	checkError(t, err, mesh.Unavailable, "no handler for route", true)
}
