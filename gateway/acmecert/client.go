package acmecert

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Bounds of talking to a server.
const (
	requestTime = 30 * time.Second // one request
	phaseTime   = 10 * time.Second // to connect, and for the handshake
	maxAnswer   = 1 << 20          // bytes of one answer
	mostAgain   = 4                // tries after the first, of what may be tried again
)

// client is the HTTP client of one server: https alone, whatever its answers point
// to, and no answer without end.
type client struct {
	http  *http.Client
	under *http.Transport
}

func newClient(roots *x509.CertPool) *client {
	under := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: phaseTime}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   phaseTime,
		ResponseHeaderTimeout: requestTime,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       requestTime,
	}
	return &client{&http.Client{
		Transport: guard{under}, Timeout: requestTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, under}
}

// CloseIdleConnections closes what is kept to the server.
func (c *client) CloseIdleConnections() { c.under.CloseIdleConnections() }

// guard is the transport to a server.
type guard struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%.200q is not an https URL", req.URL.Redacted())
	}
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	return res, nil
}

// again is acme.Client.RetryBackoff: a nonce that was refused, or a server that
// stumbled, is tried again soon and seldom. All else is the Rotator's.
func again(n int, _ *http.Request, res *http.Response) time.Duration {
	if n > mostAgain || res != nil && res.StatusCode == http.StatusTooManyRequests {
		return -1
	}
	return 250 * time.Millisecond << n
}

// readRoots reads the CAs to trust; nil means the system's.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}
