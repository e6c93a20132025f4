package registry_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// sum is the digest of a password.
func sum(password string) string {
	digest := sha256.Sum256([]byte(password))
	return hex.EncodeToString(digest[:])
}

// passwords are the nodes' secrets, as Vault has them.
type passwords struct {
	mu   sync.Mutex
	of   map[string]string
	away bool
}

func newPasswords(nodes ...string) *passwords {
	p := &passwords{of: map[string]string{}}
	for _, n := range nodes {
		p.of[n] = "pw-" + n
	}
	return p
}

func (p *passwords) digest(_ context.Context, node string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.away:
		return "", mesh.Errorf("test", node, mesh.Unavailable, "sealed")
	case p.of[node] == "":
		return "", mesh.Errorf("test", node, mesh.NotFound, "none")
	}
	return sum(p.of[node]), nil
}

func (p *passwords) set(edit func(*passwords)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	edit(p)
}

// secretFile is a file with a password.
func secretFile(t *testing.T, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// asConfig and asAdmin are how a control plane logs in there.
func asConfig(t *testing.T, addr ...string) registry.Config {
	t.Helper()
	return registry.Config{Addresses: addr, Mesh: "test", Username: servers.RedisConfigUser, PasswordFile: secretFile(t, servers.RedisConfigUser)}
}

func asAdmin(t *testing.T) registry.Admin {
	t.Helper()
	return registry.Admin{Username: servers.RedisAdminUser, PasswordFile: secretFile(t, servers.RedisAdminUser)}
}

func asNode(t *testing.T, node string, addr ...string) registry.Config {
	t.Helper()
	return registry.Config{Addresses: addr, Mesh: "test", Username: registry.UserName(node), PasswordFile: secretFile(t, "pw-"+node)}
}

// keepUsers runs Users until the test ends, and waits until the users are there.
func keepUsers(t *testing.T, c client, admin registry.Admin, p *passwords, want ...string) *registry.Users {
	t.Helper()
	u, err := registry.NewUsers(c.Client, admin, p.digest, c.reg)
	if err != nil {
		t.Fatal(err)
	}
	u.Want(want)
	running(t, u.Run)
	eventually(t, "the users", func() bool { s := u.State(); return s.Err == nil && s.Users == len(want) })
	return u
}

// userNames are the users of a server, sorted.
func userNames(t *testing.T, r *redis.Client) []string {
	t.Helper()
	names, err := r.Do(t.Context(), "ACL", "USERS").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// plainRedis starts a Redis whose default user may do everything, so that a test can look.
func plainRedis(t *testing.T, options ...servers.RedisOption) (*servers.RedisServer, *redis.Client) {
	t.Helper()
	s := servers.Redis(t, options...)
	return s, raw(t, s.Addr)
}

// A node does its work as its own user, and the control plane as its two, from the files
// that operators begin with.
func TestAMeshWorksAsItsUsers(t *testing.T) {
	t.Parallel()
	s := servers.RedisForMesh(t, "test")
	c, l := openConfig(t, asConfig(t, s.Addr)), newRevisions()
	l.publish(t, c, world())
	rep := registry.NewRepublisher(c.Client, l.source)
	running(t, rep.Run)
	keepUsers(t, c, asAdmin(t), newPasswords("n1"), "n1")
	all := registry.NewWatcher(c.Client, nodes.Bundle, registry.WatcherOptions{All: true})
	running(t, all.Run)

	n := openConfig(t, asNode(t, "n1", s.Addr))
	lease, err := registry.NewLease(n.Client, "n1", mesh.RoleSidecar, nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Update(offers("127.0.0.1:1001")); err != nil {
		t.Fatal(err)
	}
	running(t, lease.Run)
	w := registry.NewWatcher(n.Client, nodes.Bundle, registry.WatcherOptions{})
	w.Need("orders")
	running(t, w.Run)
	for _, seen := range []*registry.Watcher{w, all} {
		eventually(t, "the instance", func() bool { s := seen.Snapshot(); return s != nil && len(s.Instances["orders"]) == 1 })
	}
	l.publish(t, c, route(1))
	eventually(t, "a change", func() bool { return w.Snapshot().Config.Head.Revision == 2 })
	eventually(t, "registered and connected", func() bool { return lease.State().Registered && w.Status().Connected })
	answered(t, n.Client)
	change, base, records := l.commit(route(2))
	if _, err := n.Publish(t.Context(), change, base, records); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("a node published: %v", err)
	}
}

// fill has a Redis hold something under every key that there is.
func fill(t *testing.T, s *servers.RedisServer) {
	t.Helper()
	c, l := openConfig(t, asConfig(t, s.Addr)), newRevisions()
	l.publish(t, c, world())
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
	eventually(t, "the keys", func() bool { _, err := c.Head(t.Context()); return err == nil })
	answered(t, c.Client)
}

// nodeCommands are what the user of edge7 tries, with $ for the prefix of its mesh.
var nodeCommands = map[bool][]string{
	true: {
		"PING", "CLIENT SETNAME x", "CLIENT ID",
		"GET $head", "GETRANGE $head 0 10", "GETRANGE $keys 0 10", "HGETALL $config", "MGET $head $inst:edge9/SIDECAR", "EXISTS $head",
		"XREVRANGE $changes + - COUNT 1", "XRANGE $changes - + COUNT 1", "XLEN $changes", "XREAD COUNT 1 STREAMS $changes $ev:1 0 0",
		"GETRANGE $inst:edge9/SIDECAR 0 10", "PTTL $inst:edge9/SIDECAR", "GETRANGE $dev:edge7 0 10",
		"SET $inst:edge7/SIDECAR x PX 15000", "PEXPIRE $inst:edge7/SIDECAR 15000", "DEL $inst:edge7/BRIDGE",
		"XADD $ev:5 MAXLEN 256 * node edge7", "FCALL hedgerow_lease 1 $rl:x 1000 10 0 0 1 1",
	},
	false: {
		// what all nodes believe
		"SET $head x", "DEL $head", "HSET $config defaults/mesh {}", "HDEL $config defaults/mesh", "DEL $config", "SET $keys x", "GETDEL $head", "APPEND $head x",
		"XADD $changes * a b", "XDEL $changes 1-0", "XTRIM $changes MAXLEN 0", "XGROUP CREATE $changes g 0", "XSETID $changes 9-0",
		// what is others'
		"SET $inst:edge9/SIDECAR x", "DEL $inst:edge9/SIDECAR", "PEXPIRE $inst:edge9/SIDECAR 1", "SET $inst:edge70/SIDECAR x", "SET $inst:edge7 x",
		"GETRANGE $dev:edge9 0 10", "GETRANGE $dev:edge70 0 10", "HGETALL $control", "GET {hedgerow:other}:head", "SET {hedgerow:other}:inst:edge7/SIDECAR x",
		"XREAD COUNT 1 STREAMS $changes $other 0 0", "MGET $head $control", "XTRIM $ev:5 MAXLEN 0", "DEL $ev:5",
		// what looks around, or goes around
		"SCAN 0", "KEYS *", "RANDOMKEY", "DBSIZE", "EVAL return 0", "EVALSHA x 0", "SCRIPT LOAD x", "FUNCTION LIST", "FUNCTION LOAD x", "FUNCTION FLUSH",
		"FCALL hedgerow_lease 1 $inst:edge9/SIDECAR 1000 10 0 0 1 1", "FCALL hedgerow_lease 1 $head 1000 10 0 0 1 1",
		"RENAME $inst:edge7/SIDECAR $inst:edge9/SIDECAR", "COPY $inst:edge7/SIDECAR $head", "SORT $config STORE $head", "DUMP $head", "RESTORE $head 0 x", "OBJECT ENCODING $head",
		"SUBSCRIBE x", "PSUBSCRIBE *", "PUBLISH x y", "SELECT 1", "MOVE $head 1", "SWAPDB 0 1",
		// what is the operator's
		"CONFIG GET *", "CONFIG SET maxmemory 1", "FLUSHALL", "FLUSHDB", "SHUTDOWN", "MONITOR", "REPLICAOF NO ONE", "WAIT 0 0", "SAVE", "BGSAVE", "INFO",
		"ACL LIST", "ACL SETUSER node-edge7 +@all", "ACL WHOAMI", "CLIENT KILL TYPE normal", "CLIENT LIST", "CLIENT PAUSE 1", "CLUSTER RESET", "MODULE LIST", "LATENCY RESET", "SLOWLOG GET",
	},
}

func TestWhatANodeMayDo(t *testing.T) {
	t.Parallel()
	s := servers.RedisForMesh(t, "test")
	fill(t, s)
	c := openConfig(t, asConfig(t, s.Addr))
	keepUsers(t, c, asAdmin(t), newPasswords("edge7", "edge9"), "edge7", "edge9")
	r := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "node-edge7", Password: "pw-edge7", DisableIdentity: true, Protocol: 2})
	t.Cleanup(func() { _ = r.Close() })
	for allowed, commands := range nodeCommands {
		for _, text := range commands {
			err := r.Do(t.Context(), toAny(strings.Fields(strings.ReplaceAll(text, "$", prefix)))...).Err()
			switch denied := redis.HasErrorPrefix(err, "NOPERM"); {
			case allowed && err != nil && !errors.Is(err, redis.Nil):
				t.Errorf("%s: %v", text, err)
			case !allowed && !denied:
				t.Errorf("%s: allowed, %v", text, err)
			}
		}
	}
	if n := len(nodeCommands[true]) + len(nodeCommands[false]); n < 30 {
		t.Errorf("%d commands", n)
	}
}

