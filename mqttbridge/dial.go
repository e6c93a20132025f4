package mqttbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// TLSOptions name the files for TLS to a broker. They are read at every
// connection, so a renewed file is used without a restart.
type TLSOptions struct {
	// Enabled uses TLS even if Address has no mqtts:// and no file is named.
	Enabled    bool
	CAFile     string // PEM; the system's roots if empty
	CertFile   string // PEM, with KeyFile: the client certificate
	KeyFile    string
	ServerName string // of the broker's certificate; the address's host if empty
}

// server is a parsed broker address.
type server struct {
	hostPort string
	tls      bool
}

// parseServer reads "host", "host:1883", "mqtt://host:1883" or "mqtts://host".
// tcp, tls and ssl are other names of the schemes.
func parseServer(address string, useTLS bool) (server, error) {
	bad := func(format string, args ...any) (server, error) {
		return server{}, mesh.Errorf("mqttbridge", address, mesh.Invalid, format, args...).
			WithHint("write the broker's address as 127.0.0.1:1883 or mqtts://broker.example:8883")
	}
	raw := address
	if !strings.Contains(raw, "://") {
		raw = "mqtt://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("not an address: %w", err)
	}
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "tls", "ssl":
		useTLS = true
	default:
		return bad("unknown scheme %q", u.Scheme)
	}
	if u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return bad("an address is a host and a port, nothing else")
	}
	port := u.Port()
	if port == "" {
		port = "1883"
		if useTLS {
			port = "8883"
		}
	}
	return server{hostPort: net.JoinHostPort(u.Hostname(), port), tls: useTLS}, nil
}

// used reports whether t asks for TLS.
func (t TLSOptions) used() bool {
	return t.Enabled || t.CAFile != "" || t.CertFile != "" || t.KeyFile != ""
}

// config reads the files.
func (t TLSOptions) config(hostPort string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, fmt.Errorf("mqttbridge: address: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("mqttbridge: CA file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mqttbridge: CA file %s has no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("mqttbridge: client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// dial opens a connection to s, TLS handshake included, within timeout.
func dial(ctx context.Context, s server, t TLSOptions, timeout time.Duration) (*watchedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var conn net.Conn
	var err error
	if s.tls {
		config, cerr := t.config(s.hostPort)
		if cerr != nil {
			return nil, cerr
		}
		conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.hostPort)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", s.hostPort)
	}
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: conn, lost: make(chan struct{})}, nil
}

// readPassword reads a password file; the final line end is not part of it.
func readPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("mqttbridge: password file: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// watchedConn says when it is closed or broken, by either side. The client
// library tells only after all message handlers have returned, and a handler
// that waits for room must return because of it.
type watchedConn struct {
	net.Conn
	once sync.Once
	lost chan struct{}
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(func() { close(c.lost) })
	}
	return n, err
}

func (c *watchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.once.Do(func() { close(c.lost) })
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.lost) })
	return c.Conn.Close()
}
