package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// deny publishes that nodes are shut out to the engines given.
func (w *world) deny(to []*node, quarantines map[string]*mesh.Quarantine) {
	config := *w.config
	config.Head.Revision++
	config.Quarantines = quarantines
	w.config = &config
	for _, n := range to {
		n.engine.Update(&mesh.Snapshot{Config: w.config, Denies: mesh.NewDenies(quarantines), Instances: w.instances})
	}
}

// shut is the quarantine of a node since now.
func shut(node string) map[string]*mesh.Quarantine {
	at := time.Now()
	from := mesh.CertificatesFrom(at, 0)
	return map[string]*mesh.Quarantine{node: {Meta: mesh.Meta{Name: "quarantines/" + node}, Time: &at, CertificatesFrom: &from}}
}

// pair is the services web on n2, which calls, and orders on n1. Each heeds what it is told
// alone.
type pair struct {
	*world
	callee, caller *node
	client         *http.Client
}

func newPair(t *testing.T, workload http.HandlerFunc, options ...option) *pair {
	t.Helper()
	p := &pair{world: newWorld(t)}
	p.callee = p.sidecarHeeding("orders", "n1", p.workload(workload))
	denies := &identity.Denies{}
	e, reg := p.engine(proxy.MeshLimits(), append(options, func(o *proxy.Options) { o.Denies = denies })...)
	src := p.source("/svc/web/n/n2")
	src.Heed(denies)
	p.caller = p.run(e, reg, e.Outbound(func() (*identity.Source, *proxy.Refusal) { return src, nil }), nil, time.Second)
	p.publish()
	transport := &http.Transport{DisableKeepAlives: true}
	p.client = &http.Client{Transport: transport}
	return p
}

// sidecarHeeding is sidecar whose engine and source heed denies of their own.
func (w *world) sidecarHeeding(service, nodeID, workload string) *node {
	w.t.Helper()
	denies := &identity.Denies{}
	e, reg := w.engine(proxy.MeshLimits(), func(o *proxy.Options) { o.Denies = denies })
	src := w.source("/svc/" + service + "/n/" + nodeID)
	src.Heed(denies)
	h, config, err := e.Inbound(proxy.Workload{Service: service, Node: nodeID, Address: workload, Source: src})
	if err != nil {
		w.t.Fatal(err)
	}
	n := w.run(e, reg, h, config, 5*time.Second)
	w.register(service, nodeID, n.addr, nil)
	return n
}

// get calls orders as web.
func (p *pair) get(t *testing.T, path string) (status int, body string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.caller.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "orders.mesh"
	resp, err := p.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

// sides are who is told that the other is shut out.
func sides(t *testing.T, f func(t *testing.T, told func(p *pair) ([]*node, map[string]*mesh.Quarantine))) {
	t.Run("the callee is told of the caller", func(t *testing.T) {
		f(t, func(p *pair) ([]*node, map[string]*mesh.Quarantine) { return []*node{p.callee}, shut("n2") })
	})
	t.Run("the caller is told of the callee", func(t *testing.T) {
		f(t, func(p *pair) ([]*node, map[string]*mesh.Quarantine) { return []*node{p.caller}, shut("n1") })
	})
}

// Whichever side learns that the other is shut out cuts what stands between them, and makes
// no new connection; a request that is under way does not end as if all were well.
func TestQuarantineCutsWhatStands(t *testing.T) {
	for name, how := range map[string]option{"links": linked, "pooled": pooled} {
		t.Run(name, func(t *testing.T) {
			sides(t, func(t *testing.T, told func(*pair) ([]*node, map[string]*mesh.Quarantine)) {
				began := make(chan struct{}, 8)
				var ended atomic.Int32
				p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/stream":
						_, _ = io.WriteString(w, "first ")
						_ = http.NewResponseController(w).Flush()
						began <- struct{}{}
						<-r.Context().Done()
						ended.Add(1)
					case "/slow":
						began <- struct{}{}
						<-r.Context().Done()
						ended.Add(1)
					}
				}, how)
				if status, _, err := p.get(t, "/"); status != 200 || err != nil {
					t.Fatalf("before: %d, %v", status, err)
				}
				var wg sync.WaitGroup
				for _, path := range []string{"/stream", "/slow"} {
					wg.Go(func() {
						status, body, err := p.get(t, path)
						if err == nil && status == 200 {
							t.Errorf("%s ended as if it were whole: %q", path, body)
						}
					})
				}
				<-began
				<-began
				to, quarantines := told(p)
				start := time.Now()
				p.deny(to, quarantines)
				wg.Wait()
				eventually(t, "the workload learns that they are over", func() bool { return ended.Load() == 2 })
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				if status, _, _ := p.get(t, "/"); status != 502 && status != 503 {
					t.Errorf("after: %d", status)
				}
				if counted(t, to[0].registry, "hedgerow_connections_cut_total", nil) == 0 {
					t.Error("nothing was counted")
				}
				p.deny(to, nil) // released, and the certificates are not from before anything
				eventually(t, "it is let in again", func() bool { status, _, _ := p.get(t, "/"); return status == 200 })
			})
		})
	}
}

