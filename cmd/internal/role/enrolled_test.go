package role

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/config"
)

const record = `{"node":"edge7","mesh":"west","trustDomain":"west.example","vault":["https://10.0.0.6:8200"],"vaultCa":true,
	"redis":{"addresses":["10.0.0.5:6379"],"tls":true,"caPem":"PEM"},"proof":"x","reported":true}`

// enrolledHost is the data directory of a host that has enrolled.
func enrolledHost(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "enrolment"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "enrolment", "node.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// loadSidecar loads a configuration as the command does.
func loadSidecar(t *testing.T, args ...string) (*Sidecar, string, error) {
	t.Helper()
	cfg := DefaultSidecar()
	flags := pflag.NewFlagSet("sidecar", pflag.ContinueOnError)
	loader := config.New(&cfg, flags)
	loader.Complete = cfg.fromEnrolment
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err := loader.Load(nil, &out)
	return &cfg, out.String(), err
}

func TestAnEnrolledHostNeedsServicesAlone(t *testing.T) {
	dir := enrolledHost(t)
	cfg, printed, err := loadSidecar(t, "--dataDir", dir, "--print-config")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Services = []Local{{Service: "orders", Address: "127.0.0.1:9001"}}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	if cfg.Node != "edge7" || cfg.Mesh != "west" || cfg.TrustDomain != "west.example" || cfg.Trust.RootsFile != filepath.Join(dir, "enrolment", "roots.pem") ||
		cfg.Redis.TLS.CAFile != filepath.Join(dir, "enrolment", "redis-ca.pem") || cfg.Vault.CAFile != filepath.Join(dir, "enrolment", "vault-ca.pem") {
		t.Errorf("%+v", cfg)
	}
	for _, want := range []string{"node: edge7", "10.0.0.5:6379", "https://10.0.0.6:8200", "mesh: west"} {
		if !strings.Contains(printed, want) {
			t.Errorf("--print-config does not show %s:\n%s", want, printed)
		}
	}
}

func TestWhatAnEnrolledHostIsToldBesides(t *testing.T) {
	dir := enrolledHost(t)
	cfg, _, err := loadSidecar(t, "--dataDir", dir, "--redis.addresses", "127.0.0.1:1", "--trust.rootsFile", "mine.pem", "--node", "edge7")
	if err != nil || cfg.Redis.Addresses[0] != "127.0.0.1:1" || cfg.Redis.TLS.CAFile != "" || cfg.Trust.RootsFile != "mine.pem" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, _, err = loadSidecar(t, "--dataDir", dir, "--vault.address", "https://other:8200"); err != nil || cfg.Node != "" || cfg.Vault.enrolled {
		t.Errorf("with a Vault of its own: %+v, %v", cfg, err)
	}
	_, _, err = loadSidecar(t, "--dataDir", dir, "--node", "edge9", "--mesh", "east", "--trustDomain", "east.example")
	for _, want := range []string{`node: it is "edge9"`, `mesh: it is "east"`, `trustDomain: it is "east.example"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "enrolment", "node.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadSidecar(t, "--dataDir", dir); err == nil || !strings.Contains(err.Error(), "enrolment") {
		t.Errorf("a record that is damaged: %v", err)
	}
}