// What the two users of the control plane cannot do, though it is much that they can.
func TestWhatAControlPlaneMayNotDo(t *testing.T) {
	t.Parallel()
	s := servers.RedisForMesh(t, "test")
	for user, commands := range map[string][]string{
		servers.RedisConfigUser: {"ACL LIST", "ACL SETUSER x", "CONFIG GET *", "FLUSHALL", "SHUTDOWN", "KEYS *", "GET {hedgerow:other}:head", "SET other x", "CLIENT KILL TYPE normal", "SUBSCRIBE x"},
		servers.RedisAdminUser:  {"GET $head", "SET $head x", "HGETALL $config", "EVAL return 0", "CONFIG GET *", "FLUSHALL", "SHUTDOWN", "ACL LOAD", "ACL GETUSER default", "FUNCTION LIST", "SUBSCRIBE x", "INFO"},
	} {
		r := redis.NewClient(&redis.Options{Addr: s.Addr, Username: user, Password: user, DisableIdentity: true, Protocol: 2})
		t.Cleanup(func() { _ = r.Close() })
		for _, text := range commands {
			if err := r.Do(t.Context(), toAny(strings.Fields(strings.ReplaceAll(text, "$", prefix)))...).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
				t.Errorf("%s as %s: %v", text, user, err)
			}
		}
	}
	if err := raw(t, s.Addr).Ping(t.Context()).Err(); !redis.HasErrorPrefix(err, "NOAUTH") {
		t.Errorf("without a login: %v", err)
	}
}

