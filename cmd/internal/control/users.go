package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Redis is where Redis is, and who makes the users of nodes there.
type Redis struct {
	registry.Config `yaml:",inline"`
	Admin           RedisAdmin `yaml:"admin"`
}

// RedisAdmin is how the users of nodes are made.
type RedisAdmin struct {
	registry.Admin `yaml:",inline"`
	PasswordDir    string `yaml:"passwordDir" help:"directory with one file for each node, named as the node is, that holds the password of its Redis user"`
	Passwords      string `yaml:"passwords" help:"vault: passwords are made and kept in Vault, where each node reads its own; instead of passwordDir"`
}

// validate reports what is wrong.
func (a *RedisAdmin) validate() error {
	switch {
	case a.Passwords != "" && a.Passwords != inVault:
		return fmt.Errorf("redis.admin.passwords: %q is not vault", a.Passwords)
	case a.Passwords != "" && a.PasswordDir != "":
		return errors.New("redis.admin: passwords and passwordDir exclude each other")
	case (a.Username == "") != (a.PasswordDir == "" && a.Passwords == ""):
		return errors.New("redis.admin: username goes together with passwordDir, or with passwords: vault; without them the users of nodes are yours to make")
	}
	return nil
}

// maxPasswordBytes bounds the file of a password.
const maxPasswordBytes = 4 << 10

// digest is the registry.PasswordDigest of a directory.
func (a *RedisAdmin) digest(_ context.Context, node string) (string, error) {
	const op = "control.PasswordDigest"
	if !mesh.ValidID(node) {
		return "", mesh.Errorf(op, node, mesh.Invalid, "it is not a node id")
	}
	file := filepath.Join(a.PasswordDir, node)
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", mesh.Errorf(op, node, mesh.NotFound, "%w", err)
	case err != nil:
		return "", mesh.Errorf(op, node, mesh.Invalid, "%w", err)
	case info.Mode().Perm()&0o077 != 0 || info.Size() > maxPasswordBytes:
		return "", mesh.Errorf(op, node, mesh.Invalid, "%s has %d bytes and mode %04o: it is to be readable by its owner alone", file, info.Size(), info.Mode().Perm()).
			WithHint("chmod 600 " + file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", mesh.Errorf(op, node, mesh.Invalid, "%w", err)
	}
	password, _, _ := strings.Cut(string(raw), "\n")
	if password = strings.TrimSuffix(password, "\r"); password == "" {
		return "", mesh.Errorf(op, node, mesh.Invalid, "%s is empty", file)
	}
	return digestOf(password), nil
}

func digestOf(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// digestInVault is the registry.PasswordDigest of passwords in Vault, made as they are asked for.
func digestInVault(admin *vaultpki.Admin) registry.PasswordDigest {
	return func(ctx context.Context, node string) (string, error) {
		password, err := admin.EnsureRedisPassword(ctx, node)
		if err != nil {
			return "", err
		}
		return digestOf(password), nil
	}
}

// newUsers returns what makes the users of nodes, nil if nothing is to. admin is nil without a Vault.
func (a *RedisAdmin) newUsers(client *registry.Client, admin *vaultpki.Admin, reg prometheus.Registerer) (*registry.Users, error) {
	switch {
	case a.Username == "":
		return nil, nil
	case a.Passwords != inVault:
		return registry.NewUsers(client, a.Admin, a.digest, reg)
	case admin == nil:
		return nil, errors.New("redis.admin.passwords: vault needs a Vault; set vault.address")
	}
	return registry.NewUsers(client, a.Admin, digestInVault(admin), reg)
}

// usersCheck is what /readyz says of them. Without a user a node is shut out, and writes
// are possible all the same.
func usersCheck(users *registry.Users) []controlapi.Check {
	if users == nil {
		return nil
	}
	return []controlapi.Check{{Name: "redis users", Ready: users.Ready, Advisory: true}}
}
