package servers

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
)

// PKIMount is where SetUpPKI mounts the mesh's certificate authority.
const PKIMount = "pki_mesh"

// PKINode is one node of the mesh: its name, which is its role's too, and
// every SPIFFE ID that it may have signed beside its own as a node.
type PKINode struct {
	Name string
	IDs  []string // whole URIs, without wildcards
}

// PKI is a certificate authority that is ready to sign.
type PKI struct {
	Mount   string // PKIMount
	RootPEM string // its self-signed root
	Nodes   map[string]AppRole
}

// AppRole is what a node logs in with, and where it lies in files (0600).
type AppRole struct {
	Role                     string // the PKI role: sign at "<mount>/sign/<role>"
	RoleID, SecretID         string
	RoleIDFile, SecretIDFile string
}

// SetUpPKI makes the root and, for every node, a PKI role that signs exactly
// the node's IDs and its own, a policy that allows that role and nothing else, and an
// AppRole with that policy. A test that needs more nodes calls it again: the
// root stays.
func (v *VaultServer) SetUpPKI(trustDomain string, nodes ...PKINode) PKI {
	v.t.Helper()
	mounts := v.must(http.MethodGet, "sys/mounts", nil)
	if _, ok := mounts[PKIMount+"/"]; !ok {
		v.makeRoot(trustDomain)
	}
	pki := PKI{Mount: PKIMount, Nodes: map[string]AppRole{}}
	pki.RootPEM = v.field(v.must(http.MethodGet, PKIMount+"/cert/ca", nil), "certificate")
	for _, node := range nodes {
		pki.Nodes[node.Name] = v.addNode(trustDomain, node)
	}
	return pki
}

// makeRoot mounts the engine and AppRole and makes a P-256 root of ten years.
// The mount's limit comes first, or the root would get Vault's 32 days. The
// root begins an hour ago: Vault refuses to sign a leaf that begins before its
// issuer, and the roles backdate leaves by five minutes.
func (v *VaultServer) makeRoot(trustDomain string) {
	v.t.Helper()
	v.must(http.MethodPost, "sys/auth/approle", map[string]any{"type": "approle"})
	v.must(http.MethodPost, "sys/mounts/"+PKIMount, map[string]any{
		"type":   "pki",
		"config": map[string]any{"max_lease_ttl": "87600h"},
	})
	v.must(http.MethodPost, PKIMount+"/root/generate/internal", map[string]any{
		"common_name":          "mesh root of " + trustDomain,
		"exclude_cn_from_sans": true,
		"uri_sans":             "spiffe://" + trustDomain,
		"issuer_name":          "mesh-root",
		"key_type":             "ec",
		"key_bits":             256,
		"ttl":                  "87600h",
		"not_before_duration":  "1h",
	})
}

// addNode makes the node's role, policy and login.
func (v *VaultServer) addNode(trustDomain string, node PKINode) AppRole {
	v.t.Helper()
	for _, id := range node.IDs {
		// Vault reads * as a pattern: a role would sign more than was asked.
		if strings.Contains(id, "*") {
			v.t.Fatalf("set up node %s: ID %q has a wildcard: list every ID", node.Name, id)
		}
	}
	v.must(http.MethodPost, PKIMount+"/roles/"+node.Name, map[string]any{
		"allowed_uri_sans":    append([]string{"spiffe://" + trustDomain + "/node/" + node.Name}, node.IDs...),
		"allowed_domains":     []string{node.Name}, // the common name of the node's own
		"allow_bare_domains":  true,
		"allow_any_name":      false,
		"allow_ip_sans":       false,
		"allow_localhost":     false,
		"client_flag":         true,
		"key_bits":            256,
		"key_type":            "ec",
		"max_ttl":             "24h",
		"no_store":            true,
		"not_before_duration": "5m",
		"require_cn":          false,
		"server_flag":         true,
	})
	policy := "mesh-" + node.Name
	v.must(http.MethodPut, "sys/policies/acl/"+policy, map[string]any{"policy": nodePolicy(node.Name)})
	login := "auth/approle/role/" + node.Name
	v.must(http.MethodPost, login, map[string]any{
		"token_policies": []string{policy},
		"token_ttl":      "1h",
		"token_max_ttl":  "24h",
	})
	role := AppRole{
		Role:     node.Name,
		RoleID:   v.field(v.must(http.MethodGet, login+"/role-id", nil), "role_id"),
		SecretID: v.field(v.must(http.MethodPost, login+"/secret-id", nil), "secret_id"),
	}
	dir := v.t.TempDir()
	role.RoleIDFile = writeSecret(v.t, filepath.Join(dir, "role-id"), role.RoleID)
	role.SecretIDFile = writeSecret(v.t, filepath.Join(dir, "secret-id"), role.SecretID)
	return role
}

// nodePolicy lets a node have its own certificates signed and read the CA's.
func nodePolicy(role string) string {
	return fmt.Sprintf(`
path "%[1]s/sign/%[2]s" { capabilities = ["update"] }
path "%[1]s/cert/ca*"   { capabilities = ["read"] }
path "%[1]s/ca_chain"   { capabilities = ["read"] }
path "%[1]s/issuers"    { capabilities = ["list"] }
path "%[1]s/issuer/+/json" { capabilities = ["read"] }
`, PKIMount, role)
}

// field takes a string out of an answer's data.
func (v *VaultServer) field(answer map[string]any, name string) string {
	v.t.Helper()
	data, _ := answer["data"].(map[string]any)
	value, ok := data[name].(string)
	if !ok || value == "" {
		v.t.Fatalf("set up the test Vault: the answer has no %s: %v", name, answer)
	}
	return value
}
