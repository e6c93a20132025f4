package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// maxAnswer bounds what is read of one answer of Vault, in bytes.
const maxAnswer = 16 << 20

// VaultServer is a running, unsealed Vault whose data live as long as the test.
type VaultServer struct {
	*server
	// Address is its URL, "http://127.0.0.1:port" or https; it stays over
	// restarts.
	Address string
	// CAFile is the CA to trust when it serves https; else empty.
	CAFile string
	// RootToken may do everything.
	RootToken string

	binary string
	tls    *TLSFiles
	client *http.Client
}

// VaultOption adjusts a Vault before it starts.
type VaultOption func(*VaultServer)

// VaultTLS serves https with these files.
func VaultTLS(files TLSFiles) VaultOption {
	return func(v *VaultServer) { v.tls = &files }
}

// Vault builds test/vaultd if need be, starts it and waits until it is
// unsealed. It is ended with the test. A build with an empty cache takes
// minutes: `make deps` does it beforehand.
func Vault(t testing.TB, opts ...VaultOption) *VaultServer {
	t.Helper()
	v := &VaultServer{binary: filepath.Join(buildModule(t, "vaultd", "."), "vaultd"), server: newServer(t, "vaultd")}
	for _, opt := range opts {
		opt(v)
	}
	transport := &http.Transport{DisableKeepAlives: true} // leaves no goroutine to a leak check
	if v.tls != nil {
		v.CAFile = v.tls.CAFile
		roots := x509.NewCertPool()
		pem, err := os.ReadFile(v.CAFile)
		if err != nil || !roots.AppendCertsFromPEM(pem) {
			t.Fatalf("read the CA of the test Vault from %s: %v", v.CAFile, err)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	}
	v.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	v.start = v.command
	v.probe = v.healthy
	v.launch()
	v.RootToken = v.secret("root-token")
	return v
}

// Restart ends the server, if it still runs, and starts it on the same port
// with the same data, unsealed.
func (v *VaultServer) Restart() {
	v.t.Helper()
	v.Stop()
	v.relaunch()
}

// Seal makes Vault answer 503 to everything until Unseal.
func (v *VaultServer) Seal() {
	v.t.Helper()
	v.must(http.MethodPut, "sys/seal", nil)
}

// Unseal opens a sealed Vault and waits until it serves.
func (v *VaultServer) Unseal() {
	v.t.Helper()
	v.must(http.MethodPut, "sys/unseal", map[string]any{"key": v.secret("unseal-key")})
	if err := v.awaitReady(); err != nil {
		v.t.Fatalf("unseal the test Vault: %v", err)
	}
}

// VaultError is an answer other than 2xx.
type VaultError struct {
	Method, Path string
	Status       int      // the HTTP status
	Errors       []string // Vault's own words
}

// Error says what was asked and what Vault answered, on one line.
func (e *VaultError) Error() string {
	words := strings.Join(strings.Fields(strings.Join(e.Errors, "; ")), " ")
	return fmt.Sprintf("vault %s %s: %d: %s", e.Method, e.Path, e.Status, words)
}

// Request asks Vault as root: path without "/v1/", body anything that
// marshals to a JSON object, or nil. It returns the answer's object, nil if
// the answer has no body, and a *VaultError if it is not 2xx.
func (v *VaultServer) Request(ctx context.Context, method, path string, body any) (map[string]any, error) {
	return v.RequestAs(ctx, v.RootToken, method, path, body)
}

// RequestAs is Request with another token, or with none if token is empty.
func (v *VaultServer) RequestAs(ctx context.Context, token, method, path string, body any) (map[string]any, error) {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("vault %s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, v.Address+"/v1/"+path, payload)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	res, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("vault %s %s: read the answer: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		failure := &VaultError{Method: method, Path: path, Status: res.StatusCode}
		var answer struct{ Errors []string }
		if json.Unmarshal(text, &answer) != nil {
			answer.Errors = []string{string(text)}
		}
		failure.Errors = answer.Errors
		return nil, failure
	}
	if len(text) == 0 {
		return nil, nil
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("vault %s %s: parse the answer: %w", method, path, err)
	}
	return answer, nil
}

// must is Request for steps that cannot fail in a working test.
func (v *VaultServer) must(method, path string, body any) map[string]any {
	v.t.Helper()
	answer, err := v.Request(context.Background(), method, path, body)
	if err != nil {
		v.t.Fatalf("set up the test Vault: %v", err)
	}
	return answer
}

func (v *VaultServer) command() (string, []string, error) {
	v.Address = "http://" + v.address()
	args := []string{
		"--listen", v.address(), "--storage", filepath.Join(v.dir, "data"),
		"--root-token-file", filepath.Join(v.dir, "root-token"),
		"--keys-file", filepath.Join(v.dir, "unseal-key"),
	}
	if v.tls != nil {
		v.Address = "https://" + v.address()
		args = append(args, "--tls-cert", v.tls.CertFile, "--tls-key", v.tls.KeyFile)
	}
	return v.binary, args, nil
}

// healthy succeeds once Vault is initialized, unsealed and active.
func (v *VaultServer) healthy(ctx context.Context) error {
	answer, err := v.RequestAs(ctx, "", http.MethodGet, "sys/health", nil)
	if err == nil && answer["sealed"] != false {
		err = errors.New("vault is sealed")
	}
	return err
}

// secret reads a file that the server wrote.
func (v *VaultServer) secret(name string) string {
	v.t.Helper()
	text, err := os.ReadFile(filepath.Join(v.dir, name))
	if err != nil {
		v.t.Fatalf("read the test Vault's %s: %v", name, err)
	}
	return strings.TrimSpace(string(text))
}
