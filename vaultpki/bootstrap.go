package vaultpki

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	policies "github.com/hedgerow-mesh/hedgerow/deploy/vault"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What a bootstrap makes, and the rest of the package uses. There is one mesh in one
// Vault, or in one namespace of it.
const (
	mountRoot    = "pki_root"
	MountMesh    = "pki_mesh" // certificates of services and gateways
	MountNode    = "pki_node" // certificates of nodes, which log in to Vault
	mountKV      = "kv"
	mountTransit = "transit"

	nodePolicy    = "hedgerow-node"
	controlPolicy = "hedgerow-control"
	controlRole   = "hedgerow-control" // an AppRole
	transitKey    = "hedgerow"

	kvMesh = mountKV + "/data/hedgerow/mesh"
)

// Lifetimes of CAs. An issuer begins before its leaves do, which are backdated by five
// minutes: Vault signs none that begins before its issuer.
const (
	rootLife         = "87600h" // 10 years
	intermediateLife = "43800h"
	rootBackdate     = "2h"
	issuerBackdate   = "1h"
)

// Bootstrap says what a Vault is set up for.
type Bootstrap struct {
	Mesh        string
	TrustDomain string
	// Credentials is the directory that gets role-id and secret-id of the control
	// plane's AppRole, and the roots of the mesh in mesh-ca.pem, 0600.
	Credentials string
	// DryRun has nothing written, there or here.
	DryRun bool
	// Out is told each write.
	Out io.Writer
}

// bootstrap is one run.
type bootstrap struct {
	Bootstrap
	v      *Vault
	writes int
}

// Bootstrap sets up an empty Vault for a mesh, or what is missing in it, and returns how
// many writes that took; with DryRun how many it would. It needs a token that may do
// everything. What is there and is another's, such as an engine of another type at a
// mount, is an error of kind Conflict.
func (v *Vault) Bootstrap(ctx context.Context, cfg Bootstrap) (int, error) {
	const op = "vaultpki.Bootstrap"
	if !mesh.ValidID(cfg.Mesh) {
		return 0, mesh.Errorf(op, cfg.Mesh, mesh.Invalid, "--mesh: %.80q is not a name of 1 to 63 characters a-z, 0-9 and '-'", cfg.Mesh)
	}
	if err := mesh.CheckTrustDomain(cfg.TrustDomain); err != nil {
		return 0, mesh.Errorf(op, cfg.TrustDomain, mesh.Invalid, "--trust-domain: %w", err)
	}
	if cfg.Credentials == "" {
		return 0, mesh.Errorf(op, cfg.Mesh, mesh.Invalid, "--credentials: say where the control plane's role-id and secret-id go")
	}
	b := &bootstrap{Bootstrap: cfg, v: v}
	for _, step := range []func(context.Context) error{
		b.checkMesh, b.mounts, b.root, b.intermediates, b.transit, b.policies, b.marker, b.control, b.roots,
	} {
		if err := step(ctx); err != nil {
			return b.writes, err
		}
	}
	return b.writes, nil
}

// read returns what is at path; nil if nothing is, or no engine yet.
func (b *bootstrap) read(ctx context.Context, path string) (map[string]any, error) {
	data, err := b.v.read(ctx, "bootstrap", path)
	if mesh.KindOf(err) == mesh.NotFound {
		return nil, nil
	}
	return data, err
}

// write writes, or says so, and returns the answer's data.
func (b *bootstrap) write(ctx context.Context, path string, data map[string]any) (map[string]any, error) {
	b.writes++
	if b.DryRun {
		b.say("would write %s", path)
		return nil, nil
	}
	answer, err := b.v.write(ctx, "bootstrap", path, data)
	if err != nil {
		return nil, err
	}
	b.say("wrote %s", path)
	return answer, nil
}

func (b *bootstrap) say(format string, args ...any) {
	fmt.Fprintf(b.Out, format+"\n", args...) //nolint:errcheck // what was done is in Vault
}

// checkMesh refuses a Vault of another mesh, before anything is written.
func (b *bootstrap) checkMesh(ctx context.Context) error {
	was, err := b.read(ctx, kvMesh)
	if err != nil || was == nil {
		return err
	}
	data, _ := was["data"].(map[string]any)
	if data["mesh"] != b.Mesh || data["trustDomain"] != b.TrustDomain {
		return mesh.Errorf("vaultpki.Bootstrap", b.Mesh, mesh.Conflict, "this Vault is that of mesh %v in trust domain %v", data["mesh"], data["trustDomain"]).
			WithHint("one Vault, or namespace, serves one mesh: correct --mesh and --trust-domain, or use another")
	}
	return nil
}

