package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const (
	victim = "edge7" // the node whose files are taken
	// prefix begins the names of the mesh's keys in Redis.
	prefix = "{hedgerow:" + rig.Name + "}:"
	// within is where instances may live, and beyond is an address outside of it that can be
	// listened at all the same.
	within, beyond = "127.0.0.0/16", "127.66.0.1"
)

// estateObjects is the mesh: shop lets a read what is public and ledger do everything,
// ledger lets shop in, and who else there is has nothing to do with a.
const estateObjects = `
name: defaults/mesh
authorization: DENY
dialCidrs: ["` + within + `"]
---
name: services/a
---
name: services/shop
---
name: services/ledger
---
name: nodes/edge7
roles: [SIDECAR]
services: [a]
---
name: nodes/shop
roles: [SIDECAR]
services: [shop]
---
name: nodes/ledger
roles: [SIDECAR]
services: [ledger]
---
name: policies/a
target: {service: a}
action: ALLOW
rules: [{from: [{identities: [/svc/ledger]}]}]
---
name: policies/shop
target: {service: shop}
action: ALLOW
rules:
  - from: [{identities: [/svc/a]}]
    to: [{methods: [GET], paths: [/public]}]
  - from: [{identities: [/svc/ledger]}]
---
name: policies/ledger
target: {service: ledger}
action: ALLOW
rules: [{from: [{identities: [/svc/shop]}]}]
`

// estate is a mesh as an operator sets it up, by enrolment, of nodes that each run the
// service of their name, and the victim that runs a.
type estate struct {
	t        *stage.T
	binaries string
	dir      string
	vault    *servers.VaultServer
	redis    *servers.RedisServer
	tls      servers.TLSFiles // of the API
	api      string           // its URL
	free     []int            // ports
	control  *rig.Process
	planes   map[string]*rig.Plane
	heard    map[string]*recorder // the workloads, by node
	forward  *detour              // the way to shop
}

func newEstate(t *stage.T, binaries string) *estate {
	t.Helper()
	e := &estate{
		t: t, binaries: binaries, dir: t.TempDir(), tls: servers.LoopbackTLS(t), free: servers.FreePorts(t, 24),
		planes: map[string]*rig.Plane{}, heard: map[string]*recorder{},
		vault: servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t))),
		// With these two it is the rights of a user that refuse the commands, and not a setting.
		redis: servers.RedisForMesh(t, rig.Name, servers.RedisSetting("enable-debug-command", "yes"), servers.RedisSetting("enable-module-command", "yes")),
	}
	e.write("root-token", e.vault.RootToken)
	e.hedgerow("vault", "bootstrap", "--address", e.vault.Address, "--ca-file", e.vault.CAFile, "--token-file", e.path("root-token"), "--credentials", e.path("vault"))
	e.startControl()
	e.apply(estateObjects)
	// A secret of another node: it is there to be read by who may.
	e.root(http.MethodPost, "kv/data/hedgerow/nodes/shop/redis", map[string]any{"data": map[string]any{"password": "of shop"}})
	for _, node := range []string{"shop", "ledger", victim} {
		e.enrol(node)
	}
	e.reaches("shop")
	e.reaches("a")
	return e
}

// reaches waits until ledger has a service answer.
func (e *estate) reaches(service string) {
	e.t.Helper()
	e.planes["ledger"].Until(time.Minute, "reaches "+service, func(ctx context.Context) error {
		return e.call(ctx, e.planes["ledger"], service, "/public")
	})
}

// startControl starts the control plane: operators call it by certificates of the mesh's
// own root, so that those of nodes get as far as a certificate can.
func (e *estate) startControl() {
	e.t.Helper()
	address := e.address()
	e.api = "https://" + address
	for _, user := range []string{servers.RedisConfigUser, servers.RedisAdminUser} {
		e.write(user, user)
	}
	for _, node := range []string{"shop", "ledger", victim} {
		e.write(filepath.Join("passwords", node), redisPassword(node))
	}
	e.control = e.start("control", "hedgerow", "control", map[string]any{
		"address": address, "url": e.api, "caFile": e.tls.CAFile, "dataDir": e.path("control"),
		"tls":    map[string]any{"certFile": e.tls.CertFile, "keyFile": e.tls.KeyFile, "clientCaFile": e.path("vault/mesh-ca.pem")},
		"access": map[string]any{"requestsPerSecond": 100_000, "certificates": []any{map[string]any{"id": "/op/*", "role": "admin"}}},
		"redis": map[string]any{
			"addresses": []string{e.redis.Addr}, "username": servers.RedisConfigUser, "passwordFile": e.path(servers.RedisConfigUser),
			"admin": map[string]any{"username": servers.RedisAdminUser, "passwordFile": e.path(servers.RedisAdminUser), "passwordDir": e.path("passwords")},
		},
		"trust": map[string]any{"caFile": e.path("vault/mesh-ca.pem")}, "revisions": "vault",
		"vault": map[string]any{
			"address": e.vault.Address, "caFile": e.vault.CAFile,
			"appRole": map[string]any{"roleIdFile": e.path("vault/role-id"), "secretIdFile": e.path("vault/secret-id")},
		},
	})
}

