package role

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// Base is what the configuration of every role has.
type Base struct {
	Mesh        string          `yaml:"mesh" help:"the mesh's name"`
	TrustDomain string          `yaml:"trustDomain" help:"the SPIFFE trust domain"`
	DataDir     string          `yaml:"dataDir" help:"directory for the last snapshot, from which the role starts while Redis is away, and for what ACME issues to a gateway; created 0700"`
	Trust       Trust           `yaml:"trust"`
	Redis       registry.Config `yaml:"redis"`
	Drain       time.Duration   `yaml:"drain" help:"how long requests in flight may take to finish at the end"`
	Log         Log             `yaml:"log"`
	Observe     Observe         `yaml:"observe"`
}

// Trust says whose configuration is taken.
type Trust struct {
	RootsFile string `yaml:"rootsFile" help:"PEM public root keys of the mesh's configuration; what no key of theirs signed is refused"`
}

// Observe says what is kept and written about requests beside metrics.
type Observe struct {
	AccessLog float64 `yaml:"accessLog" help:"share of the requests, 0 to 1, that get a line in the log; refused ones always do"`
	Decisions float64 `yaml:"decisions" help:"share of the requests, 0 to 1, that leave a record at the admin port's /decisions; refused ones always do"`
	Traces    Traces  `yaml:"traces"`
}

// Traces says where spans go.
type Traces struct {
	Endpoint string  `yaml:"endpoint" help:"OTLP/HTTP collector, as http://127.0.0.1:4318; without one, trace headers are passed on as they come"`
	Sample   float64 `yaml:"sample" help:"share of the requests without a trace, 0 to 1, whose traces are exported"`
}

// Validate reports shares that are none.
func (o *Observe) Validate() error {
	var errs []error
	for _, share := range []struct {
		key   string
		value float64
	}{{"accessLog", o.AccessLog}, {"decisions", o.Decisions}, {"traces.sample", o.Traces.Sample}} {
		if !(share.value >= 0 && share.value <= 1) {
			errs = append(errs, fmt.Errorf("observe.%s: %v is not between 0 and 1", share.key, share.value))
		}
	}
	return errors.Join(errs...)
}

// Log says what is logged, as JSON lines on standard error.
type Log struct {
	Level string `yaml:"level" help:"debug, info, warn or error"`
}

// Listen is an address to listen at.
type Listen struct {
	Address string `yaml:"address" help:"host:port to listen at"`
}

// Inbound is where mesh peers reach this node.
type Inbound struct {
	Address   string `yaml:"address" help:"host:port for mTLS from peers"`
	Advertise string `yaml:"advertise" help:"host:port that peers dial, if it differs from the address"`
}

// Local is a service whose workload runs beside this sidecar.
type Local struct {
	Service  string            `yaml:"service"`
	Address  string            `yaml:"address"`  // of the workload
	Labels   map[string]string `yaml:"labels"`   // of the instance
	Outbound string            `yaml:"outbound"` // an outbound listener of this service's own
}

// LocalTCP is a listener whose connections go to a service of protocol TCP.
type LocalTCP struct {
	Service string `yaml:"service"`
	Address string `yaml:"address"`      // to listen at, on loopback
	As      string `yaml:"as,omitempty"` // the service of this node that connects there
}

// Sidecar configures `hedgerow sidecar`.
type Sidecar struct {
	Node      string `yaml:"node" help:"this node's id"`
	Base      `yaml:",inline"`
	Vault     Vault        `yaml:"vault"`
	Inbound   Inbound      `yaml:"inbound"`
	Outbound  Listen       `yaml:"outbound"`
	Admin     Listen       `yaml:"admin"`
	Services  []Local      `yaml:"services"`
	TCP       []LocalTCP   `yaml:"tcp,omitempty"`
	Upstreams []string     `yaml:"upstreams" help:"services whose instances are watched from the start"`
	Limits    proxy.Limits `yaml:"limits"`
}

// Gateway configures `hedgerow gateway`.
type Gateway struct {
	Node      string `yaml:"node" help:"this node's id"`
	ID        string `yaml:"id" help:"the gateway's id, which is its identity too"`
	Base      `yaml:",inline"`
	Vault     Vault            `yaml:"vault"`
	Listeners []PublicListener `yaml:"listeners"`
	Admin     Listen           `yaml:"admin"`
	Limits    proxy.Limits     `yaml:"limits"`
}

