package role

import (
	"strings"
	"testing"
)

func TestValidateNamesEverythingThatIsWrong(t *testing.T) {
	s := DefaultSidecar()
	s.Node = "Edge_7"
	s.TrustDomain = "Hedgerow Local"
	s.Inbound.Address = "15006"
	s.Services = []Local{{Service: "orders", Address: "9001"}}
	s.Log.Level = "loud"
	s.Limits.Connections, s.Limits.HeaderTimeout = 0, -1
	err := s.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`node: "Edge_7"`, "trustDomain", "redis.addresses", "trust.rootsFile", "vault.address", "vault.role", "vault.appRole.roleIdFile",
		`inbound.address: "15006"`, `services[0].address: "9001"`, `log.level: "loud"`,
		"limits.connections: 0", "limits.headerTimeout: -1ns",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %s:\n%v", want, err)
		}
	}
}

func TestValidateAcceptsWhatIsComplete(t *testing.T) {
	vault := Vault{Mount: "pki_mesh", Role: "n"}
	vault.Address, vault.AppRole = "http://127.0.0.1:8200", AppRole{RoleIDFile: "r", SecretIDFile: "s"}
	s, g, b := DefaultSidecar(), DefaultGateway(), DefaultBridge()
	for _, base := range []*Base{&s.Base, &g.Base, &b.Base} {
		base.Redis.Addresses = []string{"127.0.0.1:6379"}
		base.Trust.RootsFile = "roots.pem"
	}
	s.Node, s.Vault, s.Services = "n", vault, []Local{{Service: "orders", Address: "127.0.0.1:9001"}}
	g.Node, g.ID, g.Vault = "n", "demo", vault
	b.Node, b.Vault = "n", vault
	for name, err := range map[string]error{"sidecar": s.Validate(), "gateway": g.Validate(), "bridge": b.Validate()} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Vault.Address, s.Vault.Addresses = "", []string{"https://10.0.0.6:8200", "https://10.0.0.7:8200"}
	s.Vault.AppRole, s.Vault.CertFile, s.Vault.KeyFile = AppRole{}, "node.pem", "node.key"
	if err := s.Validate(); err != nil {
		t.Errorf("a node's certificate, two addresses: %v", err)
	}
	if got := s.Vault.Access(); len(got.Addresses) != 2 || got.Certificate.CertFile != "node.pem" || got.Certificate.KeyFile != "node.key" {
		t.Errorf("it makes %+v", got)
	}
	s.Vault.AppRole.RoleIDFile = "r"
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "vault.appRole.secretIdFile") || !strings.Contains(err.Error(), "there are 2") {
		t.Errorf("two logins: %v", err)
	}
	g.Listeners[0].TLS.CertFile = "cert.pem"
	if err := g.Validate(); err == nil || !strings.Contains(err.Error(), "listeners[0].tls") {
		t.Errorf("a certificate without its key: %v", err)
	}
}

func TestABridgesBrokerIsChecked(t *testing.T) {
	for want, m := range map[string]MQTT{
		"":                        {Embedded: Embedded{Address: "127.0.0.1:1883", Anonymous: true}},
		"mqtt.embedded.address":   {Address: "127.0.0.1:1883", Embedded: Embedded{Address: "1883"}},
		"mqtt.address":            {Address: "1883"},
		"mqtt.embedded.anonymous": {Address: "127.0.0.1:1883", Embedded: Embedded{Anonymous: true}},
	} {
		b := DefaultBridge()
		b.MQTT = m
		err := b.Validate() // much is missing
		got := err != nil && strings.Contains(err.Error(), "mqtt.")
		if got != (want != "") || got && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", m, err, want)
		}
	}
}

func TestProxyProtocolIsChecked(t *testing.T) {
	for want, from := range map[string][]string{
		"":                                 {"10.0.0.0/24"},
		"from: say where":                  nil,
		`from[0]: "x" is not a block`:      {"x"},
		"from[1]: \"10.0.0.1/8\" has bits": {"10.0.0.0/8", "10.0.0.1/8"},
	} {
		g := DefaultGateway()
		g.Listeners = []PublicListener{{Address: "127.0.0.1:0", ProxyProtocol: &ProxyProtocol{From: from}}}
		err := g.Validate() // much is missing
		got := err != nil && strings.Contains(err.Error(), "listeners[0].proxyProtocol.")
		if got != (want != "") || got && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", from, err, want)
		}
	}
}

func TestTrustedHopsAreChecked(t *testing.T) {
	for want, l := range map[string]PublicListener{
		"":                                    {TrustedHops: 2, TrustedProxies: []string{"10.0.0.0/8", "2001:db8::/32"}},
		"listeners[0].trustedHops: -1":        {TrustedHops: -1},
		"listeners[0].trustedHops: 17":        {TrustedHops: 17},
		"listeners[0].trustedProxies means":   {TrustedProxies: []string{"10.0.0.0/8"}},
		`listeners[0].trustedProxies[1]: "x"`: {TrustedHops: 1, TrustedProxies: []string{"10.0.0.0/8", "x"}},
		"10.0.0.0/8 is the block":             {TrustedHops: 1, TrustedProxies: []string{"10.0.0.1/8"}},
	} {
		l.Address = "127.0.0.1:0"
		g := DefaultGateway()
		g.Listeners = []PublicListener{l}
		err := g.Validate() // much is missing
		got := err != nil && strings.Contains(err.Error(), "listeners[0].trusted")
		if got != (want != "") || got && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", l, err, want)
		}
	}
}
