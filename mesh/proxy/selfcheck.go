package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// The self check's timing.
const (
	selfLookEvery = time.Second            // how often certificates are compared with those checked
	selfAgain     = 10 * time.Second       // after a check that failed
	selfTimeout   = 5 * time.Second        // of one
	selfVerdict   = 250 * time.Millisecond // for the server to refuse: in TLS 1.3 the client's handshake does not wait for it
)

// checkSelf dials the inbound at addr as a peer would, after each renewal of one of its
// certificates, until ctx ends. What it presents must be what was issued: else others
// would find out when the old one expires, all at once.
func (e *Engine) checkSelf(ctx context.Context, addr net.Addr, in *inbound) {
	tick := time.NewTicker(selfLookEvery)
	defer tick.Stop()
	checked := map[string]*tls.Certificate{} // by server name, and good
	failed := map[string]time.Time{}
	for {
		for name, src := range in.sources {
			cert, err := src.Certificate()
			if err != nil || cert == checked[name] || time.Since(failed[name]) < selfAgain {
				continue
			}
			err = checkServed(ctx, dialable(addr), name, src, cert)
			if now, _ := src.Certificate(); ctx.Err() != nil || now != cert {
				continue // which was renewed meanwhile
			}
			src.Checked(err)
			if err == nil {
				checked[name] = cert
				continue
			}
			failed[name] = time.Now()
			e.opt.Log.Error().Err(err).Str("hint", mesh.HintOf(err)).Msg("self check failed: peers do not get the certificate that was issued")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// dialable returns where this process reaches its listener at addr.
func dialable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	loopback := net.IPv6loopback
	if tcp.IP.To4() != nil {
		loopback = net.IPv4(127, 0, 0, 1)
	}
	return (&net.TCPAddr{IP: loopback, Port: tcp.Port}).String()
}

// checkServed makes one handshake with address as src with itself, and reports why what
// is presented there is not cert.
func checkServed(ctx context.Context, address, serverName string, src *identity.Source, cert *tls.Certificate) error {
	fail := func(format string, args ...any) error {
		return mesh.Errorf("proxy.SelfCheck", src.ID().String(), mesh.Unavailable, "at "+address+": "+format, args...).
			WithHint("is it this process that listens there? if so, restart it before the certificate in use expires")
	}
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	d := tls.Dialer{Config: identity.ClientConfig(src, src.ID(), serverName, identity.ProtocolHTTP1)}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fail("%w", err)
	}
	defer func() { _ = conn.Close() }() // nothing was sent
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return fail("a %T instead of TLS", conn)
	}
	// That there is a certificate the handshake has verified.
	if served := secure.ConnectionState().PeerCertificates[0]; !served.Equal(cert.Leaf) {
		return fail("the certificate that is presented has serial %s, the one that was issued %s", served.SerialNumber.Text(16), cert.Leaf.SerialNumber.Text(16))
	}
	if err := conn.SetReadDeadline(time.Now().Add(selfVerdict)); err != nil {
		return fail("%w", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fail("the certificate is presented, but not taken: %w", err)
	}
	return nil
}
