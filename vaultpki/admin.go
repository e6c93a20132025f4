package vaultpki

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Node says who a node may be: the services it may run and the gateways it may serve.
type Node struct {
	Name     string
	Services []string
	Gateways []string
	// Since is from when on it is this node: certificates of one that had its name before
	// log nobody in. The zero Time leaves it open.
	Since time.Time
}

// unit is the organizational unit of the node's own certificates, by which a login tells
// them from those of before; "" is any. Nothing else of a certificate lasts through
// renewals, and what Vault stores none of it cannot revoke.
func (n *Node) unit() string {
	if n.Since.IsZero() {
		return ""
	}
	return "since " + n.Since.UTC().Format(time.RFC3339Nano)
}

// ids returns the identities of the node's leaves, exact and in order.
func (n *Node) ids(trustDomain string) ([]string, error) {
	var ids []string
	add := func(id mesh.ID, err error) error {
		if err == nil {
			ids = append(ids, id.String())
		}
		return err
	}
	var errs []error
	for _, service := range n.Services {
		errs = append(errs, add(mesh.ServiceID(trustDomain, service, n.Name)))
	}
	for _, gateway := range n.Gateways {
		errs = append(errs, add(mesh.GatewayID(trustDomain, gateway)))
	}
	slices.Sort(ids)
	return slices.Compact(ids), errors.Join(errs...)
}

// Admin makes and withdraws nodes in a Vault that Bootstrap has set up. It is what a
// control plane may by the policy hedgerow-control. Every method may be repeated after it
// failed, and does then what is left. Errors are of kind Invalid for names that are none,
// Unavailable if Vault is away, and Denied if its policy does not allow it.
type Admin struct {
	v           *Vault
	trustDomain string
}

// Admin returns an Admin of the trust domain.
func (v *Vault) Admin(trustDomain string) *Admin { return &Admin{v: v, trustDomain: trustDomain} }

// invitationLife is how long a secret_id, and the token that it is wrapped in, are good.
const invitationLife = 15 * time.Minute

// Put makes the node, or has it be who n says from its next certificate on: a PKI role for
// its leaves and one for its own certificate, an entity of its name, and the login by that
// certificate. It withdraws no certificate, but with another Since those of before log
// nobody in.
func (a *Admin) Put(ctx context.Context, n Node) error {
	const op = "vaultpki.PutNode"
	if err := checkNode(op, n.Name); err != nil {
		return err
	}
	self, err := mesh.NodeID(a.trustDomain, n.Name)
	if err != nil {
		return err
	}
	ids, err := n.ids(a.trustDomain)
	if err != nil {
		return &mesh.Error{Op: op, Name: n.Name, Kind: mesh.Invalid, Err: err}
	}
	marker, err := a.v.marker(ctx)
	if err != nil {
		return err
	}
	issuers, err := a.issuers(ctx)
	if err != nil {
		return err
	}
	leaf := pkiRole("24h")
	leaf["allowed_uri_sans"], leaf["require_cn"], leaf["use_csr_common_name"], leaf["allow_bare_domains"] = ids, "false", "false", "false"
	own := pkiRole("168h")
	own["allowed_uri_sans"], own["require_cn"], own["use_csr_common_name"], own["allow_bare_domains"] = []string{self.String()}, "true", "true", "true"
	own["allowed_domains"], own["ou"] = []string{n.Name}, n.unit()
	for path, data := range map[string]map[string]any{
		MountMesh + "/roles/" + n.Name: leaf,
		MountNode + "/roles/" + n.Name: own,
		"auth/cert/certs/" + n.Name: {
			"certificate": issuers, "allowed_common_names": n.Name, "allowed_uri_sans": self.String(), "allowed_organizational_units": n.unit(),
			"token_policies": nodePolicy, "token_no_default_policy": "true", "token_ttl": "1h", "token_max_ttl": "24h",
		},
	} {
		if _, err := a.v.write(ctx, "admin", path, data); err != nil {
			return err
		}
	}
	return a.entity(ctx, n.Name, n.Name, marker.cert)
}

