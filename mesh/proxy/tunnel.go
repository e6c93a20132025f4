package proxy

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 1.3 asks for it; it protects nothing
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// upgrade is a client's wish to speak WebSocket (RFC 6455).
type upgrade struct {
	key string // Sec-WebSocket-Key
}

// parseUpgrade returns the WebSocket handshake of in, or the zero value if it is
// none. Every other protocol in Upgrade is ignored, as RFC 9110 section 7.8
// allows: a tunnel to h2c or to anything else would carry requests that nobody
// decides.
func parseUpgrade(in *incoming) (upgrade, *Refusal) {
	if !in.http1 {
		return overStream(in)
	}
	protocol, _ := in.fields.Get("Upgrade")
	if in.minor == 0 || in.fields.Count("Upgrade") != 1 || !header.Equal(protocol, "websocket") {
		return upgrade{}, nil
	}
	key, _ := in.fields.Get("Sec-WebSocket-Key")
	version, _ := in.fields.Get("Sec-WebSocket-Version")
	bad := func(detail string) (upgrade, *Refusal) {
		return upgrade{}, &Refusal{Status: http.StatusBadRequest, Code: CodeBadRequest, Detail: "the WebSocket handshake " + detail}
	}
	switch {
	case in.method != http.MethodGet:
		return bad("is not a GET")
	case in.length != 0:
		return bad("has a body")
	case version != "13" || in.fields.Count("Sec-WebSocket-Version") != 1:
		return bad("is not of version 13")
	case in.fields.Count("Sec-WebSocket-Key") != 1:
		return bad("needs one Sec-WebSocket-Key")
	}
	if nonce, err := base64.StdEncoding.DecodeString(key); err != nil || len(nonce) != 16 {
		return bad("has a malformed Sec-WebSocket-Key")
	}
	return upgrade{key: strings.Clone(key)}, nil
}

// overStream returns the handshake of a WebSocket that came as a CONNECT over HTTP/2 (RFC
// 8441), where there is no key: the way on is by HTTP/1.1, which needs one.
func overStream(in *incoming) (upgrade, *Refusal) {
	if version := only(in.fields, "Sec-WebSocket-Version"); version != "13" {
		return upgrade{}, &Refusal{Status: http.StatusBadRequest, Code: CodeBadRequest, Detail: "the WebSocket handshake is not of version 13"}
	}
	var nonce [16]byte
	binary.BigEndian.PutUint64(nonce[:8], rand.Uint64())
	binary.BigEndian.PutUint64(nonce[8:], rand.Uint64())
	key := base64.StdEncoding.EncodeToString(nonce[:])
	in.fields = in.fields.Del("Sec-WebSocket-Key").Add("Sec-WebSocket-Key", key)
	return upgrade{key: key}, nil
}

// wanted reports whether there is a handshake.
func (u upgrade) wanted() bool { return u.key != "" }

