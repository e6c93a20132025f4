package controlapi

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

const testToken = "test-token-0123456789"

// memoryLog is a Log in memory. It holds the writer to the log's contract.
type memoryLog struct {
	mu      sync.Mutex
	head    mesh.Head
	records mesh.Records
	changes []mesh.Change
	fail    error
}

func (l *memoryLog) Append(_ context.Context, c mesh.Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	if c.Head.Revision != l.head.Revision+1 {
		return mesh.Errorf("log", "", mesh.Stale, "revision %d after %d", c.Head.Revision, l.head.Revision)
	}
	next := maps.Clone(l.records)
	if next == nil {
		next = mesh.Records{}
	}
	next.Apply(c)
	if next.Published().Digest() != c.Head.Digest {
		return mesh.Errorf("log", "", mesh.Internal, "the digest is wrong")
	}
	l.head, l.records, l.changes = c.Head, next, append(l.changes, c)
	return nil
}

func (l *memoryLog) Load(context.Context) (mesh.Head, mesh.Records, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, maps.Clone(l.records), nil
}

func (l *memoryLog) revision() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Revision
}

// fakePublisher is a registry that can be away.
type fakePublisher struct {
	mu        sync.Mutex
	pingErr   error
	err       error
	outcome   registry.Outcome
	published []mesh.Change
	bases     []mesh.Head
}

func (p *fakePublisher) Ping(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pingErr
}

func (p *fakePublisher) Publish(_ context.Context, c mesh.Change, base mesh.Head, all mesh.Records) (registry.Outcome, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	if all.Digest() != c.Head.Digest {
		return 0, mesh.Errorf("publish", "", mesh.Internal, "the records are not the change's")
	}
	p.published, p.bases = append(p.published, c), append(p.bases, base)
	if p.outcome != 0 {
		return p.outcome, nil
	}
	return registry.Published, nil
}

type fakeObserved []registry.Report

func (o fakeObserved) Reports() []registry.Report { return o }

// api is a control plane on a real listener.
type api struct {
	t         *testing.T
	url       string
	addr      string
	server    *Server
	log       *memoryLog
	publisher *fakePublisher
}

func newAPI(t *testing.T, edit ...func(*Options)) *api {
	t.Helper()
	a := &api{t: t, log: &memoryLog{}, publisher: &fakePublisher{}}
	reg := prometheus.NewRegistry()
	opts := Options{
		Log: a.log, Publisher: a.publisher, Authority: signers.New("test").Authority(), TokenFile: tokenFile(t, testToken+"\n"),
		Metrics: reg, Gatherer: reg, RequestsPerSecond: 1e6, Logger: zerolog.Nop(), Hosts: []string{"mesh.example"},
	}
	for _, e := range edit {
		e(&opts)
	}
	var err error
	a.server, err = New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.url = "http://" + a.addr
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		select {
		case err := <-done:
			if err != nil {
				t.Error("Serve:", err)
			}
		case <-time.After(2 * drainTimeout):
			t.Error("Serve did not return")
		}
	})
	return a
}

func tokenFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

func (a answer) code() string {
	code, _ := a.json["code"].(string)
	return code
}

// fields lists the fields of the violations.
func (a answer) fields() []string {
	var out []string
	violations, _ := a.json["violations"].([]any)
	for _, v := range violations {
		field, _ := v.(map[string]any)["field"].(string)
		out = append(out, field)
	}
	return out
}

// do sends a request with the token. headers are name, value, ...; an empty
// value removes the header, and "Host" is the host.
func (a *api) do(method, path, body string, headers ...string) answer {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	for i := 0; i < len(headers); i += 2 {
		switch {
		case headers[i] == "Host":
			req.Host = headers[i+1]
		case headers[i+1] == "":
			req.Header.Del(headers[i])
		default:
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	out := answer{status: resp.StatusCode, header: resp.Header, body: string(raw)}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && len(raw) > 0 {
		if err := json.Unmarshal(raw, &out.json); err != nil {
			a.t.Fatalf("%s %s: %v in %q", method, path, err, raw)
		}
	}
	return out
}

// must is do, for requests that set the scene.
func (a *api) must(method, path, body string, headers ...string) answer {
	a.t.Helper()
	got := a.do(method, path, body, headers...)
	if got.status != http.StatusOK {
		a.t.Fatalf("%s %s: %d %s", method, path, got.status, got.body)
	}
	return got
}

const (
	ordersService = `{"subsets":[{"name":"v1","labels":{"version":"v1"}},{"name":"v2","labels":{"version":"v2"}}]}`
	demoRoute     = `{"targets":["GATEWAY"],"hostnames":["demo.localhost"],"rules":[{"name":"orders","matches":[{"path":{"prefix":"/orders"}}],"backends":[{"service":"orders","subset":"v1","weight":90},{"service":"orders","subset":"v2","weight":10}],"timeout":"2.5s"}]}`
)

// withDemo stores a service and a route to it: revisions 1 and 2.
func withDemo(t *testing.T, edit ...func(*Options)) *api {
	t.Helper()
	a := newAPI(t, edit...)
	a.must("PUT", "/v1/services/orders", ordersService)
	a.must("PUT", "/v1/routes/demo", demoRoute)
	return a
}
