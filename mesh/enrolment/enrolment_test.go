package enrolment

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const td = "hedgerow.local"

// authority is a Vault in memory: everything is good once.
type authority struct {
	ca      *localca.CA
	path    string
	wraps   map[string]bool
	secrets map[string]bool
	tokens  map[string]bool
	lose    string // the method whose reply is lost, once

	password string // in Redis
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca, err := localca.Open(t.TempDir(), localca.Config{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	return &authority{
		ca: ca, path: "auth/approle/role/edge7/secret-id",
		password: "s3cret", wraps: map[string]bool{"wrap-1": true}, secrets: map[string]bool{}, tokens: map[string]bool{},
	}
}

func denied(what string) error { return mesh.Errorf("vault", "", mesh.Denied, "%s is not valid", what) }

func (a *authority) lost(method string) error {
	if a.lose != method {
		return nil
	}
	a.lose = ""
	return mesh.Errorf("vault", "", mesh.Unavailable, "the connection was cut")
}

func (a *authority) Unwrap(_ context.Context, token, node string) (string, error) {
	if err := a.lost("lookup"); err != nil {
		return "", err
	}
	if !a.wraps[token] {
		return "", denied("the wrapping token")
	}
	if a.path != "auth/approle/role/"+node+"/secret-id" {
		return "", denied("another login's token")
	}
	delete(a.wraps, token)
	a.secrets["secret"] = true
	return "secret", a.lost("Unwrap")
}

func (a *authority) Login(_ context.Context, roleID, secretID string) (string, error) {
	if roleID != "role-edge7" || !a.secrets[secretID] {
		return "", denied("the secret id")
	}
	delete(a.secrets, secretID)
	a.tokens["token"] = true
	return "token", a.lost("Login")
}

func (a *authority) Sign(ctx context.Context, tokenFile string, r identity.Request) (identity.Issued, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil || !a.tokens[string(token)] {
		return identity.Issued{}, denied("the token")
	}
	issued, err := a.ca.Issue(ctx, r)
	if lost := a.lost("Sign"); lost != nil {
		return identity.Issued{}, lost
	}
	return issued, err
}

func (a *authority) RedisPassword(_ context.Context, tokenFile, node string) (string, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil || !a.tokens[string(token)] || node != "edge7" {
		return "", denied("the token")
	}
	if a.password == "" {
		return "", mesh.Errorf("vault", "", mesh.NotFound, "nothing is there")
	}
	return a.password, a.lost("RedisPassword")
}

func joinFile(t *testing.T) *JoinFile {
	t.Helper()
	root, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := signing.FormatPublicKeys(root.Public())
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(certFile(t))
	if err != nil {
		t.Fatal(err)
	}
	return &JoinFile{
		Node: "edge7", Token: "wrap-1", ExpireTime: time.Now().Add(15 * time.Minute), Mesh: "default", TrustDomain: td, ConfigurationRoots: string(roots),
		Vault:        Vault{Addresses: []string{"https://127.0.0.1:8200"}, CAPem: string(pem), RoleID: "role-edge7"},
		Redis:        Redis{Addresses: []string{"127.0.0.1:6379"}, TLS: true, CAPem: string(pem), PasswordInVault: true},
		ControlPlane: ControlPlane{URL: "https://127.0.0.1:7070", CAPem: string(pem)},
	}
}

func certFile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := localca.Open(dir, localca.Config{TrustDomain: td}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, localca.CertFile)
}

// host is where a test enrols.
type host struct {
	*Enroller
	t       *testing.T
	vault   *authority
	reports []bool
	mute    error // of Report
	steps   []string
	crashAt string
}

type crash struct{}

func newHost(t *testing.T, v *authority) *host {
	h := &host{t: t, vault: v}
	h.Enroller = &Enroller{
		DataDir: filepath.Join(t.TempDir(), "data"), Authority: v, Say: func(string, ...any) {},
		Report: func(_ context.Context, _ *JoinFile, _ string, enrolled bool) error {
			if h.mute == nil {
				h.reports = append(h.reports, enrolled)
			}
			return h.mute
		},
		after: func(step string) {
			h.steps = append(h.steps, step)
			if step == h.crashAt {
				panic(crash{})
			}
		},
	}
	return h
}

// run is one process: it may die at a step.
func (h *host) run(j *JoinFile) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(crash); !ok {
				panic(p)
			}
			err = errors.New("crashed")
		}
	}()
	return h.Run(h.t.Context(), j)
}

