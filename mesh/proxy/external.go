package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// externalAddress is what is dialled for e, host:port.
func externalAddress(e *mesh.External) string {
	return net.JoinHostPort(e.Address, strconv.FormatUint(uint64(e.Port), 10))
}

// externalHost is the Host of requests to e: the name that it has a certificate for,
// or its address, and the port if the scheme does not mean it (RFC 9110 section 7.2).
func externalHost(e *mesh.External) string {
	host, usual := e.Address, uint32(80)
	if e.TLS != nil {
		usual = 443
		if e.TLS.ServerName != "" {
			host = e.TLS.ServerName
		}
	}
	if e.Port != usual {
		return net.JoinHostPort(host, strconv.FormatUint(uint64(e.Port), 10))
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// leave makes x ready to leave the mesh for e. Nobody stands beside an external service
// who could decide whether x may use it: the policies of the service decide here, about
// what is sent, as they would at its sidecar.
func (f *toMesh) leave(x *exchange, e *Endpoint) *failure {
	rawPath, query, _ := strings.Cut(x.out.target, "?")
	r := Request{Method: x.out.method, Host: e.host, RawQuery: query, Fields: x.out.fields, Remote: x.request.Remote, Peer: x.sender()}
	var err error
	if r.Path, err = CanonicalPath(rawPath); err != nil {
		r.Path, r.DecodedPath, err = canonicalKeeping(rawPath)
	}
	if err != nil {
		return &failure{Refusal{http.StatusBadRequest, CodeBadRequest, "the path that would be sent has no single meaning"}, failedDenied, err}
	}
	d := Decide(f.e.state.Load().table, Face{Kind: Inbound, Service: e.Service}, &r, 0)
	d.Authorization.count()
	if d.Refusal == nil && d.proof.by != nil { // validation keeps authenticators from external services
		d.Refusal = &Refusal{http.StatusForbidden, CodeDenied, "no policy lets this caller do this"}
	}
	x.decision.Authorization = d.Authorization
	if d.Refusal != nil {
		return &failure{*d.Refusal, failedDenied, nil}
	}
	if rule := x.decision.Rule; rule.rewrite == nil || rule.rewrite.Hostname == "" {
		x.out.host = e.host
	}
	return nil
}

// sender is as whom x calls services.
func (x *exchange) sender() mesh.ID {
	if x.caller == nil {
		return mesh.ID{}
	}
	return x.caller.ID()
}

// leaves reports whether x goes to an endpoint outside the mesh.
func (x *exchange) leaves() bool {
	n := len(x.tried)
	return n > 0 && x.tried[n-1].external != nil
}

// newExternalPeer makes the connections to an external service, which all callers
// share: they have no identity there. It dials nothing yet.
func (ps *peers) newExternalPeer(e *mesh.External) (*peer, error) {
	p := &peer{links: links{scheme: "http"}}
	if e.TLS != nil {
		p.links.scheme = "https"
	}
	overH2, err := externalTLS(e, identity.ProtocolH2)
	if err != nil {
		return nil, err
	}
	overHTTP1, err := externalTLS(e, identity.ProtocolHTTP1)
	if err != nil {
		return nil, err
	}
	p.links.dial = func(forget func(*link.Conn)) (*link.Conn, error) {
		return ps.dialLink(func(ctx context.Context) (net.Conn, error) { return ps.dialExternal(ctx, e, overH2) }, forget)
	}
	p.http1 = newPool(ps.limits, ps.open, ps.lives, func(ctx context.Context) (net.Conn, error) { return ps.dialExternal(ctx, e, overHTTP1) })
	return p, nil
}

// externalTLS returns how TLS is originated towards e for one protocol ("" negotiates
// none), or nil for clear text. It is TLS 1.2 or 1.3: who is outside may not speak the
// latter.
func externalTLS(e *mesh.External, protocol string) (*tls.Config, error) {
	if e.TLS == nil {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: e.TLS.ServerName}
	if config.ServerName == "" {
		config.ServerName = e.Address
	}
	if protocol != "" {
		config.NextProtos = []string{protocol}
	}
	if e.TLS.CAPem != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(e.TLS.CAPem)) {
			return nil, errors.New("the CAs of the external service cannot be read")
		}
	}
	return config, nil
}

// outsideError is an address that may not be dialled.
type outsideError struct{ addr netip.Addr }

// Error implements error.
func (e *outsideError) Error() string {
	return fmt.Sprintf("%s is not a public address, and not in the dialCidrs of the mesh", e.addr)
}

// dialExternal connects to e, and finishes the handshake if config is not nil. Its name
// is looked up now; where it may lead is asked of each address before it is dialled, so
// that no name leads to what is nobody's business.
func (ps *peers) dialExternal(ctx context.Context, e *mesh.External, config *tls.Config) (net.Conn, error) {
	d := net.Dialer{Timeout: ps.limits.ConnectTimeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !ps.outside(addr.Addr()) {
			return &outsideError{addr.Addr()}
		}
		return nil
	}}
	raw, err := d.DialContext(ctx, "tcp", externalAddress(e))
	var forbidden *outsideError
	switch {
	case errors.As(err, &forbidden):
		return nil, &connectError{CodeAddress, err}
	case err != nil:
		return nil, &connectError{CodeUnreachable, err}
	case config == nil:
		return raw, nil
	}
	conn, err := ps.handshake(ctx, raw, config)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// outside reports whether an external service may be at addr: at any public address, as
// the configuration names the service, and at others that the configuration lists.
func (d dialList) outside(addr netip.Addr) bool {
	addr = addr.Unmap()
	return lists(d.mesh, addr) || isPublic(addr)
}

// isPublic reports whether addr may be a host's of the Internet: it is global unicast
// (RFC 4291 section 2.5.4), and in no block that the IANA special-purpose registries
// (RFC 6890) keep from being reached globally, or that embeds another address.
func isPublic(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.Zone() != "" {
		return false
	}
	of := func(bits int) netip.Prefix {
		p, _ := addr.Prefix(bits) // which every address of its family has
		return p
	}
	if addr.Is4() {
		switch {
		case addr.As4()[0] == 0, addr.As4()[0] >= 240: // 0.0.0.0/8, 240.0.0.0/4
			return false
		}
		switch of(24).Addr().String() {
		case "192.0.0.0", "192.0.2.0", "192.88.99.0", "198.51.100.0", "203.0.113.0":
			return false
		}
		return of(10).Addr().String() != "100.64.0.0" && of(15).Addr().String() != "198.18.0.0"
	}
	if addr.As16()[0]>>5 != 1 { // 2000::/3 is all that was given out
		return false
	}
	return of(16).Addr().String() != "2002::" && of(23).Addr().String() != "2001::" &&
		of(32).Addr().String() != "2001:db8::" && of(20).Addr().String() != "3fff::"
}
