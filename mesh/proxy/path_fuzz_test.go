package proxy

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

var (
	somePlainPath = regexp.MustCompile(`^(/[A-Za-z0-9_~-]+)+/?$`)
	anyEscape     = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	anyParameters = regexp.MustCompile(`;[^/]*`)
)

// naively is the path that a server resolves which decodes first, as net/url and
// path do it. It has no final slash but for the root.
func naively(t *testing.T, raw string, parameters bool) string {
	t.Helper()
	decoded, err := url.PathUnescape(raw)
	if err != nil {
		t.Fatalf("%q is accepted, and not by net/url: %v", raw, err)
	}
	if !parameters {
		decoded = anyParameters.ReplaceAllString(decoded, "")
	}
	return path.Clean(decoded)
}

// bySegments is the path that a server resolves which cuts first and decodes each
// segment: a slash that was escaped is a part of one, and is marked here.
func bySegments(t *testing.T, raw string) string {
	t.Helper()
	var kept []string
	for segment := range strings.SplitSeq(raw, "/") {
		name, err := url.PathUnescape(segment)
		if err != nil {
			t.Fatalf("%q is accepted, and not by net/url: %v", raw, err)
		}
		switch name {
		case "", ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, strings.ReplaceAll(name, "/", "<slash>"))
		}
	}
	return "/" + strings.Join(kept, "/")
}

// A path that is accepted means one thing, to us and to a server that reads it
// naively: before and after, with parameters or without, whether it decodes or
// cuts first.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{
		"/", "", "/a/../admin", "//admin", "/%61dmin", "/admin/.", "/a;b/..;/c", "/%25%32e", "/caf\xc3\xa9", "/%c0%af", "/a%3bb/", `/\x`, "/..//.././a",
		"/admin", "/admin/", "/admin;a=b", "/admin%3ba/", "/a;b/../admin", "/x%2fadmin", "/%2fadmin", "/x%2f..%2fadmin", "/a%5cb", "/%2525", "/100%25", "/;a/admin", "/.;/admin", "/a/..", "/ADMIN",
		"/a#b", "/%00", "/a b", "/%zz", "/a%2", "/a%20b%3f%23", "/%2e%2E/%2e/admin", "/a/.../b", "/.a/..b",
	} {
		f.Add(s)
	}
	s := fuzzedGateway(f)
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := CanonicalPath(raw)
		if err != nil {
			if somePlainPath.MatchString(raw) {
				t.Fatalf("%q is refused: %v", raw, err)
			}
			if len(raw) < 1024 && !strings.Contains(raw, "?") {
				if status, target := s.prepared(raw); status != http.StatusBadRequest && strings.HasPrefix(raw, "/") {
					t.Fatalf("%q has no single meaning, and %d %q comes of it", raw, status, target)
				}
			}
			return
		}
		wantCanonical(t, raw, got)
		wantOneReading(t, raw, got)
		if raw == "" || len(raw) > 1024 {
			return // no target, or a long one
		}
		want, wantTarget := http.StatusOK, got+"?q=/../admin"
		if naively(t, raw, true) == "/admin" || naively(t, raw, false) == "/admin" {
			want, wantTarget = http.StatusForbidden, ""
		}
		if status, target := s.prepared(raw); status != want || target != wantTarget {
			t.Fatalf("of %q comes %d %q, want %d %q", raw, status, target, want, wantTarget)
		}
	})
}

// wantCanonical checks the shape of got, which is canonical for raw.
func wantCanonical(t *testing.T, raw, got string) {
	t.Helper()
	again, err := CanonicalPath(got)
	if err != nil || again != got {
		t.Fatalf("%q becomes %q, which becomes %q, %v", raw, got, again, err)
	}
	if got == "" || got[0] != '/' || strings.HasSuffix(got, "/.") || strings.HasSuffix(got, "/..") {
		t.Fatalf("%q becomes %q", raw, got)
	}
	for _, bad := range []string{"//", "/./", "/../", "\x00", "\\", "?", "#", " ", "%2F", "%5C", "%00", "%2E", "/;"} {
		if strings.Contains(got, bad) {
			t.Fatalf("%q becomes %q, which has %q", raw, got, bad)
		}
	}
	if somePlainPath.MatchString(raw) && got != raw {
		t.Fatalf("%q becomes %q", raw, got)
	}
	// What a server sees that cuts parameters off is canonical as well.
	stripped := withoutParameters(got)
	if again, err := CanonicalPath(stripped); err != nil || again != stripped {
		t.Fatalf("%q without parameters is %q, which becomes %q, %v", got, stripped, again, err)
	}
}

