package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// precedenceRules are the rules of the table, one a line: the name, which is what
// takes a request, the hostname, and what it matches. "=" is an exact path, "^" a
// prefix, "~" a regex and "{" a template; then come methods, headers with "@" and
// query parameters with "?". Each is a route of its own, created in this order.
const precedenceRules = `
any            *                   ^/
com            *.com               ^/
shop           *.shop.com          ^/
exact          www.shop.com        ^/
deep           *.eu.shop.com       ^/deep
exact-only     only.shop.com       =/only
p-root         paths.test          ^/
p-a            paths.test          ^/a
p-ab           paths.test          ^/a/b
p-abc-exact    paths.test          =/a/b/c
p-a-exact      paths.test          =/a
p-slash        paths.test          =/a/
p-regex        paths.test          ~/r/[0-9]+
p-regex-deep   paths.test          ~/r/deep/[a-z]+
p-r            paths.test          ^/r/deep
p-r-exact      paths.test          =/r/7
p-user         paths.test          {/users/{id}
p-user-me      paths.test          ^/users/me
p-user-files   paths.test          {/users/{id}/files/{rest=**}
p-user-any     paths.test          ^/users
p-case         paths.test          ^/Case
m-any          methods.test        ^/
m-get          methods.test        ^/ GET
m-write        methods.test        ^/ POST,PUT,DELETE
m-longer       methods.test        ^/x
m-x-get        methods.test        ^/x GET
m-exact        methods.test        =/x/y
h-none         headers.test        ^/
h-one          headers.test        ^/ @a=1
h-other        headers.test        ^/ @b=1
h-two          headers.test        ^/ @a=1 @b=1
h-three        headers.test        ^/ @a=1 @b=1 @c
h-present      headers.test        ^/ @present
h-prefix       headers.test        ^/ @p=begin*
h-regex        headers.test        ^/ @r=~v[0-9]
h-method       headers.test        ^/ GET @m
h-long         headers.test        ^/long
q-none         query.test          ^/
q-one          query.test          ^/ ?a=1
q-two          query.test          ^/ ?a=1 ?b=1
q-header       query.test          ^/ @a=1
q-both         query.test          ^/ @a=1 ?a=1
q-method       query.test          ^/ POST ?a=1
q-present      query.test          ^/ ?debug
q-prefix       query.test          ^/ ?p=x*
q-regex        query.test          ^/ ?r=~[0-9]+
q-exact        query.test          =/exact
t-older        ties.test           ^/
t-newer        ties.test           ^/
t-b-older      ties.test           ^/b @x
t-b-newer      ties.test           ^/b @y
`