// checkNode refuses what is not a node's name. Names go into paths as they are, and one of
// an AppRole is taken.
func checkNode(op, node string) error {
	if !mesh.ValidID(node) || node == controlRole {
		return mesh.Errorf(op, node, mesh.Invalid, "%.80q is not the name of a node: 1 to 63 characters a-z, 0-9 and '-', and not %s", node, controlRole)
	}
	return nil
}

// pkiRole is what the roles have in common. The policy hedgerow-control fixes each value.
func pkiRole(life string) map[string]any {
	return map[string]any{
		"allow_any_name": "false", "allow_ip_sans": "false", "allow_localhost": "false", "allow_wildcard_certificates": "false",
		"client_flag": "true", "server_flag": "true", "key_type": "ec", "key_bits": "256",
		"max_ttl": life, "no_store": "true", "not_before_duration": "5m",
	}
}

// issuers returns the issuers of node certificates, PEM, which logins are held to. While
// one replaces another there are two.
func (a *Admin) issuers(ctx context.Context) (string, error) {
	client, err := a.v.Client(MountNode, "any")
	if err != nil {
		return "", err
	}
	keys, err := client.issuerKeys(ctx)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, key := range keys {
		chain, err := client.readIssuer(ctx, key)
		if err != nil {
			return "", err
		}
		if len(chain) == 0 {
			return "", mesh.Errorf("vaultpki.ReadIssuers", MountNode, mesh.Unavailable, "issuer %.100q has no certificate", key)
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: chain[0].Raw}); err != nil {
			return "", mesh.Errorf("vaultpki.ReadIssuers", MountNode, mesh.Internal, "%w", err)
		}
	}
	return out.String(), nil
}

// entity makes the entity of the node, enabled, whom the login at accessor calls name.
func (a *Admin) entity(ctx context.Context, node, name, accessor string) error {
	path := "identity/entity/name/" + node
	if _, err := a.v.write(ctx, "admin", path, map[string]any{"disabled": false, "metadata": map[string]any{"mesh": "hedgerow"}}); err != nil {
		return err
	}
	data, err := a.v.read(ctx, "admin", path)
	if err != nil {
		return err
	}
	aliases, _ := data["aliases"].([]any)
	for _, alias := range aliases {
		if is, ok := alias.(map[string]any); ok && is["name"] == name && is["mount_accessor"] == accessor {
			return nil
		}
	}
	_, err = a.v.write(ctx, "admin", "identity/entity-alias", map[string]any{"name": name, "canonical_id": data["id"], "mount_accessor": accessor})
	return err
}

// Invitation lets whoever has it log in as a node, once.
type Invitation struct {
	RoleID string // the node's name: the entity's alias stays from one to the next
	// WrapToken is what the secret_id is wrapped in: it is handed out once, to whoever
	// asks first. It is a secret.
	WrapToken string
	// Accessor tells, by Pending, whether it was; it is no secret.
	Accessor string
	// CreationPath is what sys/wrapping/lookup says of a genuine WrapToken.
	CreationPath string
	Expires      time.Time
}

