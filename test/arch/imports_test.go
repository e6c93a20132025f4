package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// parts are the top-level folders with Go code, and which others each may
// import. Tests of every part may also use test/...
var parts = map[string][]string{
	"mesh":       {"mesh"},
	"openapi":    {"openapi"},
	"gateway":    {"mesh", "gateway"},
	"sidecar":    {"mesh", "sidecar"},
	"controlapi": {"mesh", "openapi", "controlapi"},
	"mqttbridge": {"mesh", "mqttbridge"},
	"vaultpki":   {"mesh", "vaultpki", "deploy"},
	"deploy":     {},
	"cmd":        {"mesh", "openapi", "gateway", "sidecar", "controlapi", "mqttbridge", "vaultpki", "cmd"},
	"test":       {"mesh", "openapi", "gateway", "sidecar", "controlapi", "mqttbridge", "vaultpki", "cmd", "test"},
}

// owner says which folders alone may import the packages under a path.
type owner struct {
	imports string
	folders []string
	reason  string
}

var owners = []owner{
	{"github.com/redis/go-redis", []string{"mesh/registry", "test/chaos"}, "mesh/registry is the only code that knows Redis, but for who attacks it; the others read a Snapshot"},
	{"github.com/alicebob/miniredis", []string{"mesh/registry"}, "the embedded registry hides behind the same package as the real one"},
	{"github.com/hashicorp/vault/api", []string{"vaultpki"}, "vaultpki is the only code that knows Vault; the others know an Issuer"},
	{"github.com/eclipse/paho.mqtt.golang", []string{"mqttbridge"}, "mqttbridge is the only code that speaks MQTT"},
	{"github.com/eclipse/paho.golang", []string{"mqttbridge"}, "mqttbridge is the only code that speaks MQTT"},
	{"github.com/mochi-mqtt/server", []string{"mqttbridge"}, "the embedded broker is a part of mqttbridge"},
	{"github.com/grpc-ecosystem/grpc-gateway", []string{"controlapi", "openapi"}, "only the control plane serves REST; a sidecar must not link it"},
	{"github.com/go-chi/chi", []string{"controlapi", "openapi"}, "middleware has the standard library's signature, so that nothing else needs a router"},
	{"golang.org/x/crypto/acme", []string{"gateway"}, "only a gateway has names that strangers verify"},
	{"github.com/spf13/cobra", []string{"cmd"}, "a plane is a library; its command line is cmd's"},
	{"github.com/rogpeppe/go-internal/testscript", nil, "it is for tests"},
}

