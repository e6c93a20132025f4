package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

const enrolledObjects = `
name: defaults/mesh
dialCidrs: ["127.0.0.0/8"]
---
name: services/orders
---
name: services/billing
---
name: services/shop
---
name: nodes/edge7
roles: [SIDECAR]
services: [orders]
---
name: nodes/edge8
roles: [SIDECAR]
services: [shop]
---
name: policies/orders
target: {service: orders}
action: ALLOW
rules: [{from: [{identities: [/svc/shop]}]}]
`

// realm is a control plane with a Vault that was bootstrapped.
type realm struct {
	*testing.T
	dir   string
	vault *servers.VaultServer
	redis string // its address
	vars  map[string]string
	ports []string
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	r := &realm{T: t, dir: t.TempDir(), vault: servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))}
	redis := servers.RedisForMesh(t, "default")
	r.redis = redis.Addr
	for _, port := range servers.FreePorts(t, 16) {
		r.ports = append(r.ports, "127.0.0.1:"+strconv.Itoa(port))
	}
	r.vars = map[string]string{"WORK": r.dir, "CONTROL": r.address()}
	r.write("root-token", r.vault.RootToken)
	hedgerow(t, r.dir, r.vars, "vault", "bootstrap", "--address", r.vault.Address, "--ca-file", r.vault.CAFile, "--token-file", "root-token", "--credentials", "vault-login")
	answer, err := r.vault.Request(t.Context(), http.MethodGet, "pki_root/cert/ca", nil)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := answer["data"].(map[string]any)["certificate"].(string)
	r.write("roots.pem", root)
	r.write("redis-config", servers.RedisConfigUser)
	r.write("redis-admin", servers.RedisAdminUser)
	r.config("control.yaml", map[string]any{
		"address": r.vars["CONTROL"], "dataDir": filepath.Join(r.dir, "control"),
		"redis": map[string]any{
			"addresses": []string{redis.Addr}, "username": servers.RedisConfigUser, "passwordFile": filepath.Join(r.dir, "redis-config"),
			"admin": map[string]any{"username": servers.RedisAdminUser, "passwordFile": filepath.Join(r.dir, "redis-admin"), "passwords": "vault"},
		},
		"trust": map[string]any{"caFile": filepath.Join(r.dir, "roots.pem")},
		"vault": map[string]any{
			"address": r.vault.Address, "caFile": r.vault.CAFile,
			"appRole": map[string]any{"roleIdFile": filepath.Join(r.dir, "vault-login", "role-id"), "secretIdFile": filepath.Join(r.dir, "vault-login", "secret-id")},
		},
	})
	start(t, r.dir, "hedgerow", "control", "--config", "control.yaml")
	until(t, 30*time.Second, func() error { return ready("http://" + r.vars["CONTROL"] + "/readyz") })
	r.apply(enrolledObjects)
	return r
}

func (r *realm) address() string {
	r.Helper()
	if len(r.ports) == 0 {
		r.Fatal("no more ports")
	}
	a := r.ports[0]
	r.ports = r.ports[1:]
	return a
}

func (r *realm) write(name, text string) string {
	r.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	return file
}

func (r *realm) config(name string, c map[string]any) {
	r.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		r.Fatal(err)
	}
	r.write(name, string(text))
}

func (r *realm) apply(objects string) {
	r.Helper()
	r.write("objects.yaml", objects)
	hedgerow(r.T, r.dir, r.vars, "apply", "-f", "objects.yaml")
}

// join makes a join file.
func (r *realm) join(node string) string {
	r.Helper()
	hedgerow(r.T, r.dir, r.vars, "node", "join", node, "-o", node+".json")
	file := filepath.Join(r.dir, node+".json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		r.Fatalf("the join file: %v, %v", info, err)
	}
	return file
}

// enroll runs enroll on a host whose data directory is called data.
func (r *realm) enroll(file, data string) (string, error) {
	cmd := exec.Command(filepath.Join(binaries, "hedgerow-edge"), "enroll", "--token-file", file, "--data", filepath.Join(r.dir, data))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *realm) mustEnroll(node string) {
	r.Helper()
	if out, err := r.enroll(r.join(node), node); err != nil {
		r.Fatalf("enroll %s: %v\n%s", node, err, out)
	}
}

