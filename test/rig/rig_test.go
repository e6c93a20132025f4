package rig_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const objects = `
name: defaults/mesh
dialCidrs: ["127.0.0.0/8"]
---
name: services/client
---
name: services/shop
---
name: nodes/caller
roles: [SIDECAR]
services: [client]
---
name: nodes/callee
roles: [SIDECAR]
services: [shop]
---
name: nodes/edge
roles: [GATEWAY]
gateways: [edge]
---
name: routes/shop
targets: [GATEWAY]
hostnames: [shop.mesh]
rules: [{backends: [{service: shop}]}]
---
name: policies/shop
target: {service: shop}
action: ALLOW
rules: [{from: [{identities: [/svc/client, /gateway/edge]}]}]
`

// TestMesh sends a request through each kind of plane.
func TestMesh(t *testing.T) {
	binaries := t.TempDir()
	build := exec.Command("go", "build", "-pgo=off", "-o", binaries+"/", "../../cmd/hedgerow", "../../cmd/hedgerow-edge")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	workload := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "caller "+r.Header.Get("X-Forwarded-Client-Cert")) // a client that left has no test
	}))
	t.Cleanup(workload.Close)
	m := rig.New(t, rig.Options{Binaries: binaries, Objects: objects, Users: true, Nodes: []servers.PKINode{
		rig.SidecarNode("caller", "client"), rig.SidecarNode("callee", "shop"), rig.GatewayNode("edge", "edge"),
	}})
	files := servers.LoopbackTLS(t)
	callee := m.Sidecar(rig.Sidecar{Node: "callee", Service: "shop", Workload: workload.Listener.Addr().String()})
	caller := m.Sidecar(rig.Sidecar{Node: "caller", Service: "client", Workload: m.Address(), Watch: []string{"shop"}})
	edge := m.Gateway(rig.Gateway{Node: "edge", ID: "edge", TLS: files})

	pem, err := os.ReadFile(files.CAFile)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("read the CA: %v", err)
	}
	want, err := mesh.ServiceID(rig.TrustDomain, "shop", "callee")
	if err != nil {
		t.Fatal(err)
	}
	direct := identity.ClientConfig(m.Identity("caller", "client"), want, identity.ServerName("shop", "callee", rig.Name), identity.ProtocolHTTP1)
	for _, tt := range []struct {
		name   string
		plane  *rig.Plane
		target load.Target
		caller string
	}{
		{"outbound", caller, load.Target{Address: caller.Outbound, Host: "shop.mesh"}, "/svc/client/n/caller"},
		{"gateway", edge, load.Target{Address: edge.Public, Host: "shop.mesh", TLS: &tls.Config{RootCAs: roots, ServerName: "localhost"}}, "/gateway/edge"},
		{"inbound", callee, load.Target{Address: callee.Inbound, Host: "shop.mesh", TLS: direct}, "/svc/client/n/caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := tt.target.Client(5*time.Second, 0)
			tt.plane.Until(30*time.Second, "answers", func(ctx context.Context) error {
				req, err := tt.target.Request(ctx, http.MethodGet, "/", nil)
				if err != nil {
					return err
				}
				resp, err := client.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || !strings.HasSuffix(string(body), "URI=spiffe://"+rig.TrustDomain+tt.caller) {
					return fmt.Errorf("%d %q, %w", resp.StatusCode, body, err)
				}
				return nil
			})
		})
	}
	if a, b := m.Address(), m.Address(); a == b {
		t.Errorf("%s came twice", a)
	}
}

// TestProcess looks at how programs end, under a T whose failures can be seen.
func TestProcess(t *testing.T) {
	sleeper := []string{"-c", "exec sleep 300"}
	for _, tt := range []struct {
		name string
		args []string
		play func(*stage.T, *rig.Process)
		want string // in the failure; empty for none
	}{
		{"runs to the end", sleeper, func(*stage.T, *rig.Process) {}, ""},
		{"is stopped", sleeper, func(row *stage.T, p *rig.Process) {
			var exit *exec.ExitError
			if err := p.Stop(); !errors.As(err, &exit) || p.Running() {
				row.Errorf("stopped: %v", err)
			}
		}, ""},
		{"is killed, twice", sleeper, func(row *stage.T, p *rig.Process) {
			if err := errors.Join(p.Kill(), p.Kill()); err != nil || p.Running() {
				row.Errorf("killed: %v", err)
			}
		}, ""},
		{"ends by itself", []string{"-c", "echo oh; exit 3"}, func(_ *stage.T, p *rig.Process) { <-p.Done() }, "proc ended by itself: exit status 3; its output:\noh"},
		{"ends while it is waited for", []string{"-c", "echo oh; exit 3"}, func(_ *stage.T, p *rig.Process) {
			p.Until(time.Minute, "flies", func(context.Context) error { return errors.New("no wings") })
		}, "proc ended by itself"},
		{"does not get ready", sleeper, func(_ *stage.T, p *rig.Process) {
			p.Until(50*time.Millisecond, "flies", func(context.Context) error { return errors.New("no wings") })
		}, "until proc flies: no wings"},
		{"gets ready", sleeper, func(row *stage.T, p *rig.Process) {
			n := 0
			p.Until(time.Minute, "flies", func(context.Context) error {
				if n++; n < 3 {
					return errors.New("no wings")
				}
				return nil
			})
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pid := 0
			err := stage.Run(t.Context(), "row", func(row *stage.T) {
				p := rig.Start(row, rig.Command{Name: "proc", Dir: row.TempDir(), Program: "/bin/sh", Args: tt.args})
				pid = p.Pid()
				tt.play(row, p)
			})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("process %d is still there: %v", pid, err)
			}
		})
	}
}
