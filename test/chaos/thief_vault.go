package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// vaultAs is who asks Vault.
type vaultAs struct {
	server *servers.VaultServer
	token  string
	// at is where a name in what is asked leads: the thief's own role, or one that signs
	// everything.
	at map[string]string
	// logins are what is presented to log in as a node.
	logins map[string]*tls.Certificate
	// wrapped returns what a join file's token may be taken for.
	wrapped func() string
	secret  string // what is given for a secret_id
	role    string // of which AppRole
}

const (
	vaultDenied = `^403: .*permission denied`
	// signedWithout is said of a certificate that lacks what was wanted.
	signedWithout = "signed, and without it"
)

// robVault tries, with the token that the node's certificate logs in to, all that a node
// has no business with.
func (e *estate) robVault(r *row, l *loot) {
	token, err := vaultLogin(e.t.Context(), l.vault, l.vaultCA, l.node, victim)
	if err != nil {
		e.t.Fatalf("log in with the node's certificate: %v", err)
	}
	assail(e.t, r, "vault", 40, e.vaultAttempts(), vaultAs{
		server: e.vault, token: token,
		at:      map[string]string{"$leaf": "pki_mesh/sign/" + victim, "$said": "pki_mesh/sign/" + victim, "$node": "pki_node/sign/" + victim, "$nodesaid": "pki_node/sign/" + victim, "$ca": "pki_mesh/sign/" + victim},
		logins:  map[string]*tls.Certificate{"shop": l.node, "ledger": l.node, victim: l.leaf()},
		wrapped: func() string { return l.spent },
		secret:  l.spent, role: victim,
	})
}

// vaultControls makes the same attempts as the operator, with roles that sign everything
// and the certificates of the nodes in question. The last of them leaves no Vault.
func (e *estate) vaultControls(r *row) {
	wide := map[string]any{
		"allow_any_name": true, "allowed_uri_sans": "*", "allowed_other_sans": "*", "allow_ip_sans": true, "allow_wildcard_certificates": true, "enforce_hostnames": false,
		"require_cn": false, "key_type": "any", "max_ttl": "9000h", "no_store": true, "not_before_duration": "5m", "cn_validations": "disabled", "code_signing_flag": true,
	}
	for _, mount := range []string{"pki_mesh", "pki_node"} {
		e.root(http.MethodPost, mount+"/roles/wide", wide)
	}
	wide["use_csr_sans"], wide["use_csr_common_name"] = false, false
	for _, mount := range []string{"pki_mesh", "pki_node"} {
		e.root(http.MethodPost, mount+"/roles/said", wide)
	}
	e.root(http.MethodPost, "auth/approle/role/wide", map[string]any{"role_id": "wide", "token_policies": "default"})
	secret, _ := e.root(http.MethodPost, "auth/approle/role/wide/secret-id", nil)["secret_id"].(string)
	vouch(e.t, r, "vault", e.vaultAttempts(), vaultAs{
		server: e.vault, token: e.vault.RootToken,
		at:     map[string]string{"$leaf": "pki_mesh/sign/wide", "$said": "pki_mesh/sign/said", "$node": "pki_node/sign/wide", "$nodesaid": "pki_node/sign/said", "$ca": "pki_root/root/sign-intermediate"},
		logins: map[string]*tls.Certificate{"shop": e.steal("shop").node, "ledger": e.steal("ledger").node, victim: e.steal(victim).node},
		wrapped: func() string {
			token, err := e.wrap(e.t.Context(), e.vault.RootToken)
			if err != nil {
				e.t.Fatalf("wrap: %v", err)
			}
			return token
		},
		secret: secret, role: "wide",
	})
}

// wrap has Vault wrap something, and returns the token to take it for.
func (e *estate) wrap(ctx context.Context, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.vault.Address+"/v1/sys/wrapping/wrap", strings.NewReader(`{"secret_id":"x"}`))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Wrap-TTL", "5m")
	var answer struct {
		Wrap struct{ Token string } `json:"wrap_info"`
	}
	err = vaultDo(poolOf(e.read(e.vault.CAFile)), nil, req, &answer)
	return answer.Wrap.Token, err
}

