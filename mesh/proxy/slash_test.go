package proxy

import (
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestCanonicalKeeping(t *testing.T) {
	for _, tt := range []struct{ raw, path, other string }{
		{"/a%2fb", "/a%2Fb", "/a/b"},
		{"/a%2F..%2Fadmin", "/a%2F..%2Fadmin", "/admin"},
		{"/x/../a%2fb/%61/", "/a%2Fb/a/", "/a/b/a/"},
		{"/%2f", "/%2F", "/"},
		{"/a%252fb", "", ""},
		{"/a%2f%5cb", "", ""},
		{"/a%2fb%zz", "", ""},
		{"a%2fb", "", ""},
		{"/a%2f..;x", "", ""},
	} {
		path, other, err := canonicalKeeping(tt.raw)
		if err != nil {
			path, other = "", ""
		}
		if path != tt.path || other != tt.other {
			t.Errorf("%s is %q or %q (%v), want %q or %q", tt.raw, path, other, err, tt.path, tt.other)
		}
	}
}

// A rule that takes escaped slashes has them in its segments, and policies hold for
// either reading.
func TestEscapedSlashes(t *testing.T) {
	files := routeOf("files", "example.com", templatePath("/files/{name}"))
	files.Rules[0].KeepEncodedSlash = true
	plain := routeOf("plain", "example.com", prefixPath("/plain"))
	deny := func(path string) *mesh.Policy {
		return &mesh.Policy{
			Meta: mesh.Meta{Name: "policies/deny"}, Action: mesh.Deny, Target: &mesh.PolicyTarget{Route: "files"},
			Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Paths: []string{path}}}}},
		}
	}
	allow := deny("/files/{name}")
	allow.Action = mesh.Allow
	for _, tt := range []struct {
		name, path, decoded string
		policy              *mesh.Policy
		want                string
	}{
		{"one segment", "/files/a%2Fb", "/files/a/b", nil, "files"},
		{"no rule that takes it", "/plain/a%2Fb", "/plain/a/b", nil, "bad_request"},
		{"no rule at all", "/none%2Fb", "/none/b", nil, "bad_request"},
		{"with parameters", "/files/a%2Fb;c", "/files/a/b;c", nil, "bad_request"},
		{"denied as it is", "/files/a%2Fb", "/files/a/b", deny("/files/{name}"), "denied"},
		{"denied decoded", "/files/a%2F..%2F..%2Fadmin", "/admin", deny("/admin/**"), "denied"},
		{"allowed only if both are", "/files/a%2Fb", "/files/a/b", allow, "denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := []mesh.Object{files, plain}
			if tt.policy != nil {
				objects = append(objects, tt.policy)
			}
			d := Decide(mustCompile(t, configOf(objects...)), Face{Kind: Gateway}, &Request{Method: "GET", Host: "example.com", Path: tt.path, DecodedPath: tt.decoded}, 0)
			if got := outcome(d); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	t.Run("at the inbound of a service that some rule sends them to", func(t *testing.T) {
		cfg := configOf(files)
		cfg.Defaults.Authorization = mesh.Allow
		r := &Request{Method: "GET", Host: "x", Path: "/files/a%2Fb", DecodedPath: "/files/a/b"}
		if d := Decide(mustCompile(t, cfg), Face{Kind: Inbound, Service: "web"}, r, 0); d.Refusal != nil {
			t.Errorf("refused: %+v", d.Refusal)
		}
		if d := Decide(mustCompile(t, cfg), Face{Kind: Inbound, Service: "telemetry"}, r, 0); d.Refusal == nil || d.Refusal.Status != 400 {
			t.Errorf("another service's inbound takes it: %+v", d)
		}
	})
}