// precedenceRows are a request and who takes it, one a line: who, the method, the host
// and path, and headers as name=value. "404" is nobody.
const precedenceRows = `
exact        GET www.shop.com/
exact        GET WWW.Shop.COM/
exact        GET www.shop.com:8080/x
exact        GET www.shop.com./
shop         GET a.shop.com/
shop         GET a.b.shop.com/
shop         GET eu.shop.com/deep
deep         GET a.eu.shop.com/deep
deep         GET a.eu.shop.com/deep/er
shop         GET a.eu.shop.com/deeper
shop         GET a.eu.shop.com/
com          GET shop.com/
com          GET a.com/x/y
com          POST www.other.com/
any          GET com/
any          GET a.org/
any          GET a.shop.com.org/
any          GET 127.0.0.1/
exact-only   GET only.shop.com/only
shop         GET only.shop.com/only/
shop         GET only.shop.com/other
shop         GET only.shop.com/
p-root       GET paths.test/
p-root       GET paths.test/x
p-root       GET paths.test/ab
p-root       GET paths.test/A
p-a-exact    GET paths.test/a
p-slash      GET paths.test/a/
p-a          GET paths.test/a/x
p-a          GET paths.test/a/bc
p-a          GET paths.test/a/x/b
p-ab         GET paths.test/a/b
p-ab         GET paths.test/a/b/
p-ab         GET paths.test/a/b/cd
p-ab         GET paths.test/a/b/c/
p-ab         GET paths.test/a/b/c/d
p-abc-exact  GET paths.test/a/b/c
p-abc-exact  GET paths.test/a/./b//c
p-abc-exact  GET paths.test/a/x/../b/c
p-abc-exact  GET paths.test/%61/b/c
p-abc-exact  GET paths.test/a/b/c?x=1
p-a-exact    POST paths.test/a
p-a-exact    GET paths.test/a?b
p-r-exact    GET paths.test/r/7
p-regex      GET paths.test/r/8
p-regex      GET paths.test/r/77
p-root       GET paths.test/r/x
p-root       GET paths.test/r/7/
p-root       GET paths.test/r
p-regex-deep GET paths.test/r/deep/abc
p-r          GET paths.test/r/deep/abc1
p-r          GET paths.test/r/deep
p-r          GET paths.test/r/deep/
p-user       GET paths.test/users/7
p-user       GET paths.test/users/a%20b
p-user-me    GET paths.test/users/me
p-user-me    GET paths.test/users/me/
p-user-me    GET paths.test/users/me/x
p-user-any   GET paths.test/users
p-user-any   GET paths.test/users/
p-user-any   GET paths.test/users/7/
p-user-any   GET paths.test/users/7/x
p-user-files GET paths.test/users/7/files
p-user-files GET paths.test/users/7/files/a/b
p-user-files GET paths.test/users/me/files/x
p-user-any   GET paths.test/users/7/filesx
p-case       GET paths.test/Case/x
p-root       GET paths.test/case/x
m-get        GET methods.test/
m-any        HEAD methods.test/
m-write      POST methods.test/
m-write      PUT methods.test/y
m-write      DELETE methods.test/y/z
m-any        PATCH methods.test/
m-any        OPTIONS methods.test/
m-x-get      GET methods.test/x
m-x-get      GET methods.test/x/z
m-longer     POST methods.test/x
m-longer     PUT methods.test/x/z
m-exact      GET methods.test/x/y
m-exact      POST methods.test/x/y
m-get        GET methods.test/xy
m-write      POST methods.test/xy
m-any        BREW methods.test/
m-longer     BREW methods.test/x
h-none       GET headers.test/
h-none       GET headers.test/ a=2
h-one        GET headers.test/ a=1
h-one        GET headers.test/ A=1
h-one        POST headers.test/x a=1
h-other      GET headers.test/ b=1
h-two        GET headers.test/ a=1 b=1
h-two        GET headers.test/ b=1 a=1
h-two        GET headers.test/ a=1 b=1 d=1
h-three      GET headers.test/ a=1 b=1 c=9
h-three      GET headers.test/ a=1 b=1 c=
h-one        GET headers.test/ a=1 c=9
h-other      GET headers.test/ a=2 b=1
h-none       GET headers.test/ c=1
h-none       GET headers.test/ a=1 a=1
h-none       GET headers.test/ a=1,1
h-present    GET headers.test/ present=
h-present    GET headers.test/ present=x
h-present    GET headers.test/ present=x present=y
h-prefix     GET headers.test/ p=begin
h-prefix     GET headers.test/ p=beginning
h-none       GET headers.test/ p=Begin
h-none       GET headers.test/ p=x-begin
h-regex      GET headers.test/ r=v7
h-none       GET headers.test/ r=v77
h-none       GET headers.test/ r=xv7
h-method     GET headers.test/ m=1
h-none       POST headers.test/ m=1
h-method     GET headers.test/ m=1 a=1
h-method     GET headers.test/ m=1 a=1 b=1
h-two        POST headers.test/ m=1 a=1 b=1
h-method     GET headers.test/ m=1 a=1 b=1 c=1
h-long       GET headers.test/long
h-long       GET headers.test/long/x a=1 b=1 c=1
h-long       GET headers.test/long m=1
h-none       GET headers.test/longer
q-none       GET query.test/
q-none       GET query.test/?a=2
q-one        GET query.test/?a=1
q-one        GET query.test/x?b=2&a=1
q-one        GET query.test/?a=1&a=2
q-none       GET query.test/?a=2&a=1
q-two        GET query.test/?a=1&b=1
q-two        GET query.test/?b=1&c=1&a=1
q-one        GET query.test/?%61=%31
q-none       GET query.test/?A=1
q-none       GET query.test/?b=1
q-header     GET query.test/ a=1
q-header     GET query.test/?b=1 a=1
q-both       GET query.test/?a=1 a=1
q-both       GET query.test/?a=1&b=1 a=1
q-method     POST query.test/?a=1
q-method     POST query.test/?a=1&b=1
q-method     POST query.test/?a=1 a=1
q-header     POST query.test/ a=1
q-present    GET query.test/?debug
q-present    GET query.test/?debug=1
q-present    GET query.test/?x&debug=
q-none       GET query.test/?debugger
q-prefix     GET query.test/?p=xyz
q-prefix     GET query.test/?p=%78
q-none       GET query.test/?p=y
q-regex      GET query.test/?r=42
q-none       GET query.test/?r=4x
q-none       GET query.test/?r=
q-exact      GET query.test/exact
q-exact      GET query.test/exact?a=1&b=1 a=1
q-exact      POST query.test/exact?a=1
t-older      GET ties.test/
t-older      POST ties.test/x/y
t-older      GET ties.test/b
t-b-older    GET ties.test/b x=1
t-b-newer    GET ties.test/b y=1
t-b-older    GET ties.test/b x=1 y=1
t-b-older    GET ties.test/b/c y=1 x=1
`

