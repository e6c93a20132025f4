package vaultpki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// access is that of a node or of nobody.
func (s *setUp) access() Access { return Access{Addresses: []string{s.Address}, CAFile: s.CAFile} }

// join has the node log in with an invitation, get its certificate, and log in with that.
func (s *setUp) join(t *testing.T, node string) *Vault {
	t.Helper()
	invitation, err := s.control.Admin(td).Invite(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	access := s.access()
	access.AppRole = AppRole{RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")}
	first := openVault(t, access)
	secret, err := first.Unwrap(t.Context(), invitation.WrapToken, node)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeSecret(access.AppRole.RoleIDFile, invitation.RoleID), writeSecret(access.AppRole.SecretIDFile, secret)); err != nil {
		t.Fatal(err)
	}
	client, err := first.Client(MountNode, node)
	if err != nil {
		t.Fatal(err)
	}
	id, err := mesh.NodeID(td, node)
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := identity.NewRequest(id)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := client.Issue(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued.Chain[0]
	if life := time.Until(leaf.NotAfter); leaf.Subject.CommonName != node || len(leaf.DNSNames) != 0 || life < 167*time.Hour || life > 168*time.Hour {
		t.Errorf("the node's certificate is of %v, %v, and lives %v", leaf.Subject, leaf.DNSNames, life)
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	access = s.access()
	access.Certificate.Current = func() (*tls.Certificate, error) { return cert, nil }
	return openVault(t, access)
}

// issueAs asks for a leaf of the node.
func issueAs(t *testing.T, v *Vault, role, uri string) error {
	t.Helper()
	client, err := v.Client(MountMesh, role)
	if err != nil {
		t.Fatal(err)
	}
	_, err = issue(t, client, uri)
	return err
}

// A node from its first day to its last.
func TestRealVaultNode(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	for range 2 { // the second changes nothing
		if err := admin.Put(t.Context(), Node{Name: "edge7", Services: []string{"orders"}, Gateways: []string{"demo"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.PutSecret(t.Context(), "edge7", "redis", map[string]string{"password": "p1"}); err != nil {
		t.Fatal(err)
	}
	node := s.join(t, "edge7")
	if err := admin.Uninvite(t.Context(), "edge7"); err != nil {
		t.Error(err)
	}
	for _, uri := range []string{ordersID, "spiffe://hedgerow.local/gateway/demo"} {
		if err := issueAs(t, node, "edge7", uri); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if secret, err := node.Secret(t.Context(), "edge7", "redis"); err != nil || secret["password"] != "p1" {
		t.Errorf("its secret: %v, %v", secret, err)
	}
	checkError(t, issueAs(t, node, "edge7", "spiffe://hedgerow.local/svc/billing/n/edge7"), mesh.Denied, "not valid for this role", true)

	t.Run("its services change", func(t *testing.T) {
		if err := admin.Put(t.Context(), Node{Name: "edge7", Services: []string{"billing"}}); err != nil {
			t.Fatal(err)
		}
		if err := issueAs(t, node, "edge7", "spiffe://hedgerow.local/svc/billing/n/edge7"); err != nil {
			t.Error(err)
		}
		checkError(t, issueAs(t, node, "edge7", ordersID), mesh.Denied, "not valid for this role", true)
	})

	t.Run("it is withdrawn", func(t *testing.T) {
		billing := "spiffe://hedgerow.local/svc/billing/n/edge7"
		if err := issueAs(t, node, "edge7", billing); err != nil {
			t.Fatal(err)
		}
		token := node.session.Load().client.Token()
		for range 2 {
			if err := admin.Withdraw(t.Context(), "edge7"); err != nil {
				t.Fatal(err)
			}
		}
		// The token of before ends with the entity, not with its time.
		_, err := s.RequestAs(t.Context(), token, http.MethodPost, "auth/token/renew-self", nil)
		wantStatus(t, "its token", err, http.StatusForbidden)
		checkError(t, issueAs(t, node, "edge7", billing), mesh.Unauthentic, "vaultpki.Login", true)
		_, err = s.control.Secret(t.Context(), "edge7", "redis")
		checkError(t, err, mesh.NotFound, "nothing there", false)
	})

	t.Run("and enrolled again", func(t *testing.T) {
		put := func(since time.Time) {
			t.Helper()
			if err := admin.Put(t.Context(), Node{Name: "edge7", Services: []string{"orders"}, Since: since}); err != nil {
				t.Fatal(err)
			}
		}
		released := time.Now()
		put(released)
		// Whoever has its certificate of before is not the node again by that.
		checkError(t, issueAs(t, node, "edge7", ordersID), mesh.Unauthentic, "vaultpki.Login", true)
		again := s.join(t, "edge7")
		if err := issueAs(t, again, "edge7", ordersID); err != nil {
			t.Error(err)
		}
		checkError(t, issueAs(t, node, "edge7", ordersID), mesh.Unauthentic, "vaultpki.Login", true)
		// It renews its own by what the first one says, and when nobody asks any more from when it is.
		for _, since := range []time.Time{released, {}} {
			put(since)
			again.session.Store(nil)
			if err := issueAs(t, again, "edge7", ordersID); err != nil {
				t.Errorf("since %v: %v", since, err)
			}
		}
	})

	t.Run("names that are none", func(t *testing.T) {
		for _, name := range []string{"", "Edge", "a/b", "*", "+", "hedgerow-control"} {
			if err := admin.Put(t.Context(), Node{Name: name}); mesh.KindOf(err) != mesh.Invalid {
				t.Errorf("Put %q: %v", name, err)
			}
			if _, err := admin.Invite(t.Context(), name); mesh.KindOf(err) != mesh.Invalid {
				t.Errorf("Invite %q: %v", name, err)
			}
			if err := admin.Withdraw(t.Context(), name); mesh.KindOf(err) != mesh.Invalid {
				t.Errorf("Withdraw %q: %v", name, err)
			}
			if err := admin.PutSecret(t.Context(), name, "redis", nil); mesh.KindOf(err) != mesh.Invalid {
				t.Errorf("PutSecret %q: %v", name, err)
			}
		}
	})
}

func wantStatus(t *testing.T, what string, err error, status int) {
	t.Helper()
	var refused *servers.VaultError
	if !errors.As(err, &refused) || refused.Status != status {
		t.Errorf("%s: %v, want %d", what, err, status)
	}
}

// An invitation is good once, and the next one voids it.
func TestRealVaultInvitation(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	for _, name := range []string{"edge7", "edge9"} {
		if err := admin.Put(t.Context(), Node{Name: name, Services: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
	}
	invite := func(node string) *Invitation {
		t.Helper()
		i, err := admin.Invite(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(i.Expires); left < 14*time.Minute || left > 15*time.Minute+5*time.Second {
			t.Errorf("it expires in %v", left)
		}
		return i
	}
	pending := func(i *Invitation, want bool) {
		t.Helper()
		if got, err := admin.Pending(t.Context(), i.Accessor); err != nil || got != want {
			t.Errorf("pending: %v, %v; want %v", got, err, want)
		}
	}
	login := func(roleID, secret string) error {
		_, err := s.RequestAs(t.Context(), "", http.MethodPost, "auth/approle/login", map[string]any{"role_id": roleID, "secret_id": secret})
		return err
	}
	access := s.access()
	access.TokenFile = "/nonexistent" // unwrapping needs no login
	nobody := openVault(t, access)

	old := invite("edge7")
	pending(old, true)
	_, err := nobody.Unwrap(t.Context(), old.WrapToken, "edge9")
	checkError(t, err, mesh.Denied, "not made for this node", true)
	pending(old, true)
	secret, err := nobody.Unwrap(t.Context(), old.WrapToken, "edge7")
	if err != nil {
		t.Fatal(err)
	}
	pending(old, false)
	_, err = nobody.Unwrap(t.Context(), old.WrapToken, "edge7")
	checkError(t, err, mesh.Denied, "wrapping token", true)

	next := invite("edge7")
	wantStatus(t, "the secret_id of before", login(old.RoleID, secret), http.StatusBadRequest)
	secret, err = nobody.Unwrap(t.Context(), next.WrapToken, "edge7")
	if err != nil {
		t.Fatal(err)
	}
	if err := login(next.RoleID, secret); err != nil {
		t.Errorf("the first login: %v", err)
	}
	wantStatus(t, "the second login", login(next.RoleID, secret), http.StatusBadRequest)

	_, err = nobody.Unwrap(t.Context(), "hvs.none", "edge7")
	checkError(t, err, mesh.Denied, "", true)
}

// refusedRequest is a request that a policy has to refuse.
type refusedRequest struct {
	method, path string
	body         map[string]any
}

func holdsTo(t *testing.T, s *setUp, token string, table map[string]refusedRequest) {
	t.Helper()
	for name, r := range table {
		_, err := s.RequestAs(t.Context(), token, r.method, r.path, r.body)
		wantStatus(t, name+": "+r.method+" "+r.path, err, http.StatusForbidden)
	}
}

// What the control plane's token may beside making nodes, the log and signatures: nothing.
func TestRealVaultControlPlaneMayNothingElse(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	if err := admin.Put(t.Context(), Node{Name: "edge7", Services: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Invite(t.Context(), "edge7"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.control.write(t.Context(), "test", "kv/data/hedgerow/log/1/head", map[string]any{"data": map[string]any{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	const post, get, del, list = http.MethodPost, http.MethodGet, http.MethodDelete, "LIST"
	type body = map[string]any
	holdsTo(t, s, s.control.session.Load().client.Token(), map[string]refusedRequest{
		"write a policy":                        {post, "sys/policies/acl/hedgerow-node", body{"policy": ""}},
		"read its own policy":                   {get, "sys/policies/acl/hedgerow-control", nil},
		"list mounts":                           {get, "sys/mounts", nil},
		"make a mount":                          {post, "sys/mounts/x", body{"type": "kv"}},
		"take a mount away":                     {del, "sys/mounts/pki_mesh", nil},
		"make a login":                          {post, "sys/auth/x", body{"type": "approle"}},
		"seal":                                  {http.MethodPut, "sys/seal", nil},
		"turn the audit off":                    {del, "sys/audit/file", nil},
		"sign an intermediate":                  {post, "pki_root/root/sign-intermediate", body{"csr": "x"}},
		"make a root":                           {post, "pki_root/root/generate/internal", body{"common_name": "x"}},
		"make a role at the root":               {post, "pki_root/roles/x", body{}},
		"take an issuer away":                   {del, "pki_mesh/issuer/default", nil},
		"change the issuer":                     {post, "pki_mesh/config/issuers", body{"default": "x"}},
		"bring an issuer of its own":            {post, "pki_mesh/issuers/import/bundle", body{"pem_bundle": "x"}},
		"sign verbatim":                         {post, "pki_mesh/sign-verbatim", body{"csr": "x"}},
		"sign a leaf":                           {post, "pki_mesh/sign/edge7", body{"csr": "x"}},
		"have a key made":                       {post, "pki_mesh/issue/edge7", body{}},
		"sign a node's certificate":             {post, "pki_node/sign/edge7", body{"csr": "x"}},
		"a role for any name":                   {post, "pki_mesh/roles/edge7", body{"allow_any_name": "true"}},
		"a role of a long life":                 {post, "pki_mesh/roles/edge7", body{"max_ttl": "87600h"}},
		"a role for IP addresses":               {post, "pki_mesh/roles/edge7", body{"allow_ip_sans": "true"}},
		"a role that signs code":                {post, "pki_node/roles/edge7", body{"code_signing_flag": "true"}},
		"an AppRole of another policy":          {post, "auth/approle/role/edge7", body{"token_policies": "hedgerow-control"}},
		"an AppRole of one more policy":         {post, "auth/approle/role/edge7", body{"token_policies": []string{"hedgerow-node", "root"}}},
		"an AppRole of another policy, as once": {post, "auth/approle/role/edge7", body{"policies": "root"}},
		"an AppRole without a secret":           {post, "auth/approle/role/edge7", body{"bind_secret_id": "false"}},
		"an AppRole that is used often":         {post, "auth/approle/role/edge7", body{"secret_id_num_uses": "0"}},
		"the policies of an AppRole":            {post, "auth/approle/role/edge7/token-policies", body{"token_policies": "root"}},
		"a secret_id in the clear":              {post, "auth/approle/role/edge7/secret-id", body{}},
		"a secret_id of its choice":             {post, "auth/approle/role/edge7/custom-secret-id", body{"secret_id": "x"}},
		"its own AppRole":                       {post, "auth/approle/role/hedgerow-control", body{"token_policies": "hedgerow-node"}},
		"a secret_id of its own":                {post, "auth/approle/role/hedgerow-control/secret-id", body{}},
		"a certificate login of another policy": {post, "auth/cert/certs/edge7", body{"token_policies": "hedgerow-control"}},
		"the settings of certificate logins":    {post, "auth/cert/config", body{"disable_binding": true}},
		"an entity with a policy":               {post, "identity/entity/name/edge7", body{"policies": []string{"root"}}},
		"an entity by its id":                   {post, "identity/entity/id/x", body{"policies": []string{"root"}}},
		"entities made one":                     {post, "identity/entity/merge", body{"to_entity_id": "x"}},
		"a group":                               {post, "identity/group", body{"name": "x", "policies": []string{"root"}}},
		"an alias of another login":             {post, "identity/entity-alias", body{"name": "x", "canonical_id": "x", "mount_accessor": "auth_userpass_1"}},
		"a child token":                         {post, "auth/token/create", body{}},
		"an orphan token":                       {post, "auth/token/create-orphan", body{}},
		"list tokens":                           {list, "auth/token/accessors", nil},
		"revoke a token":                        {post, "auth/token/revoke-accessor", body{"accessor": "x"}},
		"read the signing key out":              {get, "transit/export/signing-key/hedgerow", nil},
		"make the signing key leave":            {post, "transit/keys/hedgerow/config", body{"exportable": true}},
		"rotate the signing key":                {post, "transit/keys/hedgerow/rotate", nil},
		"take the signing key away":             {del, "transit/keys/hedgerow", nil},
		"another key":                           {post, "transit/keys/x", body{"type": "ed25519"}},
		"write a revision again":                {post, "kv/data/hedgerow/log/1/head", body{"data": body{"a": 2}}},
		"take a revision away":                  {del, "kv/metadata/hedgerow/log/1/head", nil},
		"hide a revision":                       {del, "kv/data/hedgerow/log/1/head", nil},
		"destroy a revision":                    {post, "kv/destroy/hedgerow/log/1/head", body{"versions": []int{1}}},
		"say whose Vault it is":                 {post, "kv/data/hedgerow/mesh", body{"data": body{}}},
		"secrets of others":                     {get, "kv/data/other/secret", nil},
		"the settings of the KV engine":         {post, "kv/config", body{"max_versions": 1}},
	})
}

// A node's token is worth the node, and nothing beside it.
func TestRealVaultNodeMayNothingElse(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	for _, name := range []string{"edge7", "edge9"} {
		if err := admin.Put(t.Context(), Node{Name: name, Services: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
		if err := admin.PutSecret(t.Context(), name, "redis", map[string]string{"password": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	node := s.join(t, "edge7")
	if err := issueAs(t, node, "edge7", ordersID); err != nil {
		t.Fatal(err)
	}
	const post, get, del, list = http.MethodPost, http.MethodGet, http.MethodDelete, "LIST"
	type body = map[string]any
	holdsTo(t, s, node.session.Load().client.Token(), map[string]refusedRequest{
		"another node's leaf":           {post, "pki_mesh/sign/edge9", body{"csr": "x"}},
		"another node's certificate":    {post, "pki_node/sign/edge9", body{"csr": "x"}},
		"a leaf of an end of its own":   {post, "pki_mesh/sign/edge7", body{"csr": "x", "not_after": "2099-01-01T00:00:00Z"}},
		"an end of its own choice":      {post, "pki_node/sign/edge7", body{"csr": "x", "not_after": "2099-01-01T00:00:00Z"}},
		"a key made by Vault":           {post, "pki_mesh/issue/edge7", body{}},
		"sign verbatim":                 {post, "pki_mesh/sign-verbatim", body{"csr": "x"}},
		"sign verbatim by its role":     {post, "pki_mesh/sign-verbatim/edge7", body{"csr": "x"}},
		"sign as another issuer":        {post, "pki_mesh/issuer/default/sign/edge7", body{"csr": "x"}},
		"sign at the root":              {post, "pki_root/sign/edge7", body{"csr": "x"}},
		"read its role":                 {get, "pki_mesh/roles/edge7", nil},
		"change its role":               {post, "pki_mesh/roles/edge7", body{"allow_any_name": true}},
		"list roles":                    {list, "pki_mesh/roles", nil},
		"another node's secret":         {get, "kv/data/hedgerow/nodes/edge9/redis", nil},
		"write its secret":              {post, "kv/data/hedgerow/nodes/edge7/redis", body{"data": body{}}},
		"list nodes":                    {list, "kv/metadata/hedgerow/nodes", nil},
		"the log":                       {get, "kv/data/hedgerow/log/1/head", nil},
		"write the log":                 {post, "kv/data/hedgerow/log/2/head", body{"data": body{}}},
		"sign configuration":            {post, "transit/sign/hedgerow", body{"input": ""}},
		"the signing key":               {get, "transit/keys/hedgerow", nil},
		"its own login":                 {post, "auth/cert/certs/edge7", body{"token_policies": "root"}},
		"its AppRole":                   {post, "auth/approle/role/edge7", body{"token_policies": "root"}},
		"a secret_id of its own":        {post, "auth/approle/role/edge7/secret-id", body{}},
		"its entity":                    {post, "identity/entity/name/edge7", body{"policies": []string{"root"}}},
		"an alias":                      {post, "identity/entity-alias", body{"name": "edge9"}},
		"a child token":                 {post, "auth/token/create", body{}},
		"an orphan":                     {post, "auth/token/create-orphan", body{}},
		"look up itself":                {get, "auth/token/lookup-self", nil},
		"mounts":                        {get, "sys/mounts", nil},
		"policies":                      {get, "sys/policies/acl/hedgerow-node", nil},
		"wrap what it likes":            {post, "sys/wrapping/wrap", body{"a": "b"}},
		"a cubbyhole":                   {post, "cubbyhole/x", body{"a": "b"}},
		"take another node's login out": {del, "auth/cert/certs/edge9", nil},
	})
}

// Certificates are worth what they say, as a login and to peers.
func TestRealVaultCertificatesOfANode(t *testing.T) {
	s := newMesh(t)
	for _, name := range []string{"edge7", "edge9"} {
		if err := s.control.Admin(td).Put(t.Context(), Node{Name: name, Services: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
	}
	node := s.join(t, "edge7")

	t.Run("a certificate does not log in as another node", func(t *testing.T) {
		cert, err := node.access.Certificate.Current()
		if err != nil {
			t.Fatal(err)
		}
		other := *cert
		leaf := *cert.Leaf
		leaf.Subject.CommonName = "edge9" // which entry is asked for, not what is signed
		other.Leaf = &leaf
		access := s.access()
		access.Certificate.Current = func() (*tls.Certificate, error) { return &other, nil }
		checkError(t, issueAs(t, openVault(t, access), "edge9", "spiffe://hedgerow.local/svc/orders/n/edge9"), mesh.Unauthentic, "vaultpki.Login", true)
	})

	t.Run("a service's certificate does not log in", func(t *testing.T) {
		client, err := node.Client(MountMesh, "edge7")
		if err != nil {
			t.Fatal(err)
		}
		key, request, err := identity.NewRequest(mustParse(t, ordersID))
		if err != nil {
			t.Fatal(err)
		}
		issued, err := client.Issue(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		leaf := *issued.Chain[0]
		leaf.Subject.CommonName = "edge7" // as if it had one
		access := s.access()
		access.Certificate.Current = func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{issued.Chain[0].Raw, issued.Chain[1].Raw}, PrivateKey: key, Leaf: &leaf}, nil
		}
		checkError(t, issueAs(t, openVault(t, access), "edge7", ordersID), mesh.Unauthentic, "vaultpki.Login", true)
	})

	t.Run("its chain ends at the root that peers hold", func(t *testing.T) {
		client, err := node.Client(MountMesh, "edge7")
		if err != nil {
			t.Fatal(err)
		}
		issued, err := issue(t, client, ordersID)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := client.Bundle(t.Context(), td)
		if err != nil || len(issued.Chain) != 2 {
			t.Fatalf("a chain of %d, %v", len(issued.Chain), err)
		}
		if _, err := identity.VerifySVID(issued.Chain, bundle, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
			t.Error(err)
		}
	})
}
