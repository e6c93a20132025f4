// Package up runs the whole mesh in one process on loopback: the control
// plane, a gateway, a bridge with its broker, an embedded registry and a local
// CA and, with --demo, workloads behind sidecars of their own. Every hop is a
// real socket, and every hop between data planes mTLS, as between machines.
//
// It is for trying, developing and small single-machine set-ups. It uses the
// same roles as separate processes do and adds no behaviour to them.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/control"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/demo"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/role"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry/embedded"
)

const (
	meshName    = "default"
	trustDomain = "hedgerow.local"
	gatewayID   = "demo"
)

// Options are the flags of `hedgerow up`.
type Options struct {
	Data     string
	Demo     bool
	LogLevel string

	Control, Redis, MQTT         string
	Gateway, GatewayAdmin        string
	BridgeAdmin                  string
	Inbound, Outbound, SideAdmin string // of the telemetry sidecar
}

// Command returns `hedgerow up`.
func Command() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole mesh in one process on loopback",
		Long: `Up runs the control plane, a gateway, a bridge with an MQTT broker, a registry
and a CA in one process on loopback, with its state under --data. With --demo it
adds services to try and prints how. Ctrl-C drains and ends it; the next start
with the same --data continues.

Every port can be moved, so that two can run on one machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return Run(cmd.Context(), o, cmd.OutOrStdout(), os.Stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "./.hedgerow", "`directory` for all state, created 0700")
	f.BoolVar(&o.Demo, "demo", false, "add two versions of an orders service and a telemetry sink")
	f.StringVar(&o.LogLevel, "log-level", "error", "debug, info, warn or error; as JSON lines on standard error")
	f.StringVar(&o.Control, "control", "127.0.0.1:7070", "control API")
	f.StringVar(&o.Gateway, "gateway", "127.0.0.1:8080", "gateway, for traffic from outside the mesh")
	f.StringVar(&o.GatewayAdmin, "gateway-admin", "127.0.0.1:15010", "gateway's admin port")
	f.StringVar(&o.MQTT, "mqtt", "127.0.0.1:1883", "embedded MQTT broker; with --demo it admits anonymous clients on loopback, else nobody")
	f.StringVar(&o.BridgeAdmin, "bridge-admin", "127.0.0.1:15020", "bridge's admin port")
	f.StringVar(&o.Redis, "redis", "127.0.0.1:6390", "embedded registry")
	f.StringVar(&o.Inbound, "inbound", "127.0.0.1:15006", "telemetry sidecar: mTLS from peers")
	f.StringVar(&o.Outbound, "outbound", "127.0.0.1:15001", "telemetry sidecar: from its workload into the mesh")
	f.StringVar(&o.SideAdmin, "admin", "127.0.0.1:15000", "telemetry sidecar's admin port")
	return cmd
}

// validate refuses addresses that are none, or not on loopback: nothing of what
// up runs is meant for a network.
func (o *Options) validate() error {
	var errs []error
	for _, a := range [][2]string{
		{"control", o.Control}, {"redis", o.Redis}, {"mqtt", o.MQTT}, {"gateway", o.Gateway}, {"gateway-admin", o.GatewayAdmin},
		{"bridge-admin", o.BridgeAdmin}, {"inbound", o.Inbound}, {"outbound", o.Outbound}, {"admin", o.SideAdmin},
	} {
		ap, err := netip.ParseAddrPort(a[1])
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("--%s: %q is not an address and port like 127.0.0.1:7070", a[0], a[1]))
		case !ap.Addr().IsLoopback():
			errs = append(errs, fmt.Errorf("--%s: %s is not on loopback; for other machines run the roles by themselves", a[0], a[1]))
		}
	}
	return errors.Join(errs...)
}

// startTimeout bounds the time until everything serves.
const startTimeout = 30 * time.Second

// Run runs the mesh until ctx ends, and returns when everything has drained.
func Run(ctx context.Context, o Options, out, logs io.Writer) error {
	log, err := role.NewLog(logs, o.LogLevel)
	if err := errors.Join(err, o.validate()); err != nil {
		return err
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return fmt.Errorf("up: data directory: %w", err)
	}
	u := &upper{opt: o, log: log, group: role.NewGroup(log)}
	err = u.start(ctx)
	if err == nil {
		u.announce(out)
		u.group.Wait(ctx)
		fmt.Fprintln(out, "draining") //nolint:errcheck // informative
	}
	if errors.Is(err, errStopped) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // Stop says why, or it was interrupted while starting
	}
	return errors.Join(err, u.group.Stop())
}

// upper is one run.
type upper struct {
	opt     Options
	log     zerolog.Logger
	group   *role.Group
	ca      *localca.CA
	waiting []<-chan struct{} // closed as each data plane serves
}

// start starts everything in the order of need and returns when it serves.
func (u *upper) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not serving after %v; see --log-level info", startTimeout))
	defer cancel()
	if err := os.MkdirAll(u.opt.Data, 0o700); err != nil {
		return fmt.Errorf("up: data directory: %w", err)
	}
	var err error
	if u.ca, err = localca.Open(filepath.Join(u.opt.Data, caDir), localca.Config{TrustDomain: trustDomain}); err != nil {
		return err
	}
	redis, err := embedded.Start(u.opt.Redis, "")
	if err != nil {
		return err
	}
	u.group.Go("embedded registry", func(ctx context.Context) error {
		<-ctx.Done()
		redis.Close()
		return nil
	})
	if err := u.startControl(ctx); err != nil {
		return err
	}
	if u.opt.Demo { // before what calls it: parts end the other way round
		if err := u.startDemo(); err != nil {
			return err
		}
	}
	if err := u.startGateway(); err != nil {
		return err
	}
	if err := u.startBridge(); err != nil {
		return err
	}
	for _, serving := range u.waiting {
		if err := u.await(ctx, serving); err != nil {
			return err
		}
	}
	return u.awaitReady(ctx)
}

// await waits for one part to serve.
func (u *upper) await(ctx context.Context, serving <-chan struct{}) error {
	select {
	case <-serving:
		return nil
	case <-u.group.Failed():
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errStopped says that a part failed while others were awaited.
var errStopped = errors.New("a part failed")

// awaitReady polls the control plane's readiness, of which the demo is a part.
func (u *upper) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx, "http://"+u.opt.Control+"/readyz", "", http.StatusMultipleChoices)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-u.group.Failed():
			return errStopped
		case <-tick.C:
		}
	}
}

// probe reports why a GET of url is not answered with a status below most.
func probe(ctx context.Context, url, host string, most int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode >= most {
		return fmt.Errorf("%s answers %d %s", url, resp.StatusCode, body)
	}
	return nil
}

// serving returns deps for a data plane and has start wait for it.
func (u *upper) serving() role.Deps {
	ch := make(chan struct{})
	u.waiting = append(u.waiting, ch)
	return role.Deps{Issuer: u.ca, Ready: func() { close(ch) }}
}

// base is the configuration that all data planes share.
func (u *upper) base(node string) role.Base {
	return role.Base{
		Mesh: meshName, TrustDomain: trustDomain, DataDir: filepath.Join(u.opt.Data, node),
		Trust: role.Trust{RootsFile: filepath.Join(u.opt.Data, control.RootsFile)},
		Redis: registry.Config{Addresses: []string{u.opt.Redis}, Mesh: meshName},
		Drain: drain, Log: role.Log{Level: u.opt.LogLevel},
	}
}

// caDir is where, below the data directory, the CA is.
const caDir = "ca"

const drain = 10 * time.Second

func (u *upper) startControl(ctx context.Context) error {
	cfg := control.Default()
	cfg.Address = u.opt.Control
	cfg.DataDir = u.opt.Data
	cfg.Redis.Config = registry.Config{Addresses: []string{u.opt.Redis}, Mesh: meshName}
	cfg.Mesh, cfg.TrustDomain = meshName, trustDomain
	cfg.Trust.CAFile = filepath.Join(u.opt.Data, caDir, localca.CertFile)
	cfg.Log = role.Log{Level: u.opt.LogLevel}
	objects, err := demo.Objects(u.opt.Demo)
	if err != nil {
		return err
	}
	serving := make(chan struct{})
	deps := control.Deps{Ready: func() { close(serving) }, First: objects, Backdate: localca.Backdate}
	if u.opt.Demo {
		// A route or policy that was changed may well make this a 404 or 403,
		// which is an answer; a 5xx says that something is missing.
		deps.Check = func(ctx context.Context) error {
			return probe(ctx, "http://"+u.opt.Gateway+"/orders/0", "demo.localhost", http.StatusInternalServerError)
		}
	}
	u.group.Go("control plane", func(ctx context.Context) error { return control.Run(ctx, &cfg, deps) })
	return u.await(ctx, serving)
}

func (u *upper) startGateway() error {
	cfg := role.Gateway{
		Limits: proxy.EdgeLimits(),
		Node:   "gateway", ID: gatewayID, Base: u.base("gateway"),
		Listeners: []role.PublicListener{{Address: u.opt.Gateway}},
		Admin:     role.Listen{Address: u.opt.GatewayAdmin},
	}
	deps := u.serving()
	u.group.Go("gateway", func(ctx context.Context) error { return role.RunGateway(ctx, &cfg, deps) })
	return nil
}

func (u *upper) startBridge() error {
	cfg := role.Bridge{
		Limits: proxy.MeshLimits(),
		Node:   "bridge", Base: u.base("bridge"), MQTT: role.MQTT{Embedded: role.Embedded{Address: u.opt.MQTT, Anonymous: u.opt.Demo}},
		Admin: role.Listen{Address: u.opt.BridgeAdmin},
	}
	deps := u.serving()
	u.group.Go("bridge", func(ctx context.Context) error { return role.RunBridge(ctx, &cfg, deps) })
	return nil
}
