package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// apiAs is who calls the control plane's API.
type apiAs struct {
	base   string
	tls    *tls.Config
	header http.Header
}

// apiDenied is how somebody is refused whom the API does not know, or who may not.
const apiDenied = `^(401|403): `

// robAPI makes every call of the API with everything that may pass for a credential.
func (e *estate) robAPI(r *row, l *loot) {
	guises := e.guises(l)
	var all []attempt[apiAs]
	for _, who := range slices.Sorted(maps.Keys(guises)) {
		for _, a := range apiAttempts() {
			do := a.do
			all = append(all, attempt[apiAs]{name: a.name + " " + who, why: a.why, do: func(ctx context.Context, _ apiAs) verdict { return do(ctx, guises[who]) }})
		}
	}
	assail(e.t, r, "api", 200, all, apiAs{})
	r.note("api_guises", len(guises))
	r.blame("a report of what became of a join token", e.report(l)...)
}

// apiControls makes the calls as an admin, by a bearer token and by a certificate.
func (e *estate) apiControls(r *row) {
	token := strings.TrimSpace(string(e.read(e.path("control/admin.token"))))
	roots := poolOf(e.read(e.tls.CAFile))
	for what, as := range map[string]apiAs{
		"api_bearer":      {e.api, apiTLS(roots, nil), http.Header{"Authorization": {"Bearer " + token}}},
		"api_certificate": {e.api, apiTLS(roots, e.certify("/op/alice")), http.Header{}},
	} {
		vouch(e.t, r, what, apiAttempts(), as)
	}
}

// certify has the operator's Vault sign a certificate for any identity.
func (e *estate) certify(id string) *tls.Certificate {
	e.t.Helper()
	e.root(http.MethodPost, "pki_mesh/roles/operator", map[string]any{"allow_any_name": true, "allowed_uri_sans": "*", "require_cn": false, "key_type": "ec", "no_store": true, "not_before_duration": "5m"})
	answer := e.root(http.MethodPost, "pki_mesh/issue/operator", map[string]any{"uri_sans": whole(id)})
	chain := asText(answer["certificate"]) + "\n" + asText(answer["issuing_ca"])
	cert, err := tls.X509KeyPair([]byte(chain), []byte(asText(answer["private_key"])))
	if err != nil {
		e.t.Fatal(err)
	}
	return &cert
}

// apiTLS presents a certificate, if there is one.
func apiTLS(roots *x509.CertPool, cert *tls.Certificate) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return config
}

// guises are all that the thief can present.
func (e *estate) guises(l *loot) map[string]apiAs {
	plain := apiTLS(l.apiCA, nil)
	all := map[string]apiAs{
		"as nobody":                      {l.api, plain, http.Header{}},
		"with the node's certificate":    {l.api, apiTLS(l.apiCA, l.node), http.Header{}},
		"with the service's certificate": {l.api, apiTLS(l.apiCA, l.leaf()), http.Header{}},
		"with a token of its own making": {l.api, plain, http.Header{"Authorization": {"Bearer hgt_" + strings.Repeat("A", 43)}}},
		"with an empty token":            {l.api, plain, http.Header{"Authorization": {"Bearer "}}},
		"with a password":                {l.api, plain, http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+l.password))}}},
		"as whom a proxy might name": {l.api, plain, http.Header{
			"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-User": {"admin"}, "X-Remote-User": {"admin"}, "X-Real-Ip": {"127.0.0.1"},
			"X-Forwarded-Client-Cert": {"URI=" + whole("/op/alice")}, "X-Ssl-Client-Verify": {"SUCCESS"}, "X-Ssl-Client-S-Dn": {"CN=alice"}, "Hedgerow-Principal": {"tokens/admin"},
		}},
	}
	for i, word := range l.words {
		all[fmt.Sprintf("with word %d of its files as a token", i+1)] = apiAs{l.api, plain, http.Header{"Authorization": {"Bearer " + word}}}
	}
	return all
}

// apiAttempts are all calls, in an order in which an admin can make them all.
func apiAttempts() []attempt[apiAs] {
	var all []attempt[apiAs]
	call := func(method, path, body string) {
		all = append(all, attempt[apiAs]{name: method + " " + path, why: apiDenied, do: func(ctx context.Context, as apiAs) verdict { return as.call(ctx, method, path, body) }})
	}
	for _, object := range []struct{ name, text string }{
		{"services/thief", `{}`},
		{"routes/thief", `{"targets":["MESH"],"hostnames":["thief.mesh"],"rules":[{"backends":[{"service":"ledger"}]}]}`},
		{"policies/thief", `{"target":{"service":"ledger"},"action":"ALLOW","rules":[{"from":[{"identities":["/svc/a"]}]}]}`},
		{"authenticators/thief", `{"targets":[{"service":"shop"}],"apiKey":{"header":"x-api-key","keys":[{"name":"thief","sha256":"` + strings.Repeat("ab", 32) + `"}]}}`},
		{"topicRules/thief", `{"filter":"t/{device}","device":"{device}","to":{"service":"ledger","path":"/t/{device}"}}`},
		{"nodes/thief", `{"roles":["SIDECAR"],"services":["shop"]}`},
		{"tokens/thief", `{"role":"ADMIN","expireTime":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}`},
	} {
		collection, _, _ := strings.Cut(object.name, "/")
		call(http.MethodPut, "/v1/"+object.name, object.text)
		call(http.MethodGet, "/v1/"+object.name, "")
		call(http.MethodGet, "/v1/"+collection, "")
		if collection == "nodes" {
			call(http.MethodPost, "/v1/nodes/thief:join", `{}`)
			call(http.MethodPost, "/v1/nodes/thief:quarantine", `{"reason":"x"}`)
			call(http.MethodGet, "/v1/quarantines/thief", "")
			call(http.MethodGet, "/v1/quarantines", "")
			call(http.MethodPost, "/v1/nodes/thief:release", `{}`)
		}
		call(http.MethodDelete, "/v1/"+object.name, "")
	}
	call(http.MethodPut, "/v1/nodes/"+victim, `{"roles":["SIDECAR"],"services":["a","shop"]}`)
	call(http.MethodPost, "/v1/nodes/ledger:join", `{}`)
	call(http.MethodGet, "/v1/defaults/mesh", "")
	call(http.MethodPut, "/v1/defaults/mesh", `{"authorization":"ALLOW","dialCidrs":["127.0.0.0/8"]}`)
	call(http.MethodGet, "/v1/instances", "")
	call(http.MethodPost, "/v1:apply", `{"objects":[{"name":"services/thief"}]}`)
	return append(all, rpcAttempts()...)
}

