package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// witness is the workloads of the callees: it notes when each was last reached.
type witness struct {
	http, tcp string // their addresses

	mu   sync.Mutex
	last map[string]time.Time
}

func newWitness(t *stage.T) *witness {
	t.Helper()
	w := &witness{last: map[string]time.Time{}}
	srv := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(srv.Close)
	w.http = srv.Listener.Addr().String()
	w.tcp = listen(t, func(conn net.Conn) {
		buf := make([]byte, 1024)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			w.saw("ledger")
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	return w
}

// serve is the HTTP workloads: telemetry is asked for devices, shop for all else.
func (w *witness) serve(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/ws":
		up := websocket.Upgrader{}
		conn, err := up.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			w.saw("webSocket")
			if conn.WriteMessage(kind, message) != nil {
				return
			}
		}
	case r.Method == http.MethodPost:
		w.saw("telemetry")
	default:
		w.saw("shop")
	}
}

func (w *witness) saw(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[what] = time.Now()
}

// begin forgets what was seen.
func (w *witness) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.last)
}

func (w *witness) all() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.last)
}

// complete returns nil when everything was reached.
func (w *witness) complete() error {
	if seen := w.all(); len(seen) < 4 {
		return fmt.Errorf("of shop, webSocket, ledger and telemetry it has reached %d", len(seen))
	}
	return nil
}

// listen serves connections of a free port until the row ends.
func listen(t *stage.T, serve func(net.Conn)) string {
	t.Helper()
	return listenAt(t, "127.0.0.1:0", serve)
}

// listenAt is listen at an address.
func listenAt(t *stage.T, address string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		end()
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// forwarder stands between the bridge and its broker, and notes when the bridge's session
// ends.
type forwarder struct {
	addr  string
	ended atomic.Int64 // Unix nanoseconds; 0 while a session stands, and before there is one
}

func newForwarder(t *stage.T, broker string) *forwarder {
	t.Helper()
	f := &forwarder{}
	f.addr = listen(t, func(client net.Conn) {
		upstream, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		defer upstream.Close()
		f.ended.Store(0)
		go func() {
			_, _ = io.Copy(client, upstream) // its end shows below
			_ = client.Close()
		}()
		_, _ = io.Copy(upstream, client) // to the end of the session
		f.ended.Store(time.Now().UnixNano())
	})
	return f
}

// cutAt returns when the session ended; zero if it stands.
func (f *forwarder) cutAt() time.Time {
	if at := f.ended.Load(); at > 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// traffic is everything that a node's workload and devices do.
type traffic struct {
	webSocket, tcp atomic.Bool // they stand
	end            context.CancelFunc
	all            sync.WaitGroup
}

// Between two messages of each kind.
const (
	beat   = 10 * time.Millisecond
	beatIO = 2 * time.Second // longest wait for an answer of what stands
)

// startTraffic begins: requests, a WebSocket, a connection of TCP, and what a device says.
func startTraffic(t *stage.T, outbound, ledger, broker string) *traffic {
	ctx, end := context.WithCancel(t.Context())
	tr := &traffic{end: end}
	t.Cleanup(tr.stop)
	tr.all.Go(func() { tr.requests(ctx, outbound) })
	tr.all.Go(func() { tr.messages(ctx, outbound) })
	tr.all.Go(func() { tr.stream(ctx, ledger) })
	tr.all.Go(func() { publish(ctx, broker) })
	return tr
}

func (tr *traffic) stop() {
	tr.end()
	tr.all.Wait()
}

// every calls do until ctx ends.
func every(ctx context.Context, do func()) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// rest waits for the next message.
func rest(ctx context.Context) {
	timer := time.NewTimer(beat)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (tr *traffic) requests(ctx context.Context, outbound string) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: beatIO}
	every(ctx, func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+outbound+"/", nil)
		if err != nil {
			return
		}
		req.Host = "shop.mesh"
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

// messages speaks over a WebSocket, and opens it again whenever it was cut.
func (tr *traffic) messages(ctx context.Context, outbound string) {
	dialer := websocket.Dialer{HandshakeTimeout: beatIO}
	every(ctx, func() {
		conn, _, err := dialer.DialContext( //nolint:bodyclose // the connection is all there is
			ctx, "ws://"+outbound+"/ws", http.Header{"Host": {"shop.mesh"}})
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		tr.webSocket.Store(true)
		defer tr.webSocket.Store(false)
		for ctx.Err() == nil {
			_ = conn.SetReadDeadline(time.Now().Add(beatIO))
			if conn.WriteMessage(websocket.TextMessage, []byte("ping")) != nil {
				return
			}
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
			rest(ctx)
		}
	})
}

// stream speaks over a connection of TCP, likewise.
func (tr *traffic) stream(ctx context.Context, ledger string) {
	every(ctx, func() {
		conn, err := net.DialTimeout("tcp", ledger, beatIO)
		if err != nil {
			return
		}
		defer conn.Close()
		defer tr.tcp.Store(false)
		echo := make([]byte, 4)
		for ctx.Err() == nil {
			_ = conn.SetDeadline(time.Now().Add(beatIO))
			if _, err := io.WriteString(conn, "ping"); err != nil {
				return
			}
			if _, err := io.ReadFull(conn, echo); err != nil {
				return
			}
			tr.tcp.Store(true)
			rest(ctx)
		}
	})
}

// publish publishes messages at the broker.
func publish(ctx context.Context, broker string) {
	host, port, _ := net.SplitHostPort(broker)
	cmd := exec.CommandContext(ctx, "mosquitto_pub", "-h", host, "-p", port, "-t", "devices/d1/telemetry", "-l")
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	lines := bufio.NewWriter(in)
	every(ctx, func() {
		id := make([]byte, 6)
		_, _ = rand.Read(id)
		_, _ = fmt.Fprintln(lines, base64.StdEncoding.EncodeToString(id))
		_ = lines.Flush()
	})
	_ = in.Close()
	_ = cmd.Wait() // killed with ctx
}
