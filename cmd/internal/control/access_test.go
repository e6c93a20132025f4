package control

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
)

func TestAccessIsValidated(t *testing.T) {
	grants := []controlapi.ClaimGrant{{Claim: "groups", Value: "ops", Role: "admin"}}
	good := OIDC{Issuer: "https://id.test", Audience: "mesh", JWKSURI: "https://id.test/jwks", Grants: grants}
	with := func(change func(*OIDC)) Access {
		o := good
		change(&o)
		return Access{OIDC: o}
	}
	for name, tt := range map[string]struct {
		access Access
		tls    TLS
		want   string
	}{
		"nothing":                          {Access{}, TLS{}, ""},
		"an issuer":                        {Access{OIDC: good}, TLS{}, ""},
		"no audience":                      {with(func(o *OIDC) { o.Audience = "" }), TLS{}, "access.oidc.audience"},
		"keys by plain HTTP":               {with(func(o *OIDC) { o.JWKSURI = "http://id.test/jwks" }), TLS{}, "not https"},
		"keys of this machine":             {with(func(o *OIDC) { o.JWKSURI = "http://127.0.0.1:8/jwks" }), TLS{}, ""},
		"no keys":                          {with(func(o *OIDC) { o.JWKSURI = "" }), TLS{}, "not a URL"},
		"nobody":                           {with(func(o *OIDC) { o.Grants = nil }), TLS{}, "access.oidc.grants"},
		"no issuer":                        {with(func(o *OIDC) { o.Issuer = "" }), TLS{}, "access.oidc.issuer"},
		"a CA and nobody":                  {Access{}, TLS{CertFile: "c", KeyFile: "k", ClientCAFile: "ca"}, "go together"},
		"somebody and no CA":               {Access{Certificates: []controlapi.CertificateGrant{{ID: "/op/a", Role: "admin"}}}, TLS{}, "go together"},
		"client certificates in the clear": {Access{Certificates: []controlapi.CertificateGrant{{ID: "/op/a", Role: "admin"}}}, TLS{ClientCAFile: "ca"}, "tls.certFile"},
	} {
		err := tt.access.validate(tt.tls)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestAuditVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), auditFile)
	l, err := auditlog.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Append(auditlog.Entry{Outcome: auditlog.Accepted}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := AuditCommand(&out)
		c.SetArgs(append([]string{"verify"}, args...))
		err := c.Execute()
		return out.String(), err
	}
	for _, name := range []string{path, filepath.Dir(path)} {
		if out, err := verify(name); err != nil || !strings.HasPrefix(out, "intact up to entry 3, whose hash is ") {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
	if out, err := verify(t.TempDir()); err == nil {
		t.Errorf("a directory without a log: %q", out)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(raw, []byte("ACCEPTED"), []byte("REFUSED!"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%q %v", out, err)
	}
}

// What --print-config shows of a grant is all that it says.
func TestTheScopesOfGrantsArePrinted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "control.yaml")
	text := "access:\n  certificates:\n    - {id: /op/a, role: editor, scopes: [{collections: [routes], labels: {team: shop}}]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := Command()
	c.SetOut(&out)
	c.SetArgs([]string{"--config", file, "--print-config"})
	if err := c.Execute(); err != nil || !strings.Contains(out.String(), "- routes\n") || !strings.Contains(out.String(), "team: shop\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
