package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type listener struct {
	Address string `yaml:"address"`
}

type role struct {
	Node  string `yaml:"node" help:"the node's id"`
	Redis struct {
		Addresses []string `yaml:"addresses"`
		Password  string   `yaml:"password" secret:"true"`
		TLS       struct {
			CAFile string `yaml:"caFile"`
		} `yaml:"tls"`
	} `yaml:"redis"`
	Drain     time.Duration `yaml:"drain"`
	Anonymous bool          `yaml:"anonymous"`
	Listeners []listener    `yaml:"listeners"`
}

func load(t *testing.T, file string, env []string, args ...string) (role, string, error) {
	t.Helper()
	cfg := role{Drain: 30 * time.Second}
	flags := pflag.NewFlagSet("role", pflag.ContinueOnError)
	l := New(&cfg, flags)
	if file != "" {
		name := filepath.Join(t.TempDir(), "role.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err := l.Load(env, &out)
	return cfg, out.String(), err
}

func TestPrecedenceIsDefaultFileVariableFlag(t *testing.T) {
	file := "node: file\nredis: {addresses: [\"a:1\", \"b:2\"], tls: {caFile: /ca}}\nlisteners: [{address: \":1\"}]\n"
	cfg, _, err := load(t, file, []string{"HEDGEROW_NODE=env", "HEDGEROW_REDIS_TLS_CA_FILE=/env", "PATH=/bin"}, "--node", "flag", "--anonymous")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Node != "flag" || cfg.Redis.TLS.CAFile != "/env" || len(cfg.Redis.Addresses) != 2 || cfg.Drain != 30*time.Second ||
		!cfg.Anonymous || cfg.Listeners[0].Address != ":1" {
		t.Errorf("loaded %+v", cfg)
	}
	cfg, _, err = load(t, "", nil, "--redis.addresses", "x:1, y:2", "--drain", "5s")
	if err != nil || len(cfg.Redis.Addresses) != 2 || cfg.Redis.Addresses[1] != "y:2" || cfg.Drain != 5*time.Second {
		t.Errorf("loaded %+v, %v", cfg, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ name, file, env, want string }{
		{"unknown key with a suggestion", "nod: a\n", "", `unknown key "nod"; did you mean "node"?`},
		{"unknown nested key", "redis: {adresses: [a]}\n", "", `unknown key "redis.adresses"; did you mean "redis.addresses"?`},
		{"unknown key in a list", "listeners: [{adress: a}]\n", "", "adress"},
		{"key twice", "node: a\nnode: b\n", "", "node"},
		{"wrong kind", "drain: soon\n", "", `want a duration like "30s"`},
		{"section without keys", "redis: here\n", "", `"redis" must hold keys`},
		{"not YAML", "a: [\n", "", "configuration"},
		{"unknown variable", "", "HEDGEROW_NOD=a", `unknown variable HEDGEROW_NOD; did you mean "HEDGEROW_NODE"?`},
		{"variable of the wrong kind", "", "HEDGEROW_ANONYMOUS=perhaps", "want true or false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.file, []string{tt.env})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestPrintConfigMasksSecrets(t *testing.T) {
	_, out, err := load(t, "node: a\nredis: {password: hunter2}\n", nil, "--print-config")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "hunter2") || !strings.Contains(out, "********") || !strings.Contains(out, "drain: 30s") {
		t.Errorf("printed:\n%s", out)
	}
	// What is printed can be loaded again.
	if _, _, err := load(t, out, nil); err != nil {
		t.Errorf("the printed configuration does not load: %v", err)
	}
}

func TestClientVariablesAreNotTheRoles(t *testing.T) {
	if _, _, err := load(t, "", []string{"HEDGEROW_TOKEN=x", "HEDGEROW_SERVER=http://127.0.0.1:1"}); err != nil {
		t.Error(err)
	}
}
