package controlapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// known lets principals call by their names as bearer tokens, beside the test's own.
func known(all ...principal) func(*Options) {
	return func(o *Options) {
		o.identify = func(r *http.Request) caller {
			name := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if name == testToken {
				return caller{principal: principal{name: "root", role: admin, bearer: true}}
			}
			for _, p := range all {
				if p.name == name {
					return caller{principal: p}
				}
			}
			return caller{err: mesh.Errorf("test", "", mesh.Unauthentic, "who is that")}
		}
	}
}

func as(name string) []string { return []string{"Authorization", "Bearer " + name} }

func TestEveryRPCSaysWhoMayCallIt(t *testing.T) {
	said := permissions()
	var there []string
	for _, m := range rpcs() {
		there = append(there, string(m.Name()))
		if _, ok := said[string(m.Name())]; !ok {
			t.Errorf("%s is not in permissions()", m.Name())
		}
	}
	for name := range said {
		if !slices.Contains(there, name) {
			t.Errorf("permissions() has %s, which is no RPC", name)
		}
	}
	for _, of := range mesh.Collections() {
		if writerOf(of) < editor {
			t.Errorf("%s may be written by %v", of, writerOf(of))
		}
	}
}

// Both faces ask the same table: strangers are 401, too low a role 403, and neither who
// may call.
func TestRolesOfEveryRPC(t *testing.T) {
	a := newAPI(t, known(principal{name: "viewer", role: viewer, bearer: true}, principal{name: "editor", role: editor, bearer: true},
		principal{name: "admin", role: admin, bearer: true}))
	conn, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	bindings := map[string]string{}
	for b, rpc := range restRPCs() {
		bindings[rpc] = b
	}
	for _, m := range rpcs() {
		for name, has := range map[string]role{"nobody": anyone, "viewer": viewer, "editor": editor, "admin": admin} {
			wantHTTP, wantGRPC := 0, codes.OK
			switch needs := permissions()[string(m.Name())].role; {
			case needs == anyone:
			case has == anyone:
				wantHTTP, wantGRPC = 401, codes.Unauthenticated
			case has < needs:
				wantHTTP, wantGRPC = 403, codes.PermissionDenied
			}
			method, path, _ := strings.Cut(bindings[string(m.Name())], " ")
			got := a.do(method, strings.ReplaceAll(path, "{id=*}", "x"), "{}", as(name)...)
			if wantHTTP == 0 && (got.status == 401 || got.status == 403) || wantHTTP != 0 && got.status != wantHTTP {
				t.Errorf("%s %s by %s: %d %s, want %d", method, path, name, got.status, got.body, wantHTTP)
			}
			code := status.Code(invoke(t, conn, m, name))
			if refused := code == codes.Unauthenticated || code == codes.PermissionDenied; wantGRPC == codes.OK && refused || wantGRPC != codes.OK && code != wantGRPC {
				t.Errorf("gRPC %s by %s: %v, want %v", m.Name(), name, code, wantGRPC)
			}
		}
	}
}

// invoke calls m with an empty request.
func invoke(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, token string) error {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	return conn.Invoke(ctx, "/"+string(m.Parent().FullName())+"/"+string(m.Name()), dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output()))
}

// An RPC that nobody has placed is an admin's, without scopes.
func TestUnplacedRPCsAreAnAdmins(t *testing.T) {
	for _, tt := range []struct {
		by   principal
		want mesh.Kind
	}{
		{principal{name: "e", role: editor}, mesh.Denied},
		{principal{name: "a", role: admin, scopes: []scope{{}}}, mesh.Denied},
	} {
		if err := admit(withCaller(t.Context(), caller{principal: tt.by}), "Unheard"); mesh.KindOf(err) != tt.want {
			t.Errorf("%v: %v", tt.by, err)
		}
	}
	if err := admit(withCaller(t.Context(), caller{principal: principal{role: admin}}), "Unheard"); err != nil {
		t.Error(err)
	}
	if err := admit(t.Context(), "GetRoute"); mesh.KindOf(err) != mesh.Unauthentic {
		t.Errorf("without a caller: %v", err)
	}
}

