// Package enrolment is how a host becomes a node: it trades the token of a join file for the
// node's certificate, step by step, and leaves in the data directory what the processes of
// the node need.
//
// It does not know Vault (an Authority does), makes no tokens, and renews nothing: that is
// for identity.Node, which it leaves the first certificate to.
//
// Invariant: every secret is on disk, for its owner alone, before it is used, so that a
// crash at any step is made up for by running it again.
package enrolment

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// JoinFile is what the control API answers to nodes/<id>:join.
type JoinFile struct {
	Node               string       `json:"node"`
	Token              string       `json:"token"` // secret
	ExpireTime         time.Time    `json:"expireTime"`
	Mesh               string       `json:"mesh"`
	TrustDomain        string       `json:"trustDomain"`
	ConfigurationRoots string       `json:"configurationRoots"`
	Vault              Vault        `json:"vault"`
	Redis              Redis        `json:"redis"`
	ControlPlane       ControlPlane `json:"controlPlane"`
}

// Vault is where the node gets certificates.
type Vault struct {
	Addresses []string `json:"addresses"`
	CAPem     string   `json:"caPem,omitempty"`
	RoleID    string   `json:"roleId,omitempty"`
}

// Redis is where the node finds configuration and peers.
type Redis struct {
	Addresses  []string `json:"addresses"`
	MasterName string   `json:"masterName,omitempty"`
	TLS        bool     `json:"tls,omitempty"`
	CAPem      string   `json:"caPem,omitempty"`
	ServerName string   `json:"serverName,omitempty"`
	// PasswordInVault says that the node logs in as its own user, with a password that it
	// reads there.
	PasswordInVault bool `json:"passwordInVault,omitempty"`
}

// ControlPlane is where the node says what became of the token.
type ControlPlane struct {
	URL   string `json:"url"`
	CAPem string `json:"caPem,omitempty"`
}

// maxJoinBytes bounds a join file, and the record that is left.
const maxJoinBytes = 256 << 10

// ReadJoinFile reads and checks a join file. Errors are of kind Invalid.
func ReadJoinFile(file string) (*JoinFile, error) {
	const op = "enrolment.ReadJoinFile"
	raw, err := readSecret(file)
	switch {
	case errors.Is(err, errMode):
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err).WithHint("chmod 600 " + file + " if nobody has; else make another with: hedgerow node join NODE -o FILE")
	case err != nil:
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err).WithHint("make one with: hedgerow node join NODE -o FILE")
	}
	j := new(JoinFile)
	if err := json.Unmarshal(raw, j); err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err).WithHint("make one with: hedgerow node join NODE -o FILE")
	}
	if err := j.check(); err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%s", strings.Join(strings.Split(err.Error(), "\n"), "; "))
	}
	return j, nil
}

// check reports everything that is wrong with it at once.
func (j *JoinFile) check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for field, id := range map[string]string{"node": j.Node, "mesh": j.Mesh} {
		if !mesh.ValidID(id) {
			add("%s: %.80q is not an id", field, id)
		}
	}
	if err := mesh.CheckTrustDomain(j.TrustDomain); err != nil {
		add("trustDomain: %w", err)
	}
	if j.Token == "" || strings.ContainsAny(j.Token, " \t\r\n") {
		add("token: it is missing, or not one word")
	}
	if _, err := signing.ParsePublicKeys([]byte(j.ConfigurationRoots)); err != nil {
		add("configurationRoots: %w", err)
	}
	if len(j.Vault.Addresses) == 0 || j.Vault.RoleID == "" {
		add("vault: addresses and roleId are needed")
	}
	if len(j.Redis.Addresses) == 0 {
		add("redis: addresses are needed")
	}
	for field, text := range map[string]string{"vault.caPem": j.Vault.CAPem, "redis.caPem": j.Redis.CAPem, "controlPlane.caPem": j.ControlPlane.CAPem} {
		if text == "" {
			continue
		}
		if _, err := identity.ParseCertificates([]byte(text)); err != nil {
			add("%s: %w", field, err)
		}
	}
	if err := checkURL(j.ControlPlane.URL); err != nil {
		add("controlPlane.url: %w", err)
	}
	return errors.Join(errs...)
}