// parseRule makes the route of a line.
func parseRule(t *testing.T, line string, created time.Time) *mesh.Route {
	t.Helper()
	fields := strings.Fields(line)
	var m mesh.RouteMatch
	for _, f := range fields[2:] {
		rest := f[1:]
		value := func() mesh.ValueMatch {
			name, v, _ := strings.Cut(rest, "=")
			out := mesh.ValueMatch{Name: name}
			switch {
			case strings.HasPrefix(v, "~"):
				out.Regex = v[1:]
			case strings.HasSuffix(v, "*"):
				out.Prefix = strings.TrimSuffix(v, "*")
			default:
				out.Exact = v
			}
			return out
		}
		switch f[0] {
		case '=':
			m.Path = &mesh.PathMatch{Exact: rest}
		case '^':
			m.Path = &mesh.PathMatch{Prefix: rest}
		case '~':
			m.Path = &mesh.PathMatch{Regex: rest}
		case '{':
			m.Path = &mesh.PathMatch{Template: rest}
		case '@':
			m.Headers = append(m.Headers, value())
		case '?':
			m.QueryParams = append(m.QueryParams, value())
		default:
			m.Methods = strings.Split(f, ",")
		}
	}
	return &mesh.Route{
		Meta: mesh.Meta{Name: "routes/" + fields[0], CreateTime: &created}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{fields[1]},
		Rules: []mesh.RouteRule{{
			Matches: []mesh.RouteMatch{m}, Backends: []mesh.Backend{{Service: "orders"}},
			Filters: []mesh.Filter{{RequestHeaders: &mesh.HeaderOps{Set: map[string]string{"x-rule": fields[0]}}}},
		}},
	}
}

// TestPrecedenceOfTheGatewayAPI holds that rules take precedence as HTTPRoute's
// specification has it: the most specific hostname; then an exact path, a regular
// expression (which it leaves open), the longest prefix; a method; the most headers;
// the most query parameters; the oldest route.
func TestPrecedenceOfTheGatewayAPI(t *testing.T) {
	rows := strings.Split(strings.TrimSpace(precedenceRows), "\n")
	if len(rows) < 150 {
		t.Fatalf("%d rows, want at least 150", len(rows))
	}
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, r.Header.Get("X-Rule")) }), nil)
		for i, line := range strings.Split(strings.TrimSpace(precedenceRules), "\n") {
			w.put(parseRule(t, line, time.Date(2026, 1, 1, 0, i, 0, 0, time.UTC)))
		}
		en := w.gateway(m)
		w.publish()
		for _, row := range rows {
			fields := strings.Fields(row)
			host, path, _ := strings.Cut(fields[2], "/")
			r := en.request(t, fields[1], "/", nil)
			r.URL.Opaque = "/" + path // as it is written
			r.Host = host
			for _, f := range fields[3:] {
				name, value, _ := strings.Cut(f, "=")
				r.Header.Add(name, value)
			}
			a := en.do(t, r)
			got := a.body
			switch {
			case a.StatusCode != 200:
				got = fmt.Sprint(a.StatusCode)
			case fields[1] == http.MethodHead:
				got = fields[0] // which has no body to say it
			}
			if got != fields[0] {
				t.Errorf("%s: %s took it", row, got)
			}
		}
	})
}
