package vaultpki

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// anyNode is the address of the api package's clients: guard sends what is for it to a
// node that serves. No host has that name (RFC 6761). It is http, because guard judges
// redirects by where they go, and not by where the api package thinks it was.
const (
	anyNode     = "http://" + anyNodeHost
	anyNodeHost = "vault.invalid"
)

// nodes are the addresses of one Vault, of which one is in use.
type nodes struct {
	urls []*url.URL
	used atomic.Int32
}

func newNodes(addresses []string) (*nodes, error) {
	n := &nodes{}
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil {
			return nil, err
		}
		n.urls = append(n.urls, u)
	}
	return n, nil
}

// newHTTP returns a client for the nodes that presents the certificate, if it is not nil,
// to any server of the trusted roots that asks for one. Every phase of a request is
// bounded by itself too, so that a Vault that accepts and says nothing costs one timeout
// and not the caller's patience.
func (v *Vault) newHTTP(cert *tls.Certificate) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: v.roots}
	if cert != nil {
		// Whatever CAs the server names: a Vault asks without naming any.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	timeout := v.access.Timeout
	return &http.Client{
		Transport: guard{nodes: v.nodes, timeout: timeout, next: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   timeout,
			ResponseHeaderTimeout: timeout,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   2,
			IdleConnTimeout:       timeout,
		}},
		// The api package follows one redirect itself, through the guard.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard is the transport to Vault: no secret over a plain network, even when
// redirected, no answer without end, and another node if one does not serve.
type guard struct {
	next    *http.Transport
	nodes   *nodes
	timeout time.Duration
}

// RoundTrip asks the node in use, and the others in turn if it does not serve; the one
// that does is in use from then on. If none does, the answer is one that says why.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != anyNodeHost { // a standby redirects to the active node
		return g.send(req, req.URL)
	}
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		if err = errors.Join(err, req.Body.Close()); err != nil {
			return nil, err
		}
	}
	var answer *http.Response
	var failed error
	first := int(g.nodes.used.Load())
	for i := range g.nodes.urls {
		at := (first + i) % len(g.nodes.urls)
		u := *req.URL
		u.Scheme, u.Host = g.nodes.urls[at].Scheme, g.nodes.urls[at].Host
		again := req.Clone(req.Context())
		again.Host, again.Body = "", nil
		if req.Body != nil {
			again.Body = io.NopCloser(bytes.NewReader(body))
		}
		res, err := g.send(again, &u)
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case !elsewhere(res.StatusCode):
			g.nodes.used.Store(int32(at))
			discard(answer)
			return res, nil
		default:
			discard(answer)
			answer = res
		}
		if req.Context().Err() != nil {
			break
		}
	}
	if answer != nil {
		return answer, nil
	}
	return nil, failed
}

// elsewhere reports that another node may serve what this one did not: it is sealed, not
// initialized, a standby without an active node, a secondary, or has a trouble of its own.
func elsewhere(status int) bool {
	return status >= 500 || status == 472 || status == 473 || status == 474
}

func discard(res *http.Response) {
	if res != nil {
		res.Body.Close()
	}
}

// send sends req to u, which has a time of its own to begin its answer.
func (g guard) send(req *http.Request, u *url.URL) (*http.Response, error) {
	if err := checkTransport(u); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(req.Context())
	req = req.WithContext(ctx)
	req.URL = u
	late := time.AfterFunc(g.timeout, cancel)
	res, err := g.next.RoundTrip(req)
	if err != nil {
		if !late.Stop() && context.Cause(ctx) != nil {
			err = fmt.Errorf("%s gave no answer within %v", u.Host, g.timeout)
		}
		cancel()
		return nil, err
	}
	late.Stop()
	res.Body = &answerBody{http.MaxBytesReader(nil, res.Body, maxAnswer), cancel}
	return res, nil
}

// answerBody ends the request with its answer.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *answerBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (g guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// checkTransport refuses to send secrets where others can read them.
func checkTransport(u *url.URL) error {
	if u.Scheme == "https" || u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback() {
		return nil
	}
	return fmt.Errorf("plain http to %s would show tokens to the network; use https", u.Host)
}