// poolOf is the certificates of a PEM file.
func poolOf(text []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

// vaultLogin logs in with a certificate as the node name, and returns the token.
func vaultLogin(ctx context.Context, address string, roots *x509.CertPool, cert *tls.Certificate, name string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/auth/cert/login", strings.NewReader(fmt.Sprintf(`{"name":%q}`, name)))
	if err != nil {
		return "", err
	}
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	err = vaultDo(roots, cert, req, &answer)
	if err == nil && answer.Auth.Token == "" {
		err = errors.New("200: no token")
	}
	return answer.Auth.Token, err
}

// vaultDo sends a request with a client certificate. An answer other than 2xx is an error
// that begins with its status.
func vaultDo(roots *x509.CertPool, cert *tls.Certificate, req *http.Request, into any) error {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: attemptMost}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%d: %s", resp.StatusCode, bytes.Join(bytes.Fields(body), []byte(" ")))
	}
	return json.Unmarshal(body, into)
}

// ask asks Vault with the token.
func (v vaultAs) ask(ctx context.Context, method, path string, body any) (map[string]any, verdict) {
	if at, ok := v.at[path]; ok {
		path = at
	}
	answer, err := v.server.RequestAs(ctx, v.token, method, path, body)
	var refused *servers.VaultError
	if errors.As(err, &refused) {
		return nil, verdict{answer: fmt.Sprintf("%d: %s", refused.Status, strings.Join(strings.Fields(strings.Join(refused.Errors, "; ")), " "))}
	}
	data, _ := answer["data"].(map[string]any)
	return data, failed(err)
}

// vaultAttempts are all of them, the one after which nothing can be asked the last.
func (e *estate) vaultAttempts() []attempt[vaultAs] {
	var all []attempt[vaultAs]
	all = append(all, e.nameAttempts()...)
	all = append(all, e.loginAttempts()...)
	for _, c := range e.vaultCalls() {
		all = append(all, attempt[vaultAs]{
			name: c.method + " " + c.path, why: vaultDenied,
			do: func(ctx context.Context, as vaultAs) verdict {
				_, o := as.ask(ctx, c.method, c.path, c.body)
				return o
			},
		})
	}
	return all
}

// named is a certificate that is wanted of a role of the thief's own.
type named struct {
	what, at string
	uris     []string // paths of the trust domain, or whole
	edit     func(*x509.CertificateRequest)
	say      map[string]any               // what is asked beside the request
	got      func(*x509.Certificate) bool // what makes the certificate worth having
	why      string
}

// nameAttempts are names, and uses, that the thief's own role is asked to sign.
func (e *estate) nameAttempts() []attempt[vaultAs] {
	var all []attempt[vaultAs]
	for _, n := range wantedNames() {
		all = append(all, attempt[vaultAs]{name: n.what + " of " + n.at, why: n.why, do: func(ctx context.Context, as vaultAs) verdict {
			body := map[string]any{"csr": certificateRequest(e.t, n.edit, n.uris...), "format": "pem"}
			for k, v := range n.say {
				body[k] = v
			}
			answer, o := as.ask(ctx, http.MethodPost, n.at, body)
			if !o.done {
				return o
			}
			block, _ := pem.Decode([]byte(asText(answer["certificate"])))
			if block == nil {
				return verdict{answer: "no certificate"}
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return failed(err)
			}
			if !n.got(cert) {
				return verdict{answer: signedWithout}
			}
			return verdict{done: true, answer: "signed"}
		}})
	}
	return all
}

