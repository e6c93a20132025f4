package acmecert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/acme"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const shop = "shop.example"

func config(names ...string) Config {
	return Config{Directory: "https://acme.example/dir", Email: "ops@shop.example", Hostnames: names, AcceptTerms: true}
}

func newAuthority(t *testing.T, dir string, clear bool) *Authority {
	t.Helper()
	a, err := New(config(shop), dir, clear, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// made returns a certificate for name that ends at the given time.
func made(t *testing.T, name string, ends time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: ends.Add(-3 * time.Hour), NotAfter: ends,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestConfig(t *testing.T) {
	long := strings.Repeat("a.", 100) + "example"
	for want, change := range map[string]func(c *Config){
		"": func(*Config) {},
		"acme.directory: \"http://acme.example/dir\" is not an https": func(c *Config) { c.Directory = "http://acme.example/dir" },
		"acme.directory: say which ACME server":                       func(c *Config) { c.Directory = "" },
		"acme.acceptTerms: read the terms":                            func(c *Config) { c.AcceptTerms = false },
		"acme.email: \"Ops <ops@shop.example>\"":                      func(c *Config) { c.Email = "Ops <ops@shop.example>" },
		"acme.hostnames[0]: \"*.shop.example\" has a wildcard":        func(c *Config) { c.Hostnames = []string{"*.shop.example"} },
		"acme.hostnames[0]: \"localhost\" is not":                     func(c *Config) { c.Hostnames = []string{"localhost"} },
		"acme.hostnames[0]: \"../shop.example\" is not":               func(c *Config) { c.Hostnames = []string{"../shop.example"} },
		"acme.hostnames[0]: \"a.a.":                                   func(c *Config) { c.Hostnames = []string{long} },
		"acme.hostnames: 101 names":                                   func(c *Config) { c.Hostnames = make([]string, 101) },
	} {
		c := config(shop)
		change(&c)
		errs := c.Check("acme")
		if want == "" && len(errs) > 0 || want != "" && (len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), want)) {
			t.Errorf("%q is wanted: %v", want, errs)
		}
		if _, err := New(c, t.TempDir(), false, zerolog.Nop()); (err == nil) != (want == "") {
			t.Errorf("New: %v", err)
		}
	}
}

// What is kept is read by nobody else and by the next start; what is of no use is not
// served.
func TestKeptCertificates(t *testing.T) {
	for name, tt := range map[string]struct {
		cert  *tls.Certificate
		spoil func(file string) error
		ok    bool
	}{
		"as it was":     {made(t, shop, time.Now().Add(time.Hour)), nil, true},
		"ended":         {made(t, shop, time.Now().Add(-time.Hour)), nil, false},
		"of another":    {made(t, "other.example", time.Now().Add(time.Hour)), nil, false},
		"half a file":   {made(t, shop, time.Now().Add(time.Hour)), func(file string) error { return os.Truncate(file, 300) }, false},
		"an empty file": {made(t, shop, time.Now().Add(time.Hour)), func(file string) error { return os.Truncate(file, 0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			first := newAuthority(t, dir, false)
			if first.Certificate(shop).Current() != nil {
				t.Fatal("there is one before any is kept")
			}
			if err := first.files.keep(shop, tt.cert); err != nil {
				t.Fatal(err)
			}
			if tt.spoil != nil {
				if err := tt.spoil(first.files.path(shop)); err != nil {
					t.Fatal(err)
				}
			}
			c := newAuthority(t, dir, false).Certificate(shop)
			if (c.Current() != nil) != tt.ok || (c.Ready() == nil) != tt.ok {
				t.Errorf("it is %v, %v", c.Current(), c.Ready())
			}
			if from, until := c.Life(); tt.ok && (!from.Equal(tt.cert.Leaf.NotBefore) || !until.Equal(tt.cert.Leaf.NotAfter)) {
				t.Errorf("its life is from %v to %v", from, until)
			}
		})
	}
}

func TestFilesArePrivate(t *testing.T) {
	a := newAuthority(t, t.TempDir(), false)
	first, err := a.files.account()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.files.account(); err != nil || !again.Equal(first) {
		t.Errorf("the account's key is another one, %v", err)
	}
	for range 2 { // over the one of before, too
		if err := a.files.keep(shop, made(t, shop, time.Now().Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	err = filepath.WalkDir(a.files.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); d.IsDir() && mode != 0o700 || !d.IsDir() && mode != 0o600 {
			t.Errorf("%s has mode %v", path, mode)
		}
		names = append(names, d.Name())
		return nil
	})
	if err != nil || len(names) != 3 {
		t.Errorf("there are %q, %v", names, err)
	}
	if err := os.WriteFile(filepath.Join(a.files.dir, accountFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.files.account(); err == nil {
		t.Error("an account's key that is broken is replaced, and the account lost")
	}
}

// A proof is shown while it is asked for, to who asks for nothing else.
func TestProofsAreForServers(t *testing.T) {
	a := newAuthority(t, t.TempDir(), true)
	key, err := a.files.account()
	if err != nil {
		t.Fatal(err)
	}
	client, c := &acme.Client{Key: key}, a.Certificate(shop)
	asking := func(name string, alpn ...string) bool {
		return a.Proof(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: alpn}) != nil
	}
	if asking(shop, "acme-tls/1") {
		t.Error("a proof before an order")
	}
	hide, err := c.show(client, &acme.Challenge{Type: tlsALPN01, Token: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	if !asking(shop, "acme-tls/1") {
		t.Error("no proof")
	}
	if asking(shop, "h2", "acme-tls/1") || asking(shop) || asking(shop, "h2") || asking("other.example", "acme-tls/1") {
		t.Error("a proof for somebody else")
	}
	hide()
	if asking(shop, "acme-tls/1") {
		t.Error("a proof after the order")
	}
	hide, err = c.show(client, &acme.Challenge{Type: http01, Token: "t2"})
	if err != nil {
		t.Fatal(err)
	}
	if text, known := a.Token("t2"); !known || !strings.HasPrefix(text, "t2.") {
		t.Errorf("%q, %v", text, known)
	}
	if _, known := a.Token("t1"); known {
		t.Error("a token of another challenge is known")
	}
	hide()
	if _, known := a.Token("t2"); known {
		t.Error("a token is known after its order")
	}
}

// What worked last is tried first.
func TestKindsOfChallenges(t *testing.T) {
	c := newAuthority(t, t.TempDir(), false).Certificate(shop)
	if got := strings.Join(c.kinds(), " "); got != tlsALPN01 {
		t.Errorf("without a listener in clear text: %s", got)
	}
	c = newAuthority(t, t.TempDir(), true).Certificate(shop)
	if got := strings.Join(c.kinds(), " "); got != tlsALPN01+" "+http01 {
		t.Errorf("with one: %s", got)
	}
	kind := http01
	c.answered.Store(&kind)
	if got := strings.Join(c.kinds(), " "); got != http01+" "+tlsALPN01 {
		t.Errorf("after HTTP-01: %s", got)
	}
}

// A server that is away is asked again soon; one that refuses counts, and is asked
// seldom; one that says when is heard.
func TestPace(t *testing.T) {
	limited := &acme.Error{StatusCode: 429, ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"7200"}}}
	for name, tt := range map[string]struct {
		err  error
		kind mesh.Kind
		want []time.Duration // after 0, 1 and 20 failures
	}{
		"away":         {errors.New("connection refused"), mesh.Unavailable, []time.Duration{5 * time.Second, 10 * time.Second, time.Hour}},
		"stumbling":    {&acme.Error{StatusCode: 503}, mesh.Unavailable, []time.Duration{5 * time.Second, 10 * time.Second, time.Hour}},
		"refusing":     {&acme.Error{StatusCode: 403}, mesh.Denied, []time.Duration{5 * time.Minute, 10 * time.Minute, time.Hour}},
		"not verified": {&acme.AuthorizationError{}, mesh.Denied, []time.Duration{5 * time.Minute, 10 * time.Minute, time.Hour}},
		"limiting":     {limited, mesh.Unavailable, []time.Duration{2 * time.Hour, 2 * time.Hour, 2 * time.Hour}},
	} {
		err := refused("op", shop, tt.err)
		if err.Kind != tt.kind || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v of kind %v", name, err, err.Kind)
		}
		for i, n := range []int{0, 1, 20} {
			if got := Pace().Retry(n, err); got != tt.want[i] {
				t.Errorf("%s, after %d failures: %v, want %v", name, n, got, tt.want[i])
			}
		}
	}
}

// Whatever a server's answers point to, nothing goes over a plain network, and no
// answer is endless.
func TestClientIsGuarded(t *testing.T) {
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()
	endless := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, maxAnswer+1))
	}))
	defer endless.Close()
	roots := x509.NewCertPool()
	roots.AddCert(endless.Certificate())
	c := newClient(roots)
	defer c.CloseIdleConnections()
	get := func(url string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := get(plain.URL); err == nil || asked {
		t.Errorf("by http: %v, asked %v", err, asked)
	}
	if err := get(endless.URL); err == nil {
		t.Error("an endless answer is read")
	}
}

// A certificate that ends while nobody could renew it is not served any more.
func TestEndedCertificates(t *testing.T) {
	c := newAuthority(t, t.TempDir(), false).Certificate(shop)
	for ends, serves := range map[time.Duration]bool{time.Hour: true, -time.Second: false} {
		c.held.Store(&held{made(t, shop, time.Now().Add(ends)), time.Now()})
		if (c.Current() != nil) != serves || (c.Ready() == nil) != serves {
			t.Errorf("one that ends in %v: %v, %v", ends, c.Current(), c.Ready())
		}
	}
}