func TestUsersFollowTheNodes(t *testing.T) {
	t.Parallel()
	s, r := plainRedis(t)
	c, p := open(t, s.Addr), newPasswords("n1", "n2")
	if err := r.Do(t.Context(), "ACL", "SETUSER", "node-other", "on", "nopass", "~{hedgerow:other}:*", "+get").Err(); err != nil {
		t.Fatal(err)
	}
	u := keepUsers(t, c, registry.Admin{Username: "default"}, p, "n1", "n2")
	if got := userNames(t, r); !slices.Equal(got, []string{"default", "node-n1", "node-n2", "node-other"}) {
		t.Errorf("users %v", got)
	}
	two := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "node-n2", Password: "pw-n2", DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = two.Close() })
	conn := two.Conn()
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}

	u.Want([]string{"n1"})
	took := eventually(t, "the user is gone", func() bool { return !slices.Contains(userNames(t, r), "node-n2") })
	if took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := conn.Ping(t.Context()).Err(); err == nil {
		t.Error("its connection still stands")
	}
	if got := userNames(t, r); !slices.Equal(got, []string{"default", "node-n1", "node-other"}) {
		t.Errorf("users %v", got)
	}

	// What somebody changes is set right.
	before := userLine(t, r, "node-n1")
	if err := r.Do(t.Context(), "ACL", "SETUSER", "node-n1", "+@all", "~*").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its rights are its own again", func() bool { return userLine(t, r, "node-n1") == before })
	if err := r.Do(t.Context(), "ACL", "DELUSER", "node-n1").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is back", func() bool { return userLine(t, r, "node-n1") == before })

	// A node of the name of another mesh's is not taken over.
	p.set(func(p *passwords) { p.of["other"] = "x" })
	theirs := userLine(t, r, "node-other")
	u.Want([]string{"n1", "other"})
	eventually(t, "it is said", func() bool {
		err := u.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "not of this mesh")
	})
	if got := userLine(t, r, "node-other"); got != theirs {
		t.Errorf("it became %s", got)
	}
}

