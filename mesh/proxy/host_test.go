package proxy

import (
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestCanonicalHost(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "orders.mesh", "orders.mesh"},
		{"mixed case", "SVC.Mesh", "svc.mesh"},
		{"final dot", "svc.mesh.", "svc.mesh"},
		{"port", "svc.mesh:8080", "svc.mesh"},
		{"mixed case, final dot and port", "SVC.Mesh.:8080", "svc.mesh"},
		{"empty port", "svc.mesh:", "svc.mesh"},
		{"one label", "localhost", "localhost"},
		{"underscore", "my_host.example", "my_host.example"},
		{"IPv4", "127.0.0.1:8080", "127.0.0.1"},
		{"IPv6", "[::1]:8080", "[::1]"},
		{"IPv6 in a long spelling", "[2001:DB8:0:0:0:0:0:1]", "[2001:db8::1]"},
		{"253 bytes", strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a"},
		{"label of 63 bytes", strings.Repeat("a", 63) + ".b", strings.Repeat("a", 63) + ".b"},

		{"empty", "", refused},
		{"dot only", ".", refused},
		{"port only", ":80", refused},
		{"two final dots", "svc.mesh..", refused},
		{"empty label", "svc..mesh", refused},
		{"leading dot", ".svc.mesh", refused},
		{"label of 64 bytes", strings.Repeat("a", 64) + ".b", refused},
		{"254 bytes", strings.Repeat("a.", 126) + "ab", refused},
		{"user information", "user@svc.mesh", refused},
		{"user and password", "user:pw@svc.mesh", refused},
		{"port that is no number", "svc.mesh:http", refused},
		{"port over 65535", "svc.mesh:65536", refused},
		{"port of six digits", "svc.mesh:000080", refused},
		{"signed port", "svc.mesh:+80", refused},
		{"two ports", "svc.mesh:80:80", refused},
		{"IPv6 without brackets", "::1", refused},
		{"IPv6 with a zone", "[fe80::1%25eth0]", refused},
		{"IPv4 in brackets", "[127.0.0.1]", refused},
		{"open bracket", "[::1", refused},
		{"text behind the bracket", "[::1]x", refused},
		{"bad port behind the bracket", "[::1]:x", refused},
		{"wildcard", "*.mesh", refused},
		{"path", "svc.mesh/a", refused},
		{"backslash", `svc.mesh\a`, refused},
		{"space", "svc mesh", refused},
		{"two hosts", "svc.mesh, evil", refused},
		{"newline", "svc.mesh\n", refused},
		{"NUL", "svc\x00.mesh", refused},
		{"escape", "svc%2emesh", refused},
		{"not ASCII", "s\u0432c.mesh", refused},
		{"letter that lower-cases into ASCII", "\u212Aelvin.mesh", refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalHost(tt.in)
			if err != nil {
				if mesh.KindOf(err) != mesh.Malformed || strings.ContainsAny(err.Error(), "\n\x00") {
					t.Errorf("error %q of kind %v", err, mesh.KindOf(err))
				}
				got = refused
			}
			if got != tt.want {
				t.Errorf("CanonicalHost(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestCanonicalHostInLowerCaseAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalHost("orders.mesh.:8080") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"SVC.Mesh.:8080", "[2001:DB8::1]:80", "a..b", "::1", "u@h", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := CanonicalHost(raw)
		if err != nil {
			return
		}
		if again, err := CanonicalHost(got); err != nil || again != got {
			t.Fatalf("%q becomes %q, which becomes %q, %v", raw, got, again, err)
		}
		if got == "" || strings.ToLower(got) != got || strings.HasSuffix(got, ".") || strings.ContainsAny(got, "/\\@*% \x00\r\n") {
			t.Fatalf("%q becomes %q", raw, got)
		}
	})
}
