package proxy

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 1.3 asks for it; it protects nothing
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// upgrade is a client's wish to speak WebSocket (RFC 6455).
type upgrade struct {
	key string // Sec-WebSocket-Key
}

// parseUpgrade returns the WebSocket handshake of r, or nil if r is none. Every
// other protocol in Upgrade is ignored, as RFC 9110 section 7.8 allows: a
// tunnel to h2c or to anything else would carry requests that nobody decides.
func parseUpgrade(r *http.Request) (*upgrade, *Refusal) {
	if r.ProtoMajor != 1 || !hasToken(r.Header["Connection"], "upgrade") {
		return nil, nil
	}
	if protocols := r.Header["Upgrade"]; len(protocols) != 1 || !strings.EqualFold(protocols[0], "websocket") {
		return nil, nil
	}
	keys := r.Header["Sec-Websocket-Key"]
	bad := func(detail string) (*upgrade, *Refusal) {
		return nil, &Refusal{Status: http.StatusBadRequest, Code: CodeBadRequest, Detail: "the WebSocket handshake " + detail}
	}
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1):
		return bad("is not a GET over HTTP/1.1")
	case r.ContentLength != 0:
		return bad("has a body")
	case r.Header.Get("Sec-Websocket-Version") != "13":
		return bad("is not of version 13")
	case len(keys) != 1:
		return bad("needs one Sec-WebSocket-Key")
	}
	if nonce, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(nonce) != 16 {
		return bad("has a malformed Sec-WebSocket-Key")
	}
	return &upgrade{key: keys[0]}, nil
}

// accepted reports why resp, a 101, does not accept u; nil if it does.
func (u *upgrade) accepted(resp *http.Response) error {
	sum := sha1.Sum([]byte(u.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	want := base64.StdEncoding.EncodeToString(sum[:])
	switch {
	case !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || !hasToken(resp.Header["Connection"], "upgrade"):
		return fmt.Errorf("101 to another protocol than websocket")
	case resp.Header.Get("Sec-Websocket-Accept") != want:
		return fmt.Errorf("101 whose Sec-WebSocket-Accept does not answer the key")
	}
	return nil
}

// setUpgrade puts the handshake's fields of the connection back.
func setUpgrade(h http.Header) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
}

// tunnels are the WebSockets that are open. http.Server forgets hijacked
// connections, so draining has to know them.
type tunnels struct {
	// mu guards open. Nothing is called under it.
	mu   sync.Mutex
	open map[*tunnel]struct{}
}

// tunnel is two byte streams joined.
type tunnel struct {
	client   net.Conn
	upstream io.ReadWriteCloser
	idle     time.Duration
	timer    *time.Timer
	done     chan struct{} // closed when both directions ended
}

// run copies both ways until both ends are done, one fails, or nothing moved
// for the tunnel's idle time. early are bytes that the client sent behind its
// handshake. It closes both connections.
func (ts *tunnels) run(t *tunnel, early *bufio.Reader) {
	t.done = make(chan struct{})
	ts.mu.Lock()
	ts.open[t] = struct{}{}
	ts.mu.Unlock()
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
	wg.Go(func() { t.copy(t.upstream, early) })
	wg.Go(func() { t.copy(t.client, t.upstream) })
	wg.Wait()
}

// copy moves bytes one way. At the end of src it says so to dst if dst can hear
// it, and cuts the tunnel otherwise.
func (t *tunnel) copy(dst io.Writer, src io.Reader) {
	_, err := io.Copy(dst, touching{src, t})
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
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
	t *tunnel
}

// Read implements io.Reader.
func (r touching) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.t.timer.Reset(r.t.idle)
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
