package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// mostConnects is how many endpoints a connection is tried at: until it stands nothing
// was sent, so that trying another does no harm.
const mostConnects = 3

// tcpDoor is where workloads of this node connect to one service of protocol TCP. Each
// connection is one of TLS to an instance, and nothing looks into it.
type tcpDoor struct {
	e       *Engine
	service string
	caller  CallerOf
}

var _ Door = (*tcpDoor)(nil)

// enter implements Door: there are no requests.
func (d *tcpDoor) enter(*tls.ConnectionState, string) (*server, callerInfo, bool) {
	return nil, callerInfo{}, false
}

// TCP returns the door for connections of this node's workloads to service. caller
// says which of them connects by this listener.
func (e *Engine) TCP(service string, caller CallerOf) Door { return &tcpDoor{e, service, caller} }

// serve joins conn to an instance of the service until both are done.
func (d *tcpDoor) serve(conn *net.TCPConn) {
	src, refusal := d.caller()
	var upstream halfCloser
	var endpoint *Endpoint
	var set *EndpointSet
	var auth Authorization
	if refusal == nil {
		upstream, endpoint, set, auth, refusal = d.connect(src, addressOf(conn))
	}
	if refusal != nil {
		d.e.refuseTCP(Outbound, d.service, callerName(src), refusal, auth)
		_ = conn.Close() // there is no other way to say so
		return
	}
	defer set.breaker.connections.Add(-1)
	defer endpoint.Release()
	d.e.join(Outbound, d.service, conn, upstream)
}

func callerName(src *identity.Source) string {
	if src == nil {
		return ""
	}
	return src.ID().String()
}

// mayLeave says by the policies of an external service whether src may connect. Those of
// others are its sidecar's to ask.
func (d *tcpDoor) mayLeave(e *Endpoint, src *identity.Source, remote string) (*Refusal, Authorization) {
	if e.external == nil {
		return nil, Authorization{}
	}
	got := Decide(d.e.state.Load().table, Face{Kind: Inbound, Service: d.service}, &Request{TCP: true, Remote: remote, Peer: src.ID()}, 0)
	got.Authorization.count()
	return got.Refusal, got.Authorization
}

// connect connects to an instance, or outside if src, which is at remote, may. The caller
// gives the endpoint and its place among the service's connections back.
func (d *tcpDoor) connect(src *identity.Source, remote string) (halfCloser, *Endpoint, *EndpointSet, Authorization, *Refusal) {
	refused := func(auth Authorization, refusal *Refusal) (halfCloser, *Endpoint, *EndpointSet, Authorization, *Refusal) {
		return nil, nil, nil, auth, refusal
	}
	state := d.e.state.Load()
	if state == nil {
		return refused(Authorization{}, &Refusal{Code: CodeNotReady})
	}
	if s := state.table.Service(d.service); s == nil || s.Protocol != mesh.ProtocolTCP {
		return refused(Authorization{}, noRoute())
	}
	ctx, cancel := context.WithTimeout(d.e.peers.made.closing, d.e.opt.Limits.FirstUse+mostConnects*d.e.opt.Limits.ConnectTimeout)
	defer cancel()
	x := &exchange{parent: ctx}
	set := d.e.endpoints(x, d.service)
	if set == nil {
		return refused(Authorization{}, &Refusal{Code: CodeNoEndpoint})
	}
	if !set.breaker.connection() {
		return refused(Authorization{}, &Refusal{Code: CodeOverflow})
	}
	var tried []*Endpoint
	code := CodeNoEndpoint
	for range mostConnects {
		endpoint, err := Pick(set, "", tried, Lot{Draw: rand.Uint64()})
		if err != nil {
			break
		}
		tried = append(tried, endpoint)
		refusal, auth := d.mayLeave(endpoint, src, remote)
		if refusal != nil {
			set.breaker.connections.Add(-1)
			return refused(auth, refusal)
		}
		conn, err := d.e.peers.dialTCP(ctx, peerKey{caller: src, service: d.service, node: endpoint.Node, address: endpoint.Address, external: endpoint.external})
		if err == nil {
			set.ejections.good(endpoint)
			endpoint.Acquire()
			return conn, endpoint, set, auth, nil
		}
		code = d.failed(set, endpoint, err, code)
	}
	set.breaker.connections.Add(-1)
	return refused(Authorization{}, &Refusal{Code: code})
}

