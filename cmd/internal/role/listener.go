package role

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// PublicListener is one public address of a gateway.
type PublicListener struct {
	Address string    `yaml:"address"`
	TLS     PublicTLS `yaml:"tls"`
	// TrustedHops is how many proxies stand in front, whose X-Forwarded-For, -Proto
	// and -Host are believed. TrustedProxies are the blocks, as 10.0.0.0/8, that
	// the last of them connects from; any address if empty.
	TrustedHops    int      `yaml:"trustedHops,omitempty"`
	TrustedProxies []string `yaml:"trustedProxies,omitempty"`
	// ProxyProtocol, if set, has every connection begin with a PROXY header.
	ProxyProtocol *ProxyProtocol `yaml:"proxyProtocol,omitempty"`
	// RedirectHTTPSPort, of a listener in clear text, is where it redirects every
	// request to, as https; 0 serves them.
	RedirectHTTPSPort int `yaml:"redirectHTTPSPort,omitempty"`
}

// hops returns what the proxies in front of l are believed, and what is wrong with
// the i-th listener's words about them.
func (l *PublicListener) hops(i int) (proxy.Hops, []error) {
	var errs []error
	h := proxy.Hops{Count: l.TrustedHops}
	if h.Count < 0 || h.Count > proxy.MostHops {
		errs = append(errs, fmt.Errorf("listeners[%d].trustedHops: %d is not between 0 and %d", i, h.Count, proxy.MostHops))
	}
	if h.Count == 0 && len(l.TrustedProxies) > 0 {
		errs = append(errs, fmt.Errorf("listeners[%d].trustedProxies means nothing without trustedHops, e.g. trustedHops: 1", i))
	}
	proxies, wrong := blocks(fmt.Sprintf("listeners[%d].trustedProxies", i), l.TrustedProxies)
	h.Proxies = proxies
	return h, append(errs, wrong...)
}

// ProxyProtocol says who announces clients by the PROXY protocol.
type ProxyProtocol struct {
	// From are the blocks, as 10.0.0.0/24, that load balancers connect from.
	From []string `yaml:"from"`
}

// announced returns who may announce clients at l, and what is wrong with that.
func (l *PublicListener) announced(i int) (*proxy.Announcer, []error) {
	if l.ProxyProtocol == nil {
		return nil, nil
	}
	from, errs := blocks(fmt.Sprintf("listeners[%d].proxyProtocol.from", i), l.ProxyProtocol.From)
	return &proxy.Announcer{From: from}, errs
}

// blocks reads blocks of addresses.
func blocks(field string, list []string) (out []netip.Prefix, errs []error) {
	for j, block := range list {
		prefix, err := netip.ParsePrefix(block)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s[%d]: %q is not a block of addresses such as 10.0.0.0/8 or 10.0.0.7/32", field, j, block))
		case prefix.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("%s[%d]: %q is IPv4 in IPv6; write it as 10.0.0.0/8", field, j, block))
		case prefix != prefix.Masked():
			errs = append(errs, fmt.Errorf("%s[%d]: %q has bits beyond its length; %s is the block", field, j, block, prefix.Masked()))
		}
		out = append(out, prefix)
	}
	return out, errs
}

// PublicTLS turns on TLS for a public listener when CertFile, ACME or Vault is set.
type PublicTLS struct {
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// Certificates are others, for the names that they are for.
	Certificates []PublicCert `yaml:"certificates,omitempty"`
	// ACME and Vault issue certificates, besides those of files or instead of them.
	ACME  *PublicACME  `yaml:"acme,omitempty"`
	Vault *PublicVault `yaml:"vault,omitempty"`
	// ClientCAFile has the CAs of which every client must have a certificate.
	ClientCAFile string `yaml:"clientCAFile,omitempty"`
}

// PublicCert is one certificate more.
type PublicCert struct {
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
}

// PublicACME is an ACME server that issues a certificate for each of the hostnames,
// which are exact. Its account and certificates are kept below dataDir.
type PublicACME struct {
	Directory   string   `yaml:"directory"` // https URL
	Email       string   `yaml:"email,omitempty"`
	CAFile      string   `yaml:"caFile,omitempty"` // of a private server
	Hostnames   []string `yaml:"hostnames"`
	AcceptTerms bool     `yaml:"acceptTerms"` // of the server, read by the operator
}

// PublicVault is a role of a PKI engine, of the Vault that the mesh's certificates come
// from, which signs one certificate for all of the hostnames.
type PublicVault struct {
	Mount     string        `yaml:"mount"`
	Role      string        `yaml:"role"`
	Hostnames []string      `yaml:"hostnames"` // *.shop.example too
	TTL       time.Duration `yaml:"ttl,omitempty"`
}

// listener returns what gateway.New is given for l but for who signs for it.
func (l *PublicListener) listener(i int) (gateway.Listener, []error) {
	hops, errs := l.hops(i)
	announced, wrong := l.announced(i)
	out := gateway.Listener{
		Address: l.Address, CertFile: l.TLS.CertFile, KeyFile: l.TLS.KeyFile, ClientCAFile: l.TLS.ClientCAFile,
		Hops: hops, HTTPSPort: l.RedirectHTTPSPort, ProxyProtocol: announced,
	}
	for _, pair := range l.TLS.Certificates {
		out.Certificates = append(out.Certificates, gateway.CertPair(pair))
	}
	if a := l.TLS.ACME; a != nil {
		out.ACME = &acmecert.Config{Directory: a.Directory, Email: a.Email, CAFile: a.CAFile, Hostnames: a.Hostnames, AcceptTerms: a.AcceptTerms}
	}
	if v := l.TLS.Vault; v != nil {
		out.Signed = &gateway.Signed{Hostnames: v.Hostnames, TTL: v.TTL}
	}
	return out, append(errs, wrong...)
}

// issued returns what is wrong with the certificates that are issued for the i-th
// listener.
func (l *PublicListener) issued(i int) []error {
	var errs []error
	out, _ := l.listener(i)
	if out.ACME != nil {
		errs = append(errs, out.ACME.Check(fmt.Sprintf("listeners[%d].tls.acme", i))...)
	}
	if v := l.TLS.Vault; v != nil {
		field := fmt.Sprintf("listeners[%d].tls.vault", i)
		errs = append(errs, vaultpki.CheckServerRole(field, v.Mount, v.Role)...)
		errs = append(errs, out.Signed.Check(field)...)
	}
	return errs
}

// signers gives the listeners who signs for them: roles of the Vault that issues the
// mesh's certificates too.
func signers(listeners []PublicListener, out []gateway.Listener, issuer identity.Issuer) error {
	for i, l := range listeners {
		if l.TLS.Vault == nil {
			continue
		}
		client, ok := issuer.(*vaultpki.Client)
		if !ok {
			return mesh.Errorf("gateway", l.Address, mesh.Invalid, "listeners[%d].tls.vault: there is no Vault here", i).WithHint("give the certificate by certFile and keyFile, or by acme")
		}
		role, err := client.ServerRole(l.TLS.Vault.Mount, l.TLS.Vault.Role)
		if err != nil {
			return err
		}
		out[i].Signed.Signer = role
	}
	return nil
}
