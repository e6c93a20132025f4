package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func TestPathMatch(t *testing.T) {
	cases := []struct {
		name  string
		match mesh.RouteMatch
		path  string
		want  bool
	}{
		{"absent path matches everything", mesh.RouteMatch{}, "/x/y", true},
		{"exact", exactPath("/orders"), "/orders", true},
		{"exact is not a prefix", exactPath("/orders"), "/orders/7", false},
		{"exact minds the final slash", exactPath("/orders"), "/orders/", false},
		{"exact with a final slash", exactPath("/orders/"), "/orders/", true},
		{"exact minds case", exactPath("/orders"), "/Orders", false},
		{"exact root", exactPath("/"), "/", true},
		{"exact root is nothing else", exactPath("/"), "/x", false},

		{"prefix itself", prefixPath("/orders"), "/orders", true},
		{"prefix on a segment boundary", prefixPath("/orders"), "/orders/7", true},
		{"prefix with a final slash in the request", prefixPath("/orders"), "/orders/", true},
		{"prefix inside a segment", prefixPath("/orders"), "/orders-admin", false},
		{"prefix of a longer segment", prefixPath("/orders/7"), "/orders/77", false},
		{"prefix with a final slash is the same prefix", prefixPath("/orders/"), "/orders", true},
		{"prefix minds case", prefixPath("/orders"), "/ORDERS/7", false},
		{"prefix root", prefixPath("/"), "/x/y", true},
		{"prefix root at the root", prefixPath("/"), "/", true},
		{"prefix of a shorter path", prefixPath("/a/b"), "/a", false},

		{"template", templatePath("/users/{id}"), "/users/7", true},
		{"template capture is one segment", templatePath("/users/{id}"), "/users/7/files", false},
		{"template capture is never empty", templatePath("/users/{id}"), "/users/", false},
		{"template capture needs its segment", templatePath("/users/{id}"), "/users", false},
		{"template minds the final slash", templatePath("/users/{id}"), "/users/7/", false},
		{"template capture holds escapes", templatePath("/users/{id}"), "/users/a%20b", true},
		{"template literal after a capture", templatePath("/users/{id}/files"), "/users/7/files", true},
		{"template other literal after a capture", templatePath("/users/{id}/files"), "/users/7/filesx", false},
		{"template rest", templatePath("/files/{rest=**}"), "/files/a/b/c", true},
		{"template rest of nothing", templatePath("/files/{rest=**}"), "/files", true},
		{"template rest of a slash", templatePath("/files/{rest=**}"), "/files/", true},
		{"template rest inside a segment", templatePath("/files/{rest=**}"), "/filesystem", false},
		{"template rest alone", templatePath("/{rest=**}"), "/", true},
		{"template rest after a capture", templatePath("/u/{id}/{rest=**}"), "/u/7/x/y", true},
		{"template rest needs the capture before it", templatePath("/u/{id}/{rest=**}"), "/u/", false},
		{"template without captures", templatePath("/a/b"), "/a/b", true},
		{"template root", templatePath("/"), "/", true},
		{"template root is nothing else", templatePath("/"), "/x", false},

		{"regex", regexPath("/v[0-9]+/.*"), "/v12/a/b", true},
		{"regex matches all of the path", regexPath("/v[0-9]"), "/v1/a", false},
		{"regex matches from the beginning", regexPath("b.*"), "/a/b", false},
		{"regex with anchors of its own", regexPath("^/a(/b)?$"), "/a/b", true},
		{"regex under a literal beginning", regexPath("/a/b/[cd]"), "/a/b/d", true},
		{"regex that ends in the middle of a segment", regexPath("/a/bc*"), "/a/bccc", true},
		{"regex with alternatives", regexPath("/a|/b/c"), "/b/c", true},
		{"regex in any case", regexPath("(?i)/Orders"), "/oRDERS", true},
		{"regex minds case", regexPath("/Orders"), "/orders", false},
		{"regex with lines", regexPath("(?m)^/a$"), "/a", true},
	}
	sizes(t, func(t *testing.T, more []mesh.Object) {
		objects := slices.Clone(more)
		for i, tt := range cases { // one host for each, so one table serves all
			objects = append(objects, routeOf(fmt.Sprintf("case-%d", i), fmt.Sprintf("h%d.example.com", i), tt.match))
		}
		table := mustCompile(t, configOf(objects...))
		for i, tt := range cases {
			t.Run(tt.name, func(t *testing.T) {
				host := fmt.Sprintf("h%d.example.com", i)
				d := Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: host, Path: tt.path}, 0)
				if got := d.Refusal == nil; got != tt.want {
					t.Errorf("%+v on %s: %v, want %v", *pathOf(tt.match), tt.path, got, tt.want)
				}
			})
		}
	})
}

