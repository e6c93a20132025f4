package vaultpki

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// One address after another is tried until one serves, which stays in use.
func TestAnotherAddressServes(t *testing.T) {
	answers := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for _, tt := range []struct {
		name  string
		first http.HandlerFunc // nil: nothing listens
	}{
		{"nothing listens", nil},
		{"sealed", answers(503, `{"errors":["Vault is sealed"]}`)},
		{"not initialized", answers(501, `{"errors":["Vault is not initialized"]}`)},
		{"a standby without an active node", answers(500, `{"errors":["local node not active but active cluster node not found"]}`)},
		{"a standby that does not forward", answers(473, "")},
		{"something in between", answers(502, "<html>")},
		{"it says nothing", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int32
			first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if tt.first != nil {
					tt.first(w, r)
				}
			}))
			defer first.Close()
			if tt.first == nil {
				first.Close()
			}
			f := newFake(t)
			cfg := f.config(t)
			cfg.Addresses = []string{first.URL, f.URL}
			cfg.Timeout = time.Second
			c := newClient(t, cfg)
			if err := c.Probe(t.Context()); err != nil {
				t.Errorf("Probe: %v", err)
			}
			for range 3 {
				if _, err := issue(t, c, ordersID); err != nil {
					t.Fatal(err)
				}
			}
			if n := asked.Load(); n > 1 {
				t.Errorf("the first address was asked %d times", n)
			}
			if f.count("login") != 1 || f.count("sign") != 3 {
				t.Errorf("calls %v, want one login and three signatures", f.calls)
			}
		})
	}
}

// A refusal is Vault's answer, and no reason to ask elsewhere.
func TestARefusalIsNotAskedElsewhere(t *testing.T) {
	f, other := newFake(t), newFake(t)
	f.answer = func(operation string, w http.ResponseWriter) bool {
		if operation == "sign" {
			refuse(w, 400, "the CSR is bad")
		}
		return operation == "sign"
	}
	cfg := f.config(t)
	cfg.Addresses = append(cfg.Addresses, other.URL)
	_, err := issue(t, newClient(t, cfg), ordersID)
	checkError(t, err, mesh.Invalid, "the CSR is bad", false)
	if len(other.calls) != 0 {
		t.Errorf("the other address was asked %v", other.calls)
	}
}

func TestNoAddressServes(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	f := newFake(t)
	f.answer = func(_ string, w http.ResponseWriter) bool {
		refuse(w, 503, "Vault is sealed")
		return true
	}
	cfg := f.config(t)
	cfg.Addresses = []string{f.URL, gone.URL}
	c := newClient(t, cfg)
	_, err := issue(t, c, ordersID)
	checkError(t, err, mesh.Unavailable, "Vault is sealed", true)
	checkError(t, c.Probe(t.Context()), mesh.Unavailable, "Vault is sealed", true)
	f.Close()
	_, err = issue(t, c, ordersID)
	checkError(t, err, mesh.Unavailable, "connection refused", true)
	if strings.Contains(err.Error(), anyNodeHost) || !strings.Contains(err.Error(), strings.TrimPrefix(gone.URL, "http://")) {
		t.Errorf("the error does not name the address: %v", err)
	}
}

// A login that fails is no loss while the token of before lives.
func TestATokenOutlivesAFailedLogin(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	if _, err := issue(t, c, ordersID); err != nil {
		t.Fatal(err)
	}
	age(c, 31*time.Minute)
	f.answer = func(operation string, w http.ResponseWriter) bool {
		if operation == "login" || operation == "renew" {
			refuse(w, 500, "storage is away")
			return true
		}
		return false
	}
	if _, err := issue(t, c, ordersID); err != nil {
		t.Errorf("half an hour before its end: %v", err)
	}
	age(c, 30*time.Minute)
	_, err := issue(t, c, ordersID)
	checkError(t, err, mesh.Unavailable, "vaultpki.Login edge7: storage is away", false)
}