func TestQuarantineCutsWebSockets(t *testing.T) {
	var ended atomic.Int32
	sides(t, func(t *testing.T, told func(*pair) ([]*node, map[string]*mesh.Quarantine)) {
		ended.Store(0)
		p := newPair(t, wsEcho(&ended))
		conn, err := net.Dial("tcp", p.caller.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: orders.mesh\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		head := make([]byte, 1024)
		if n, err := conn.Read(head); err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101 ") {
			t.Fatalf("%q, %v", head[:n], err)
		}
		p.deny(told(p))
		for err == nil { // to the end, which the deadline is not
			_, err = conn.Read(head)
		}
		if nerr, ok := err.(net.Error); ok && nerr.Timeout() { //nolint:errorlint // as the connection returns it
			t.Error("the WebSocket stands")
		}
		eventually(t, "the workload learns of it", func() bool { return ended.Load() == 1 })
	})
}

func TestQuarantineCutsTCP(t *testing.T) {
	sides(t, func(t *testing.T, told func(*pair) ([]*node, map[string]*mesh.Quarantine)) {
		var ended atomic.Int32
		workload := accepting(t, func(conn net.Conn) {
			defer ended.Add(1)
			_, _ = io.Copy(conn, conn)
		})
		p := &pair{world: newWorld(t)}
		p.put(&mesh.Service{Meta: mesh.Meta{Name: "services/db"}, Protocol: mesh.ProtocolTCP})
		p.callee = p.sidecarHeeding("db", "n1", workload)
		denies := &identity.Denies{}
		e, reg := p.engine(proxy.MeshLimits(), func(o *proxy.Options) { o.Denies = denies })
		src := p.source("/svc/web/n/n2")
		src.Heed(denies)
		p.caller = p.run(e, reg, e.TCP("db", func() (*identity.Source, *proxy.Refusal) { return src, nil }), nil, time.Second)
		p.publish()
		conn, err := net.Dial("tcp", p.caller.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		echo := make([]byte, 4)
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, echo); err != nil {
			t.Fatal(err)
		}
		p.deny(told(p))
		_, err = conn.Read(echo)
		if nerr, ok := err.(net.Error); err == nil || ok && nerr.Timeout() { //nolint:errorlint // as the connection returns it
			t.Errorf("the connection stands: %v", err)
		}
		eventually(t, "the workload learns of it", func() bool { return ended.Load() == 1 })
	})
}

// Others go on undisturbed: no connection of theirs is touched.
func TestQuarantineTouchesNobodyElse(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, linked)
	for range 50 {
		if status, _, err := p.get(t, "/"); status != 200 || err != nil {
			t.Fatalf("%d, %v", status, err)
		}
		p.deny([]*node{p.callee, p.caller}, shut("n3"))
	}
	for _, n := range []*node{p.callee, p.caller} {
		if got := counted(t, n.registry, "hedgerow_connections_cut_total", nil); got != 0 {
			t.Errorf("%v connections were cut", got)
		}
	}
}

// Connections that are made while the deny comes are refused or cut, all of them.
func TestQuarantineRacesWithHandshakes(t *testing.T) {
	for range 5 {
		var reached atomic.Int64
		p := newPair(t, func(_ http.ResponseWriter, _ *http.Request) { reached.Add(1) }, pooled)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, _, _ = p.get(t, "/")
					}
				}
			})
		}
		eventually(t, "traffic", func() bool { return reached.Load() > 0 })
		p.deny([]*node{p.callee}, shut("n2"))
		last, same := reached.Load(), 0
		eventually(t, "what was under way has ended, and nothing comes any more", func() bool {
			if now := reached.Load(); now != last {
				last, same = now, 0
			}
			same++
			return same > 50
		})
		close(stop)
		wg.Wait()
		p.stop()
	}
}