func pathOf(m mesh.RouteMatch) *mesh.PathMatch {
	if m.Path == nil {
		return &mesh.PathMatch{}
	}
	return m.Path
}

func TestConditionMatch(t *testing.T) {
	withHeader := func(name, value string) mesh.RouteMatch {
		return mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: name, Exact: value}}}
	}
	query := func(name, value string) mesh.RouteMatch {
		return mesh.RouteMatch{QueryParams: []mesh.ValueMatch{{Name: name, Exact: value}}}
	}
	for _, tt := range []struct {
		name  string
		match mesh.RouteMatch
		r     Request
		want  bool
	}{
		{"method", mesh.RouteMatch{Methods: []string{"PUT", "GET"}}, Request{Method: "GET"}, true},
		{"other method", mesh.RouteMatch{Methods: []string{"PUT"}}, Request{Method: "GET"}, false},
		{"lower-case method is another", mesh.RouteMatch{Methods: []string{"GET"}}, Request{Method: "get"}, false},
		{"method override header is no method", mesh.RouteMatch{Methods: []string{"DELETE"}}, Request{Method: "GET", Fields: header.List{{Name: "X-Http-Method-Override", Value: "DELETE"}}}, false},
		{"header in any case of its name", withHeader("x-CANARY", "1"), Request{Fields: header.List{{Name: "X-Canary", Value: "1"}}}, true},
		{"header value minds case", withHeader("x-canary", "a"), Request{Fields: header.List{{Name: "X-Canary", Value: "A"}}}, false},
		{"header absent", withHeader("x-canary", "1"), Request{}, false},
		{"header present is enough", withHeader("x-canary", ""), Request{Fields: header.List{{Name: "X-Canary", Value: "anything"}}}, true},
		{"header present and repeated is enough", withHeader("x-canary", ""), Request{Fields: header.List{{Name: "X-Canary", Value: "a"}, {Name: "X-Canary", Value: "b"}}}, true},
		{"header must be present", withHeader("x-canary", ""), Request{}, false},
		{"repeated header equals nothing", withHeader("x-canary", "1"), Request{Fields: header.List{{Name: "X-Canary", Value: "1"}, {Name: "X-Canary", Value: "2"}}}, false},
		{"host as a header", withHeader("host", "example.com"), Request{}, true},
		{"other host as a header", withHeader("host", "example.org"), Request{}, false},
		{"all headers must match", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Exact: "1"}, {Name: "b", Exact: "2"}}}, Request{Fields: header.List{{Name: "A", Value: "1"}}}, false},
		{"query parameter", query("v", "2"), Request{RawQuery: "a=1&v=2"}, true},
		{"query parameter of another value", query("v", "2"), Request{RawQuery: "v=1"}, false},
		{"query parameter decoded", query("a b", "c&d"), Request{RawQuery: "a+b=c%26d"}, true},
		{"first query parameter of the name counts", query("v", "2"), Request{RawQuery: "v=1&v=2"}, false},
		{"query parameter present is enough", query("debug", ""), Request{RawQuery: "x&debug"}, true},
		{"query parameter must be present", query("debug", ""), Request{RawQuery: "debugger=1"}, false},
		{"query parameter with a broken escape", query("v", "%zz"), Request{RawQuery: "v=%zz"}, false},
		{"query parameter cut short", query("v", "22"), Request{RawQuery: "v=2"}, false},
		{"no query", query("v", "2"), Request{}, false},
		{"header prefix", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Prefix: "Bear"}}}, Request{Fields: header.List{{Name: "A", Value: "Bearer x"}}}, true},
		{"other header prefix", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Prefix: "Bear"}}}, Request{Fields: header.List{{Name: "A", Value: "A Bear"}}}, false},
		{"header regex", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Regex: "v[12]"}}}, Request{Fields: header.List{{Name: "A", Value: "v2"}}}, true},
		{"header regex of a part", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Regex: "v[12]"}}}, Request{Fields: header.List{{Name: "A", Value: "v23"}}}, false},
		{"repeated header matches no regex", mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "a", Regex: ".*"}}}, Request{Fields: header.List{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}}, false},
		{"query prefix, decoded", mesh.RouteMatch{QueryParams: []mesh.ValueMatch{{Name: "a", Prefix: "b c"}}}, Request{RawQuery: "a=b+cd"}, true},
		{"query regex, decoded", mesh.RouteMatch{QueryParams: []mesh.ValueMatch{{Name: "a", Regex: "[a-z] [a-z]"}}}, Request{RawQuery: "a=b%20c"}, true},
		{"query regex with a broken escape", mesh.RouteMatch{QueryParams: []mesh.ValueMatch{{Name: "a", Regex: ".*"}}}, Request{RawQuery: "a=%2"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := mustCompile(t, configOf(routeOf("r", "example.com", tt.match)))
			tt.r.Host, tt.r.Path = "example.com", "/"
			if got := Decide(table, Face{Kind: Gateway}, &tt.r, 0).Refusal == nil; got != tt.want {
				t.Errorf("%+v: %v, want %v", tt.r, got, tt.want)
			}
		})
	}
}

