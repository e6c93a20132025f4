package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// startMost is how long a program may take to listen, on a loaded machine.
const startMost = 60 * time.Second

// objects is the mesh: a service of each protocol, and a gateway that serves those
// of HTTP.
const objects = `
name: defaults/mesh
authorization: ALLOW
dialCidrs: [127.0.0.0/8]
---
name: nodes/caller
roles: [SIDECAR]
services: [client]
---
name: nodes/callee
roles: [SIDECAR]
services: [%[1]s]
---
name: nodes/edge
roles: [GATEWAY]
gateways: [edge]
---
name: services/client
---
name: services/%[1]s
protocol: %[2]s
%[3]s`

// route sends everything that comes to the gateway to the service.
const route = `
---
name: routes/all
targets: [GATEWAY]
hostnames: ["*"]
rules:
  - backends: [{service: %s}]
    timeout: 0s
`

// site is a mesh of a caller's sidecar, a callee's and a gateway.
type site struct {
	t       *testing.T
	mesh    *rig.Mesh
	service string
	caller  *rig.Plane
	gateway *rig.Plane
	tls     servers.TLSFiles // of the gateway
}

// newSite starts a mesh in which workload is the service of a protocol. listen is
// where the caller's sidecar takes connections for a service of protocol TCP.
func newSite(t *testing.T, service, protocol, workload, listen string) *site {
	t.Helper()
	s := &site{t: t, service: service, tls: servers.LoopbackTLS(t)}
	routes := ""
	if protocol != "TCP" {
		routes = fmt.Sprintf(route, service)
	}
	s.mesh = rig.New(t, rig.Options{
		Binaries: programs(t),
		Objects:  fmt.Sprintf(objects, service, protocol, routes),
		Users:    true,
		Nodes:    []servers.PKINode{rig.SidecarNode("caller", "client"), rig.SidecarNode("callee", service), rig.GatewayNode("edge", "edge")},
	})
	s.mesh.Sidecar(rig.Sidecar{Node: "callee", Service: service, Workload: workload})
	caller := rig.Sidecar{Node: "caller", Service: "client", Workload: workload, Watch: []string{service}}
	if protocol == "TCP" {
		caller.TCP = map[string]string{service: listen}
	}
	s.caller = s.mesh.Sidecar(caller)
	s.gateway = s.mesh.Gateway(rig.Gateway{Node: "edge", ID: "edge", TLS: s.tls})
	return s
}

// programs returns the directory of hedgerow and hedgerow-edge, which it builds.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	command(t, 10*time.Minute, "", "go", "build", "-o", dir+"/", "../../cmd/hedgerow", "../../cmd/hedgerow-edge")
	return dir
}

// tool returns the program of a package that tools/go.mod has.
func tool(t *testing.T, path string) string {
	t.Helper()
	out := command(t, 10*time.Minute, "../..", "go", "tool", "-modfile=tools/go.mod", "-n", path)
	// The last line: before it go says what it downloads.
	out = strings.TrimSpace(out)
	return out[strings.LastIndexByte(out, '\n')+1:]
}

// command runs a program to its end and returns what it wrote.
func command(t *testing.T, limit time.Duration, dir, program string, args ...string) string {
	t.Helper()
	out, err := try(t, limit, dir, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// try is command for programs that may fail.
func try(t *testing.T, limit time.Duration, dir, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// serve starts a program that listens at address.
func serve(t *testing.T, address, name, program string, args ...string) {
	t.Helper()
	p := rig.Start(t, rig.Command{Name: name, Dir: t.TempDir(), Program: program, Args: args})
	p.Until(startMost, "listens", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// address returns a free loopback address, and its port.
func address(t *testing.T) (address, port string) {
	t.Helper()
	port = fmt.Sprint(servers.FreePorts(t, 1)[0])
	return "127.0.0.1:" + port, port
}

// write puts content into a file of the test's own.
func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// port returns that of an address.
func port(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