const (
	shopService = `{"labels":{"team":"shop"}}`
	bankService = `{"labels":{"team":"bank"}}`
	shopRoute   = `{"labels":{"team":"shop"},"targets":["GATEWAY"],"hostnames":["shop.localhost"],"rules":[{"backends":[{"service":"shop"}]}]}`
)

// world has objects of two teams, and callers who are limited.
func scopedWorld(t *testing.T) *api {
	team := mesh.Labels{"team": "shop"}
	a := newAPI(t, known(
		principal{name: "routes-only", role: editor, bearer: true, scopes: []scope{{collections: []mesh.Collection{mesh.Routes}}}},
		principal{name: "shop", role: editor, bearer: true, scopes: []scope{{labels: team}}},
		principal{name: "shop-admin", role: admin, bearer: true, scopes: []scope{{labels: team}}},
		principal{name: "shop-routes", role: editor, bearer: true, scopes: []scope{{[]mesh.Collection{mesh.Routes}, team}}},
		principal{name: "shop-viewer", role: viewer, bearer: true, scopes: []scope{{labels: team}}},
		principal{name: "editor", role: editor, bearer: true},
	))
	a.must("PUT", "/v1/services/shop", shopService)
	a.must("PUT", "/v1/services/bank", bankService)
	a.must("PUT", "/v1/services/plain", `{}`)
	a.must("PUT", "/v1/nodes/shop1", `{"labels":{"team":"shop"},"roles":["SIDECAR"],"services":["shop"]}`)
	a.must("PUT", "/v1/nodes/bank1", `{"labels":{"team":"bank"},"roles":["SIDECAR"],"services":["bank"]}`)
	a.must("PUT", "/v1/routes/bank", strings.NewReplacer("shop", "bank").Replace(shopRoute))
	return a
}

