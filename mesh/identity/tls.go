package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// ALPN protocol names of mesh connections.
const (
	ProtocolH2    = "h2"             // the mesh link, or any HTTP/2 peer
	ProtocolHTTP1 = "http/1.1"       // the pooled fallback, and WebSocket
	ProtocolTCP   = "hedgerow-tcp/1" // one raw stream
)

// The two sides of a handshake, as the label side has them.
const (
	sideServer = "server"
	sideClient = "client"
)

// ServerName returns the SNI of a service on a node, <service>.<node>.<mesh>:
// what a client sends and what selects certificate and workload at the far
// side. The parts are ids, so the name splits in one way only.
func ServerName(service, node, meshName string) string {
	return service + "." + node + "." + meshName
}

// SplitServerName is the inverse of ServerName; ok is false for the names of
// other meshes and for all that are not of that form.
func SplitServerName(serverName, meshName string) (service, node string, ok bool) {
	rest, ok := strings.CutSuffix(serverName, "."+meshName)
	if !ok {
		return "", "", false
	}
	service, node, ok = strings.Cut(rest, ".")
	if !ok || !mesh.ValidID(service) || !mesh.ValidID(node) {
		return "", "", false
	}
	return service, node, true
}

// ServerConfig returns the configuration of an inbound listener. For each
// handshake pick names the Source that answers for the server name (SNI) the
// client sent; its error refuses the connection, so an unknown name must be
// one. The client must present a certificate that VerifySVID accepts against
// the Source's bundle of that moment. One that has expired within the Source's Grace is
// taken, and the Source's own presented: what such a connection may carry is for who
// serves it to decide.
//
// TLS 1.3 only, ALPN h2 or http/1.1 and not without, no session tickets: every
// connection is verified anew, so whoever is revoked does not resume.
func ServerConfig(pick func(serverName string) (*Source, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName == "" {
				return nil, mesh.Errorf("identity.Accept", "", mesh.Invalid, "the client sent no server name")
			}
			src, err := pick(hello.ServerName)
			if err != nil {
				return nil, err
			}
			return src.accept, nil
		},
	}
}

// serverConfig is for handshakes in which s is the server.
func (s *Source) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Lenient() },
		// Any, because verification is VerifyConnection's, against the
		// roots of now: ClientCAs could not be swapped.
		ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.verify(&state, x509.ExtKeyUsageClientAuth, sideServer, true)
			return s.count(sideServer, err)
		},
	}
}

// ClientConfig returns the configuration to dial the peer want, which is known
// at its address as serverName, presenting the certificate of src. The peer
// must be exactly want, verified against the bundle that src holds at the time
// of the handshake: an error of kind Denied says that it is somebody else.
// Without alpn, h2 and http/1.1 are offered.
//
// In TLS 1.3 a client's handshake ends before the server has judged the
// client's certificate: a refusal shows at the first read.
func ClientConfig(src *Source, want mesh.ID, serverName string, alpn ...string) *tls.Config {
	return clientConfig(src, want, serverName, false, alpn...)
}

func clientConfig(src *Source, want mesh.ID, serverName string, lenient bool, alpn ...string) *tls.Config {
	if len(alpn) == 0 {
		alpn = []string{ProtocolH2, ProtocolHTTP1}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		NextProtos: slices.Clone(alpn),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if lenient {
				return src.Lenient()
			}
			return src.Certificate()
		},
		// Not insecure: the standard verification wants a DNS name and
		// fixed roots, VerifyConnection does the SPIFFE one in its place.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := src.verify(&state, x509.ExtKeyUsageServerAuth, sideClient, lenient)
			if err == nil && id != want {
				err = mesh.Errorf(opVerify, want.String(), mesh.Denied, "the peer at this address is %s", id).
					WithHint("the registry may hold a wrong or forged address")
			}
			return src.count(sideClient, err)
		},
	}
}

// verify checks one finished handshake against the bundle of now.
func (s *Source) verify(state *tls.ConnectionState, usage x509.ExtKeyUsage, side string, lenient bool) (mesh.ID, error) {
	if err := s.clock.Check(); err != nil {
		return mesh.ID{}, err
	}
	current := s.current.Load()
	switch {
	case current == nil:
		// The presented certificate is asked for first and fails first;
		// this holds even for a client whose server asks for none.
		return mesh.ID{}, mesh.Errorf(opVerify, "", mesh.Unavailable, "%s has no trust bundle yet", s.id)
	case state.DidResume:
		return mesh.ID{}, mesh.Errorf(opVerify, "", mesh.Unauthentic, "the session is resumed, not verified")
	case state.NegotiatedProtocol == "":
		return mesh.ID{}, mesh.Errorf(opVerify, "", mesh.Invalid, "the peer speaks no ALPN protocol of the mesh")
	}
	id, err := VerifySVID(state.PeerCertificates, current.Bundle, usage, s.clock.Now())
	if err != nil && lenient {
		if of, ok := s.graced(state.PeerCertificates, current.Bundle, usage, side); ok {
			id, err = of, nil
		}
	}
	if err != nil {
		return mesh.ID{}, err
	}
	// A node's own certificate logs in to the issuer and signs its documents. It is of
	// the same root, and would be a peer that no policy has thought of.
	_, _, service := id.Service()
	if _, gateway := id.Gateway(); !service && !gateway {
		return mesh.ID{}, mesh.Errorf(opVerify, id.String(), mesh.Unauthentic, "the certificate is neither a service's nor a gateway's")
	}
	return id, s.denies.Check(id, state.PeerCertificates[0].NotBefore)
}

// count counts a refusal and returns err.
func (s *Source) count(side string, err error) error {
	if err == nil {
		return nil
	}
	reason := "not_trusted"
	switch kind := mesh.KindOf(err); {
	case Quarantined(err):
		reason = "quarantined"
	case kind == mesh.Denied:
		reason = "wrong_peer"
	case kind == mesh.Invalid:
		reason = "no_alpn"
	case kind == mesh.Unavailable:
		reason = "no_bundle"
		if s.clock.Check() != nil {
			reason = "clock"
		}
	}
	s.metrics.refused.WithLabelValues(s.id.String(), side, reason).Inc()
	return err
}

// ErrUnknownServerName is for the pick of ServerConfig: no service of this node
// has the name the client asked for.
var ErrUnknownServerName = errors.New("no service here has this server name")