// wantOneReading checks that raw and got are the same to a naive server.
func wantOneReading(t *testing.T, raw, got string) {
	t.Helper()
	if raw == "" {
		raw = "/"
	}
	decoded, err := url.PathUnescape(got)
	if err != nil {
		t.Fatalf("%q becomes %q: %v", raw, got, err)
	}
	if anyEscape.MatchString(decoded) {
		t.Fatalf("%q becomes %q, which may be decoded twice", raw, got)
	}
	if len(decoded) > 1 {
		decoded = strings.TrimSuffix(decoded, "/")
	}
	if want := naively(t, raw, true); decoded != want {
		t.Fatalf("%q is %q to a naive server, and becomes %q", raw, want, got)
	}
	if cut := bySegments(t, raw); cut != decoded {
		t.Fatalf("%q is %q to a server that cuts first, and becomes %q", raw, cut, got)
	}
	if before, after := naively(t, raw, false), naively(t, withoutParameters(got), true); before != after {
		t.Fatalf("%q without parameters is %q to a naive server, and %q becomes %q", raw, before, got, after)
	}
	last, err := url.PathUnescape(raw[strings.LastIndexByte(raw, '/')+1:])
	if slash := last == "" || last == "." || last == ".."; err != nil || slash != strings.HasSuffix(got, "/") {
		t.Fatalf("%q becomes %q: the final slash (%v)", raw, got, err)
	}
}

// fuzzed is a gateway that prepares requests and forwards none.
type fuzzed struct{ *server }

// fuzzedGateway routes shop.test and denies /admin.
func fuzzedGateway(f *testing.F) fuzzed {
	f.Helper()
	e, err := New(Options{Limits: EdgeLimits(), Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(), TrustDomain: testTrustDomain})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.Close)
	e.Update(&mesh.Snapshot{Config: configOf(routeOf("shop", "shop.test"),
		policyOf("p", mesh.Deny, mesh.PolicyTarget{Gateway: "g"}, toOf(mesh.PolicyTo{Paths: []string{"/admin"}})))})
	return fuzzed{&server{
		e: e, face: Face{Kind: Gateway, Gateway: "g"}, counters: e.metrics.at(Face{Kind: Gateway}),
		caller: func() (*identity.Source, *Refusal) { return nil, nil },
	}}
}

// prepared returns what becomes of a GET of raw: 200 and the target that is sent,
// or the status of the refusal.
func (s fuzzed) prepared(raw string) (status int, target string) {
	var x exchange
	x.reset(s.server, client{})
	x.in = incoming{method: http.MethodGet, target: raw + "?q=/../admin", host: "shop.test"}
	if refusal := s.prepare(&x); refusal != nil {
		return refusal.Status, ""
	}
	return http.StatusOK, x.out.target
}

// FuzzEscapedSlashes holds that what a rule with keepEncodedSlash gets is one path, and
// that the other one is what a server sees which decodes its slashes.
func FuzzEscapedSlashes(f *testing.F) {
	for _, raw := range []string{"/a%2fb", "/a%2F..%2Fadmin", "/%2f%2F", "/a%252fb", "/x/..%2f../y", "/a;b%2fc", "/%2f;", "/a%5c%2f"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, other, err := canonicalKeeping(raw)
		if err != nil {
			return
		}
		again, sameOther, err := canonicalKeeping(path)
		if err != nil || again != path || sameOther != other {
			t.Fatalf("%q becomes %q, which becomes %q or %q, %v", raw, path, again, sameOther, err)
		}
		if fixed, err := CanonicalPath(other); err != nil || fixed != other {
			t.Fatalf("%q may be read as %q, which becomes %q, %v", raw, other, fixed, err)
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%5C"} {
			if strings.Contains(path, bad) || strings.Contains(other, bad) {
				t.Fatalf("%q becomes %q or %q, which has %q", raw, path, other, bad)
			}
		}
		plain, err := CanonicalPath(raw)
		if err == nil && (plain != path || plain != other) {
			t.Fatalf("%q is %q, but with slashes kept %q or %q", raw, plain, path, other)
		}
	})
}