// TestPrecedence has pairs: both routes match, the one called "wins" takes it.
func TestPrecedence(t *testing.T) {
	day := func(n int) *time.Time {
		d := time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC)
		return &d
	}
	with := func(m mesh.RouteMatch, methods []string, headers, query int) mesh.RouteMatch {
		m.Methods = methods
		for i := range headers {
			m.Headers = append(m.Headers, mesh.ValueMatch{Name: fmt.Sprintf("h%d", i)})
		}
		for i := range query {
			m.QueryParams = append(m.QueryParams, mesh.ValueMatch{Name: fmt.Sprintf("q%d", i)})
		}
		return m
	}
	get := []string{"GET"}
	type side struct {
		host    string
		match   mesh.RouteMatch
		created *time.Time
	}
	const host = "shop.example.com"
	cases := []struct {
		name       string
		wins, lose side
		path       string
	}{
		{"exact host before a wildcard", side{host: host}, side{host: "*.example.com", match: exactPath("/a")}, "/a"},
		{"longer wildcard before a shorter", side{host: "*.example.com"}, side{host: "*.com", match: exactPath("/a")}, "/a"},
		{"wildcard before the star", side{host: "*.com"}, side{host: "*", match: exactPath("/a")}, "/a"},
		{"exact path before a prefix with a header", side{host: host, match: exactPath("/a")}, side{host: host, match: with(prefixPath("/a"), get, 2, 2)}, "/a"},
		{"exact path before a template", side{host: host, match: exactPath("/a/b")}, side{host: host, match: with(templatePath("/a/{x}"), get, 1, 0)}, "/a/b"},
		{"longer prefix before a shorter with a method", side{host: host, match: prefixPath("/a/b")}, side{host: host, match: with(prefixPath("/a"), get, 2, 2)}, "/a/b/c"},
		{"longer template before a shorter prefix", side{host: host, match: templatePath("/a/{x}/c")}, side{host: host, match: with(prefixPath("/a"), get, 1, 0)}, "/a/b/c"},
		{"longer prefix before a shorter template", side{host: host, match: prefixPath("/a/b/c")}, side{host: host, match: templatePath("/a/{x=**}")}, "/a/b/c"},
		{"longer template before a shorter literal prefix", side{host: host, match: templatePath("/{x}/{y}/{z}")}, side{host: host, match: prefixPath("/a/b")}, "/a/b/c"},
		{"literal before a capture", side{host: host, match: prefixPath("/a/b")}, side{host: host, match: templatePath("/a/{x}")}, "/a/b"},
		{"literal before a capture, leftmost difference", side{host: host, match: templatePath("/a/{x}")}, side{host: host, match: templatePath("/{x}/b")}, "/a/b"},
		{"whole template before a prefix of the same segments", side{host: host, match: templatePath("/a/{x}")}, side{host: host, match: with(templatePath("/a/{x}/{rest=**}"), get, 1, 0)}, "/a/b"},
		{"a method before none with more headers", side{host: host, match: with(prefixPath("/a"), get, 0, 0)}, side{host: host, match: with(prefixPath("/a"), nil, 2, 2)}, "/a"},
		{"more headers before more query parameters", side{host: host, match: with(prefixPath("/a"), get, 2, 0)}, side{host: host, match: with(prefixPath("/a"), get, 1, 2)}, "/a"},
		{"more query parameters", side{host: host, match: with(prefixPath("/a"), get, 1, 2)}, side{host: host, match: with(prefixPath("/a"), get, 1, 1)}, "/a"},
		{"more query parameters before older", side{host: host, match: with(prefixPath("/a"), get, 1, 2), created: day(2)}, side{host: host, match: with(prefixPath("/a"), get, 1, 1), created: day(1)}, "/a"},
		{"older before a name that sorts first", side{host: host, created: day(1)}, side{host: host, created: day(2)}, "/a"},
		{"a known age before none", side{host: host, created: day(2)}, side{host: host}, "/a"},
	}
	request := func(path string) *Request {
		return &Request{Method: "GET", Host: host, Path: path, RawQuery: "q0&q1", Fields: header.List{{Name: "H0", Value: ""}, {Name: "H1", Value: ""}}}
	}
	for _, n := range []int{0, 300} {
		more := fillers(n)
		for _, tt := range cases {
			t.Run(fmt.Sprintf("%s, %d more routes", tt.name, n), func(t *testing.T) {
				wins, loses := routeOf("wins", tt.wins.host, tt.wins.match), routeOf("loses", tt.lose.host, tt.lose.match)
				wins.CreateTime, loses.CreateTime = tt.wins.created, tt.lose.created
				both := mustCompile(t, configOf(append(slices.Clone(more), wins, loses)...))
				if got := outcome(Decide(both, Face{Kind: Gateway}, request(tt.path), 0)); got != "wins" {
					t.Errorf("%s takes the request", got)
				}
				// The loser does match: without the winner it takes the request.
				alone := mustCompile(t, configOf(append(slices.Clone(more), loses)...))
				if got := outcome(Decide(alone, Face{Kind: Gateway}, request(tt.path), 0)); got != "loses" {
					t.Errorf("without the winner the outcome is %s", got)
				}
			})
		}
	}
}