// redisPassword is the password of a node's user.
func redisPassword(node string) string { return "redis-password-of-" + node }

// enrol makes a host of the node: all its files are below host/<node>, and those of no
// other are. It starts its sidecar and its workload.
func (e *estate) enrol(node string) {
	e.t.Helper()
	service := node
	if node == victim {
		service = "a"
	}
	e.heard[node] = newRecorder(e.t)
	at := filepath.Join("host", node)
	e.write(filepath.Join(at, "redis.password"), redisPassword(node))
	e.hedgerow("node", "join", node, "-o", e.path(at, "join.json"))
	if out, err := runTool(e.t.Context(), time.Minute, filepath.Join(e.binaries, "hedgerow-edge"), "enroll", "--token-file", e.path(at, "join.json"), "--data", e.path(at, "data")); err != nil {
		e.t.Fatalf("enrol %s: %v\n%s", node, err, out)
	}
	p := &rig.Plane{Inbound: e.address(), Outbound: e.address(), Admin: proc.Admin{Address: e.address()}}
	inbound := map[string]any{"address": p.Inbound}
	if node == "shop" {
		e.forward = newDetour(e.t, p.Inbound)
		inbound["advertise"] = e.forward.addr
	}
	text, err := json.Marshal(map[string]any{
		"dataDir": e.path(at, "data"), "inbound": inbound,
		"outbound": map[string]any{"address": p.Outbound}, "admin": map[string]any{"address": p.Admin.Address},
		"services":  []any{map[string]any{"service": service, "address": e.heard[node].addr}},
		"upstreams": []string{"a", "shop", "ledger"},
		"redis":     map[string]any{"addresses": []string{e.redis.Addr}, "username": "node-" + node, "passwordFile": e.path(at, "redis.password")},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	file := e.write(filepath.Join(at, "sidecar.yaml"), string(text))
	p.Process = rig.Start(e.t, rig.Command{Name: node, Dir: e.dir, Program: filepath.Join(e.binaries, "hedgerow-edge"), Args: []string{"sidecar", "--config", file}})
	p.Until(time.Minute, "is ready", p.Admin.Ready)
	e.planes[node] = p
}

func (e *estate) path(names ...string) string { return filepath.Join(e.dir, filepath.Join(names...)) }

func (e *estate) write(name, text string) string {
	e.t.Helper()
	file := e.path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return file
}

func (e *estate) address() string {
	e.t.Helper()
	if len(e.free) == 0 {
		e.t.Fatal("no more ports")
	}
	port := e.free[0]
	e.free = e.free[1:]
	return "127.0.0.1:" + strconv.Itoa(port)
}

func (e *estate) start(name, program, verb string, config map[string]any) *rig.Process {
	e.t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		e.t.Fatal(err)
	}
	return rig.Start(e.t, rig.Command{Name: name, Dir: e.dir, Program: filepath.Join(e.binaries, program), Args: []string{verb, "--config", e.write(name+".yaml", string(text))}})
}

// hedgerow runs a verb of the operator's, which has to succeed.
func (e *estate) hedgerow(args ...string) {
	e.t.Helper()
	if e.control != nil {
		args = append(args, "--server", e.api, "--ca-file", e.tls.CAFile, "--token-file", e.path("control/admin.token"))
	}
	if out, err := runTool(e.t.Context(), time.Minute, filepath.Join(e.binaries, "hedgerow"), args...); err != nil {
		e.t.Fatalf("hedgerow %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// apply stores objects, and waits for a control plane that starts.
func (e *estate) apply(objects string) {
	e.t.Helper()
	file := e.write("objects.yaml", objects)
	e.control.Until(time.Minute, "takes the objects", func(ctx context.Context) error {
		_, err := runTool(ctx, time.Minute, filepath.Join(e.binaries, "hedgerow"), "apply", "-f", file, "--server", e.api, "--ca-file", e.tls.CAFile, "--token-file", e.path("control/admin.token"))
		return err
	})
}

// root asks Vault as the operator, who has to get an answer.
func (e *estate) root(method, path string, body any) map[string]any {
	e.t.Helper()
	answer, err := e.vault.Request(e.t.Context(), method, path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// operator is a client of Redis that may do everything.
func (e *estate) operator() *redis.Client {
	return redisClient(e.redis.Addr, servers.RedisOperator, servers.RedisOperator)
}

// configuration returns what Redis holds of the configuration, as a digest.
func (e *estate) configuration() string {
	e.t.Helper()
	c := e.operator()
	defer c.Close() //nolint:errcheck // nothing is under way
	all, err := c.HGetAll(e.t.Context(), prefix+"config").Result()
	if err != nil || len(all) == 0 {
		e.t.Fatalf("%d objects in Redis, %v", len(all), err)
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(h, "%q %q\n", name, all[name]) //nolint:errcheck // a hash takes everything
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// call has the workload behind a sidecar call a service, which has to answer 200.
func (e *estate) call(ctx context.Context, from *rig.Plane, service, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+from.Outbound+path, nil)
	if err != nil {
		return err
	}
	req.Host = service + ".mesh"
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", service, path, resp.Status)
	}
	return nil
}
