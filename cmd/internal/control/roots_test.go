package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
)

func TestRootsFollowTheirFile(t *testing.T) {
	root := func() []byte {
		dir := t.TempDir()
		if _, err := localca.Open(dir, localca.Config{TrustDomain: "test.mesh"}); err != nil {
			t.Fatal(err)
		}
		pem, err := os.ReadFile(filepath.Join(dir, localca.CertFile))
		if err != nil {
			t.Fatal(err)
		}
		return pem
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openRoots(file, "test.mesh", zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "trust.caFile") {
		t.Errorf("without the file: %v", err)
	}
	first := root()
	write(first)
	r, err := openRoots(file, "test.mesh", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	before := r.bundle()
	if err := r.look(); err != nil || r.bundle() != before {
		t.Errorf("the same file: %v, another bundle: %t", err, r.bundle() != before)
	}
	write([]byte("nonsense"))
	if err := r.look(); err == nil || r.bundle() != before {
		t.Errorf("nonsense: %v, another bundle: %t", err, r.bundle() != before)
	}
	write(append(first, root()...)) // while the mesh changes its CA
	if err := r.look(); err != nil || len(r.bundle().Roots()) != 2 {
		t.Errorf("two roots: %v, %d", err, len(r.bundle().Roots()))
	}
}
