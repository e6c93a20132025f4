package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
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
	dial  func(context.Context) (net.Conn, error)
	http1 *connPool
	http2 links
	made  *linkSet // those of http2
	adapt adaptive
}

func newWorkload(w Workload, l Limits, open prometheus.Gauge, lives *lifetimes) (*workload, error) {
	if _, err := netip.ParseAddrPort(w.Address); err != nil {
		return nil, fmt.Errorf("the workload address %.60q of %s is not an IP address and port", w.Address, w.Service)
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{Timeout: l.ConnectTimeout}
		conn, err := d.DialContext(ctx, "tcp", w.Address)
		if err != nil {
			return nil, &connectError{CodeWorkloadUnreachable, err}
		}
		return conn, nil
	}
	out := &workload{Workload: w, dial: dial, http1: newPool(l, open, lives, dial), http2: links{scheme: "http"}, made: newLinkSet(open, lives)}
	out.http2.dial = func(forget func(*link.Conn)) (*link.Conn, error) {
		if !out.made.begin() {
			return nil, &connectError{CodeWorkloadUnreachable, errProxyClosed}
		}
		conn, err := dial(out.made.closing)
		if err != nil {
			out.made.failed()
			return nil, err
		}
		return out.made.client(conn, l.link(l.UpstreamIdle), time.Time{}, forget), nil
	}
	return out, nil
}

// configure takes what config says of the service.
func (w *workload) configure(config *mesh.Config) {
	var c *mesh.AdaptiveConcurrency
	if service := config.Services[w.Service]; service != nil {
		c = service.AdaptiveConcurrency
	}
	w.adapt.configure(c)
}

func (w *workload) close() {
	w.made.close()
	w.http1.close()
	w.http2.close()
}

// toWorkload is the forwarder of an Inbound.
type toWorkload struct {
	workload *workload
	e        *Engine
}

var _ forwarder = (*toWorkload)(nil)

// forward implements forwarder. A workload is tried once: another instance is
// the caller's to try.
func (f *toWorkload) forward(x *exchange) (answer, *failure) {
	if failed := x.passDeadline(); failed != nil {
		return nil, failed
	}
	let, err := f.workload.adapt.admit(x)
	if err != nil {
		return nil, x.limited(err)
	}
	var t transport = f.workload.http1
	if !x.wish.wanted() && f.e.overHTTP2(f.workload.Service) {
		t = &f.workload.http2
	}
	a, failed := x.try(t, 0)
	let.done(failed == nil && x.resp.status < 500)
	if failed != nil {
		f.e.metrics.failed(f.workload.Service, failed)
	}
	return a, failed
}

// toHTTP returns l as net/http has it. The result holds no views.
func toHTTP(l header.List) http.Header {
	h := make(http.Header, len(l))
	for _, f := range l {
		h.Add(strings.Clone(f.Name), strings.Clone(f.Value))
	}
	return h
}

// fromHTTP returns the fields of h.
func fromHTTP(h http.Header) header.List {
	dst := make(header.List, 0, len(h))
	for name, values := range h {
		for _, value := range values {
			dst = append(dst, header.Field{Name: name, Value: value})
		}
	}
	return dst
}