func TestScopes(t *testing.T) {
	policy := func(target string) string {
		return `{"labels":{"team":"shop"},"target":` + target + `,"action":"ALLOW","rules":[{}]}`
	}
	meshRoute := func(host string) string {
		return strings.NewReplacer("GATEWAY", "MESH", "shop.localhost", host).Replace(shopRoute)
	}
	for _, c := range []struct {
		name, by, method, path, body string
		status                       int
		says                         string // part of the problem
	}{
		{"a collection of the scope", "routes-only", "PUT", "/v1/routes/shop", shopRoute, 200, ""},
		{"another collection", "routes-only", "PUT", "/v1/services/shop", shopService, 403, "routes-only is limited to routes"},
		{"another collection, read", "routes-only", "GET", "/v1/services/shop", "", 403, "limited to routes"},
		{"a new object with the labels", "shop", "PUT", "/v1/services/new", shopService, 200, ""},
		{"a new object without them", "shop", "PUT", "/v1/services/new", `{}`, 403, "would be none of them"},
		{"a new object with another value", "shop", "PUT", "/v1/services/new", bankService, 403, "team=shop"},
		{"an object of others, labels forged", "shop", "PUT", "/v1/services/bank", shopService, 403, "is stored and none of them"},
		{"an object given away", "shop", "PUT", "/v1/services/shop", bankService, 403, "would be none of them"},
		{"a dry run of that", "shop", "PUT", "/v1/services/bank?validateOnly=true", shopService, 403, "is stored"},
		{"an own object deleted", "shop", "DELETE", "/v1/nodes/shop1", "", 200, ""},
		{"an object of others deleted", "shop", "DELETE", "/v1/nodes/bank1", "", 403, "is stored"},
		{"what is not there deleted", "shop", "DELETE", "/v1/nodes/none", "", 403, "none of them"},
		{"an own object read", "shop", "GET", "/v1/nodes/shop1", "", 200, ""},
		{"an object of others read", "shop", "GET", "/v1/nodes/bank1", "", 403, "nodes/bank1: shop is limited to objects with team=shop"},
		{"what is not there read", "shop", "GET", "/v1/nodes/none", "", 403, ""},
		{"defaults read by a team", "shop", "GET", "/v1/defaults/mesh", "", 403, ""},
		{"defaults written by a team's admin", "shop-admin", "PUT", "/v1/defaults/mesh", `{}`, 403, ""},
		{"a viewer writes its own", "shop-viewer", "PUT", "/v1/services/shop", shopService, 403, "PutService needs the role editor"},
		{"a viewer reads its own", "shop-viewer", "GET", "/v1/services/shop", "", 200, ""},
		{"collection and labels", "shop-routes", "PUT", "/v1/routes/shop", shopRoute, 200, ""},
		{"labels and another collection", "shop-routes", "PUT", "/v1/services/shop", shopService, 403, ""},
		{"a route to a service of others", "shop", "PUT", "/v1/routes/shop", strings.ReplaceAll(shopRoute, `"service":"shop"`, `"service":"bank"`), 403, "rules[0].backends[0].service"},
		{"a policy on a service of others", "shop", "PUT", "/v1/policies/p", policy(`{"service":"bank"}`), 403, "target.service"},
		{"a policy on a service of nobody", "shop", "PUT", "/v1/policies/p", policy(`{"service":"plain"}`), 403, "target.service"},
		{"a policy on an own service", "shop", "PUT", "/v1/policies/p", policy(`{"service":"shop"}`), 200, ""},
		{"a policy on a gateway", "shop", "PUT", "/v1/policies/p", policy(`{"gateway":"demo"}`), 403, "target.gateway"},
		{"a policy on a route of others", "shop", "PUT", "/v1/policies/p", policy(`{"route":"bank"}`), 403, "target.route"},
		{"a node that would be a service of others", "shop", "PUT", "/v1/nodes/shop2", `{"labels":{"team":"shop"},"roles":["SIDECAR"],"services":["bank"]}`, 403, "services[0]"},
		{"a node that would be a gateway", "shop", "PUT", "/v1/nodes/shop2", `{"labels":{"team":"shop"},"roles":["GATEWAY"],"gateways":["demo"]}`, 403, "gateways[0]"},
		{"a node that would be a bridge", "shop", "PUT", "/v1/nodes/shop2", `{"labels":{"team":"shop"},"roles":["BRIDGE"],"services":["shop"]}`, 403, "roles[0]"},
		{"a node that would be the service of bridges", "shop", "POST", "/v1:apply", `{"objects":[{"name":"services/mqtt-bridge","labels":{"team":"shop"}},{"name":"nodes/shop2","labels":{"team":"shop"},"roles":["SIDECAR"],"services":["mqtt-bridge"]}]}`, 403, "objects[1].services[0]"},
		{"a route in place of a service of others", "shop", "PUT", "/v1/routes/shop", meshRoute("bank.mesh"), 403, "hostnames[0]"},
		{"a route in place of every service", "shop", "PUT", "/v1/routes/shop", meshRoute("*.mesh"), 403, "hostnames[0]"},
		{"a route in place of an own service", "shop", "PUT", "/v1/routes/shop", meshRoute("shop.mesh"), 200, ""},
		{"a reference to nothing", "shop", "PUT", "/v1/policies/p", policy(`{"service":"shp"}`), 422, "did you mean"},
		{"a collection without labels refers to all", "routes-only", "PUT", "/v1/routes/r", strings.ReplaceAll(shopRoute, `"service":"shop"`, `"service":"bank"`), 200, ""},
		{"a batch of its own", "shop", "POST", "/v1:apply", `{"objects":[{"name":"services/a","labels":{"team":"shop"}},{"name":"services/b","labels":{"team":"shop"}}]}`, 200, ""},
		{"a batch with one of others", "shop", "POST", "/v1:apply", `{"objects":[{"name":"services/a","labels":{"team":"shop"}},{"name":"services/bank","labels":{"team":"shop"}}]}`, 403, "services/bank"},
		{"a batch with defaults by an editor", "editor", "POST", "/v1:apply", `{"objects":[{"name":"services/a"},{"name":"defaults/mesh","authorization":"ALLOW"}]}`, 403, "defaults/mesh: editor has the role editor, and to write it needs the role admin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := scopedWorld(t)
			before := a.log.revision()
			got := a.do(c.method, c.path, c.body, as(c.by)...)
			if got.status != c.status || !strings.Contains(strings.ReplaceAll(got.body, `\"`, `"`), c.says) {
				t.Errorf("%d %s, want %d with %q", got.status, got.body, c.status, c.says)
			}
			if got.status == 403 && got.code() != "denied" || got.status != 200 && a.log.revision() != before {
				t.Errorf("%s; revision %d after %d", got.code(), a.log.revision(), before)
			}
		})
	}
}

