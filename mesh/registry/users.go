package registry

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// userPrefix begins the names of the Redis users of nodes.
const userPrefix = "node-"

// UserName returns the name of a node's Redis user.
func UserName(node string) string { return userPrefix + node }

// userRules are what the user of a node may do and no more, as for ACL SETUSER: read
// what every node reads, and write what it registers, hints that it did, and its share
// of rates. The digest is the SHA-256 of its password, in hex. A node's id goes into
// patterns, in which * and others mean more: what is no id is refused.
func (k keys) userRules(node, digest string) ([]string, error) {
	if !mesh.ValidID(node) {
		return nil, fmt.Errorf("%.70q is not a node id", node)
	}
	if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 || digest != strings.ToLower(digest) {
		return nil, fmt.Errorf("the password's digest of node %s is not SHA-256 in hex", node)
	}
	rules := []string{
		"reset", "on", "#" + digest,
		"+ping", "+hello", "+auth", "+client|setname", "+client|id", "+multi", "+exec",
		"+command", "+cluster|slots", "+cluster|shards", "+readonly", // what a client of a Cluster asks
		"+get", "+getrange", "+mget", "+exists", "+hgetall", "+pttl", "+xread", "+xrange", "+xrevrange", "+xlen",
	}
	for _, pattern := range []string{k.config(), k.changes(), k.head(), k.signers(), k.prefix + "inst:*", k.prefix + "ev:*", k.prefix + "dev:" + node} {
		rules = append(rules, "%R~"+pattern)
	}
	return append(rules,
		"(-@all +set +del +pexpire ~"+k.prefix+"inst:"+node+"/*)",
		"(-@all +xadd %W~"+k.prefix+"ev:*)",
		// The function's own commands are held against the rights of who calls it.
		"(-@all +fcall +time +get +set ~"+k.prefix+"rl:*)",
	), nil
}

// listedUser is a line of ACL LIST: "user node-edge7 on #... %R~{hedgerow:default}:head ...".
type listedUser struct {
	name, line string
}

// listedUsers returns those of nodes, of whatever mesh.
func listedUsers(lines []string) map[string]listedUser {
	users := map[string]listedUser{}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], userPrefix) {
			users[fields[1]] = listedUser{fields[1], line}
		}
	}
	return users
}

// ours reports whether the user has keys of this mesh: several may share a Redis.
func (u listedUser) ours(k keys) bool { return strings.Contains(u.line, "~"+k.prefix) }

// has reports whether the password with this digest is the user's.
func (u listedUser) has(digest string) bool {
	return slices.Contains(strings.Fields(u.line), "#"+digest)
}
