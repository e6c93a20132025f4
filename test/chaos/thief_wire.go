package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// wireAs is who calls the inbound of a node.
type wireAs struct {
	// certs are presented in place of what an attempt presents, by the node that is called.
	certs  map[string]*tls.Certificate
	proper bool // the handshake is as it has to be, whatever the attempt's is
	direct bool // to the workload itself, past its sidecar
}

// wireCall is a request to the inbound of a node.
type wireCall struct {
	node, method, path string
	cert               *tls.Certificate
	header             http.Header
	// claim is what the workload must not read in the headers; without one it must not get
	// the request at all.
	claim string
	shake func(*tls.Config)
	h2    bool
	tag   string
}

// What a peer that is refused is told.
const (
	wireDenied  = `^403: `
	noPeer      = `remote error: tls: bad certificate`
	noCert      = `remote error: tls: certificate required`
	noName      = `remote error: tls: internal error`
	noProtocol  = `remote error: tls: (no application protocol|bad certificate)`
	noVersion   = `remote error: tls: protocol version not supported`
	noStream    = `(EOF|connection reset by peer|server closed idle connection)$`
	onlyClaimed = `^200, and without the claim`
)

// robWire calls the other nodes as whom the thief is not.
func (e *estate) robWire(r *row, l *loot) {
	own := wireAs{}
	calls, shakes, claims := e.wireAttempts(l)
	assail(e.t, r, "wire", 20, concat(calls, shakes, claims), own)
	allowed := map[string]*tls.Certificate{"shop": e.steal("ledger").leaf(), "ledger": e.steal("shop").leaf()}
	vouch(e.t, r, "wire_calls", calls, wireAs{certs: allowed})
	vouch(e.t, r, "wire_handshakes", shakes, wireAs{certs: allowed, proper: true})
	vouch(e.t, r, "wire_claims", claims, wireAs{direct: true})
}

func concat[T any](lists ...[]T) []T {
	var all []T
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// wireAttempts are calls that policies do not allow, handshakes that make no peer, and
// headers that claim to be another.
func (e *estate) wireAttempts(l *loot) (calls, shakes, claims []attempt[wireAs]) {
	add := func(to *[]attempt[wireAs], name, why string, c wireCall) {
		c.tag = name
		if c.method == "" {
			c.method, c.path = http.MethodGet, "/public"
		}
		*to = append(*to, attempt[wireAs]{name: name, why: why, do: func(ctx context.Context, as wireAs) verdict { return e.ask(ctx, as, c) }})
	}
	leaf := l.leaf()
	for _, c := range [][3]string{
		{"shop", "POST", "/public"}, {"shop", "GET", "/"}, {"shop", "GET", "/admin"}, {"shop", "GET", "/public/more"}, {"shop", "GET", "/Public"}, {"shop", "GET", "/public/../admin"},
		{"shop", "GET", "/x//..//admin"}, {"shop", "GET", "/%61dmin"}, {"shop", "DELETE", "/public"}, {"shop", "get", "/public"}, {"shop", "HEAD", "/public"},
		{"ledger", "GET", "/public"}, {"ledger", "GET", "/"}, {"ledger", "POST", "/entries"}, {"ledger", "OPTIONS", "/"},
	} {
		add(&calls, strings.Join(c[:], " "), wireDenied, wireCall{node: c[0], method: c[1], path: c[2], cert: leaf})
		add(&calls, strings.Join(c[:], " ")+" by HTTP/2", wireDenied, wireCall{node: c[0], method: c[1], path: c[2], cert: leaf, h2: true})
	}
	const byShop, byLedger = "/svc/shop/n/shop", "/svc/ledger/n/ledger"
	for name, header := range claimsOf(byShop) {
		add(&calls, "ledger, and claims by "+name, wireDenied, wireCall{node: "ledger", cert: leaf, header: header})
	}
	for name, header := range claimsOf(byLedger) {
		add(&claims, "claims by "+name, onlyClaimed, wireCall{node: "shop", cert: leaf, header: header, claim: byLedger})
		add(&calls, "shop, and claims by "+name, wireDenied, wireCall{node: "shop", method: http.MethodGet, path: "/admin", cert: leaf, header: header})
	}
	for node, other := range map[string]string{"shop": "ledger", "ledger": "shop"} {
		id := "/svc/" + other + "/n/" + other
		ca, key := newAuthority(e.t)
		for name, cert := range map[string]*tls.Certificate{
			"the node's certificate":                l.node,
			"a CA of its own":                       forgeCertificate(e.t, id, ca, key),
			"its service's certificate as a CA":     forgeCertificate(e.t, id, leaf.Leaf, leaf.PrivateKey, leaf.Certificate[1:]...),
			"the node's certificate as a CA":        forgeCertificate(e.t, id, l.node.Leaf, l.node.PrivateKey, l.node.Certificate[1:]...),
			"a certificate of its own, and no more": selfSigned(e.t, id),
		} {
			add(&shakes, node+" by "+name, noPeer, wireCall{node: node, cert: cert})
		}
		add(&shakes, node+" by the certificate of its service and another key", `remote error: tls: error decrypting message`, wireCall{node: node, cert: mixed(e.t, leaf)})
		add(&shakes, node+" without a certificate", noCert, wireCall{node: node})
		add(&shakes, node+" by the name of "+other, noName, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.ServerName = serverName(other, other) }})
		add(&shakes, node+" by its own name", noName, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.ServerName = serverName("a", victim) }})
		add(&shakes, node+" without a name", noName, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.ServerName = "" }})
		add(&shakes, node+" without a protocol", noProtocol, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.NextProtos = nil }})
		add(&shakes, node+" by a raw stream", noStream, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.NextProtos = []string{identity.ProtocolTCP} }})
		add(&shakes, node+" by TLS 1.2", noVersion, wireCall{node: node, cert: leaf, shake: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }})
	}
	return calls, shakes, claims
}