// accepted reports why head does not accept u; nil if it does.
func (u upgrade) accepted(head *responseHead) error {
	sum := sha1.Sum([]byte(u.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	want := base64.StdEncoding.EncodeToString(sum[:])
	protocol, _ := head.fields.Get("Upgrade")
	switch got, _ := head.fields.Get("Sec-WebSocket-Accept"); {
	case !u.wanted():
		return errors.New("101 that nobody asked for")
	case head.status != http.StatusSwitchingProtocols:
		return errors.New("answered as if it were no handshake")
	case head.fields.Count("Upgrade") != 1 || !header.Equal(protocol, "websocket"):
		return errors.New("switched to something that is not WebSocket")
	case got != want || head.fields.Count("Sec-WebSocket-Accept") != 1:
		return errors.New("Sec-WebSocket-Accept does not answer the client's key")
	}
	return nil
}

// setUpgrade puts the handshake's fields of the connection back.
func setUpgrade(l header.List) header.List {
	return l.Add("Connection", "Upgrade").Add("Upgrade", "websocket")
}

// halfCloser is a connection of which one direction can be ended.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// tunnel joins the client's connection and the upstream's if the upstream
// accepted the WebSocket handshake, until both are done.
func (s *server) tunnel(x *exchange, a answer) int {
	if err := x.wish.accepted(&x.resp); err != nil {
		f := &failure{Refusal{http.StatusBadGateway, CodeBadUpgrade, "the service did not accept the WebSocket"}, failedUpgrade, err}
		s.e.metrics.failed(x.decision.Service, f)
		return s.fail(x, f)
	}
	if !x.watch.begin() {
		return s.fail(x, &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, errTimeout})
	}
	head := s.responseHead(x)
	upstream, fromUpstream, err := a.tunnel()
	if err != nil {
		return s.fail(x, &failure{Refusal{http.StatusInternalServerError, "internal", "the connection cannot be upgraded"}, failedUpgrade, err})
	}
	x.attach(nil)
	x.watch.stop()
	conn, fromClient, err := x.client.hijack(setUpgrade(head.fields))
	if err != nil { // the client left while we asked
		_ = upstream.Close()
		return 0
	}
	x.detach()
	s.e.tunnels.run(&tunnel{client: conn, upstream: upstream, idle: s.e.opt.Limits.TunnelIdle}, fromClient, fromUpstream)
	return http.StatusSwitchingProtocols
}

// tunnels are the WebSockets and connections of TCP that are open.
type tunnels struct {
	// mu guards what follows. Nothing is called under it.
	mu   sync.Mutex
	open map[*tunnel]struct{}
	over bool // the time of all is up, also of those that are yet to come
}

// tunnel is two byte streams joined.
type tunnel struct {
	client   halfCloser
	upstream halfCloser
	idle     time.Duration
	sent     prometheus.Counter // bytes to upstream; may be nil, as received may
	received prometheus.Counter
	timer    *time.Timer
	done     chan struct{} // closed when both directions ended
}

// run copies both ways until both ends are done, one fails, or nothing moved
// for the tunnel's idle time. fromClient and fromUpstream are what they sent
// behind the handshake. It closes both connections.
func (ts *tunnels) run(t *tunnel, fromClient, fromUpstream []byte) {
	t.done = make(chan struct{})
	ts.mu.Lock()
	over := ts.over
	ts.open[t] = struct{}{}
	ts.mu.Unlock()
	if over {
		t.cut()
	}
	defer func() {
		ts.mu.Lock()
		delete(ts.open, t)
		ts.mu.Unlock()
		close(t.done)
	}()
	t.timer = time.AfterFunc(t.idle, t.cut)
	defer t.timer.Stop()
	defer t.cut()
	var wg sync.WaitGroup
	wg.Go(func() { t.copy(t.upstream, io.MultiReader(bytes.NewReader(fromClient), t.client), t.sent) })
	wg.Go(func() { t.copy(t.client, io.MultiReader(bytes.NewReader(fromUpstream), t.upstream), t.received) })
	wg.Wait()
}

// copy moves bytes one way. At the end of src it says so to dst if dst can hear
// it, and cuts the tunnel otherwise.
func (t *tunnel) copy(dst halfCloser, src io.Reader, count prometheus.Counter) {
	if _, err := io.Copy(dst, touching{src, t, count}); err == nil && dst.CloseWrite() == nil {
		return
	}
	t.cut()
}

// cut closes both connections, which ends run. An error of closing tells
// nothing more: the tunnel is over.
func (t *tunnel) cut() {
	_ = t.client.Close()
	_ = t.upstream.Close()
}

// touching restarts the tunnel's idle timer at each read.
type touching struct {
	io.Reader
	t     *tunnel
	count prometheus.Counter
}

// Read implements io.Reader.
func (r touching) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.t.timer.Reset(r.t.idle)
	counting(r.count, n)
	return n, err
}

// list returns the open tunnels.
func (ts *tunnels) list() []*tunnel {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	out := make([]*tunnel, 0, len(ts.open))
	for t := range ts.open {
		out = append(out, t)
	}
	return out
}

// cutAll cuts every tunnel, and those that are about to be one.
func (ts *tunnels) cutAll() {
	ts.mu.Lock()
	ts.over = true
	ts.mu.Unlock()
	for _, t := range ts.list() {
		t.cut()
	}
}

// drain waits for the open tunnels until ctx ends, then cuts those that remain.
func (ts *tunnels) drain(done <-chan struct{}) {
	for _, t := range ts.list() {
		select {
		case <-t.done:
		case <-done:
			t.cut()
			<-t.done
		}
	}
}
