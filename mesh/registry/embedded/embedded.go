// Package embedded is the Redis that `hedgerow up` and unit tests run inside
// their own process: miniredis behind a real TCP listener, with a clock that
// moves.
//
// It keeps nothing on disk, replicates nothing and knows no ACL: it is for one
// machine and for development. Whoever starts it fills it, as after every loss
// of Redis.
//
// Invariant: a Server speaks enough of Redis 7's protocol that package registry
// passes the same conformance suite on both.
package embedded

import (
	"fmt"
	"net"
	"sync"

	"github.com/alicebob/miniredis/v2"
)

// Server is a running embedded Redis. Its methods may be called from any
// goroutine.
type Server struct {
	addr     string
	password string

	mu    sync.Mutex // guards redis; it is held while it is replaced
	redis *miniredis.Miniredis
}

// Start listens on addr, "127.0.0.1:0" for a free port. With a password
// clients must log in as the user "default"; without one, only a loopback
// address is accepted, as everybody who reaches the port may write. Close it.
func Start(addr, password string) (*Server, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("embedded Redis: %w", err)
	}
	if ip := net.ParseIP(host); password == "" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("embedded Redis: %s is not a loopback address: give it a password, or run a Redis of its own", addr)
	}
	s := &Server{addr: addr, password: password}
	if err := s.start(); err != nil {
		return nil, err
	}
	s.addr = s.redis.Addr()
	return s, nil
}

func (s *Server) start() error {
	m := miniredis.NewMiniRedis()
	// miniredis keeps its clock still unless told otherwise, for tests; leases
	// must expire.
	m.ClockTTL(true)
	if s.password != "" {
		m.RequireAuth(s.password)
	}
	if err := m.StartAddr(s.addr); err != nil {
		return fmt.Errorf("embedded Redis: %w", err)
	}
	s.redis = m
	return nil
}

// Addr returns the address, "127.0.0.1:6390". It stays over restarts.
func (s *Server) Addr() string { return s.addr }

// Close cuts all connections and stops listening. A second call does nothing.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redis.Close()
}

// RestartEmpty is what a Redis does that has no persistence: it cuts all
// connections and comes back on the same port with nothing in it. After Close
// it starts again.
func (s *Server) RestartEmpty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redis.Close()
	return s.start()
}
