package rig

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// passwords is the directory with a password for each node, as the control plane has it.
const passwords = "redis-passwords"

// startRedis starts Redis, and gives each node a password if there are users.
func (m *Mesh) startRedis() {
	m.t.Helper()
	if !m.opt.Users {
		m.Redis = servers.Redis(m.t)
		return
	}
	m.Redis = servers.RedisForMesh(m.t, Name)
	if err := os.MkdirAll(filepath.Join(m.Dir, passwords), 0o700); err != nil {
		m.t.Fatal(err)
	}
	for _, user := range []string{servers.RedisConfigUser, servers.RedisAdminUser} {
		m.write(user, user)
	}
	for _, node := range m.opt.Nodes {
		m.write(filepath.Join(passwords, node.Name), "password-of-"+node.Name)
	}
}

// controlRedis is how the control plane logs in.
func (m *Mesh) controlRedis() config {
	c := config{"addresses": []string{m.Redis.Addr}}
	if m.opt.Users {
		c["username"], c["passwordFile"] = servers.RedisConfigUser, filepath.Join(m.Dir, servers.RedisConfigUser)
		c["admin"] = config{
			"username": servers.RedisAdminUser, "passwordFile": filepath.Join(m.Dir, servers.RedisAdminUser),
			"passwordDir": filepath.Join(m.Dir, passwords),
		}
	}
	return c
}

// nodeRedis is how a data plane logs in.
func (m *Mesh) nodeRedis(node string) config {
	c := config{"addresses": []string{m.Redis.Addr}}
	if m.opt.Users {
		c["username"], c["passwordFile"] = "node-"+node, filepath.Join(m.Dir, passwords, node)
	}
	return c
}

// NodeRedis is the key "redis" of a data plane's configuration, as JSON.
func (m *Mesh) NodeRedis(node string) string {
	m.t.Helper()
	text, err := json.Marshal(m.nodeRedis(node))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}
