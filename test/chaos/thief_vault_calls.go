package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// What Vault says to what a role does not sign.
const (
	notOfRole = `^400: .*(not allowed by this role|not valid for this role|not allowed in this role|allowed by this role)`
)

// wantedNames are what the thief has its own two roles asked for.
func wantedNames() []named {
	const own, ownNode = "/svc/a/n/" + victim, "/node/" + victim
	var all []named
	for _, id := range []string{
		"/svc/shop/n/shop", "/svc/ledger/n/ledger", "/svc/a/n/shop", "/svc/shop/n/" + victim, "/svc/a", "/svc/a/n/" + victim + "0", "/svc/*/n/" + victim,
		"/gateway/edge", "/op/alice", ownNode, "/node/shop", "", "spiffe://elsewhere.example/svc/a/n/" + victim,
	} {
		all = append(all, named{what: "the identity " + id, at: "$leaf", uris: []string{id}, got: uriIs(id), why: notOfRole})
	}
	for _, id := range []string{"/node/shop", own, "/op/alice", "/svc/shop/n/shop"} {
		all = append(all, named{what: "the identity " + id, at: "$node", uris: []string{id}, edit: commonName(victim), got: uriIs(id), why: notOfRole})
	}
	hasDNS := func(c *x509.Certificate) bool { return len(c.DNSNames) > 0 }
	isShop := func(c *x509.Certificate) bool {
		return c.Subject.CommonName == "shop" || slices.Contains(c.DNSNames, "shop")
	}
	lives := func(c *x509.Certificate) bool { return time.Until(c.NotAfter) > 8*24*time.Hour } // longer than any
	end := map[string]any{"not_after": time.Now().AddDate(0, 10, 0).UTC().Format("2006-01-02T15:04:05Z")}
	return append(all,
		named{what: "a second identity", at: "$leaf", uris: []string{own, "/svc/shop/n/shop"}, got: uriIs("/svc/shop/n/shop"), why: notOfRole},
		named{what: "a DNS name", at: "$leaf", uris: []string{own}, edit: func(r *x509.CertificateRequest) { r.DNSNames = []string{"shop.shop.default"} }, got: hasDNS, why: notOfRole},
		named{what: "an IP address", at: "$leaf", uris: []string{own}, edit: func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, got: func(c *x509.Certificate) bool { return len(c.IPAddresses) > 0 }, why: `^400: .*IP Subject Alternative Names are not allowed in this role`},
		named{what: "an email address", at: "$leaf", uris: []string{own}, edit: func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"root@shop.example"} }, got: func(c *x509.Certificate) bool { return len(c.EmailAddresses) > 0 }, why: notOfRole},
		named{what: "a common name", at: "$leaf", uris: []string{own}, edit: commonName("shop"), got: isShop, why: signedWithout},
		named{what: "a common name, said", at: "$said", uris: []string{own}, say: map[string]any{"common_name": "shop"}, got: isShop, why: vaultDenied},
		named{what: "an identity, said", at: "$said", uris: []string{own}, say: map[string]any{"uri_sans": whole("/svc/shop/n/shop")}, got: uriIs("/svc/shop/n/shop"), why: signedWithout},
		named{what: "DNS names, said", at: "$said", uris: []string{own}, say: map[string]any{"alt_names": "shop.shop.default"}, got: hasDNS, why: vaultDenied},
		named{what: "another name, of the node and said", at: "$nodesaid", uris: []string{ownNode}, edit: commonName(victim), say: map[string]any{"common_name": "shop"}, got: isShop, why: signedWithout},
		named{what: "another name, of the node", at: "$node", uris: []string{ownNode}, edit: commonName("shop"), got: isShop, why: notOfRole},
		named{what: "a DNS name, of the node", at: "$node", uris: []string{ownNode}, edit: func(r *x509.CertificateRequest) { r.Subject.CommonName, r.DNSNames = victim, []string{"shop"} }, got: isShop, why: notOfRole},
		named{what: "a CA", at: "$ca", uris: []string{own}, edit: asAuthority, got: func(c *x509.Certificate) bool { return c.IsCA }, why: signedWithout},
		named{what: "a life of a year", at: "$leaf", uris: []string{own}, say: map[string]any{"ttl": "8760h"}, got: lives, why: signedWithout},
		named{what: "an end of its choice", at: "$leaf", uris: []string{own}, say: end, got: lives, why: vaultDenied},
		named{what: "an end of its choice, of the node", at: "$node", uris: []string{ownNode}, edit: commonName(victim), say: end, got: lives, why: vaultDenied},
	)
}

// commonName gives a request one.
func commonName(name string) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) { r.Subject = pkix.Name{CommonName: name} }
}