// Invite makes an invitation for a node that was Put, and voids those of before. cidrs, if
// any, are where it may be used from.
func (a *Admin) Invite(ctx context.Context, node string, cidrs ...string) (*Invitation, error) {
	const op = "vaultpki.Invite"
	if err := checkNode(op, node); err != nil {
		return nil, err
	}
	marker, err := a.v.marker(ctx)
	if err != nil {
		return nil, err
	}
	// With the role every secret_id of it goes.
	path := "auth/approle/role/" + node
	if err := a.v.remove(ctx, "admin", path); err != nil {
		return nil, err
	}
	role := map[string]any{
		"role_id": node, "bind_secret_id": "true", "secret_id_num_uses": "1", "secret_id_ttl": "15m",
		"token_policies": nodePolicy, "token_no_default_policy": "true", "token_ttl": "1h", "token_max_ttl": "1h",
	}
	if len(cidrs) > 0 {
		role["secret_id_bound_cidrs"] = cidrs
	}
	if _, err := a.v.write(ctx, "admin", path, role); err != nil {
		return nil, err
	}
	if err := a.entity(ctx, node, node, marker.appRole); err != nil {
		return nil, err
	}
	secret, err := a.v.writeSecret(ctx, "admin", path+"/secret-id", nil) // wrapped, see newAPI
	if err != nil {
		return nil, err
	}
	if secret == nil || secret.WrapInfo == nil || secret.WrapInfo.Token == "" {
		return nil, mesh.Errorf(op, node, mesh.Unavailable, "Vault's answer holds no wrapped secret_id")
	}
	wrap := secret.WrapInfo
	return &Invitation{
		RoleID: node, WrapToken: wrap.Token, Accessor: wrap.Accessor, CreationPath: wrap.CreationPath,
		Expires: wrap.CreationTime.Add(time.Duration(wrap.TTL) * time.Second),
	}, nil
}

// Pending reports whether the invitation of the accessor may still be used: nobody has
// unwrapped it, and it has not expired.
func (a *Admin) Pending(ctx context.Context, accessor string) (bool, error) {
	token, err := a.v.write(ctx, "admin", "auth/token/lookup-accessor", map[string]any{"accessor": accessor})
	var refused *api.ResponseError
	if errors.As(err, &refused) && strings.Contains(err.Error(), "invalid accessor") {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// A token that was used is there for a moment more, with a count that says so.
	uses, _ := token["num_uses"].(json.Number)
	return uses == "1", nil
}

// Uninvite ends the login by AppRole, once the node logs in by its certificate.
func (a *Admin) Uninvite(ctx context.Context, node string) error {
	if err := checkNode("vaultpki.Uninvite", node); err != nil {
		return err
	}
	return a.v.remove(ctx, "admin", "auth/approle/role/"+node)
}

// secretPath is where a secret of a node is, which only the node reads.
func secretPath(kind, node, name string) (string, error) {
	if err := checkNode("vaultpki.Secret", node); err != nil {
		return "", err
	}
	if !mesh.ValidID(name) {
		return "", mesh.Errorf("vaultpki.Secret", node, mesh.Invalid, "%.80q is not the name of a secret, 1 to 63 characters a-z, 0-9 and '-'", name)
	}
	return mountKV + "/" + kind + "/hedgerow/nodes/" + node + "/" + name, nil
}

// PutSecret stores a secret that only the node, and the control plane, can read.
func (a *Admin) PutSecret(ctx context.Context, node, name string, data map[string]string) error {
	path, err := secretPath("data", node, name)
	if err != nil {
		return err
	}
	_, err = a.v.write(ctx, "admin", path, map[string]any{"data": data})
	return err
}

// ensureSecret returns the value of key in a secret of the node. A secret that is not there is made,
// with what fresh returns; of several control planes all return the one that came first.
func (a *Admin) ensureSecret(ctx context.Context, node, name, key string, fresh func() string) (string, error) {
	secret, err := a.v.Secret(ctx, node, name)
	if mesh.KindOf(err) == mesh.NotFound {
		path, _ := secretPath("data", node, name) // which Secret has checked
		_, put := a.v.write(ctx, "admin", path, map[string]any{
			"options": map[string]any{"cas": 0}, "data": map[string]any{key: fresh()},
		})
		if secret, err = a.v.Secret(ctx, node, name); mesh.KindOf(err) == mesh.NotFound {
			if put != nil {
				err = put
			}
			// Not that the node has none, by which it would be shut out: Vault does not keep it.
			return "", mesh.Errorf("vaultpki.Secret", node, mesh.Unavailable, "%w", err).
				WithHint("Vault has no " + mountKV + ", or keeps nothing there: hedgerow vault bootstrap")
		}
	}
	if err != nil {
		return "", err
	}
	value := firstLine(secret[key])
	if value == "" {
		return "", mesh.Errorf("vaultpki.Secret", node, mesh.Invalid, "its secret %s has no %s, or that was deleted", name, key).
			WithHint("store one there, or have another made: vault kv metadata delete -mount=" + mountKV + " hedgerow/nodes/" + node + "/" + name)
	}
	return value, nil
}

// firstLine returns a password as who logs in reads it from a file: `vault kv put password=@file`
// stores the end of the line too.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r")
}

