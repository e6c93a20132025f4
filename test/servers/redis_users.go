package servers

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The users of RedisForMesh; each one's password is its name. Operator is there beside
// those that are shipped, and may do everything.
const (
	RedisConfigUser = "hedgerow-config"
	RedisAdminUser  = "hedgerow-admin"
	RedisOperator   = "operator"
)

// machineSettings are those of deploy/redis/redis.conf that are another machine's.
const machineSettings = " bind port dir tls-port tls-cert-file tls-key-file tls-ca-cert-file tls-replication tls-auth-clients "

// RedisForMesh starts a Redis by the files that operators begin with, deploy/redis, for a
// mesh of this name.
func RedisForMesh(t testing.TB, meshName string, more ...RedisOption) *RedisServer {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, "deploy", "redis", name))
		if err != nil {
			t.Fatalf("a Redis for a mesh: %v", err)
		}
		return string(text)
	}
	acl := strings.ReplaceAll(read("users.acl"), "{hedgerow:default}", "{hedgerow:"+meshName+"}")
	nobody := "#" + strings.Repeat("0", 64)
	for _, user := range []string{RedisConfigUser, RedisAdminUser} {
		before, after, ok := strings.Cut(acl, "user "+user+" on "+nobody)
		if !ok {
			t.Fatalf("deploy/redis/users.acl has no line %q", "user "+user+" on "+nobody+" ...")
		}
		acl = before + "user " + user + " on " + digest(user) + after
	}
	acl += "user " + RedisOperator + " on " + digest(RedisOperator) + " ~* &* +@all\n"
	file := writeSecret(t, filepath.Join(t.TempDir(), "users.acl"), acl)
	options := []RedisOption{RedisUser(RedisOperator, RedisOperator)}
	for line := range strings.Lines(read("redis.conf")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "" || name == "#" || strings.Contains(machineSettings, " "+name+" "):
			continue
		case name == "aclfile":
			value = file
		}
		options = append(options, RedisSetting(name, strings.Trim(value, `"`)))
	}
	return Redis(t, append(options, more...)...)
}

// digest is a password as an aclfile has it.
func digest(password string) string {
	sum := sha256.Sum256([]byte(password))
	return "#" + hex.EncodeToString(sum[:])
}