// asAuthority asks for what signs others.
func asAuthority(r *x509.CertificateRequest) {
	value, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err == nil {
		r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: value})
	}
}

// certificateRequest is a request for identities, with a key that nobody keeps, as PEM.
func certificateRequest(t *stage.T, edit func(*x509.CertificateRequest), ids ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &x509.CertificateRequest{}
	for _, id := range ids {
		u, err := url.Parse(whole(id))
		if err != nil {
			t.Fatal(err)
		}
		r.URIs = append(r.URIs, u)
	}
	if edit != nil {
		edit(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE REQUEST", der)
}

// vaultCall is a request that the policy of nodes has to refuse.
type vaultCall struct {
	method, path string
	body         map[string]any
}

// vaultCalls are in an order in which somebody who may do everything can make them all.
func (e *estate) vaultCalls() []vaultCall {
	const get, del, list = http.MethodGet, http.MethodDelete, "LIST"
	type body = map[string]any
	calls := append(e.signingCalls(), []vaultCall{
		{get, "kv/data/hedgerow/nodes/shop/redis", nil},
		{post, "kv/data/hedgerow/nodes/shop/redis", body{"data": body{"password": "x"}}},
		{post, "kv/data/hedgerow/nodes/" + victim + "/redis", body{"data": body{"password": "x"}}},
		{list, "kv/metadata/hedgerow/nodes", nil},
		{list, "kv/metadata/hedgerow", nil},
		{get, "kv/data/hedgerow/joins/" + victim, nil},
		{list, "kv/metadata/hedgerow/joins", nil},
		{get, "kv/data/hedgerow/mesh", nil},
		{list, "kv/metadata/hedgerow/log", nil},
		{get, "kv/data/hedgerow/log/1/head", nil},
		{post, "kv/data/hedgerow/log/1/head", body{"data": body{"value": "e30="}}},
		{post, "kv/data/hedgerow/log/99/head", body{"data": body{"value": "e30="}}},
		{del, "kv/metadata/hedgerow/log/1/head", nil},
		{post, "kv/config", body{"max_versions": 1}},
		{post, "auth/token/create", body{}},
		{post, "auth/token/create", body{"policies": []string{"hedgerow-control"}, "no_parent": true}},
		{post, "auth/token/create-orphan", body{"policies": []string{"hedgerow-control"}}},
		{get, "auth/token/lookup-self", nil},
		{list, "auth/token/accessors", nil},
		{post, "auth/token/roles/thief", body{"allowed_policies": "hedgerow-control"}},
		{list, "auth/approle/role", nil},
		{post, "auth/approle/role/shop", body{"role_id": "shop", "token_policies": "hedgerow-node"}},
		{post, "auth/approle/role/shop/secret-id", body{}},
		{get, "auth/approle/role/shop/role-id", nil},
		{get, "auth/approle/role/hedgerow-control/role-id", nil},
		{post, "auth/approle/role/hedgerow-control/secret-id", body{}},
		{get, "auth/cert/certs/shop", nil},
		{list, "auth/cert/certs", nil},
		{post, "auth/cert/certs/" + victim, body{"token_policies": "hedgerow-control"}},
		{post, "auth/cert/certs/thief", body{"certificate": e.certificatePEM(), "token_policies": "hedgerow-control"}},
		{post, "auth/cert/config", body{"disable_binding": true}},
		{post, "identity/entity/name/" + victim, body{"policies": []string{"hedgerow-control"}}},
		{post, "identity/entity/name/shop", body{"disabled": true}},
		{post, "identity/lookup/entity", body{"name": "shop"}},
		{list, "identity/entity/name", nil},
		{post, "identity/group", body{"name": "thieves", "policies": []string{"hedgerow-control"}}},
		{post, "cubbyhole/x", body{"a": "b"}},
		{post, "sys/capabilities-self", body{"paths": []string{"pki_mesh/roles/shop"}}},
	}...)
	return append(calls, []vaultCall{
		{get, "sys/policies/acl/hedgerow-node", nil},
		{list, "sys/policies/acl", nil},
		{post, "sys/policies/acl/hedgerow-node", body{"policy": `path "*" { capabilities = ["sudo"] }`}},
		{get, "sys/mounts", nil},
		{post, "sys/mounts/thief", body{"type": "kv"}},
		{get, "sys/auth", nil},
		{post, "sys/auth/thief", body{"type": "cert"}},
		{get, "sys/audit", nil},
		{get, "sys/config/state/sanitized", nil},
		{del, "auth/cert/certs/shop", nil},
		{del, "identity/entity/name/shop", nil},
		{del, "sys/policies/acl/hedgerow-node", nil},
		{del, "sys/mounts/pki_root", nil},
		{http.MethodPut, "sys/seal", nil},
	}...)
}

const post = http.MethodPost

// signingCalls are about what signs: certificates, and configuration.
func (e *estate) signingCalls() []vaultCall {
	const get, del, list = http.MethodGet, http.MethodDelete, "LIST"
	type body = map[string]any
	csr := func(id string, edit func(*x509.CertificateRequest)) string { return certificateRequest(e.t, edit, id) }
	shop, ledger, shopID := csr("/svc/shop/n/shop", nil), csr("/svc/ledger/n/ledger", nil), whole("/svc/shop/n/shop")
	return []vaultCall{
		{post, "pki_mesh/sign/shop", body{"csr": shop}},
		{post, "pki_mesh/sign/ledger", body{"csr": ledger}},
		{post, "pki_node/sign/shop", body{"csr": csr("/node/shop", commonName("shop"))}},
		{post, "pki_mesh/issue/" + victim, body{"uri_sans": whole("/svc/a/n/" + victim)}},
		{post, "pki_mesh/issue/shop", body{"uri_sans": shopID}},
		{post, "pki_node/issue/shop", body{"common_name": "shop", "uri_sans": whole("/node/shop")}},
		{post, "pki_mesh/sign-verbatim", body{"csr": shop}},
		{post, "pki_mesh/sign-verbatim/" + victim, body{"csr": shop}},
		{post, "pki_node/sign-verbatim", body{"csr": shop}},
		{post, "pki_root/sign-verbatim", body{"csr": shop}},
		{post, "pki_mesh/issuer/default/sign/shop", body{"csr": shop}},
		{post, "pki_mesh/issuer/default/issue/shop", body{"uri_sans": shopID}},
		{post, "pki_mesh/issuer/default/sign-verbatim", body{"csr": shop}},
		{post, "pki_root/root/sign-intermediate", body{"csr": csr("", asAuthority), "common_name": "thief"}},
		{post, "pki_root/issuer/default/sign-intermediate", body{"csr": csr("", asAuthority), "common_name": "thief"}},
		{post, "pki_root/root/generate/exported", body{"common_name": "thief"}},
		{post, "pki_mesh/intermediate/generate/exported", body{"common_name": "thief"}},
		{post, "pki_mesh/issuers/import/bundle", body{"pem_bundle": e.authorityPEM()}},
		{get, "pki_mesh/roles/" + victim, nil},
		{get, "pki_mesh/roles/shop", nil},
		{list, "pki_mesh/roles", nil},
		{post, "pki_mesh/roles/" + victim, body{"allow_any_name": true, "allowed_uri_sans": "*"}},
		{post, "pki_mesh/roles/thief", body{"allow_any_name": true, "allowed_uri_sans": "*"}},
		{post, "pki_node/roles/" + victim, body{"allow_any_name": true, "allowed_uri_sans": "*"}},
		{del, "pki_mesh/roles/shop", nil},
		{get, "pki_mesh/config/crl", nil},
		{post, "pki_mesh/config/crl", body{"expiry": "24h"}},
		{post, "pki_mesh/config/urls", body{"crl_distribution_points": "https://thief.example/crl"}},
		{get, "pki_mesh/crl/rotate", nil},
		{post, "pki_mesh/revoke", body{"certificate": e.certificatePEM()}},
		{list, "pki_mesh/certs", nil},
		{post, "pki_mesh/tidy", body{}},
		{post, "transit/sign/hedgerow", body{"input": "aGVhZA=="}},
		{get, "transit/keys/hedgerow", nil},
		{get, "transit/export/public-key/hedgerow", nil},
		{post, "transit/keys/hedgerow/config", body{"exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true}},
		{get, "transit/export/signing-key/hedgerow", nil},
		{get, "transit/backup/hedgerow", nil},
		{post, "transit/keys/hedgerow/rotate", nil},
		{post, "transit/keys/thief", body{"type": "ed25519"}},
		{del, "transit/keys/hedgerow", nil},
	}
}

// certificatePEM is the certificate of shop, as anybody sees who has it dialled.
func (e *estate) certificatePEM() string {
	e.t.Helper()
	return pemOf("CERTIFICATE", e.steal("shop").leaf().Certificate[0])
}

// authorityPEM is a CA that the thief has made.
func (e *estate) authorityPEM() string {
	e.t.Helper()
	ca, key := newAuthority(e.t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		e.t.Fatal(err)
	}
	return pemOf("CERTIFICATE", ca.Raw) + pemOf("PRIVATE KEY", der)
}

// newAuthority makes a CA of the mesh's trust domain that nobody trusts.
func newAuthority(t *stage.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(whole(""))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hedgerow default root"}, URIs: []*url.URL{u},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

func (e *estate) read(file string) []byte {
	e.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		e.t.Fatal(err)
	}
	return text
}
