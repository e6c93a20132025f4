package proxy

import (
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// refused is the outcome of a path or host that has no single reading.
const refused = "400"

func TestCanonicalPath(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"root", "/", "/"},
		{"empty, of an absolute-form target", "", "/"},
		{"plain", "/orders/7", "/orders/7"},
		{"case stays", "/Orders", "/Orders"},
		{"final slash stays", "/orders/", "/orders/"},
		{"sub-delimiters stay", "/a!$&'()*+,=:@~b", "/a!$&'()*+,=:@~b"},
		{"hidden names stay", "/.well-known/x", "/.well-known/x"},
		{"three dots are a name", "/a/.../b", "/a/.../b"},

		{"dot-dot removes a segment", "/a/../admin", "/admin"},
		{"dot-dot at the end leaves the slash", "/a/b/..", "/a/"},
		{"dot-dot above the root is the root", "/../../admin", "/admin"},
		{"only dot-dot", "/..", "/"},
		{"empty segments vanish", "//admin", "/admin"},
		{"many empty segments vanish", "/a////b//", "/a/b/"},
		{"an empty segment is none for dot-dot to remove", "/a//../b", "/b"},
		{"single dots vanish", "/./admin", "/admin"},
		{"single dot at the end leaves the slash", "/admin/.", "/admin/"},
		{"escaped letter is the letter", "/%61dmin", "/admin"},
		{"escaped dots are dots", "/a/%2e%2E/admin", "/admin"},
		{"escaped sub-delimiter is itself", "/a%2Cb%3ac", "/a,b:c"},
		{"escapes that stay have upper-case digits", "/a%20b%c3%a9", "/a%20b%C3%A9"},
		{"raw UTF-8 is escaped", "/caf\u00e9", "/caf%C3%A9"},
		{"half raw and half escaped UTF-8", "/caf\xc3%a9", "/caf%C3%A9"},
		{"raw characters outside RFC 3986 are escaped", "/a\"<>^`{|}b", "/a%22%3C%3E%5E%60%7B%7C%7Db"},
		{"escaped question mark and number sign stay", "/a%3fb%23c", "/a%3Fb%23c"},
		{"escaped percent sign stays", "/100%25", "/100%25"},
		{"escaped percent sign before no digits stays", "/100%25/a", "/100%25/a"},
		{"parameters stay", "/orders;v=1/7;a=b", "/orders;v=1/7;a=b"},
		{"escaped semicolon stays escaped", "/orders%3bv=1", "/orders%3Bv=1"},

		{"no leading slash", "admin", refused},
		{"asterisk form", "*", refused},
		{"whole URL", "http://a/b", refused},
		{"escaped slash", "/%2fadmin", refused},
		{"escaped slash, upper case", "/a%2Fb", refused},
		{"escaped slashes around dot-dot", "/x%2f..%2fadmin", refused},
		{"backslash", `/\admin`, refused},
		{"escaped backslash", "/%5cadmin", refused},
		{"escape of an escape", "/a/%252e%252e/admin", refused},
		{"escape of an escape, itself escaped", "/%25%32e", refused},
		{"escape of an escape of an escape", "/%25252e", refused},
		{"escape of escaped UTF-8", "/%25c3", refused},
		{"escaped NUL", "/admin%00", refused},
		{"raw NUL", "/admin\x00", refused},
		{"escaped newline", "/a%0d%0aX:%20y", refused},
		{"raw tab", "/a\tb", refused},
		{"escaped DEL", "/a%7f", refused},
		{"raw space", "/a b", refused},
		{"broken escape", "/%zz", refused},
		{"cut escape", "/a%2", refused},
		{"lone percent sign", "/%", refused},
		{"overlong UTF-8 of a slash", "/a%c0%afb", refused},
		{"overlong UTF-8 of a dot", "/%c0%ae%c0%ae/admin", refused},
		{"UTF-8 of a surrogate", "/%ed%a0%80", refused},
		{"cut UTF-8", "/%c3", refused},
		{"raw byte that is no UTF-8", "/\xff", refused},
		{"query", "/a?b", refused},
		{"number sign", "/admin#x", refused},
		{"parameters on dot-dot", "/x/..;/admin", refused},
		{"parameters on an escaped dot-dot", "/x/%2e%2e;a/admin", refused},
		{"escaped parameters on dot-dot", "/x/..%3b/admin", refused},
		{"parameters on a dot", "/.;a/admin", refused},
		{"parameters on an empty segment", "/;a/admin", refused},
		{"parameters on the final empty segment", "/admin/;a", refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalPath(tt.in)
			if err != nil {
				if mesh.KindOf(err) != mesh.Malformed || strings.ContainsAny(err.Error(), "\n\x00") {
					t.Errorf("error %q of kind %v", err, mesh.KindOf(err))
				}
				got = refused
			}
			if got != tt.want {
				t.Errorf("CanonicalPath(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestCanonicalPathOfACanonicalOneAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalPath("/v1/devices/d1/telemetry") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWithoutParameters(t *testing.T) {
	for in, want := range map[string]string{
		"/admin;a=b":        "/admin",
		"/a;x/b;y;z/":       "/a/b/",
		"/admin%3Ba=b":      "/admin",
		"/a%3Bb;c/d":        "/a/d",
		"/100%25;a":         "/100%25",
		"/a":                "/a",
		"/":                 "/",
		"/x%3":              "/x%3",
		"/orders/7;a=b%3Bc": "/orders/7",
	} {
		if got := withoutParameters(in); got != want {
			t.Errorf("withoutParameters(%q) = %q, want %q", in, got, want)
		}
	}
}

func BenchmarkCanonicalPath(b *testing.B) {
	for name, path := range map[string]string{"canonical": "/v1/devices/d1/telemetry", "escaped": "/v1/devices/%641/../d1/telemetry"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := CanonicalPath(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