// rpcAttempts are some of the same calls by gRPC.
func rpcAttempts() []attempt[apiAs] {
	var all []attempt[apiAs]
	for name, call := range map[string]func(context.Context, hedgerowv1.ControlClient) error{
		"ListNodes": func(ctx context.Context, c hedgerowv1.ControlClient) error {
			_, err := c.ListNodes(ctx, &hedgerowv1.ListNodesRequest{})
			return err
		},
		"ListTokens": func(ctx context.Context, c hedgerowv1.ControlClient) error {
			_, err := c.ListTokens(ctx, &hedgerowv1.ListTokensRequest{})
			return err
		},
		"JoinNode": func(ctx context.Context, c hedgerowv1.ControlClient) error {
			_, err := c.JoinNode(ctx, &hedgerowv1.JoinNodeRequest{Id: "ledger"})
			return err
		},
		"DeleteService": func(ctx context.Context, c hedgerowv1.ControlClient) error {
			_, err := c.DeleteService(ctx, &hedgerowv1.DeleteServiceRequest{Id: "thief"}) // the one that was applied last
			return err
		},
	} {
		all = append(all, attempt[apiAs]{name: "gRPC " + name, why: `code = (Unauthenticated|PermissionDenied) `, do: func(ctx context.Context, as apiAs) verdict {
			conn, err := grpc.NewClient(strings.TrimPrefix(as.base, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(as.tls)))
			if err != nil {
				return failed(err)
			}
			defer conn.Close() //nolint:errcheck // nothing is under way
			for name, values := range as.header {
				ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), values[0])
			}
			return failed(call(ctx, hedgerowv1.NewControlClient(conn)))
		}})
	}
	return all
}

// call makes one call.
func (as apiAs) call(ctx context.Context, method, path, body string) verdict {
	req, err := http.NewRequestWithContext(ctx, method, as.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return failed(err)
	}
	maps.Copy(req.Header, as.header)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: as.tls, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return failed(err)
	}
	return answered(resp.StatusCode, text)
}

// report makes the one call that takes no credentials. Without the proof nobody is heard;
// with that of a token that was used, nothing comes of it but an alarm: the node is what it
// was, and may be no more in Vault.
func (e *estate) report(l *loot) (wrong []string) {
	ctx, as := e.t.Context(), apiAs{l.api, apiTLS(l.apiCA, nil), http.Header{}}
	spent := sha256.Sum256([]byte(l.spent))
	before := e.root(http.MethodGet, "pki_mesh/roles/"+victim, nil)
	say := func(node, proof, what string) verdict {
		return as.call(ctx, http.MethodPost, "/v1/nodes/"+node+":reportJoin", fmt.Sprintf(`{"proof":%q,"outcome":%q}`, proof, what))
	}
	for _, lie := range [][3]string{
		{victim, strings.Repeat("ab", 32), "ENROLLED"}, {victim, strings.Repeat("ab", 32), "REFUSED"},
		{"shop", hex.EncodeToString(spent[:]), "ENROLLED"}, {"ledger", hex.EncodeToString(spent[:]), "REFUSED"}, {"nobody", hex.EncodeToString(spent[:]), "ENROLLED"},
	} {
		if o := say(lie[0], lie[1], lie[2]); o.done || !strings.HasPrefix(o.answer, "401: ") {
			wrong = append(wrong, fmt.Sprintf("%s of %s: %s", lie[2], lie[0], o.answer))
		}
	}
	for _, what := range []string{"ENROLLED", "REFUSED"} {
		// The control of the above: whoever has the proof is heard.
		if o := say(victim, hex.EncodeToString(spent[:]), what); !o.done {
			wrong = append(wrong, fmt.Sprintf("%s with the proof: %s", what, o.answer))
		}
	}
	if after := e.root(http.MethodGet, "pki_mesh/roles/"+victim, nil); fmt.Sprint(after) != fmt.Sprint(before) {
		wrong = append(wrong, "the node's role in Vault has changed")
	}
	if err := e.enrolled(victim, "REFUSED"); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// enrolled reports that a node is not, or has another alarm.
func (e *estate) enrolled(node, alarm string) error {
	out, err := runTool(e.t.Context(), time.Minute, e.binaries+"/hedgerow", "get", "nodes/"+node, "-o", "json", "--server", e.api, "--ca-file", e.tls.CAFile, "--token-file", e.path("control/admin.token"))
	if err == nil && (!strings.Contains(out, `"ENROLLED"`) || !strings.Contains(out, alarm)) {
		err = errors.New("the node is " + out)
	}
	return err
}
