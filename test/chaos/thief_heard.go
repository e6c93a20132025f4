package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// attemptHeader names the attempt that a request is of.
const attemptHeader = "X-Attempt"

// recorder is a workload that keeps the headers of what has reached it, by attempt.
type recorder struct {
	addr string

	mu  sync.Mutex
	got map[string]http.Header
}

func newRecorder(t *stage.T) *recorder {
	t.Helper()
	rec := &recorder{got: map[string]http.Header{}}
	srv := httptest.NewServer(rec)
	t.Cleanup(srv.Close)
	rec.addr = srv.Listener.Addr().String()
	return rec
}

// ServeHTTP answers 200 to everything.
func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec.mu.Lock()
	rec.got[r.Header.Get(attemptHeader)] = r.Header.Clone()
	rec.mu.Unlock()
	_, _ = io.WriteString(w, "ok\n") // a client that left has no test
}

// take returns the headers of what came of an attempt, nil if nothing did, and forgets them.
func (rec *recorder) take(attempt string) http.Header {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	h := rec.got[attempt]
	delete(rec.got, attempt)
	return h
}

// detour is the network between callers and a node, which somebody may lead elsewhere.
type detour struct {
	addr string

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
}

func newDetour(t *stage.T, to string) *detour {
	t.Helper()
	d := &detour{to: to, conns: map[net.Conn]bool{}}
	d.addr = listen(t, func(client net.Conn) {
		d.mu.Lock()
		to := d.to
		d.conns[client] = true
		d.mu.Unlock()
		defer func() {
			d.mu.Lock()
			delete(d.conns, client)
			d.mu.Unlock()
		}()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			_, _ = io.Copy(client, server) // its end shows below
			_ = client.Close()
		}()
		_, _ = io.Copy(server, client)
	})
	return d
}

// lead leads all that come from now on to another address, and cuts those that are there.
func (d *detour) lead(to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = to
	for conn := range d.conns {
		_ = conn.Close()
	}
}