// loginAttempts are logins as others, and what the token of the join file is still good for.
func (e *estate) loginAttempts() []attempt[vaultAs] {
	var all []attempt[vaultAs]
	pool := poolOf(e.read(e.vault.CAFile))
	for _, node := range []string{"shop", "ledger", victim} {
		all = append(all, attempt[vaultAs]{
			name: "log in as " + node + " with another certificate", why: `^400: .*failed to match all constraints for this login certificate`,
			do: func(ctx context.Context, as vaultAs) verdict {
				_, err := vaultLogin(ctx, as.server.Address, pool, as.logins[node], node)
				return failed(err)
			},
		})
	}
	const spent = `^400: .*wrapping token is not valid or does not exist`
	tokenOf := func(name, path, why string) attempt[vaultAs] {
		return attempt[vaultAs]{name: name, why: why, do: func(ctx context.Context, as vaultAs) verdict {
			as.token = ""
			_, o := as.ask(ctx, http.MethodPost, path, map[string]any{"token": as.wrapped()})
			return o
		}}
	}
	return append(all,
		tokenOf("look the join token up", "sys/wrapping/lookup", spent),
		attempt[vaultAs]{name: "unwrap the join token again", why: spent, do: func(ctx context.Context, as vaultAs) verdict {
			as.token = as.wrapped()
			_, o := as.ask(ctx, http.MethodPost, "sys/wrapping/unwrap", nil)
			return o
		}},
		attempt[vaultAs]{name: "wrap the join token anew", why: spent, do: func(ctx context.Context, as vaultAs) verdict {
			_, o := as.ask(ctx, http.MethodPost, "sys/wrapping/rewrap", map[string]any{"token": as.wrapped()})
			return o
		}},
		attempt[vaultAs]{name: "wrap what it likes", why: vaultDenied, do: func(ctx context.Context, as vaultAs) verdict {
			_, err := e.wrap(ctx, as.token)
			return failed(err)
		}},
		attempt[vaultAs]{name: "log in with the join token as a secret_id", why: `^400: .*invalid role or secret ID`, do: func(ctx context.Context, as vaultAs) verdict {
			as.token = ""
			_, o := as.ask(ctx, http.MethodPost, "auth/approle/login", map[string]any{"role_id": as.role, "secret_id": as.secret})
			return o
		}},
	)
}

// ownRights are what the thief can do because the node can.
func (e *estate) ownRights(l *loot) map[string]error {
	ctx := e.t.Context()
	own := map[string]error{}
	token, err := vaultLogin(ctx, l.vault, l.vaultCA, l.node, victim)
	own["log in to Vault"] = err
	sign := func(mount, id string, edit func(*x509.CertificateRequest)) error {
		_, err := e.vault.RequestAs(ctx, token, http.MethodPost, mount+"/sign/"+victim, map[string]any{"csr": certificateRequest(e.t, edit, id)})
		return err
	}
	own["renew its service's certificate"] = sign("pki_mesh", "/svc/a/n/"+victim, nil)
	own["renew its own certificate"] = sign("pki_node", "/node/"+victim, commonName(victim))
	own["renew its token"] = l.renew(ctx, token)

	c := l.client()
	defer c.Close() //nolint:errcheck // nothing is under way
	objects, err := c.HGetAll(ctx, prefix+"config").Result()
	if err == nil && len(objects) == 0 {
		err = errors.New("there is none")
	}
	own["read the configuration"] = err
	own["read the head"] = c.Get(ctx, prefix+"head").Err()
	own["write below its own name"] = c.Set(ctx, prefix+"inst:"+victim+"/BRIDGE", "x", time.Second).Err()
	own["have shop answer GET /public"] = e.ask(ctx, wireAs{certs: map[string]*tls.Certificate{"shop": l.leaf()}}, wireCall{node: "shop", method: http.MethodGet, path: "/public", tag: "own"}).ok()
	return own
}

// renew renews a token, for which Vault wants the certificate that it was given for.
func (l *loot) renew(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.vault+"/v1/auth/token/renew-self", nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", token)
	return vaultDo(l.vaultCA, l.node, req, new(map[string]any))
}

// uriIs reports whether a certificate has the identity.
func uriIs(want string) func(*x509.Certificate) bool {
	return func(c *x509.Certificate) bool {
		for _, u := range c.URIs {
			if u.String() == whole(want) {
				return true
			}
		}
		return false
	}
}

// whole is an identity of the mesh's trust domain, if it does not say of which it is.
func whole(id string) string {
	if strings.Contains(id, "://") {
		return id
	}
	return "spiffe://" + rig.TrustDomain + id
}