// checkURL accepts what a proof may be sent to.
func checkURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return err
	case u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("%.80q is not scheme, host and port", u.Redacted())
	case u.Scheme == "https", u.Scheme == "http" && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()):
		return nil
	}
	return fmt.Errorf("%.80q is not https", u.Redacted())
}

// proof is what is said of the token to those who may not have it.
func (j *JoinFile) proof() string {
	sum := sha256.Sum256([]byte(j.Token))
	return hex.EncodeToString(sum[:])
}

// id returns the identity of the node.
func (j *JoinFile) id() (mesh.ID, error) { return mesh.NodeID(j.TrustDomain, j.Node) }

// Record is what an enrolment leaves for the processes of the node. Names of files are
// absolute; "" is none.
type Record struct {
	Node        string   `json:"node"`
	Mesh        string   `json:"mesh"`
	TrustDomain string   `json:"trustDomain"`
	Vault       []string `json:"vault"` // addresses
	Redis       Redis    `json:"redis"`
	Proof       string   `json:"proof"`    // of the token
	Reported    bool     `json:"reported"` // the control plane knows
	VaultCA     bool     `json:"vaultCa"`

	dir string
}

// Names below dataDir.
const (
	dirName      = "enrolment"
	recordName   = "node.json"
	rootsName    = "roots.pem"
	vaultName    = "vault-ca.pem"
	redisName    = "redis-ca.pem"
	passwordName = "redis-password"

	// IdentityDir is where identities are, the node's own with the others.
	IdentityDir = "identity"
)

// RootsFile is where the public root keys of the configuration are.
func (r *Record) RootsFile() string { return filepath.Join(r.dir, rootsName) }

// VaultCAFile is where the CAs of Vault are; "" if those are the system's.
func (r *Record) VaultCAFile() string {
	if !r.VaultCA {
		return ""
	}
	return filepath.Join(r.dir, vaultName)
}

// RedisCAFile is where the CAs of Redis are; "" if those are the system's.
func (r *Record) RedisCAFile() string {
	if r.Redis.CAPem == "" {
		return ""
	}
	return filepath.Join(r.dir, redisName)
}

// RedisPasswordFile is where the password of the node's user in Redis is; "" if it has none
// from Vault.
func (r *Record) RedisPasswordFile() string {
	if !r.Redis.PasswordInVault {
		return ""
	}
	return filepath.Join(r.dir, passwordName)
}

// KeepRedisPassword replaces the password in RedisPasswordFile.
func (r *Record) KeepRedisPassword(password string) error {
	if err := writeFile(r.RedisPasswordFile(), []byte(password+"\n")); err != nil {
		return mesh.Errorf("enrolment.Save", r.RedisPasswordFile(), mesh.Unavailable, "%w", err)
	}
	return nil
}

// Load returns what an enrolment left in dataDir, nil if there was none. An error of kind
// Invalid says that it cannot be read.
func Load(dataDir string) (*Record, error) {
	dir, err := filepath.Abs(filepath.Join(dataDir, dirName))
	if err != nil {
		return nil, mesh.Errorf("enrolment.Load", dataDir, mesh.Invalid, "%w", err)
	}
	file := filepath.Join(dir, recordName)
	raw, err := readSecret(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a host that has not enrolled
	}
	r := &Record{dir: dir}
	if err == nil {
		err = json.Unmarshal(raw, r)
	}
	if err == nil && (!mesh.ValidID(r.Node) || !mesh.ValidID(r.Mesh) || len(r.Vault) == 0 || len(r.Redis.Addresses) == 0) {
		err = errors.New("it lacks node, mesh, vault or redis")
	}
	if err != nil {
		return nil, mesh.Errorf("enrolment.Load", file, mesh.Invalid, "%w", err).WithHint("enrol the node again: hedgerow node join, then hedgerow enroll")
	}
	return r, nil
}

// errMode is in the chain of what readSecret returns of a file that is not its owner's alone.
var errMode = errors.New("others than its owner may have read it")

// readSecret reads a file that nobody but its owner may read.
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("its mode is %04o: %w", info.Mode().Perm(), errMode)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxJoinBytes+1))
	if err == nil && len(raw) > maxJoinBytes {
		err = fmt.Errorf("over %d bytes", maxJoinBytes)
	}
	return raw, err
}

// writeFile replaces a file (0600), as a whole or not at all, and returns once it is on disk.
func writeFile(file string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