func TestPrecedenceOfEqualsIsByNameThenRuleThenMatch(t *testing.T) {
	a, b := routeOf("a", "example.com"), routeOf("b", "example.com")
	b.Rules = append(b.Rules, mesh.RouteRule{Name: "b2", Backends: backendsOf("orders")})
	face, r := Face{Kind: Gateway}, &Request{Method: "GET", Host: "example.com", Path: "/"}
	if got := outcome(Decide(mustCompile(t, configOf(b, a)), face, r, 0)); got != "a" {
		t.Errorf("%s wins, want the name that sorts first", got)
	}
	if got := outcome(Decide(mustCompile(t, configOf(b)), face, r, 0)); got != "b" {
		t.Errorf("%s wins, want the first rule", got)
	}
}

func TestHostMatch(t *testing.T) {
	objects := []mesh.Object{
		routeOf("exact", "shop.example.com", prefixPath("/shop")), routeOf("wildcard", "*.example.com", prefixPath("/wild")),
		routeOf("deep", "*.eu.example.com", prefixPath("/deep")), routeOf("apex", "example.org"),
	}
	cases := []struct{ name, host, path, want string }{
		{"exact", "shop.example.com", "/shop", "exact"},
		{"upper case and final dot", "Shop.Example.COM.", "/shop", "exact"},
		{"port", "shop.example.com:8080", "/shop", "exact"},
		{"all at once", "SHOP.example.com.:65535", "/shop", "exact"},
		{"what the exact host declines goes to the wildcard", "shop.example.com", "/wild", "wildcard"},
		{"wildcard of one label", "x.example.com", "/wild", "wildcard"},
		{"wildcard of several labels", "x.y.example.com", "/wild", "wildcard"},
		{"wildcard is not the name behind it", "example.com", "/wild", "no_route"},
		{"wildcard ends at a label", "xexample.com", "/wild", "no_route"},
		{"the longest wildcard", "x.eu.example.com", "/deep", "deep"},
		{"what the longest wildcard declines goes to the next", "x.eu.example.com", "/wild", "wildcard"},
		{"a longer host than the exact one", "a.example.org", "/", "no_route"},
		{"unknown", "other.example", "/", "no_route"},
		{"no path", "shop.example.com", "/none", "no_route"},
	}
	sizes(t, func(t *testing.T, more []mesh.Object) {
		table := mustCompile(t, configOf(append(slices.Clone(more), objects...)...))
		star := mustCompile(t, configOf(append(append(slices.Clone(more), objects...), routeOf("star", "*"))...))
		for _, tt := range cases {
			t.Run(tt.name, func(t *testing.T) {
				host, err := CanonicalHost(tt.host)
				if err != nil {
					t.Fatal(err)
				}
				r := &Request{Method: "GET", Host: host, Path: tt.path}
				if got := outcome(Decide(table, Face{Kind: Gateway}, r, 0)); got != tt.want {
					t.Errorf("%s%s: %s, want %s", tt.host, tt.path, got, tt.want)
				}
				want := tt.want
				if want == "no_route" {
					want = "star"
				}
				if got := outcome(Decide(star, Face{Kind: Gateway}, r, 0)); got != want {
					t.Errorf("with a route for *: %s%s: %s, want %s", tt.host, tt.path, got, want)
				}
			})
		}
	})
}