// Bridge configures `hedgerow bridge`.
type Bridge struct {
	Node   string `yaml:"node" help:"this node's id"`
	Base   `yaml:",inline"`
	Vault  Vault        `yaml:"vault"`
	MQTT   MQTT         `yaml:"mqtt"`
	Spool  Spool        `yaml:"spool"`
	Admin  Listen       `yaml:"admin"`
	Limits proxy.Limits `yaml:"limits"`
}

// MQTT is the broker of a bridge: an external one, or its own.
type MQTT struct {
	Address      string  `yaml:"address" help:"host:port of the MQTT broker"`
	ClientID     string  `yaml:"clientId" help:"client identifier; hedgerow-<node> if absent"`
	Username     string  `yaml:"username" help:"user at the broker"`
	PasswordFile string  `yaml:"passwordFile" help:"file with its password"`
	TLS          MQTTTLS `yaml:"tls"`
	// Embedded is a broker in this process, used instead of the external one if it has an address.
	Embedded Embedded `yaml:"embedded"`
}

// Embedded is the broker in a bridge. It admits nobody but anonymous clients on loopback, if
// at all: there are no credentials yet.
type Embedded struct {
	Address   string `yaml:"address" help:"host:port that a broker in this process listens at, instead of the external one"`
	Anonymous bool   `yaml:"anonymous" help:"whether it admits clients without credentials, which needs a loopback address"`
}

// Spool is where a bridge keeps messages, dataDir/spool.
type Spool struct {
	MaxMib  uint32 `yaml:"maxMib" help:"MiB of messages that wait and of dead letters; more are refused"`
	KeyFile string `yaml:"keyFile" help:"file with 64 hex digits, the AES-256 key that messages are encrypted with on disk; without it they are not"`
}

// MQTTTLS turns on TLS to the broker when CAFile is set.
type MQTTTLS struct {
	CAFile   string `yaml:"caFile" help:"PEM certificates that the broker's certificate must chain to; turns on TLS"`
	CertFile string `yaml:"certFile" help:"PEM client certificate"`
	KeyFile  string `yaml:"keyFile" help:"PEM client key"`
}

// defaultBase returns the defaults of every role.
func defaultBase() Base {
	return Base{
		Mesh:        "default",
		TrustDomain: "hedgerow.local",
		DataDir:     "/var/lib/hedgerow",
		Drain:       30 * time.Second,
		Log:         Log{Level: "info"},
	}
}

// DefaultSidecar returns the defaults of `hedgerow sidecar`.
func DefaultSidecar() Sidecar {
	return Sidecar{
		Base:     defaultBase(),
		Vault:    defaultVault(),
		Inbound:  Inbound{Address: "127.0.0.1:15006"},
		Outbound: Listen{Address: "127.0.0.1:15001"},
		Admin:    Listen{Address: "127.0.0.1:15000"},
		Limits:   proxy.MeshLimits(),
	}
}

// DefaultGateway returns the defaults of `hedgerow gateway`.
func DefaultGateway() Gateway {
	return Gateway{
		Base:      defaultBase(),
		Vault:     defaultVault(),
		Listeners: []PublicListener{{Address: "127.0.0.1:8080"}},
		Admin:     Listen{Address: "127.0.0.1:15010"},
		Limits:    proxy.EdgeLimits(),
	}
}

// DefaultBridge returns the defaults of `hedgerow bridge`.
func DefaultBridge() Bridge {
	return Bridge{
		Base:   defaultBase(),
		Vault:  defaultVault(),
		MQTT:   MQTT{Address: "127.0.0.1:1883"},
		Spool:  Spool{MaxMib: spool.DefaultMaxBytes >> 20},
		Admin:  Listen{Address: "127.0.0.1:15020"},
		Limits: proxy.MeshLimits(),
	}
}

// checks collects what is wrong with a configuration, so that one run names all.
type checks []error

func (c *checks) id(key, value string) {
	switch {
	case value == "":
		*c = append(*c, fmt.Errorf("%s is needed", key))
	case !mesh.ValidID(value):
		*c = append(*c, fmt.Errorf("%s: %q is not an id of 1 to 63 characters a-z, 0-9 and '-'", key, value))
	}
}