// enrolled looks at what there is in the end.
func (h *host) enrolled(j *JoinFile) {
	h.t.Helper()
	r, err := Load(h.DataDir)
	if err != nil || r == nil {
		h.t.Fatalf("the record: %v, %v", r, err)
	}
	if r.Node != "edge7" || r.Mesh != "default" || r.TrustDomain != td || !r.Reported || !slices.Equal(r.Redis.Addresses, j.Redis.Addresses) {
		h.t.Errorf("the record: %+v", r)
	}
	for file, want := range map[string]string{r.RootsFile(): j.ConfigurationRoots, r.VaultCAFile(): j.Vault.CAPem, r.RedisCAFile(): j.Redis.CAPem} {
		if raw, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(raw)) != strings.TrimSpace(want) {
			h.t.Errorf("%s: %q, %v", file, raw, err)
		}
	}
	id, err := j.id()
	if err != nil {
		h.t.Fatal(err)
	}
	metrics, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		h.t.Fatal(err)
	}
	n, err := identity.OpenNode(filepath.Join(h.DataDir, IdentityDir), id, metrics)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := n.Certificate(); err != nil {
		h.t.Error(err)
	}
	err = filepath.WalkDir(h.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			h.t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		if slices.Contains([]string{proofFile, askedFile, secretFile, tokenFile, keyFile}, d.Name()) {
			h.t.Errorf("%s is left", d.Name())
		}
		return err
	})
	if err != nil {
		h.t.Error(err)
	}
}

func TestAHostEnrols(t *testing.T) {
	h, j := newHost(t, newAuthority(t)), joinFile(t)
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
	h.enrolled(j)
	if want := []string{proofFile, askedFile, secretFile, tokenFile, keyFile, "certificate", passwordName, rootsName, vaultName, redisName, recordName, recordName}; !slices.Equal(h.steps, want) {
		t.Errorf("steps %q, want %q", h.steps, want)
	}
	// And again, as an installer does that runs twice.
	if err := h.run(j); err != nil {
		t.Error(err)
	}
	h.enrolled(j)
	if !slices.Equal(h.reports, []bool{true}) {
		t.Errorf("reports %v", h.reports)
	}
}

// The password in Redis is Vault's, and on disk for the node's processes.
func TestTheNodesPasswordInRedis(t *testing.T) {
	v := newAuthority(t)
	h, j := newHost(t, v), joinFile(t)
	v.password = ""
	err := h.run(j)
	if mesh.KindOf(err) != mesh.Unavailable || !strings.Contains(mesh.HintOf(err), "run this again") {
		t.Fatalf("without a password: %v; hint %s", err, mesh.HintOf(err))
	}
	v.password = "s3cret"
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
	r, err := Load(h.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readSecret(r.RedisPasswordFile()); err != nil || string(got) != "s3cret\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.KeepRedisPassword("other"); err != nil {
		t.Fatal(err)
	}
	if got, err := readSecret(r.RedisPasswordFile()); err != nil || string(got) != "other\n" {
		t.Errorf("%q, %v", got, err)
	}

	h, j = newHost(t, newAuthority(t)), joinFile(t)
	j.Redis.PasswordInVault = false
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
	if r, err = Load(h.DataDir); err != nil || r.RedisPasswordFile() != "" {
		t.Errorf("a node without one has %q, %v", r.RedisPasswordFile(), err)
	}
}

// A crash at any step is made up for by running it again.
func TestACrashAtEveryStep(t *testing.T) {
	for _, step := range []string{proofFile, askedFile, secretFile, tokenFile, keyFile, "certificate", passwordName, rootsName, vaultName, redisName, recordName} {
		t.Run(step, func(t *testing.T) {
			h, j := newHost(t, newAuthority(t)), joinFile(t)
			h.crashAt = step
			if err := h.run(j); err == nil || err.Error() != "crashed" {
				t.Fatalf("it did not come to %s: %v", step, err)
			}
			h.crashAt = ""
			if err := h.run(j); err != nil {
				t.Fatal(err)
			}
			h.enrolled(j)
			if !slices.Equal(h.reports, []bool{true}) {
				t.Errorf("reports %v", h.reports)
			}
		})
	}
}