// node returns what the API says of a node.
func (r *realm) node(node string) map[string]any {
	r.Helper()
	var n map[string]any
	if err := json.Unmarshal([]byte(hedgerow(r.T, r.dir, r.vars, "get", "nodes/"+node, "-o", "json")), &n); err != nil {
		r.Fatal(err)
	}
	return n
}

func (r *realm) state(node, state, alarm string) error {
	n := r.node(node)
	is := ""
	if a, ok := n["joinAlarm"].(map[string]any); ok {
		is, _ = a["reason"].(string)
	}
	if n["state"] != state || is != alarm || n["trustError"] != nil {
		return fmt.Errorf("%s is %v, want %s %q", node, n, state, alarm)
	}
	return nil
}

// issue has a certificate signed as the node that has enrolled in data.
func (r *realm) issue(node, data string, id func(td string) (mesh.ID, error)) error {
	r.Helper()
	want, err := id("hedgerow.local")
	if err != nil {
		r.Fatal(err)
	}
	self, err := mesh.NodeID("hedgerow.local", node)
	if err != nil {
		r.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	metrics, err := identity.NewMetrics(reg)
	if err != nil {
		r.Fatal(err)
	}
	own, err := identity.OpenNode(filepath.Join(r.dir, data, enrolment.IdentityDir), self, metrics)
	if err != nil {
		r.Fatal(err)
	}
	v, err := vaultpki.New(vaultpki.Config{
		Access: vaultpki.Access{Addresses: []string{r.vault.Address}, CAFile: r.vault.CAFile, Certificate: vaultpki.Certificate{Current: own.Certificate}},
		Mount:  vaultpki.MountMesh, Role: node,
	}, zerolog.Nop(), reg)
	if err != nil {
		r.Fatal(err)
	}
	_, request, err := identity.NewRequest(want)
	if err != nil {
		r.Fatal(err)
	}
	_, err = v.Issue(r.Context(), request)
	return err
}

func service(name, node string) func(string) (mesh.ID, error) {
	return func(td string) (mesh.ID, error) { return mesh.ServiceID(td, name, node) }
}

// TestEnrolment takes two hosts from a join file to mTLS between their services, with nothing
// in their configuration but services and addresses, and then takes their rights away.
func TestEnrolment(t *testing.T) {
	r := newRealm(t)
	until(t, 10*time.Second, func() error { return r.state("edge7", "PENDING", "") })
	file := r.join("edge7")
	until(t, 10*time.Second, func() error { return r.state("edge7", "JOINING", "") })
	if out, err := r.enroll(file, "edge7"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	until(t, 10*time.Second, func() error { return r.state("edge7", "ENROLLED", "") })

	t.Run("again on the same host", func(t *testing.T) {
		if out, err := r.enroll(file, "edge7"); err != nil || !strings.Contains(out, "edge7 already") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("a second use of the token", func(t *testing.T) {
		out, err := r.enroll(file, "thief")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(out, "SOMEBODY ELSE HAS USED THE TOKEN") || !strings.Contains(out, "the control plane has been told") || !strings.Contains(out, "hint: ") {
			t.Errorf("%v\n%s", err, out)
		}
		until(t, 10*time.Second, func() error { return r.state("edge7", "ENROLLED", "REFUSED") })
		if err := r.metric(t.Context(), `hedgerow_nodes_join_alarms_total{reason="REFUSED"} 1`); err != nil {
			t.Error(err)
		}
	})

	workload := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "caller "+req.Header.Get("X-Forwarded-Client-Cert")) // a client that left has no test
	}))
	t.Cleanup(workload.Close)
	r.mustEnroll("edge8")
	r.sidecar("edge7", "orders", workload.Listener.Addr().String())
	outbound := r.sidecar("edge8", "shop", r.address())
	until(t, 30*time.Second, func() error {
		return get(t.Context(), http.DefaultClient, "http://"+outbound+"/", "orders.mesh", "URI=spiffe://hedgerow.local/svc/shop/n/edge8")
	})

	t.Run("it logs in to Redis as a user of its own", func(t *testing.T) {
		password := readFile(t, filepath.Join(r.dir, "edge7", "enrolment", "redis-password"))
		if got := r.redisCLI("node-edge7", password, "GET", "{hedgerow:default}:head"); !strings.Contains(got, "revision") {
			t.Errorf("it reads %q", got)
		}
		if got := r.redisCLI("node-edge7", password, "DEL", "{hedgerow:default}:head"); !strings.Contains(got, "NOPERM") {
			t.Errorf("it deletes: %q", got)
		}
	})
	t.Run("its password changes", func(t *testing.T) {
		if _, err := r.vault.Request(t.Context(), http.MethodPost, "kv/data/hedgerow/nodes/edge7/redis", map[string]any{"data": map[string]any{"password": "another"}}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(r.dir, "edge7", "enrolment", "redis-password")
		until(t, 2*time.Minute, func() error { // the control plane asks once a minute, the node when it is thrown out
			if got := readFile(t, file); got != "another" {
				return fmt.Errorf("it is %q", got)
			}
			if got := r.redisCLI("node-edge7", "another", "PING"); !strings.Contains(got, "PONG") {
				return errors.New(got)
			}
			return nil
		})
	})

	t.Run("services change, and the role follows", func(t *testing.T) {
		if err := r.issue("edge7", "edge7", service("billing", "edge7")); mesh.KindOf(err) != mesh.Denied {
			t.Fatalf("before: %v", err)
		}
		r.apply("name: nodes/edge7\nroles: [SIDECAR]\nservices: [orders, billing]\n")
		until(t, 20*time.Second, func() error { return r.issue("edge7", "edge7", service("billing", "edge7")) })
		r.apply("name: nodes/edge7\nroles: [SIDECAR]\nservices: [billing]\n")
		until(t, 20*time.Second, func() error {
			if err := r.issue("edge7", "edge7", service("orders", "edge7")); mesh.KindOf(err) != mesh.Denied {
				return fmt.Errorf("an identity that was taken away: %w", err)
			}
			return nil
		})
		if err := r.issue("edge7", "edge7", service("billing", "edge7")); err != nil {
			t.Errorf("the one that was left: %v", err)
		}
	})
	t.Run("a node is deleted", func(t *testing.T) {
		hedgerow(t, r.dir, r.vars, "delete", "nodes/edge7")
		until(t, 20*time.Second, func() error {
			if err := r.issue("edge7", "edge7", service("billing", "edge7")); mesh.KindOf(err) != mesh.Unauthentic {
				return fmt.Errorf("a node that is none: %w", err)
			}
			return nil
		})
	})
}

// sidecar starts one that is told nothing but its services and addresses, and returns where
// its workload calls out.
func (r *realm) sidecar(node, service, workload string) string {
	r.Helper()
	outbound, admin := r.address(), r.address()
	r.config(node+".yaml", map[string]any{
		"dataDir": filepath.Join(r.dir, node), "inbound": map[string]any{"address": r.address()},
		"outbound": map[string]any{"address": outbound}, "admin": map[string]any{"address": admin},
		"services": []map[string]any{{"service": service, "address": workload}},
	})
	start(r.T, r.dir, "hedgerow-edge", "sidecar", "--config", node+".yaml")
	until(r.T, 30*time.Second, func() error { return ready("http://" + admin + "/ready") })
	return outbound
}

// redisCLI has a user do something and returns what Redis says.
func (r *realm) redisCLI(user, password string, args ...string) string {
	r.Helper()
	host, port, err := net.SplitHostPort(r.redis)
	if err != nil {
		r.Fatal(err)
	}
	cmd := exec.CommandContext(r.Context(), "redis-cli", append([]string{"-h", host, "-p", port, "--user", user, "--no-auth-warning"}, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+password)
	out, _ := cmd.CombinedOutput() // what it says is looked at
	return string(out)
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// metric reports that the control plane's metrics lack a line.
func (r *realm) metric(ctx context.Context, line string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.vars["CONTROL"]+"/metrics", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(text), line) {
		return fmt.Errorf("no %s, %w", line, err)
	}
	return nil
}