// failed takes a connection that could not be made, and returns its code; before if it has
// none.
func (d *tcpDoor) failed(set *EndpointSet, endpoint *Endpoint, err error, before string) (code string) {
	d.e.metrics.failures.WithLabelValues(d.service, string(failedConnect)).Inc()
	if endpoint.external == nil && set.ejections.connectFailure(endpoint, time.Now()) {
		d.e.ejected(endpoint)
	}
	var failed *connectError
	if errors.As(err, &failed) {
		return failed.code
	}
	return before
}

// dialTCP connects to an endpoint for one raw stream.
func (ps *peers) dialTCP(ctx context.Context, key peerKey) (halfCloser, error) {
	if key.external != nil {
		config, err := externalTLS(key.external, "")
		if err != nil {
			return nil, &connectError{CodeUnreachable, err}
		}
		conn, err := ps.dialExternal(ctx, key.external, config)
		if err != nil {
			return nil, err
		}
		half, _ := conn.(halfCloser) // as TCP and TLS both are
		return half, nil
	}
	want, err := mesh.ServiceID(ps.trustDomain, key.service, key.node)
	if err != nil {
		return nil, &connectError{CodeUnreachable, err}
	}
	conn, err := ps.dial(ctx, key, identity.ClientConfig(key.caller, want, identity.ServerName(key.service, key.node, ps.mesh), identity.ProtocolTCP))
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// serveTCP joins a peer's raw stream to the workload that it asks for.
func (in *inbound) serveTCP(conn *meshConn, state *tls.ConnectionState, from string) {
	s, info, ok := in.enter(state, from)
	if !ok {
		_ = conn.Close() // there is no other way to say so
		return
	}
	refusal, auth := s.decideTCP(&info)
	if info.graced { // which is for routes, and there are none here
		refusal = expiredPeer()
	}
	var workload net.Conn
	if refusal == nil {
		var err error
		if workload, err = s.dialWorkload(); err != nil {
			refusal = &Refusal{Code: CodeWorkloadUnreachable}
		}
	}
	to, isTCP := workload.(*net.TCPConn)
	if refusal != nil || !isTCP {
		s.e.refuseTCP(Inbound, s.face.Service, info.peer.String(), refusal, auth)
		_ = conn.Close()
		if workload != nil {
			_ = workload.Close()
		}
		return
	}
	s.e.join(Inbound, s.face.Service, conn, to)
}

// decideTCP says whether peer may connect.
func (s *server) decideTCP(info *callerInfo) (*Refusal, Authorization) {
	state := s.e.state.Load()
	if state == nil {
		return &Refusal{Code: CodeNotReady}, Authorization{}
	}
	d := Decide(state.table, s.face, &Request{TCP: true, Remote: info.remote, Peer: info.peer}, 0)
	d.Authorization.count()
	return d.Refusal, d.Authorization
}

// dialWorkload connects to the workload that an Inbound speaks for.
func (s *server) dialWorkload() (net.Conn, error) {
	to, ok := s.forwarder.(*toWorkload)
	if !ok {
		return nil, errNotHere
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.e.opt.Limits.ConnectTimeout)
	defer cancel()
	return to.workload.dial(ctx)
}

// join copies between two connections until both are done.
func (e *Engine) join(face FaceKind, service string, client, upstream halfCloser) {
	name := faceName(face)
	e.metrics.tcpConns.WithLabelValues(name, service, "open").Inc()
	open := e.metrics.tcpOpen.WithLabelValues(name, service)
	open.Inc()
	defer open.Dec()
	e.tunnels.run(&tunnel{
		client: client, upstream: upstream, idle: e.opt.Limits.TunnelIdle,
		sent:     e.metrics.tcpBytes.WithLabelValues(name, service, "to_service"),
		received: e.metrics.tcpBytes.WithLabelValues(name, service, "from_service"),
	}, nil, nil)
}

// refuseTCP counts and logs a connection that was closed because of refusal.
func (e *Engine) refuseTCP(face FaceKind, service, peer string, refusal *Refusal, auth Authorization) {
	code := "internal"
	if refusal != nil {
		code = refusal.Code
	}
	e.metrics.tcpConns.WithLabelValues(faceName(face), service, code).Inc()
	event := e.denials.Info().Str("face", faceName(face)).Str("service", service).Str("peer_id", peer).Str("code", code)
	if auth.Decision != "" {
		event.Str("policy", auth.Policy).Str("reason", auth.Reason)
	}
	event.Msg("connection refused")
}

// counting is a counter of bytes that may be absent.
func counting(c prometheus.Counter, n int) {
	if c != nil && n > 0 {
		c.Add(float64(n))
	}
}
