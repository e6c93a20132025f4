// Package e2e runs the built programs as a user would: separate processes on a
// real Redis, Vault and Mosquitto, and `hedgerow up --demo` by itself. It holds
// tests only; what they need to start servers is in test/servers.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// binaries is where TestMain put hedgerow and hedgerow-edge.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "hedgerow-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir) //nolint:errcheck // best effort at exit
		build := exec.Command("go", "build", "-pgo=off", "-o", dir+"/", "../../cmd/hedgerow", "../../cmd/hedgerow-edge")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs under test: %v\n%s", err, out)
			return 1
		}
		binaries = dir
		return m.Run()
	}())
}

// TestScripts runs testdata/script/*.txtar, each on servers of its own.
func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			s := startStack(t)
			testscript.Run(t, testscript.Params{
				Files:               []string{name},
				RequireExplicitExec: true,
				Setup:               s.setup,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"eventually": eventually,
				},
			})
		})
	}
}

// stack is what the processes of one test share.
type stack struct {
	t     *testing.T
	redis *servers.RedisServer
	vault *servers.VaultServer
	mqtt  *servers.MosquittoServer
	pki   servers.PKI
}

// nodes are the nodes of testdata/mesh and what Vault may sign for each.
var nodes = []servers.PKINode{
	{Name: "gateway", IDs: []string{"spiffe://hedgerow.local/gateway/demo"}},
	{Name: "bridge", IDs: []string{"spiffe://hedgerow.local/svc/mqtt-bridge/n/bridge"}},
	{Name: "orders-v1", IDs: []string{"spiffe://hedgerow.local/svc/orders/n/orders-v1"}},
	{Name: "orders-v2", IDs: []string{"spiffe://hedgerow.local/svc/orders/n/orders-v2"}},
	{Name: "telemetry", IDs: []string{"spiffe://hedgerow.local/svc/telemetry/n/telemetry"}},
}

func startStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, redis: servers.Redis(t), vault: servers.Vault(t), mqtt: servers.Mosquitto(t)}
	s.pki = s.vault.SetUpPKI("hedgerow.local", nodes...)
	return s
}

// setup gives a script its addresses, files and PATH.
func (s *stack) setup(env *testscript.Env) error {
	env.Setenv("PATH", binaries+string(os.PathListSeparator)+env.Getenv("PATH"))
	vars := s.variables(env.WorkDir)
	for name, value := range vars {
		env.Setenv(name, value)
	}
	return s.writeFiles(env.WorkDir, vars)
}

// variables are the addresses of one mesh whose files are in dir.
func (s *stack) variables(dir string) map[string]string {
	vars := map[string]string{"WORK": dir, "REDIS": s.redis.Addr, "VAULT": s.vault.Address, "MQTT": s.mqtt.Addr}
	vars["MQTTHOST"], vars["MQTTPORT"], _ = strings.Cut(s.mqtt.Addr, ":")
	names := []string{
		"CONTROL", "GATEWAY", "GATEWAYADMIN", "BRIDGEADMIN", "ORDERS1", "ORDERS2", "TELEMETRY",
		"INBOUND1", "OUTBOUND1", "ADMIN1", "INBOUND2", "OUTBOUND2", "ADMIN2", "INBOUND3", "OUTBOUND3", "ADMIN3",
	}
	for i, port := range servers.FreePorts(s.t, len(names)) {
		vars[names[i]] = "127.0.0.1:" + strconv.Itoa(port)
		vars[names[i]+"PORT"] = strconv.Itoa(port)
	}
	return vars
}

// writeFiles writes testdata/mesh, variables expanded, and the AppRole
// credentials of every node into dir.
func (s *stack) writeFiles(dir string, vars map[string]string) error {
	if err := os.Mkdir(filepath.Join(dir, "vault"), 0o700); err != nil {
		return err
	}
	files := map[string]string{filepath.Join("vault", "ca.pem"): s.pki.RootPEM}
	for node, r := range s.pki.Nodes {
		files[filepath.Join("vault", node+".role")] = r.RoleID
		files[filepath.Join("vault", node+".secret")] = r.SecretID
	}
	names, err := filepath.Glob("testdata/mesh/*.yaml")
	if err != nil || len(names) == 0 {
		return fmt.Errorf("no files in testdata/mesh: %w", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files[filepath.Base(name)] = os.Expand(string(b), func(v string) string { return vars[v] })
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// eventually runs a command until its output matches: `eventually 5 'regexp'
// curl ...` tries for five seconds.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually seconds regexp command args...")
	}
	seconds, err := strconv.ParseFloat(args[0], 64)
	ts.Check(err)
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	deadline := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		err := ts.Exec(args[2], args[3:]...)
		out := ts.ReadFile("stdout")
		if err == nil && want.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v s: %q (%v) does not match %s", seconds, out, err, want)
		}
	}
}
