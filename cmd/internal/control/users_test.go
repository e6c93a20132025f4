package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestPasswordsOfADirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("edge7", "s3cret\nmore\n", 0o600)
	write("edge8", "s3cret\r\n", 0o400)
	write("open", "s3cret", 0o644)
	write("empty", "\n", 0o600)
	write("large", strings.Repeat("x", maxPasswordBytes+1), 0o600)
	const digest = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0" // printf s3cret | sha256sum
	a := RedisAdmin{PasswordDir: dir}
	for _, tt := range []struct {
		node, want string
		kind       mesh.Kind
	}{
		{"edge7", digest, 0}, {"edge8", digest, 0},
		{"edge9", "", mesh.NotFound},
		{"open", "", mesh.Invalid}, {"empty", "", mesh.Invalid}, {"large", "", mesh.Invalid}, {"../edge7", "", mesh.Invalid}, {"", "", mesh.Invalid},
	} {
		got, err := a.digest(t.Context(), tt.node)
		if got != tt.want || err != nil && mesh.KindOf(err) != tt.kind || (err == nil) != (tt.want != "") {
			t.Errorf("%q: %q, %v", tt.node, got, err)
		}
	}
}

func TestUsersAreTheOperatorsUnlessTold(t *testing.T) {
	if users, err := (&RedisAdmin{}).newUsers(nil, nil, prometheus.NewRegistry()); users != nil || err != nil {
		t.Errorf("got %v, %v", users, err)
	}
	named := func(a RedisAdmin) RedisAdmin { a.Username = "x"; return a }
	for _, half := range []RedisAdmin{
		{PasswordDir: "x"}, {Passwords: inVault}, named(RedisAdmin{}), named(RedisAdmin{Passwords: "disk"}), named(RedisAdmin{Passwords: inVault, PasswordDir: "x"}),
	} {
		if half.validate() == nil {
			t.Errorf("%+v is not refused", half)
		}
	}
	inTheVault := named(RedisAdmin{Passwords: inVault})
	if err := inTheVault.validate(); err != nil {
		t.Error(err)
	}
	if _, err := inTheVault.newUsers(nil, nil, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "vault.address") {
		t.Errorf("without a Vault: %v", err)
	}
}