// claimsOf are headers by which somebody says that he is another.
func claimsOf(id string) map[string]http.Header {
	id = whole(id)
	return map[string]http.Header{
		"XFCC":                     {"X-Forwarded-Client-Cert": {"URI=" + id}},
		"XFCC in other letters":    {"x_forwarded_client_cert": {"URI=" + id}},
		"X-Forwarded-User":         {"X-Forwarded-User": {id}},
		"Forwarded":                {"Forwarded": {"for=\"" + id + "\""}},
		"Hedgerow-Identity":        {"Hedgerow-Identity": {id}},
		"hedgerow_device":          {"hedgerow_device": {id}},
		"Hedgerow-Topic and a dot": {"Hedgerow.Caller": {id}},
	}
}

// serverName is by which name a service on a node is called.
func serverName(service, node string) string { return service + "." + node + "." + rig.Name }

// ask makes the call. What counts is what the workload has heard.
func (e *estate) ask(ctx context.Context, as wireAs, c wireCall) verdict {
	at := e.planes[c.node].Inbound
	scheme, addr, tlsConfig := "https", at, e.shake(as, c)
	if as.direct {
		scheme, addr, tlsConfig = "http", e.heard[c.node].addr, nil
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: c.h2}
	transport.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: tlsConfig}).DialContext(ctx, network, at)
	}
	req := (&http.Request{
		Method: c.method, URL: &url.URL{Scheme: scheme, Host: addr, Opaque: c.path}, Host: c.node + ".mesh", // the path as it is
		Header: http.Header{attemptHeader: {c.tag}},
	}).WithContext(ctx)
	for name, values := range c.header {
		req.Header[name] = values
	}
	e.heard[c.node].take(c.tag)
	resp, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	heard := e.heard[c.node].take(c.tag)
	if heard != nil && (c.claim == "" || strings.Contains(text(heard), c.claim)) {
		return verdict{done: true, answer: "the workload has heard it"}
	}
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return failed(err)
	}
	o := answered(resp.StatusCode, body)
	if heard != nil && o.done {
		return verdict{answer: "200, and without the claim"}
	}
	return o
}

// text is headers as one text.
func text(h http.Header) string {
	var b strings.Builder
	_ = h.Write(&b) // into memory
	return b.String()
}

// shake is how the handshake is made.
func (e *estate) shake(as wireAs, c wireCall) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName(c.node, c.node), NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // whom a thief calls is not what is in question
	}
	if c.h2 {
		config.NextProtos = []string{"h2"}
	}
	cert := c.cert
	if instead := as.certs[c.node]; instead != nil {
		cert = instead
	}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if c.shake != nil && !as.proper {
		c.shake(config)
	}
	return config
}

// ok is the verdict as an error.
func (o verdict) ok() error {
	if o.done {
		return nil
	}
	return errors.New(o.answer)
}

// forgeCertificate signs a certificate for an identity by a certificate that is none of a CA, or of
// one that nobody trusts.
func forgeCertificate(t *stage.T, id string, ca *x509.Certificate, signer any, above ...[]byte) *tls.Certificate {
	t.Helper()
	u, err := url.Parse(whole(id))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{u}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	parent, chain := ca, append([][]byte{nil}, above...)
	if ca == nil { // by itself
		parent, signer = template, key
	} else {
		chain = append([][]byte{nil, ca.Raw}, above...)
	}
	if chain[0], err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

func selfSigned(t *stage.T, id string) *tls.Certificate { return forgeCertificate(t, id, nil, nil) }

// mixed is the chain of a certificate with a key that is not its own.
func mixed(t *stage.T, cert *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: cert.Certificate, PrivateKey: key, Leaf: cert.Leaf}
}