func importRules() []rule {
	return []rule{
		{
			name:   "parts import mesh, mesh imports no part, parts never import each other, only cmd knows everyone",
			reason: "each plane must be understood, tested and linked without the others; what two of them share belongs to mesh",
			check:  checkParts,
			bad: []example{
				{"mesh imports a plane", map[string]string{"mesh/proxy/a.go": imports("proxy", module+"/gateway")}, "mesh/proxy/a.go:3: mesh may not import gateway"},
				{"a plane imports another", map[string]string{"gateway/a.go": imports("gateway", module+"/sidecar")}, "gateway may not import sidecar"},
				{"a plane imports cmd", map[string]string{"sidecar/a.go": imports("sidecar", module+"/cmd/internal/role")}, "sidecar may not import cmd"},
				{"a data plane imports the contract", map[string]string{"mqttbridge/a.go": imports("mqttbridge", module+"/openapi/hedgerow/v1")}, "mqttbridge may not import openapi"},
				{"shipped code imports test", map[string]string{"cmd/hedgerow/a.go": imports("main", module+"/test/servers")}, "cmd may not import test"},
				{"a plane's test imports another plane", map[string]string{"vaultpki/a_test.go": imports("vaultpki", module+"/controlapi")}, "vaultpki may not import controlapi"},
				{"a folder that nobody placed", map[string]string{"metrics/a.go": imports("metrics", "fmt")}, "metrics: no rule says what this folder may import"},
			},
			good: []example{
				{"a plane imports mesh", map[string]string{"gateway/a.go": imports("gateway", module+"/mesh/proxy")}, ""},
				{"cmd imports planes", map[string]string{"cmd/internal/role/a.go": imports("role", module+"/gateway", module+"/vaultpki")}, ""},
				{"a test uses the test servers", map[string]string{"mesh/registry/a_test.go": imports("registry", module+"/test/servers")}, ""},
			},
		},
		{
			name:   "package mesh is standard library only",
			reason: "everybody depends on it, so whatever it imports everybody links",
			check:  checkMeshStandardLibrary,
			bad: []example{
				{"a library", map[string]string{"mesh/a.go": imports("mesh", "github.com/rs/zerolog")}, "mesh/a.go:3: github.com/rs/zerolog"},
				{"a package of ours", map[string]string{"mesh/a.go": imports("mesh", module+"/mesh/proxy")}, "mesh/proxy"},
			},
			good: []example{
				{"the standard library", map[string]string{"mesh/a.go": imports("mesh", "net/netip")}, ""},
				{"a package below mesh", map[string]string{"mesh/proxy/a.go": imports("proxy", "github.com/rs/zerolog")}, ""},
			},
		},
		{
			name:   "each outside system is known to one part alone",
			reason: "a library that leaks into a second part can be neither replaced nor left out",
			check:  checkOwners,
			bad: []example{
				{"go-redis outside the registry", map[string]string{"mesh/proxy/a.go": imports("proxy", "github.com/redis/go-redis/v9")}, "go-redis/v9 is for mesh/registry, test/chaos alone: mesh/registry is the only code that knows Redis"},
				{"miniredis in cmd", map[string]string{"cmd/internal/up/a.go": imports("up", "github.com/alicebob/miniredis/v2")}, "for mesh/registry alone"},
				{"the Vault client in a sidecar", map[string]string{"sidecar/a.go": imports("sidecar", "github.com/hashicorp/vault/api/auth/approle")}, "for vaultpki alone"},
				{"paho in cmd", map[string]string{"cmd/internal/client/a.go": imports("client", "github.com/eclipse/paho.mqtt.golang")}, "for mqttbridge alone"},
				{"mochi in cmd", map[string]string{"cmd/internal/up/a.go": imports("up", "github.com/mochi-mqtt/server/v2")}, "for mqttbridge alone"},
				{"chi in the gateway", map[string]string{"gateway/a.go": imports("gateway", "github.com/go-chi/chi/v5")}, "for controlapi, openapi alone"},
				{"grpc-gateway in cmd", map[string]string{"cmd/internal/control/a.go": imports("control", "github.com/grpc-ecosystem/grpc-gateway/v2/runtime")}, "for controlapi, openapi alone"},
				{"cobra in a plane", map[string]string{"gateway/a.go": imports("gateway", "github.com/spf13/cobra")}, "for cmd alone"},
				{"testscript in shipped code", map[string]string{"cmd/hedgerow/a.go": imports("main", "github.com/rogpeppe/go-internal/testscript")}, "for tests alone"},
			},
			good: []example{
				{"go-redis in the registry", map[string]string{"mesh/registry/embedded/a.go": imports("embedded", "github.com/redis/go-redis/v9")}, ""},
				{"anything under test", map[string]string{"test/e2e/a_test.go": imports("e2e", "github.com/redis/go-redis/v9", "github.com/rogpeppe/go-internal/testscript")}, ""},
				{"a library whose name begins alike", map[string]string{"cmd/a.go": imports("cmd", "github.com/go-chi/chirp")}, ""},
			},
		},
		{
			name:   "the client does not share code with the server",
			reason: "the command line must work by the documented API, as any other client does",
			check:  checkClient,
			bad: []example{
				{"the server", map[string]string{"cmd/internal/client/a.go": imports("client", module+"/controlapi")}, "controlapi"},
				{"the generated contract, in a test", map[string]string{"cmd/internal/client/a_test.go": imports("client", module+"/openapi/hedgerow/v1")}, "openapi"},
			},
			good: []example{{"the nouns", map[string]string{"cmd/internal/client/a.go": imports("client", module+"/mesh")}, ""}},
		},
		{
			name:   "shipped packages do not import testing",
			reason: "test code, and the flags that testing registers, must not ship",
			check:  checkTesting,
			bad: []example{
				{"testing", map[string]string{"mesh/registry/a.go": imports("registry", "testing")}, "mesh/registry/a.go:3: testing"},
				{"httptest", map[string]string{"gateway/a.go": imports("gateway", "net/http/httptest")}, "net/http/httptest"},
			},
			good: []example{
				{"in a test", map[string]string{"gateway/a_test.go": imports("gateway", "testing")}, ""},
				{"in a conformance suite", map[string]string{"mesh/registry/registrytest/a.go": imports("registrytest", "testing")}, ""},
				{"under test", map[string]string{"test/servers/a.go": imports("servers", "testing")}, ""},
			},
		},
	}
}