func userLine(t *testing.T, r *redis.Client, name string) string {
	t.Helper()
	lines, err := r.Do(t.Context(), "ACL", "LIST").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "user "+name+" ") {
			return line
		}
	}
	return ""
}

func TestUsersFollowTheirPasswords(t *testing.T) {
	t.Parallel()
	s, r := plainRedis(t)
	c, p := open(t, s.Addr), newPasswords("n1", "n2")
	u := keepUsers(t, c, registry.Admin{Username: "default"}, p, "n1", "n2")
	login := func(password string) error {
		n := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "node-n1", Password: password, DisableIdentity: true, MaxRetries: -1})
		defer n.Close() //nolint:errcheck // nothing is under way
		return n.Ping(t.Context()).Err()
	}
	before := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "node-n1", Password: "pw-n1", DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = before.Close() })
	old := before.Conn()
	t.Cleanup(func() { _ = old.Close() })
	if err := old.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}

	p.set(func(p *passwords) { p.away = true })
	u.Changed()
	eventually(t, "it is said", func() bool { return u.Ready(t.Context()) != nil })
	if got := userNames(t, r); len(got) != 3 || login("pw-n1") != nil {
		t.Errorf("users %v while the passwords are away", got)
	}

	p.set(func(p *passwords) { p.away, p.of["n1"] = false, "another" })
	u.Changed()
	eventually(t, "the other password", func() bool { return login("another") == nil })
	if login("pw-n1") == nil {
		t.Error("the one of before still serves")
	}
	eventually(t, "who came by it is gone", func() bool { return old.Ping(t.Context()).Err() != nil })

	p.set(func(p *passwords) { delete(p.of, "n1") })
	u.Changed()
	eventually(t, "without a password there is no user", func() bool { return !slices.Contains(userNames(t, r), "node-n1") })
	if err := u.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "aclfile") {
		t.Errorf("ready: %v", err)
	}
}