func TestListsHaveWhatMayBeRead(t *testing.T) {
	a := scopedWorld(t)
	for _, tt := range []struct{ by, path, want string }{
		{"shop", "/v1/services", "services/shop"},
		{"shop-viewer", "/v1/nodes", "nodes/shop1"},
		{"shop", "/v1/routes", ""},
		{"routes-only", "/v1/services", ""},
		{"routes-only", "/v1/routes", "routes/bank"},
		{"editor", "/v1/services", "services/bank services/plain services/shop"},
	} {
		got := a.must("GET", tt.path, "", as(tt.by)...)
		var names []string
		for _, key := range slices.Sorted(maps.Keys(got.json)) {
			objects, _ := got.json[key].([]any)
			for _, o := range objects {
				name, _ := o.(map[string]any)["name"].(string)
				names = append(names, name)
			}
		}
		if strings.Join(names, " ") != tt.want {
			t.Errorf("%s lists %v of %s, want %s", tt.by, names, tt.path, tt.want)
		}
	}
	first := a.must("GET", "/v1/services?pageSize=1", "", as("shop")...)
	if first.json["nextPageToken"] != "" {
		t.Errorf("a page says that there is more than may be read: %s", first.body)
	}
}

func TestInstancesAreScoped(t *testing.T) {
	a := newAPI(t, known(principal{name: "v1", role: viewer, bearer: true, scopes: []scope{{labels: mesh.Labels{"version": "v1"}}}}), func(o *Options) {
		o.Observed = fakeObserved{{Node: "n", Role: "SIDECAR", Instances: []*mesh.Instance{
			{Meta: mesh.Meta{Name: "instances/n-1", Labels: mesh.Labels{"version": "v1"}}},
			{Meta: mesh.Meta{Name: "instances/n-2", Labels: mesh.Labels{"version": "v2"}}},
		}}}
	})
	if got := a.must("GET", "/v1/instances", "", as("v1")...); strings.Contains(got.body, "n-2") || !strings.Contains(got.body, "n-1") {
		t.Error(got.body)
	}
	for path, want := range map[string]int{"n-1": 200, "n-2": 403, "n-3": 403} {
		if got := a.do("GET", "/v1/instances/"+path, "", as("v1")...); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
}

// Who has no bearer token could be a browser, which sends forms on its own.
func TestWithoutABearerTokenJSONSaysThatItIs(t *testing.T) {
	a := newAPI(t, known(principal{name: "card", role: admin}))
	for contentType, want := range map[string]int{
		"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "application/jsonp": 415,
		"application/json": 200, "application/json; charset=utf-8": 200,
	} {
		if got := a.do("PUT", "/v1/services/s", "{}", "Authorization", "Bearer card", "Content-Type", contentType); got.status != want {
			t.Errorf("%q: %d %s, want %d", contentType, got.status, got.body, want)
		}
	}
	if got := a.do("DELETE", "/v1/services/s", "", "Authorization", "Bearer card"); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
}