func TestGatewaysRestrictARoute(t *testing.T) {
	only := routeOf("only", "shop.example.com")
	only.Gateways = []string{"north", "south"}
	table := mustCompile(t, configOf(only, routeOf("all", "*.example.com")))
	for gateway, want := range map[string]string{"north": "only", "south": "only", "east": "all", "": "all"} {
		r := &Request{Method: "GET", Host: "shop.example.com", Path: "/"}
		if got := outcome(Decide(table, Face{Kind: Gateway, Gateway: gateway}, r, 0)); got != want {
			t.Errorf("gateway %q: %s, want %s", gateway, got, want)
		}
	}
}

// TestIndexAgreesWithALinearScan holds the index to the plain reading of the
// rules of precedence, on random routes and requests over a small alphabet.
func TestIndexAgreesWithALinearScan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		var objects []mesh.Object
		for i := range 40 {
			m := randomMatch(rnd)
			route := routeOf(fmt.Sprintf("r%d", i), []string{"a.x", "*.x", "*", "b.a.x", "*.a.x"}[rnd.IntN(5)], m)
			objects = append(objects, route)
		}
		table := mustCompile(t, configOf(objects...))
		for range 300 {
			r := &Request{
				Method: []string{"GET", "PUT"}[rnd.IntN(2)], Path: randomPath(rnd),
				Host: []string{"a.x", "b.x", "b.a.x", "y"}[rnd.IntN(4)],
			}
			got := outcome(Decide(table, Face{Kind: Gateway}, r, 0))
			if want := scan(objects, r); got != want {
				t.Fatalf("round %d, %s %s%s: %s, want %s", round, r.Method, r.Host, r.Path, got, want)
			}
		}
	}
}