// node checks the one key that every host has which has enrolled.
func (c *checks) node(id string, b *Base) {
	if id == "" {
		*c = append(*c, fmt.Errorf("node is needed, with what follows; or have the host enrol: hedgerow enroll --token-file FILE --data %s", b.DataDir))
		return
	}
	c.id("node", id)
}

func (c *checks) address(key, value string) {
	if _, port, err := net.SplitHostPort(value); err != nil || port == "" {
		*c = append(*c, fmt.Errorf("%s: %q is not host:port", key, value))
	}
}

func (c *checks) set(key, value string) {
	if value == "" {
		*c = append(*c, fmt.Errorf("%s is needed", key))
	}
}

func (c *checks) limits(l *proxy.Limits) {
	if err := l.Validate(); err != nil {
		*c = append(*c, err)
	}
}

func (c *checks) base(b *Base) {
	b.Redis.Mesh = b.Mesh
	if err := b.Redis.Validate(); err != nil {
		*c = append(*c, err)
	}
	if _, err := mesh.ParseID("spiffe://" + b.TrustDomain + "/x"); err != nil {
		*c = append(*c, fmt.Errorf("trustDomain: %q is not a trust domain", b.TrustDomain))
	}
	if b.Trust.RootsFile == "" {
		*c = append(*c, errors.New("trust.rootsFile is needed: the public root keys of the configuration; a control plane without roots of others has its own in dataDir/root/roots.pem"))
	}
	switch b.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		*c = append(*c, fmt.Errorf("log.level: %q is none of debug, info, warn and error", b.Log.Level))
	}
}

// Validate reports everything that is wrong with the configuration.
func (s *Sidecar) Validate() error {
	var c checks
	c.node(s.Node, &s.Base)
	c.base(&s.Base)
	c.vault(&s.Vault)
	c.address("inbound.address", s.Inbound.Address)
	c.address("outbound.address", s.Outbound.Address)
	c.address("admin.address", s.Admin.Address)
	c.limits(&s.Limits)
	if len(s.Services) == 0 {
		c = append(c, errors.New("services is needed, e.g. [{service: orders, address: \"127.0.0.1:9001\"}]"))
	}
	for i, l := range s.Services {
		c.id(fmt.Sprintf("services[%d].service", i), l.Service)
		c.address(fmt.Sprintf("services[%d].address", i), l.Address)
	}
	for i, u := range s.Upstreams {
		c.id(fmt.Sprintf("upstreams[%d]", i), u)
	}
	return errors.Join(c...)
}

// Validate reports everything that is wrong with the configuration.
func (g *Gateway) Validate() error {
	var c checks
	c.node(g.Node, &g.Base)
	c.id("id", g.ID)
	c.base(&g.Base)
	c.vault(&g.Vault)
	c.address("admin.address", g.Admin.Address)
	c.limits(&g.Limits)
	if len(g.Listeners) == 0 {
		c = append(c, errors.New("listeners is needed, e.g. [{address: \"127.0.0.1:8080\"}]"))
	}
	for i, l := range g.Listeners {
		c.address(fmt.Sprintf("listeners[%d].address", i), l.Address)
		if (l.TLS.CertFile == "") != (l.TLS.KeyFile == "") {
			c = append(c, fmt.Errorf("listeners[%d].tls: certFile and keyFile go together", i))
		}
		_, errs := l.listener(i)
		c = append(c, errs...)
		c = append(c, l.issued(i)...)
		if l.ProxyProtocol != nil && len(l.ProxyProtocol.From) == 0 {
			c = append(c, fmt.Errorf("listeners[%d].proxyProtocol.from: say where the load balancers connect from, e.g. [10.0.0.0/24]", i))
		}
	}
	return errors.Join(c...)
}

// Validate reports everything that is wrong with the configuration.
func (b *Bridge) Validate() error {
	var c checks
	c.node(b.Node, &b.Base)
	c.base(&b.Base)
	c.vault(&b.Vault)
	if own := b.MQTT.Embedded; own.Address != "" {
		c.address("mqtt.embedded.address", own.Address)
	} else {
		c.address("mqtt.address", b.MQTT.Address)
		if own.Anonymous {
			c = append(c, errors.New("mqtt.embedded.anonymous is of a broker in this process: give mqtt.embedded.address"))
		}
	}
	c.address("admin.address", b.Admin.Address)
	c.limits(&b.Limits)
	return errors.Join(c...)
}