// Users are on disk where there is an aclfile, and so is what was published: a restart does not
// shut nodes out, and brings back nothing older.
func TestUsersOutliveARestart(t *testing.T) {
	t.Parallel()
	s := servers.RedisForMesh(t, "test")
	c := openConfig(t, asConfig(t, s.Addr))
	u, err := registry.NewUsers(c.Client, asAdmin(t), newPasswords("n1").digest, c.reg)
	if err != nil {
		t.Fatal(err)
	}
	u.Want([]string{"n1"})
	stop := running(t, u.Run)
	eventually(t, "the users", func() bool { return u.State().Users == 1 && u.Ready(t.Context()) == nil })
	stop()
	l := newRevisions()
	l.publish(t, c, world())
	l.publish(t, c, route(1))
	s.Restart(false)
	eventually(t, "the newest revision", func() bool { head, err := c.Head(t.Context()); return err == nil && head.Revision == 2 })
	n := openConfig(t, asNode(t, "n1", s.Addr))
	if err := n.Ping(t.Context()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// Redis replicates no users: they are made at the replica too, and there after a failover.
func TestUsersAreOnEveryServer(t *testing.T) {
	t.Parallel()
	primary, one := plainRedis(t)
	replica, two := plainRedis(t)
	host, port, err := net.SplitHostPort(primary.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := two.Do(t.Context(), "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	sentinel := startSentinel(t, primary.Addr)
	eventually(t, "the Sentinel knows the replica", func() bool {
		replicas, err := raw(t, sentinel).Do(t.Context(), "SENTINEL", "REPLICAS", "main").Slice()
		return err == nil && len(replicas) == 1
	})
	c := openConfig(t, registry.Config{Addresses: []string{sentinel}, MasterName: "main", Mesh: "test"})
	u := keepUsers(t, c, registry.Admin{Username: "default"}, newPasswords("n1", "n2"), "n1", "n2")
	for _, r := range []*redis.Client{one, two} {
		if got := userNames(t, r); !slices.Equal(got, []string{"default", "node-n1", "node-n2"}) {
			t.Errorf("users %v", got)
		}
	}
	u.Want([]string{"n1"})
	eventually(t, "removed on both", func() bool { return len(userNames(t, one)) == 2 && len(userNames(t, two)) == 2 })
	n := openConfig(t, registry.Config{Addresses: []string{sentinel}, MasterName: "main", Mesh: "test", Username: "node-n1", PasswordFile: secretFile(t, "pw-n1")})
	if err := n.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	eventually(t, "the node at the new primary", func() bool { return n.Ping(t.Context()) == nil })
	_ = replica
}

func TestUsersOfACluster(t *testing.T) {
	t.Parallel()
	s, r := plainRedis(t, servers.RedisSetting("cluster-enabled", "yes"))
	if err := r.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster's state", func() bool { return strings.Contains(r.ClusterInfo(t.Context()).Val(), "cluster_state:ok") })
	c := openConfig(t, registry.Config{Addresses: []string{s.Addr, s.Addr}, Mesh: "test"})
	l := newRevisions()
	l.publish(t, c, world())
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
	keepUsers(t, c, registry.Admin{Username: "default"}, newPasswords("n1"), "n1")
	n := openConfig(t, asNode(t, "n1", s.Addr, s.Addr))
	w := registry.NewWatcher(n.Client, nodes.Bundle, registry.WatcherOptions{})
	running(t, w.Run)
	eventually(t, "the configuration", func() bool { return w.Snapshot() != nil })
	answered(t, n.Client)
}

func TestUsersNeedALogin(t *testing.T) {
	t.Parallel()
	c := open(t, "127.0.0.1:1")
	for name, admin := range map[string]registry.Admin{
		"no name":            {},
		"a file that is not": {Username: "x", PasswordFile: filepath.Join(t.TempDir(), "none")},
	} {
		if _, err := registry.NewUsers(c.Client, admin, newPasswords().digest, c.reg); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	u, err := registry.NewUsers(c.Client, registry.Admin{Username: "x"}, newPasswords().digest, c.reg)
	if err != nil {
		t.Fatal(err)
	}
	running(t, u.Run)
	u.Want([]string{"n1"})
	eventually(t, "it is said that Redis is away", func() bool { return mesh.KindOf(u.Ready(t.Context())) == mesh.Unavailable })
	if s := u.State(); s.Servers != 1 || fmt.Sprint(s.Unsaved) != "[]" {
		t.Errorf("state %+v", s)
	}
}

// To end connections can fail when the password is another one already. They are ended later.
func TestConnectionsOfAnOldPasswordAreEndedInTheEnd(t *testing.T) {
	t.Parallel()
	s, r := plainRedis(t)
	rule := func(words ...any) {
		t.Helper()
		if err := r.Do(t.Context(), append([]any{"ACL", "SETUSER", "keeper"}, words...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	rule("on", ">keeper", "~*", "&*", "+@all", "-client|kill")
	c, p := open(t, s.Addr), newPasswords("n1")
	u := keepUsers(t, c, registry.Admin{Username: "keeper", PasswordFile: secretFile(t, "keeper")}, p, "n1")
	before := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "node-n1", Password: "pw-n1", DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = before.Close() })
	old := before.Conn()
	t.Cleanup(func() { _ = old.Close() })
	if err := old.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *passwords) { p.of["n1"] = "another" })
	u.Changed()
	eventually(t, "the other password", func() bool { return strings.Contains(userLine(t, r, "node-n1"), sum("another")) })
	eventually(t, "it is said", func() bool { return u.State().Err != nil })
	looked := u.State().At
	u.Changed()
	eventually(t, "a pass that finds the password as it should be", func() bool { return u.State().At.After(looked) })
	rule("+client|kill")
	u.Changed()
	eventually(t, "who came by the old one is gone", func() bool { return old.Ping(t.Context()).Err() != nil })
	eventually(t, "all is well", func() bool { return u.State().Err == nil })
}