func randomPath(rnd *rand.Rand) string {
	p := ""
	for range rnd.IntN(5) {
		p += "/" + []string{"a", "b", "c"}[rnd.IntN(3)]
	}
	if p == "" || rnd.IntN(5) == 0 {
		p += "/"
	}
	return p
}

func randomMatch(rnd *rand.Rand) mesh.RouteMatch {
	var m mesh.RouteMatch
	switch kind := rnd.IntN(4); kind {
	case 0:
		m = exactPath(randomPath(rnd))
	case 1:
		m = prefixPath(randomPath(rnd))
	default:
		p := ""
		for i := range 1 + rnd.IntN(4) {
			p += "/" + []string{"a", "b", fmt.Sprintf("{x%d}", i)}[rnd.IntN(3)]
		}
		if kind == 3 {
			p += "/{rest=**}"
		}
		m = templatePath(p)
	}
	if rnd.IntN(2) == 0 {
		m.Methods = []string{"GET"}
	}
	return m
}

// scan finds the winner the plain way: the greatest rank of all that match.
func scan(objects []mesh.Object, r *Request) string {
	best, bestRank := "no_route", ""
	for _, o := range objects {
		route := o.(*mesh.Route)
		m := route.Rules[0].Matches[0]
		host := hostRank(route.Hostnames[0], r.Host)
		path := pathRank(m.Path, r.Path)
		if host == "" || path == "" || len(m.Methods) > 0 && m.Methods[0] != r.Method {
			continue
		}
		// Ranks compare as strings; of equal ones the name that sorts first wins.
		rank := host + path + fmt.Sprint(len(m.Methods))
		if rank > bestRank || rank == bestRank && route.ID() < best {
			best, bestRank = route.ID(), rank
		}
	}
	return best
}

func hostRank(pattern, host string) string {
	suffix, wild := strings.CutPrefix(pattern, "*")
	switch {
	case !wild && pattern == host:
		return "9"
	case wild && strings.HasSuffix(host, suffix):
		return fmt.Sprint(len(suffix))
	}
	return ""
}

func pathRank(m *mesh.PathMatch, path string) string {
	if m.Exact != "" {
		if m.Exact == path {
			return "9"
		}
		return ""
	}
	pattern, whole := m.Prefix+"/{rest=**}", "0"
	if m.Prefix == "" {
		pattern = m.Template
	}
	pattern, rest := strings.CutSuffix(pattern, "/{rest=**}")
	if !rest {
		whole = "1"
	}
	var want, have []string
	if pattern = strings.Trim(pattern, "/"); pattern != "" {
		want = strings.Split(pattern, "/")
	}
	if path != "/" {
		have = strings.Split(path[1:], "/")
	}
	if len(have) < len(want) || !rest && len(have) != len(want) {
		return ""
	}
	literals := ""
	for i, w := range want {
		capture := strings.HasPrefix(w, "{")
		switch {
		case capture && have[i] != "":
			literals += "0"
		case !capture && w == have[i]:
			literals += "1"
		default:
			return ""
		}
	}
	return fmt.Sprintf("%d%-8s%s", len(want), literals, whole)
}