// Of replies that are lost, two cannot be made up for: what they held existed once.
func TestALostReply(t *testing.T) {
	for method, again := range map[string]string{"lookup": "", "Sign": "", "RedisPassword": "", "Unwrap": "cut short, OR BY SOMEBODY ELSE", "Login": "secret id is not valid"} {
		t.Run(method, func(t *testing.T) {
			v := newAuthority(t)
			h, j := newHost(t, v), joinFile(t)
			v.lose = method
			if err := h.run(j); mesh.KindOf(err) != mesh.Unavailable {
				t.Fatalf("the first run: %v", err)
			}
			err := h.run(j)
			if again == "" {
				if err != nil {
					t.Fatal(err)
				}
				h.enrolled(j)
				return
			}
			if mesh.KindOf(err) != mesh.Denied || !strings.Contains(err.Error(), again) || !strings.Contains(mesh.HintOf(err), "hedgerow node join edge7") {
				t.Fatalf("%v; hint %s", err, mesh.HintOf(err))
			}
			v.wraps["wrap-2"] = true
			next := *j
			next.Token = "wrap-2"
			if err := h.run(&next); err != nil {
				t.Fatal(err)
			}
			h.enrolled(&next)
		})
	}
}

func TestATokenThatIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*authority, *JoinFile)
		want   string
		told   bool // the control plane, that it was refused
	}{
		{"used by somebody else", func(v *authority, _ *JoinFile) { clear(v.wraps) }, "SOMEBODY ELSE HAS USED THE TOKEN", true},
		{"ended", func(v *authority, j *JoinFile) { clear(v.wraps); j.ExpireTime = time.Now().Add(-time.Second) }, "the token ended at", false},
		{"of another node", func(v *authority, _ *JoinFile) { v.path = "auth/approle/role/edge9/secret-id" }, "CHANGED THE JOIN FILE", true},
		{"made by hand", func(v *authority, _ *JoinFile) { v.path = "sys/wrapping/wrap" }, "CHANGED THE JOIN FILE", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newAuthority(t)
			h, j := newHost(t, v), joinFile(t)
			tt.change(v, j)
			err := h.run(j)
			if mesh.KindOf(err) != mesh.Denied || !strings.Contains(err.Error(), tt.want) || mesh.HintOf(err) == "" {
				t.Errorf("%v; hint %q", err, mesh.HintOf(err))
			}
			if told := slices.Equal(h.reports, []bool{false}); told != tt.told || !told && h.reports != nil {
				t.Errorf("reports %v", h.reports)
			}
			if len(v.secrets) > 0 {
				t.Error("the token was unwrapped")
			}
			if r, err := Load(h.DataDir); r != nil || err != nil {
				t.Errorf("and it is enrolled: %+v, %v", r, err)
			}
		})
	}
}

// While the control plane is away a host enrols, and says so later.
func TestAReportIsMadeUpFor(t *testing.T) {
	h, j := newHost(t, newAuthority(t)), joinFile(t)
	h.mute = mesh.Errorf("x", "", mesh.Unavailable, "away")
	if err := h.run(j); mesh.KindOf(err) != mesh.Unavailable || !strings.Contains(err.Error(), "the host is enrolled, and the control plane does not know") {
		t.Fatal(err)
	}
	h.mute = nil
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
	h.enrolled(j)
}

// With another token a host enrols anew.
func TestAHostEnrolsAnew(t *testing.T) {
	v := newAuthority(t)
	h, j := newHost(t, v), joinFile(t)
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.DataDir, IdentityDir, "node.json")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	v.wraps["wrap-2"] = true
	next := *j
	next.Token = "wrap-2"
	if err := h.run(&next); err != nil {
		t.Fatal(err)
	}
	h.enrolled(&next)
	if after, err := os.ReadFile(file); err != nil || string(after) == string(before) {
		t.Errorf("the certificate is that of before, %v", err)
	}
}