// mounts makes the engines and logins that are missing.
func (b *bootstrap) mounts(ctx context.Context) error {
	engines, err := b.read(ctx, "sys/mounts")
	if err != nil {
		return err
	}
	logins, err := b.read(ctx, "sys/auth")
	if err != nil {
		return err
	}
	for _, m := range []struct {
		there   map[string]any
		at, typ string
		under   string
		body    map[string]any
	}{
		{engines, mountRoot, "pki", "sys/mounts/", map[string]any{"config": map[string]any{"max_lease_ttl": rootLife}}},
		{engines, MountMesh, "pki", "sys/mounts/", map[string]any{"config": map[string]any{"max_lease_ttl": intermediateLife}}},
		{engines, MountNode, "pki", "sys/mounts/", map[string]any{"config": map[string]any{"max_lease_ttl": intermediateLife}}},
		{engines, mountKV, "kv", "sys/mounts/", map[string]any{"options": map[string]any{"version": "2"}}},
		{engines, mountTransit, "transit", "sys/mounts/", map[string]any{}},
		{logins, "approle", "approle", "sys/auth/", map[string]any{}},
		{logins, "cert", "cert", "sys/auth/", map[string]any{}},
	} {
		if is, found := m.there[m.at+"/"].(map[string]any); found {
			options, _ := is["options"].(map[string]any)
			if is["type"] != m.typ || m.typ == "kv" && options["version"] != "2" {
				return mesh.Errorf("vaultpki.Bootstrap", m.under+m.at, mesh.Conflict, "it is there and of type %v, version %v", is["type"], options["version"]).
					WithHint("use a Vault, or a namespace of it, for the mesh alone")
			}
			continue
		}
		m.body["type"] = m.typ
		if _, err := b.write(ctx, m.under+m.at, m.body); err != nil {
			return err
		}
	}
	return nil
}

// hasIssuer reports whether a PKI engine can sign.
func (b *bootstrap) hasIssuer(ctx context.Context, mount string) (bool, error) {
	keys, err := b.v.list(ctx, "bootstrap", mount+"/issuers")
	return len(keys) > 0, err
}

// root makes the root of the mesh, whose key never leaves Vault.
func (b *bootstrap) root(ctx context.Context) error {
	has, err := b.hasIssuer(ctx, mountRoot)
	if err != nil || has {
		return err
	}
	_, err = b.write(ctx, mountRoot+"/root/generate/internal", map[string]any{
		"common_name": "hedgerow " + b.Mesh + " root", "exclude_cn_from_sans": true, "uri_sans": "spiffe://" + b.TrustDomain,
		"issuer_name": "root", "key_type": "ec", "key_bits": 256, "ttl": rootLife, "not_before_duration": rootBackdate, "max_path_length": 1,
	})
	return err
}

// intermediates makes the two issuers, which the root signs and which sign leaves only.
func (b *bootstrap) intermediates(ctx context.Context) error {
	for _, mount := range []string{MountMesh, MountNode} {
		has, err := b.hasIssuer(ctx, mount)
		if err != nil {
			return err
		}
		if has {
			continue
		}
		name := "hedgerow " + b.Mesh + " " + strings.TrimPrefix(mount, "pki_")
		csr, err := b.write(ctx, mount+"/intermediate/generate/internal", map[string]any{
			"common_name": name, "exclude_cn_from_sans": true, "uri_sans": "spiffe://" + b.TrustDomain, "key_type": "ec", "key_bits": 256,
		})
		if err != nil {
			return err
		}
		signed, err := b.write(ctx, mountRoot+"/root/sign-intermediate", map[string]any{
			"csr": csr["csr"], "common_name": name, "exclude_cn_from_sans": true, "uri_sans": "spiffe://" + b.TrustDomain,
			"ttl": intermediateLife, "not_before_duration": issuerBackdate, "max_path_length": 0, "format": "pem",
		})
		if err != nil {
			return err
		}
		chain := fmt.Sprintf("%v\n%v", signed["certificate"], signed["issuing_ca"])
		if _, err := b.write(ctx, mount+"/intermediate/set-signed", map[string]any{"certificate": chain}); err != nil {
			return err
		}
	}
	return nil
}

