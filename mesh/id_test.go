package mesh

import (
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	long := "spiffe://td/" + strings.Repeat("a", 2048-len("spiffe://td/"))
	for _, tt := range []struct {
		name, in string
		ok       bool
	}{
		{"a service", "spiffe://hedgerow.local/svc/orders/n/orders-v1", true},
		{"a gateway", "spiffe://hedgerow.local/gateway/demo", true},
		{"the trust domain itself", "spiffe://hedgerow.local", true},
		{"upper case in the path", "spiffe://td/Svc/A_b.c", true},
		{"underscore and digits in the trust domain", "spiffe://1.t_d-x/a", true},
		{"2048 bytes", long, true},
		{"2049 bytes", long + "a", false},
		{"trust domain of 256 bytes", "spiffe://" + strings.Repeat("a", 256) + "/a", false},
		{"empty", "", false},
		{"upper-case scheme", "SPIFFE://td/a", false},
		{"mixed-case scheme", "Spiffe://td/a", false},
		{"another scheme", "https://td/a", false},
		{"no authority", "spiffe:/td/a", false},
		{"empty trust domain", "spiffe:///a", false},
		{"scheme only", "spiffe://", false},
		{"upper case in the trust domain", "spiffe://TD/a", false},
		{"port", "spiffe://td:8443/a", false},
		{"user", "spiffe://u@td/a", false},
		{"query", "spiffe://td/a?x=1", false},
		{"empty query", "spiffe://td/a?", false},
		{"fragment", "spiffe://td/a#x", false},
		{"percent encoding in the path", "spiffe://td/%73vc/a", false},
		{"percent encoding in the trust domain", "spiffe://t%64/a", false},
		{"trailing slash", "spiffe://td/a/", false},
		{"slash only", "spiffe://td/", false},
		{"empty segment", "spiffe://td//a", false},
		{"dot segment", "spiffe://td/./a", false},
		{"dot-dot segment", "spiffe://td/svc/a/../b", false},
		{"dot-dot at the end", "spiffe://td/a/..", false},
		{"three dots are a name", "spiffe://td/...", true},
		{"space", "spiffe://td/a b", false},
		{"NUL", "spiffe://td/a\x00", false},
		{"newline", "spiffe://td/a\n", false},
		{"star", "spiffe://td/svc/*/n/a", false},
		{"not ASCII", "spiffe://td/é", false},
		{"backslash", `spiffe://td\a/b`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := ParseID(tt.in)
			if (err == nil) != tt.ok {
				t.Fatalf("ParseID(%.60q) = %v, want ok %v", tt.in, err, tt.ok)
			}
			if err != nil {
				if KindOf(err) != Invalid || strings.ContainsAny(err.Error(), "\n\x00") || !id.IsZero() {
					t.Errorf("error %q of kind %v and id %v: want one line, invalid and nobody", err, KindOf(err), id)
				}
				return
			}
			if id.String() != tt.in || "spiffe://"+id.TrustDomain()+id.Path() != tt.in {
				t.Errorf("%q comes back as %q = %q + %q", tt.in, id, id.TrustDomain(), id.Path())
			}
		})
	}
}

func TestIDForms(t *testing.T) {
	service, err := ServiceID("hedgerow.local", "orders", "orders-v1")
	if err != nil || service.String() != "spiffe://hedgerow.local/svc/orders/n/orders-v1" {
		t.Fatalf("ServiceID = %v, %v", service, err)
	}
	if s, n, ok := service.Service(); s != "orders" || n != "orders-v1" || !ok {
		t.Errorf("Service() = %q, %q, %v", s, n, ok)
	}
	gateway, err := GatewayID("hedgerow.local", "demo")
	if g, ok := gateway.Gateway(); err != nil || g != "demo" || !ok {
		t.Errorf("Gateway() of %v = %q, %v (%v)", gateway, g, ok, err)
	}
	node, err := NodeID("hedgerow.local", "edge7")
	if n, ok := node.Node(); err != nil || n != "edge7" || !ok {
		t.Errorf("Node() of %v = %q, %v (%v)", node, n, ok, err)
	}
	if _, ok := service.Node(); ok {
		t.Error("a service's identity is not its node's")
	}
	if _, ok := node.Gateway(); ok {
		t.Error("a node is not a gateway")
	}
	if parsed, _ := ParseID(service.String()); parsed != service {
		t.Error("a parsed ID is not == to the one it was made from")
	}
	var nobody ID
	if _, _, ok := nobody.Service(); ok || nobody.Path() != "" || nobody.TrustDomain() != "" || nobody.String() != "" {
		t.Error("the zero ID is somebody")
	}
	for _, s := range []string{
		"spiffe://td/svc/a/n/b/n/c", "spiffe://td/svc/a", "spiffe://td/svc/a/x/b", "spiffe://td/svc/A/n/b",
		"spiffe://td/svc/a.b/n/c", "spiffe://td/n/a", "spiffe://td/x/svc/a/n/b",
	} {
		id, err := ParseID(s)
		if err != nil {
			t.Fatal(err)
		}
		if a, b, ok := id.Service(); ok {
			t.Errorf("%s is the service %q on %q", s, a, b)
		}
	}
}

