package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Workload is a program that a sidecar stands beside.
type Workload struct {
	Service string
	Node    string
	Address string           // where it listens, a literal: "127.0.0.1:9001"
	Source  *identity.Source // the service's identity on this node
}

// workload is the plain connections to a Workload: HTTP/1.1, or HTTP/2 with
// prior knowledge where the service's protocol says so.
type workload struct {
	Workload
	http1 *http.Transport
	http2 *http.Transport
	conns *connSet

	// mu guards what follows. Nothing is called under it.
	mu     sync.Mutex
	users  int
	closed bool
}

func newWorkload(w Workload, l Limits) (*workload, error) {
	if _, err := netip.ParseAddrPort(w.Address); err != nil {
		return nil, fmt.Errorf("the workload address %.60q of %s is not an IP address and port", w.Address, w.Service)
	}
	out := &workload{Workload: w, conns: &connSet{open: map[net.Conn]struct{}{}}}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := out.conns.dial(ctx, network, w.Address, l.ConnectTimeout)
		if err != nil {
			return nil, &connectError{CodeWorkloadUnreachable, err}
		}
		return conn, nil
	}
	out.http1, out.http2 = newTransport(l), newTransport(l)
	out.http2.Protocols.SetHTTP1(false)
	out.http2.Protocols.SetUnencryptedHTTP2(true)
	out.http1.DialContext, out.http2.DialContext = dial, dial
	return out, nil
}

func (w *workload) acquire() {
	w.mu.Lock()
	w.users++
	w.mu.Unlock()
}

func (w *workload) release() {
	w.mu.Lock()
	w.users--
	last := w.users == 0 && w.closed
	w.mu.Unlock()
	if last {
		w.closeConns()
	}
}

// close ends the connections once nobody uses them.
func (w *workload) close() {
	w.mu.Lock()
	w.closed = true
	last := w.users == 0
	w.mu.Unlock()
	if last {
		w.closeConns()
	}
}

func (w *workload) closeConns() {
	w.http1.CloseIdleConnections()
	w.http2.CloseIdleConnections()
	w.conns.close()
}

// toWorkload is the forwarder of an Inbound.
type toWorkload struct {
	workload *workload
	// protocol returns the service's protocol, as it is configured now.
	protocol func(service string) string
	metrics  *metrics
}

var _ forwarder = (*toWorkload)(nil)

// forward implements forwarder. A workload is tried once: another instance is
// the caller's to try.
func (f *toWorkload) forward(ctx context.Context, x *exchange) (*upstream, error) {
	rt := f.workload.http1
	if x.upgrade == nil && f.protocol(f.workload.Service) == mesh.ProtocolHTTP2 {
		rt = f.workload.http2
	}
	f.workload.acquire()
	up, err := x.try(ctx, rt, "http", f.workload.Address, 0, f.workload.release)
	if failed := (*failure)(nil); errors.As(err, &failed) {
		f.metrics.failed(f.workload.Service, failed)
	}
	return up, err
}