// Secret returns a secret of the node. It is what a node itself may do too.
func (v *Vault) Secret(ctx context.Context, node, name string) (map[string]string, error) {
	path, err := secretPath("data", node, name)
	if err != nil {
		return nil, err
	}
	answer, err := v.read(ctx, "secret", path)
	if err != nil {
		return nil, err
	}
	data, _ := answer["data"].(map[string]any)
	secret := make(map[string]string, len(data))
	for key, value := range data {
		secret[key] = fmt.Sprint(value)
	}
	return secret, nil
}

// The secret of a node with the password of its user in Redis.
const redisSecret, redisPassword = "redis", "password"

// EnsureRedisPassword returns the password of the node's user in Redis, which it makes if there is
// none: 32 random bytes in hex.
func (a *Admin) EnsureRedisPassword(ctx context.Context, node string) (string, error) {
	return a.ensureSecret(ctx, node, redisSecret, redisPassword, func() string {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails
		return hex.EncodeToString(raw)
	})
}

// RedisPassword returns the password of the node's user in Redis. The error is of kind NotFound
// if there is none yet.
func (v *Vault) RedisPassword(ctx context.Context, node string) (string, error) {
	secret, err := v.Secret(ctx, node, redisSecret)
	password := firstLine(secret[redisPassword])
	if err == nil && password == "" {
		err = mesh.Errorf("vaultpki.RedisPassword", node, mesh.NotFound, "its secret %s has no %s", redisSecret, redisPassword)
	}
	return password, err
}

// Withdraw has the node be nobody any more. Its tokens end at once, with its entity;
// certificates that it has are good until they expire, for peers that do not know better.
func (a *Admin) Withdraw(ctx context.Context, node string) error {
	if err := checkNode("vaultpki.Withdraw", node); err != nil {
		return err
	}
	if err := a.disable(ctx, node); err != nil {
		return err
	}
	for _, path := range []string{
		"auth/cert/certs/" + node, "auth/approle/role/" + node, MountMesh + "/roles/" + node, MountNode + "/roles/" + node,
	} {
		if err := a.v.remove(ctx, "admin", path); err != nil {
			return err
		}
	}
	secrets := mountKV + "/metadata/hedgerow/nodes/" + node
	names, err := a.v.list(ctx, "admin", secrets)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := a.v.remove(ctx, "admin", secrets+"/"+name); err != nil {
			return err
		}
	}
	// Last: while there is no entity, a login would make one of another name.
	return a.v.remove(ctx, "admin", "identity/entity/name/"+node)
}

// disable ends all tokens of the node, if it is there.
func (a *Admin) disable(ctx context.Context, node string) error {
	path := "identity/entity/name/" + node
	_, err := a.v.read(ctx, "admin", path)
	switch {
	case mesh.KindOf(err) == mesh.NotFound:
		return nil
	case err != nil:
		return err
	}
	_, err = a.v.write(ctx, "admin", path, map[string]any{"disabled": true})
	return err
}

// marker is what Bootstrap wrote down.
type marker struct{ mesh, trustDomain, appRole, cert string }

func (v *Vault) marker(ctx context.Context) (*marker, error) {
	answer, err := v.read(ctx, "admin", kvMesh)
	if err != nil {
		if mesh.KindOf(err) == mesh.NotFound {
			err = mesh.Errorf("vaultpki.Open", kvMesh, mesh.Unavailable, "this Vault was not set up").WithHint("hedgerow vault bootstrap")
		}
		return nil, err
	}
	data, _ := answer["data"].(map[string]any)
	text := func(key string) string { s, _ := data[key].(string); return s }
	return &marker{text("mesh"), text("trustDomain"), text("appRole"), text("cert")}, nil
}