func TestMakeIDRefuses(t *testing.T) {
	for name, make := range map[string]func() (ID, error){
		"slash in a service":   func() (ID, error) { return ServiceID("td", "a/n/b", "c") },
		"dots for a service":   func() (ID, error) { return ServiceID("td", "..", "c") },
		"empty node":           func() (ID, error) { return ServiceID("td", "a", "") },
		"star for a gateway":   func() (ID, error) { return GatewayID("td", "*") },
		"upper-case node":      func() (ID, error) { return NodeID("td", "Edge") },
		"bad trust domain":     func() (ID, error) { return NodeID("td:1", "edge") },
		"path in trust domain": func() (ID, error) { return NodeID("td/x", "edge") },
		"empty trust domain":   func() (ID, error) { return NodeID("", "edge") },
	} {
		if id, err := make(); err == nil || !id.IsZero() || KindOf(err) != Invalid {
			t.Errorf("%s: made %v, %v", name, id, err)
		}
	}
}

func TestIDPattern(t *testing.T) {
	const td = "hedgerow.local"
	for _, tt := range []struct {
		name, pattern, id string
		want              bool
	}{
		{"a service on any node", "/svc/orders", "spiffe://hedgerow.local/svc/orders/n/edge7", true},
		{"a service is not its prefix", "/svc/orders", "spiffe://hedgerow.local/svc/orders-admin/n/edge7", false},
		{"a service needs its node", "/svc/orders", "spiffe://hedgerow.local/svc/orders", false},
		{"nothing after the node", "/svc/orders", "spiffe://hedgerow.local/svc/orders/n/edge7/x", false},
		{"a service on one node", "/svc/orders/n/edge7", "spiffe://hedgerow.local/svc/orders/n/edge7", true},
		{"not on another node", "/svc/orders/n/edge7", "spiffe://hedgerow.local/svc/orders/n/edge8", false},
		{"every service", "/svc/*", "spiffe://hedgerow.local/svc/orders/n/edge7", true},
		{"every service of a node", "/svc/*/n/edge7", "spiffe://hedgerow.local/svc/orders/n/edge7", true},
		{"every service is no gateway", "/svc/*", "spiffe://hedgerow.local/gateway/demo", false},
		{"a gateway", "/gateway/demo", "spiffe://hedgerow.local/gateway/demo", true},
		{"every gateway", "/gateway/*", "spiffe://hedgerow.local/gateway/demo", true},
		{"a node", "/node/edge7", "spiffe://hedgerow.local/node/edge7", true},
		{"another trust domain", "/svc/orders", "spiffe://evil.local/svc/orders/n/edge7", false},
		{"longer trust domain", "/svc/orders", "spiffe://hedgerow.local.evil/svc/orders/n/edge7", false},
		{"full form", "spiffe://other.local/svc/a/n/*", "spiffe://other.local/svc/a/n/b", true},
		{"full form, short path", "spiffe://other.local/svc/a", "spiffe://other.local/svc/a/n/b", true},
		{"full form of another domain", "spiffe://other.local/svc/a/n/*", "spiffe://hedgerow.local/svc/a/n/b", false},
		{"full form, any path", "spiffe://hedgerow.local/op/*", "spiffe://hedgerow.local/op/eve", true},
		{"star is one segment", "spiffe://hedgerow.local/*", "spiffe://hedgerow.local/op/eve", false},
		{"the trust domain itself", "spiffe://hedgerow.local/*", "spiffe://hedgerow.local", false},
		{"nobody", "/svc/*", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParseIDPattern(tt.pattern, td)
			if err != nil {
				t.Fatal(err)
			}
			var id ID
			if tt.id != "" {
				if id, err = ParseID(tt.id); err != nil {
					t.Fatal(err)
				}
			}
			if got := p.Match(id); got != tt.want {
				t.Errorf("%s matches %s: %v, want %v", p, id, got, tt.want)
			}
			if allocs := testing.AllocsPerRun(10, func() { p.Match(id) }); allocs != 0 {
				t.Errorf("Match allocates %v times", allocs)
			}
		})
	}
	if (IDPattern{}).Match(ID{}) {
		t.Error("the zero pattern matches nobody")
	}
}

func TestIDPatternRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                      "",
		"a star alone":               "*",
		"slash only":                 "/",
		"no leading slash":           "svc/orders",
		"unknown kind":               "/service/orders",
		"misspelt n":                 "/svc/orders/m/edge7",
		"kind only":                  "/svc",
		"star as kind":               "/*/orders",
		"part of a segment":          "/svc/ord*",
		"two stars":                  "/svc/**",
		"trailing slash":             "/svc/orders/",
		"dot-dot":                    "/svc/../gateway/demo",
		"upper case id":              "/svc/Orders",
		"dot in an id":               "/svc/a.b",
		"percent encoding":           "/svc/%6frders",
		"too many segments":          "/svc/a/n/b/c",
		"star as trust domain":       "spiffe://*/svc/a",
		"trust domain without path":  "spiffe://hedgerow.local",
		"trust domain and a slash":   "spiffe://hedgerow.local/",
		"upper-case scheme":          "SPIFFE://hedgerow.local/svc/a",
		"port":                       "spiffe://hedgerow.local:1/svc/a",
		"query":                      "spiffe://hedgerow.local/svc/a?b",
		"longer than an ID may be":   "/svc/" + strings.Repeat("a", 2048),
		"newline inside":             "/svc/a\nb",
		"another scheme":             "http://hedgerow.local/svc/a",
		"gateway with a node's path": "/gateway/a/n/b",
	} {
		p, err := ParseIDPattern(in, "hedgerow.local")
		if err == nil {
			t.Errorf("%s: %.60q compiles to %s", name, in, p)
			continue
		}
		if KindOf(err) != Invalid || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q of kind %v", name, err, KindOf(err))
		}
	}
	if _, err := ParseIDPattern("/svc/a", "UPPER"); err == nil {
		t.Error("a pattern in an invalid trust domain compiles")
	}
}

// FuzzID holds ParseID and ParseIDPattern to what their comments promise: what
// parses is canonical, equals itself and matches itself read as a pattern.
func FuzzID(f *testing.F) {
	for _, s := range []string{
		"spiffe://hedgerow.local/svc/orders/n/edge7", "spiffe://td", "SPIFFE://td/a", "spiffe://td/svc/a/../b",
		"/svc/orders", "/svc/*/n/edge7", "/gateway/demo", "spiffe://td/svc/%2e", "spiffe://td//", "*",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseIDPattern(s, "td"); err == nil {
			again, err := ParseIDPattern(p.String(), "other")
			if err != nil || again.String() != p.String() {
				t.Fatalf("pattern %q prints as %q, which does not come back: %v", s, p, err)
			}
			// With something in place of each star, it selects itself.
			if id, err := ParseID(strings.ReplaceAll(p.String(), "*", "x")); err != nil || !p.Match(id) {
				t.Fatalf("pattern %q does not match its own instance %q (%v)", p, id, err)
			}
		}
		id, err := ParseID(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("error of more than one line: %q", err)
			}
			return
		}
		rest := strings.TrimPrefix(s, "spiffe://")
		if id.String() != s || strings.ContainsAny(rest, "%?#@:*\\ \x00\n") || strings.ToLower(id.TrustDomain()) != id.TrustDomain() {
			t.Fatalf("accepted %q as %q", s, id)
		}
		if strings.HasPrefix(id.Path(), "/svc/") && strings.Count(id.Path(), "/") == 2 {
			return // as a pattern this means the service on every node
		}
		if p, err := ParseIDPattern(s, "td"); id.Path() != "" && (err != nil || !p.Match(id)) {
			t.Fatalf("%q as a pattern: %v, match %v", s, err, p.Match(id))
		}
	})
}