func TestTwoRunsAtOnce(t *testing.T) {
	h, j := newHost(t, newAuthority(t)), joinFile(t)
	h.after = func(step string) {
		if step != askedFile {
			return
		}
		other := newHost(t, h.vault)
		other.DataDir = h.DataDir
		if err := other.run(j); mesh.KindOf(err) != mesh.Unavailable {
			t.Errorf("a second run: %v", err)
		}
	}
	if err := h.run(j); err != nil {
		t.Fatal(err)
	}
}

func TestReadJoinFile(t *testing.T) {
	write := func(change func(*JoinFile), mode fs.FileMode) string {
		j := joinFile(t)
		change(j)
		raw, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "join.json")
		if err := os.WriteFile(file, raw, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if j, err := ReadJoinFile(write(func(*JoinFile) {}, 0o600)); err != nil || j.Node != "edge7" || j.ExpireTime.IsZero() {
		t.Fatalf("%+v, %v", j, err)
	}
	for _, tt := range []struct {
		name   string
		change func(*JoinFile)
		want   string
	}{
		{"no node", func(j *JoinFile) { j.Node = "" }, "node:"},
		{"a node that is a path", func(j *JoinFile) { j.Node = "../x" }, "node:"},
		{"no mesh", func(j *JoinFile) { j.Mesh = "" }, "mesh:"},
		{"no trust domain", func(j *JoinFile) { j.TrustDomain = "" }, "trustDomain:"},
		{"no token", func(j *JoinFile) { j.Token = "" }, "token:"},
		{"no roots", func(j *JoinFile) { j.ConfigurationRoots = "" }, "configurationRoots:"},
		{"no Vault", func(j *JoinFile) { j.Vault.Addresses = nil }, "vault:"},
		{"no role", func(j *JoinFile) { j.Vault.RoleID = "" }, "vault:"},
		{"no Redis", func(j *JoinFile) { j.Redis.Addresses = nil }, "redis:"},
		{"a CA that is none", func(j *JoinFile) { j.Vault.CAPem = "x" }, "vault.caPem:"},
		{"no control plane", func(j *JoinFile) { j.ControlPlane.URL = "" }, "controlPlane.url:"},
		{"a control plane in the clear", func(j *JoinFile) { j.ControlPlane.URL = "http://192.0.2.1:7070" }, "is not https"},
		{"a control plane with a password", func(j *JoinFile) { j.ControlPlane.URL = "https://u:p@x" }, "controlPlane.url:"},
	} {
		if _, err := ReadJoinFile(write(tt.change, 0o600)); mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := ReadJoinFile(write(func(*JoinFile) {}, 0o640)); mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), "0640") || !strings.Contains(mesh.HintOf(err), "chmod 600") {
		t.Errorf("readable by others: %v (%s)", err, mesh.HintOf(err))
	}
}

func TestReport(t *testing.T) {
	var got []string
	status := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL.Path, body["proof"], body["outcome"], r.Header.Get("Content-Type")))
		if status != http.StatusOK {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, `{"detail":"no such proof"}`) // a client that left has no test
		}
	}))
	defer server.Close()
	j := joinFile(t)
	j.ControlPlane.URL = server.URL
	if err := Report(t.Context(), j, "p", true); mesh.KindOf(err) != mesh.Unavailable || len(got) != 0 {
		t.Errorf("a control plane of another CA: %v, %q", err, got)
	}
	j.ControlPlane.CAPem = string(pemOf(server))
	if err := errors.Join(Report(t.Context(), j, "p", true), Report(t.Context(), j, "p", false)); err != nil {
		t.Fatal(err)
	}
	const path = "POST /v1/nodes/edge7:reportJoin p "
	if want := []string{path + "ENROLLED application/json", path + "REFUSED application/json"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	status = http.StatusUnauthorized
	if err := Report(t.Context(), j, "p", true); mesh.KindOf(err) != mesh.Denied || !strings.Contains(err.Error(), "no such proof") {
		t.Error(err)
	}
}

func pemOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
