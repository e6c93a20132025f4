package workload

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Break is one way in which a workload fails to answer.
type Break struct {
	// Name is the last segment of the path that asks for it: /break/<name>.
	Name string
	// Whole is set if nothing is wrong with the answer: a control.
	Whole bool

	text  string        // what is sent
	drip  time.Duration // the pause after each byte; 0: all at once
	quick string        // what precedes the drip
	reset bool          // it ends by RST, else by FIN
}

const (
	lengthHead  = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
	chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
	closeHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
)

// Breaks returns every way that a BrokenServer knows. A client must be able to
// tell each from a whole answer (RFC 9112 section 8); the Whole ones show that
// it also tells the reverse.
func Breaks() []Break {
	small, large := strings.Repeat("x", 1000), strings.Repeat("x", 600<<10)
	length := func(n int, sent string) string { return fmt.Sprintf(lengthHead, n) + sent }
	return []Break{
		{Name: "whole-length", Whole: true, text: last(length(len(large), large))},
		{Name: "whole-chunked", Whole: true, text: last(chunkedHead + chunk(large) + "0\r\n\r\n")},
		{Name: "length-short-fin", text: length(2000, small)},
		{Name: "length-short-rst", text: length(2000, small), reset: true},
		{Name: "length-large-fin", text: length(1<<20, large)},
		{Name: "length-large-rst", text: length(1<<20, large), reset: true},
		{Name: "length-no-body-fin", text: length(2000, "")},
		{Name: "chunk-short-fin", text: chunkedHead + chunk(large)[:100_000]},
		{Name: "chunk-short-rst", text: chunkedHead + chunk(large)[:100_000], reset: true},
		{Name: "chunk-size-cut-fin", text: chunkedHead + chunk(small) + "3e8\r"},
		{Name: "no-last-chunk-fin", text: chunkedHead + chunk(small) + chunk(small)},
		{Name: "no-last-chunk-rst", text: chunkedHead + chunk(small) + chunk(small), reset: true},
		{Name: "no-last-chunk-large-fin", text: chunkedHead + chunk(large)},
		{Name: "close-delimited-rst", text: closeHead + small, reset: true},
		{Name: "head-cut-fin", text: length(2000, "")[:60]},
		{Name: "head-cut-rst", text: length(2000, "")[:60], reset: true},
		{Name: "nothing-fin"},
		{Name: "drip-body", quick: length(2000, ""), text: small, drip: 50 * time.Millisecond},
		{Name: "drip-head", text: length(2000, small), drip: 200 * time.Millisecond},
	}
}

// last says in an answer that its connection ends with it, so that no proxy
// sends the next request into one that is being closed.
func last(answer string) string {
	return strings.Replace(answer, "\r\n", "\r\nConnection: close\r\n", 1)
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// BrokenServer answers every request in the way that its path names.
type BrokenServer struct {
	Addr string // "127.0.0.1:port"

	listener net.Listener
	breaks   map[string]Break
	conns    sync.WaitGroup
	closed   chan struct{}
	done     chan error

	mu   sync.Mutex // guards hits
	hits map[string]int
}

// ServeBroken starts a BrokenServer on a free loopback port.
func ServeBroken() (*BrokenServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &BrokenServer{
		Addr: l.Addr().String(), listener: l, breaks: map[string]Break{}, hits: map[string]int{},
		closed: make(chan struct{}), done: make(chan error, 1),
	}
	for _, b := range Breaks() {
		s.breaks[b.Name] = b
	}
	go func() { s.done <- s.accept() }()
	return s, nil
}

// Hits is how many requests asked for the break called name so far.
func (s *BrokenServer) Hits(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[name]
}

// Close ends the server and waits for its connections.
func (s *BrokenServer) Close() error {
	close(s.closed)
	err := s.listener.Close()
	if accepted := <-s.done; !errors.Is(accepted, net.ErrClosed) {
		err = errors.Join(err, accepted)
	}
	s.conns.Wait()
	return err
}

func (s *BrokenServer) accept() error {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return err
		}
		s.conns.Go(func() { s.serve(conn) })
	}
}

// serve answers one request, and ends the connection as the break says.
func (s *BrokenServer) serve(conn net.Conn) {
	defer conn.Close()
	// Bounds what a proxy that keeps an idle connection costs this server.
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return
	}
	served := make(chan struct{})
	defer close(served)
	go func() { // wakes whoever waits for the proxy
		select {
		case <-s.closed:
			_ = conn.Close()
		case <-served:
		}
	}()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	_, name, _ := strings.Cut(r.URL.Path, "/break/")
	b, ok := s.breaks[name]
	if !ok {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		return
	}
	s.mu.Lock()
	s.hits[name]++
	s.mu.Unlock()
	s.write(conn, b)
	if tcp, ok := conn.(*net.TCPConn); ok && b.reset {
		_ = tcp.SetLinger(0) // Close sends RST
	}
}

func (s *BrokenServer) write(conn net.Conn, b Break) {
	if b.drip == 0 {
		_, _ = io.WriteString(conn, b.text) // the proxy that left has its own reasons
		return
	}
	tick := time.NewTicker(b.drip)
	defer tick.Stop()
	if _, err := io.WriteString(conn, b.quick); err != nil {
		return
	}
	for i := range len(b.text) {
		if _, err := io.WriteString(conn, b.text[i:i+1]); err != nil {
			return
		}
		select {
		case <-s.closed:
			return
		case <-tick.C:
		}
	}
}