// imports returns the text of a file that imports paths, the first on line 3.
func imports(name string, paths ...string) string {
	s := "package " + name + "\nimport (\n"
	for _, p := range paths {
		s += fmt.Sprintf("_ %q\n", p)
	}
	return s + ")\n"
}

// partOf returns the top-level folder of a folder or of one of our imports.
func partOf(dir string) string {
	part, _, _ := strings.Cut(dir, "/")
	return part
}

func checkParts(t *tree) []string {
	var found []string
	unplaced := map[string]bool{}
	for _, f := range t.files {
		if f.syntax == nil || strings.HasPrefix(f.dir, "test/vaultd") { // a module of its own
			continue
		}
		part := partOf(f.dir)
		allowed, ok := parts[part]
		if !ok {
			unplaced[part] = true
			continue
		}
		for path, spec := range f.imports() {
			if !under(path, module) {
				continue
			}
			to := partOf(strings.TrimPrefix(path, module+"/"))
			if !slices.Contains(allowed, to) && (!f.test || to != "test") {
				found = append(found, fmt.Sprintf("%s: %s may not import %s (%s)", t.at(spec), part, to, path))
			}
		}
	}
	for _, part := range slices.Sorted(maps.Keys(unplaced)) {
		found = append(found, part+": no rule says what this folder may import; add it to the parts in test/arch")
	}
	return found
}

func checkMeshStandardLibrary(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.syntax == nil || f.dir != "mesh" || f.test {
			continue
		}
		for path, spec := range f.imports() {
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
				found = append(found, fmt.Sprintf("%s: %s is not in the standard library", t.at(spec), path))
			}
		}
	}
	return found
}

func checkOwners(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.syntax == nil || under(f.dir, "test") {
			continue
		}
		for path, spec := range f.imports() {
			for _, o := range owners {
				if !under(path, o.imports) || slices.ContainsFunc(o.folders, func(folder string) bool { return under(f.dir, folder) }) {
					continue
				}
				who := strings.Join(o.folders, ", ")
				if who == "" {
					who = "tests"
				}
				found = append(found, fmt.Sprintf("%s: %s is for %s alone: %s", t.at(spec), path, who, o.reason))
			}
		}
	}
	return found
}

func checkClient(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.syntax == nil || !under(f.dir, "cmd/internal/client") {
			continue
		}
		for path, spec := range f.imports() {
			if under(path, module+"/controlapi") || under(path, module+"/openapi") {
				found = append(found, fmt.Sprintf("%s: the client imports %s", t.at(spec), path))
			}
		}
	}
	return found
}

func checkTesting(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.syntax == nil || f.test || under(f.dir, "test") || strings.HasSuffix(f.dir, "test") {
			continue
		}
		for path, spec := range f.imports() {
			if under(path, "testing") || path == "net/http/httptest" {
				found = append(found, fmt.Sprintf("%s: %s in code that ships", t.at(spec), path))
			}
		}
	}
	return found
}