// transit makes the key that signs configuration. It cannot be taken out of Vault.
func (b *bootstrap) transit(ctx context.Context) error {
	const path = mountTransit + "/keys/" + transitKey
	key, err := b.read(ctx, path)
	if err != nil {
		return err
	}
	if key == nil {
		_, err = b.write(ctx, path, map[string]any{"type": "ed25519", "exportable": false, "allow_plaintext_backup": false})
		return err
	}
	if key["type"] != "ed25519" || key["exportable"] == true {
		return mesh.Errorf("vaultpki.Bootstrap", path, mesh.Conflict, "it is of type %v, exportable: %v", key["type"], key["exportable"]).
			WithHint("an ed25519 key that cannot be exported is needed: use a Vault for the mesh alone")
	}
	return nil
}

// policies writes the two policies if they are not those of this program.
func (b *bootstrap) policies(ctx context.Context) error {
	for _, p := range []struct{ name, text string }{{nodePolicy, policies.NodePolicy}, {controlPolicy, policies.ControlPolicy}} {
		path := "sys/policies/acl/" + p.name
		was, err := b.read(ctx, path)
		if err != nil {
			return err
		}
		if was["policy"] == p.text {
			continue
		}
		if _, err := b.write(ctx, path, map[string]any{"policy": p.text}); err != nil {
			return err
		}
	}
	return nil
}

// marker writes down whose Vault it is, and what names its logins have, which a control
// plane may not ask for.
func (b *bootstrap) marker(ctx context.Context) error {
	was, err := b.read(ctx, kvMesh)
	if err != nil || was != nil {
		return err
	}
	logins, err := b.read(ctx, "sys/auth")
	if err != nil {
		return err
	}
	accessor := func(at string) any {
		login, _ := logins[at+"/"].(map[string]any)
		return login["accessor"]
	}
	body := map[string]any{
		"options": map[string]any{"cas": 0},
		"data":    map[string]any{"mesh": b.Mesh, "trustDomain": b.TrustDomain, "appRole": accessor("approle"), "cert": accessor("cert")},
	}
	// A new KV engine says for a moment that it is being upgraded.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := b.write(ctx, kvMesh, body)
		var refused *api.ResponseError
		if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest || !strings.Contains(err.Error(), "pgrading") {
			return err
		}
		b.writes--
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// control makes the control plane's login, and writes its credentials unless they are
// there.
func (b *bootstrap) control(ctx context.Context) error {
	const path = "auth/approle/role/" + controlRole
	role, err := b.read(ctx, path)
	if err != nil {
		return err
	}
	if list, _ := role["token_policies"].([]any); !slices.Equal(list, []any{controlPolicy}) {
		_, err := b.write(ctx, path, map[string]any{
			"token_policies": controlPolicy, "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h",
		})
		if err != nil {
			return err
		}
	}
	roleFile, secretFile := filepath.Join(b.Credentials, "role-id"), filepath.Join(b.Credentials, "secret-id")
	if exists(roleFile) && exists(secretFile) {
		return nil
	}
	if b.DryRun {
		b.writes++
		b.say("would write %s/secret-id, and %s and %s", path, roleFile, secretFile)
		return nil
	}
	id, err := b.v.read(ctx, "bootstrap", path+"/role-id")
	if err != nil {
		return err
	}
	secret, err := b.write(ctx, path+"/secret-id", nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.Credentials, 0o700); err != nil {
		return mesh.Errorf("vaultpki.Bootstrap", b.Credentials, mesh.Invalid, "%w", err)
	}
	for file, content := range map[string]any{roleFile: id["role_id"], secretFile: secret["secret_id"]} {
		if err := writeSecret(file, fmt.Sprint(content)); err != nil {
			return err
		}
		b.say("wrote %s", file)
	}
	return nil
}

// roots writes the roots of the mesh's certificates, by which a control plane knows nodes.
func (b *bootstrap) roots(ctx context.Context) error {
	file := filepath.Join(b.Credentials, "mesh-ca.pem")
	if exists(file) {
		return nil
	}
	b.writes++
	if b.DryRun {
		b.say("would write %s", file)
		return nil
	}
	client, err := b.v.Client(MountMesh, "any")
	if err != nil {
		return err
	}
	bundle, err := client.Bundle(ctx, b.TrustDomain)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, root := range bundle.Roots() {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}); err != nil {
			return mesh.Errorf("vaultpki.Bootstrap", file, mesh.Internal, "%w", err)
		}
	}
	if err := writeSecret(file, strings.TrimSpace(text.String())); err != nil {
		return err
	}
	b.say("wrote %s", file)
	return nil
}

func exists(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Size() > 0
}

// writeSecret replaces a file that only its owner may read.
func writeSecret(file, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // 0600
	if err != nil {
		return mesh.Errorf("vaultpki.Write", file, mesh.Invalid, "%w", err)
	}
	_, err = tmp.WriteString(content + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return mesh.Errorf("vaultpki.Write", file, mesh.Invalid, "%w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
