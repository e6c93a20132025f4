package sidecar

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Config is where a sidecar listens and which workloads it stands beside.
type Config struct {
	Node     string // this node's id
	Inbound  Inbound
	Outbound string // host:port for calls of the workload; "" for none. Keep it on loopback
	Admin    string // host:port; keep it on loopback
	Services []Service
	TCP      []TCPUpstream // listeners for services of protocol TCP
	// Upstreams are services whose endpoints are read before the first request
	// to them; others are when they are first called.
	Upstreams []string
	// Drain is how long requests under way may take to finish at the end. 30 s
	// if 0, which fits systemd's TimeoutStopSec.
	Drain time.Duration
}

// Inbound is where mesh peers reach the node's services, over mTLS.
type Inbound struct {
	Address string // host:port to listen at
	// Advertise is the address and port that peers dial, a literal. The
	// address that Address was bound to if "", which then must be one.
	Advertise string
}

// Service is one workload beside the sidecar.
type Service struct {
	Service string
	Address string // where the workload listens: "127.0.0.1:9001", a literal
	Labels  map[string]string
	// Outbound is a listener for calls of this workload alone. With several
	// services on a node, it is how the sidecar knows who calls.
	Outbound string
}

// TCPUpstream is a listener whose connections go to a service of protocol TCP.
type TCPUpstream struct {
	Service string
	Address string // host:port; keep it on loopback
	// As is the local service that connects there. It may be left out if there is
	// one alone.
	As string
}

// defaultDrain is Config.Drain if that is 0.
const defaultDrain = 30 * time.Second

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	id := func(field, value string) {
		if !mesh.ValidID(value) {
			errs = append(errs, fmt.Errorf("%s: %q is not an id of 1 to 63 characters a-z, 0-9 and '-'", field, value))
		}
	}
	literal := func(field, value string) {
		if a, err := netip.ParseAddrPort(value); err != nil || a.Addr().IsUnspecified() || a.Port() == 0 {
			errs = append(errs, fmt.Errorf("%s: %q is not an IP address and port to connect to, like \"127.0.0.1:9001\"", field, value))
		}
	}
	id("node", c.Node)
	if c.Inbound.Advertise != "" {
		literal("inbound.advertise", c.Inbound.Advertise)
	}
	if len(c.Services) == 0 {
		errs = append(errs, errors.New("services: at least one is needed"))
	}
	seen := map[string]bool{}
	for i, s := range c.Services {
		id(fmt.Sprintf("services[%d].service", i), s.Service)
		literal(fmt.Sprintf("services[%d].address", i), s.Address)
		if seen[s.Service] {
			errs = append(errs, fmt.Errorf("services[%d].service: %q is there twice", i, s.Service))
		}
		seen[s.Service] = true
	}
	for i, t := range c.TCP {
		id(fmt.Sprintf("tcp[%d].service", i), t.Service)
		switch {
		case t.As == "" && len(c.Services) > 1:
			errs = append(errs, fmt.Errorf("tcp[%d].as: which of the services of this node connects there is needed", i))
		case t.As != "" && !seen[t.As]:
			errs = append(errs, fmt.Errorf("tcp[%d].as: %q is none of the services of this node", i, t.As))
		}
	}
	for i, u := range c.Upstreams {
		id(fmt.Sprintf("upstreams[%d]", i), u)
	}
	if err := errors.Join(errs...); err != nil {
		return &mesh.Error{Op: "sidecar.New", Name: c.Node, Kind: mesh.Invalid, Err: err}
	}
	return nil
}
