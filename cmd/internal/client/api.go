package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	defaultServer    = "http://127.0.0.1:7070"
	defaultTokenFile = "./.hedgerow/admin.token"

	maxAnswer = 64 << 20 // of one response; a list comes in pages
	maxToken  = 4 << 10
	maxCAFile = 1 << 20
)

// api talks to one control plane.
type api struct {
	base      *url.URL
	http      *http.Client
	token     string // "" if there is none: some answers need none
	tokenFrom string // where token comes from, for the user: "the file admin.token"
	// unpublished is set by an answer to a write that is stored and has not
	// reached the data planes.
	unpublished bool
}

// open reads the flags, the environment and the files they name.
func (n *connection) open() (*api, error) {
	server := env(n.server, "HEDGEROW_SERVER")
	if server == "" {
		server = defaultServer
	}
	base, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	a := &api{base: base}
	config, err := tlsConfig(env(n.caFile, "HEDGEROW_CA_FILE"), env(n.certFile, "HEDGEROW_CERT_FILE"), env(n.keyFile, "HEDGEROW_KEY_FILE"))
	if err != nil {
		return nil, err
	}
	if len(config.Certificates) == 0 || n.tokenFile != "" { // who presents one goes by it alone
		if a.token, a.tokenFrom, err = n.readToken(); err != nil {
			return nil, err
		}
	}
	if base.Scheme == "http" && a.token != "" && !loopback(base.Hostname()) {
		return nil, mesh.Errorf("open", server, mesh.Invalid, "refusing to send the token to %s over plain HTTP", base.Host).
			WithHint("use https://, with --ca-file for a CA of your own")
	}
	a.http = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     config,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 10 * time.Second,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		},
		// A redirect would take the token, or a write, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a, nil
}

// parseServer accepts "https://host:port" and, for short, "host:port".
func parseServer(server string) (*url.URL, error) {
	bad := func(why string) error {
		return mesh.Errorf("open", server, mesh.Invalid, "server %.100q: %s", server, why).WithHint("write it as " + defaultServer)
	}
	full := server
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	switch {
	case err != nil || u.Host == "":
		return nil, bad("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("only http and https are spoken")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return nil, bad("a scheme, a host and a port are enough")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// readToken returns the token and where it comes from. A file that was named
// must be there; the default file need not.
func (n *connection) readToken() (token, from string, err error) {
	file := env(n.tokenFile, "HEDGEROW_TOKEN_FILE")
	if file == "" {
		if token = strings.TrimSpace(os.Getenv("HEDGEROW_TOKEN")); token != "" {
			return token, "$HEDGEROW_TOKEN", checkToken(token)
		}
		file = defaultTokenFile
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return "", "", nil
		}
	}
	raw, err := readFile(file, maxToken)
	if err != nil {
		return "", "", fmt.Errorf("token: %w", err)
	}
	token = strings.TrimSpace(string(raw))
	return token, "the file " + file, checkToken(token)
}

// checkToken refuses what is no bearer token (RFC 6750, section 2.1).
func checkToken(token string) error {
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return mesh.Errorf("open", "", mesh.Invalid, "the token is empty or is not one word of ASCII").
			WithHint("the file should hold the token and nothing else")
	}
	return nil
}

// readFile reads at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	raw, err := readAtMost(f, name, limit)
	return raw, errors.Join(err, f.Close())
}

func readAtMost(r io.Reader, name string, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return raw, nil
}

func tlsConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if (certFile == "") != (keyFile == "") {
		return nil, errors.New("--cert-file and --key-file go together")
	}
	if certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	if caFile == "" {
		return config, nil
	}
	pem, err := readFile(caFile, maxCAFile)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA: %s holds no PEM certificate", caFile)
	}
	return config, nil
}

// problem is an answer of the API that is not 2xx: RFC 9457 problem details
// with the members of ours.
type problem struct {
	Title      string           `json:"title"`
	Status     int              `json:"status"`
	Code       string           `json:"code"`
	Detail     string           `json:"detail"`
	Hint       string           `json:"hint"`
	Violations []mesh.Violation `json:"violations"`

	tokenHint string // what to do if it is a 401
}

// Error returns the problem on one line.
func (p *problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail) }

// call sends one request, with body as JSON if it is not nil, and returns the
// body of a 2xx answer. headers are names and values in turn. Any other answer is a *problem.
func (a *api) call(ctx context.Context, method, path string, query url.Values, body []byte, headers ...string) ([]byte, error) {
	u := *a.base
	u.Path, u.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, a.unreachable(ctx, err)
	}
	raw, err := readAtMost(resp.Body, "the answer of "+a.base.Host, maxAnswer)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return raw, a.problem(resp, raw)
	}
	a.unpublished = resp.Header.Get("Hedgerow-Published") == "false"
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "application/json" || !json.Valid(raw) {
		return nil, a.notOurs(resp.StatusCode, t)
	}
	return raw, nil
}

// unreachable says why there is no answer, without the method and URL that
// net/http puts before it.
func (a *api) unreachable(ctx context.Context, err error) error {
	if cause := (*url.Error)(nil); errors.As(err, &cause) {
		err = cause.Err
	}
	hint := ""
	unknownCA, notOurName := x509.UnknownAuthorityError{}, x509.HostnameError{}
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer in time from %s", a.base)
		hint = "--timeout allows more"
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = fmt.Sprintf("is the control plane running at %s? --server or HEDGEROW_SERVER names another", a.base)
	case errors.As(err, &unknownCA):
		hint = "--ca-file names the CA that signed the server's certificate"
	case errors.As(err, &notOurName):
		hint = "the server's certificate is for another name"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		hint = "the server speaks plain HTTP: use http://"
	}
	return (&mesh.Error{Op: "open", Name: a.base.String(), Kind: mesh.Unavailable, Err: err}).WithHint(hint)
}

func (a *api) problem(resp *http.Response, raw []byte) error {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	p := &problem{}
	if mediaType != "application/problem+json" || json.Unmarshal(raw, p) != nil {
		return a.notOurs(resp.StatusCode, mediaType)
	}
	p.Status = resp.StatusCode
	p.tokenHint = "name the token with --token-file, HEDGEROW_TOKEN or " + defaultTokenFile
	if a.token != "" {
		p.tokenHint = a.tokenFrom + " holds a token that this control plane does not know"
	}
	return p
}

func (a *api) notOurs(status int, mediaType string) error {
	return mesh.Errorf("open", a.base.String(), mesh.Unavailable, "%s answered %d %s", a.base, status, mediaType).
		WithHint("is this the address of a Hedgerow control plane?")
}
