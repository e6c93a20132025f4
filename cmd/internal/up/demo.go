package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/demo"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/role"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// startDemo runs the workloads, each behind a sidecar of its own, and writes
// the files that the printed lines name.
func (u *upper) startDemo() error {
	dir := filepath.Join(u.opt.Data, "demo")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	for name, b := range map[string][]byte{"canary.json": demo.Canary(), "allow.json": demo.Allow()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("up: %w", err)
		}
	}
	return errors.Join(
		u.startWorkload("orders-v1", "orders", map[string]string{"version": "v1"}, demo.Orders("v1")),
		u.startWorkload("orders-v2", "orders", map[string]string{"version": "v2"}, demo.Orders("v2")),
		u.startWorkload("telemetry", "telemetry", nil, demo.Telemetry()),
	)
}

// startWorkload runs a workload on a free port and its sidecar on node. The
// telemetry sidecar has the documented ports, the others free ones.
func (u *upper) startWorkload(node, service string, labels map[string]string, h http.Handler) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("up: workload %s: %w", node, err)
	}
	u.group.Go("workload "+node, func(ctx context.Context) error { return demo.Serve(ctx, ln, h) })
	cfg := role.Sidecar{
		Limits: proxy.MeshLimits(),
		Node:   node, Base: u.base(node),
		Inbound:  role.Inbound{Address: "127.0.0.1:0"},
		Outbound: role.Listen{Address: "127.0.0.1:0"},
		Admin:    role.Listen{Address: "127.0.0.1:0"},
		Services: []role.Local{{Service: service, Address: ln.Addr().String(), Labels: labels}},
	}
	if node == "telemetry" {
		cfg.Inbound.Address, cfg.Outbound.Address, cfg.Admin.Address = u.opt.Inbound, u.opt.Outbound, u.opt.SideAdmin
	}
	deps := u.serving()
	u.group.Go("sidecar "+node, func(ctx context.Context) error { return role.RunSidecar(ctx, &cfg, deps) })
	return nil
}

// announce prints what there is and how to try it, the ready line last.
func (u *upper) announce(out io.Writer) {
	o := u.opt
	curlrc := filepath.Join(o.Data, "curlrc")
	_, mqttPort, _ := net.SplitHostPort(o.MQTT)
	p := func(format string, args ...any) {
		fmt.Fprintf(out, format+"\n", args...) //nolint:errcheck // informative
	}
	p("hedgerow %s", role.Version())
	p("  control API   http://%s  (docs at /docs, token in %s)", o.Control, filepath.Join(o.Data, "admin.token"))
	p("  gateway       http://%s", o.Gateway)
	p("  MQTT broker   %s", o.MQTT)
	if o.Demo {
		p("\nTry, in another terminal:")
		p("\n  # a request from outside; orders answers in version v1")
		p("  curl -s -H 'Host: demo.localhost' %s/orders/7", o.Gateway)
		p("\n  # send everything to v2")
		p("  curl -s -K %s -X PUT --data @%s %s/v1/routes/demo", curlrc, filepath.Join(o.Data, "demo", "canary.json"), o.Control)
		p("\n  # the telemetry workload may not call orders (403), until a policy allows it (200)")
		p("  curl -s -H 'Host: orders.mesh' %s/orders/7", o.Outbound)
		p("  curl -s -K %s -X PUT --data @%s %s/v1/policies/orders-from-telemetry", curlrc, filepath.Join(o.Data, "demo", "allow.json"), o.Control)
		p("\n  # a device publishes, the telemetry service receives")
		p("  mosquitto_pub -p %s -q 1 -t devices/d1/telemetry -m '{\"t\":21.5}'", mqttPort)
		p("  curl -s -H 'Host: demo.localhost' %s/v1/devices/d1/telemetry", o.Gateway)
	}
	p("\nready; Ctrl-C ends it")
}
