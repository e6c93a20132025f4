// Package workload is the programs behind the sidecars of a fault test: plain
// servers of HTTP/1.1, and of gRPC at the same address, that know nothing of the
// mesh. Serve answers properly, so
// that a client can verify every byte; Break answers and breaks off.
//
// It neither measures nor judges: that is the client's business, on the far
// side of the proxies.
package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/rpc"
)

// InstanceHeader names the instance that answered.
const InstanceHeader = "X-Instance"

// maxEcho bounds a body that is sent back, in bytes.
const maxEcho = 1 << 20

// Server is one running workload.
type Server struct {
	Addr string // "127.0.0.1:port"

	srv      *http.Server
	done     chan error
	received atomic.Int64
}

// Received returns how many requests have come, calls of gRPC and handshakes of
// WebSockets among them.
func (s *Server) Received() int { return int(s.received.Load()) }

// Serve starts the workload called instance on a free loopback port. Its paths:
//
//	/echo?i=N           GET: "i=N\n"; POST: the body
//	/ticks?n=N&every=D  the lines "tick 0" to "tick N-1", one every D; endless without n
//	/bytes?n=N&mib=R    N bytes with a Content-Length; with R, at R MiB a second
//	/hold?for=D         reads the body, waits, answers
//	/ws, /talk          a WebSocket that echoes
//	/status             503, always
//
// By HTTP/2 with prior knowledge it serves the methods of package rpc.
func Serve(instance string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		Addr: l.Addr().String(),
		done: make(chan error, 1),
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.srv = &http.Server{Handler: handler(instance, &s.received), ReadHeaderTimeout: time.Minute, Protocols: &protocols}
	go func() { s.done <- s.srv.Serve(l) }()
	return s, nil
}

// Close cuts whatever is under way and returns when the listener is closed.
func (s *Server) Close() error {
	err := s.srv.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func handler(instance string, received *atomic.Int64) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/ticks", ticks)
	mux.HandleFunc("/bytes", zeros)
	mux.HandleFunc("/hold", hold)
	mux.HandleFunc("/ws", echoMessages)
	mux.HandleFunc("/talk", echoMessages)
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	calls := rpc.Server()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received.Add(1)
		w.Header().Set(InstanceHeader, instance)
		if r.ProtoMajor == 2 {
			calls.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func echo(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprintf(w, "i=%s\n", r.URL.Query().Get("i")) // the client that left notices itself
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEcho))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func ticks(w http.ResponseWriter, r *http.Request) {
	n, every := number(r, "n", -1), duration(r, "every", 100*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	flush := http.NewResponseController(w).Flush
	for i := int64(0); i != n; i++ {
		if _, err := fmt.Fprintf(w, "tick %d\n", i); err != nil || flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// zeros sends one block over and over: a body without cost.
func zeros(w http.ResponseWriter, r *http.Request) {
	n := number(r, "n", 0)
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	body := io.LimitReader(zeroReader{}, n)
	rate := number(r, "mib", 0)
	if rate <= 0 {
		_, _ = io.Copy(w, body) // the client that left notices itself
		return
	}
	const every = 10 * time.Millisecond
	piece := rate << 20 * int64(every) / int64(time.Second)
	for left := n; left > 0; left -= piece {
		if _, err := io.CopyN(w, body, min(piece, left)); err != nil || !pause(r.Context(), every) {
			return
		}
	}
}

type zeroReader struct{}

// Read fills p with zeros.
func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func hold(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !pause(r.Context(), duration(r, "for", time.Second)) {
		return
	}
	_, _ = fmt.Fprintf(w, "held %d\n", n)
}

func echoMessages(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer conn.Close() //nolint:errcheck // torn down anyway
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// pause waits for d and reports whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func number(r *http.Request, name string, absent int64) int64 {
	if n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64); err == nil {
		return n
	}
	return absent
}

func duration(r *http.Request, name string, absent time.Duration) time.Duration {
	if d, err := time.ParseDuration(r.URL.Query().Get(name)); err == nil && d > 0 {
		return d
	}
	return absent
}
