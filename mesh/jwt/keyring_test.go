package jwt

import (
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// fetches collects what a Keyring tells.
type fetches struct {
	mu   sync.Mutex
	errs []error
	came chan struct{}
}

func (f *fetches) told(_ *KeySet, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
	select {
	case f.came <- struct{}{}:
	default:
	}
}

// first runs k until it has fetched once, and returns what became of that.
func first(t *testing.T, k *Keyring, f Fetching) error {
	t.Helper()
	told := &fetches{came: make(chan struct{}, 1)}
	f.Fetched = told.told
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Run(ctx, f)
	}()
	select {
	case <-told.came:
	case <-time.After(10 * time.Second):
		t.Error("nothing was fetched within 10 s")
	}
	cancel()
	<-ended
	told.mu.Lock()
	defer told.mu.Unlock()
	if len(told.errs) == 0 {
		return errors.New("nothing")
	}
	return told.errs[0]
}

func anywhere(netip.Addr) bool { return true }
func nowhere(netip.Addr) bool  { return false }

func TestFetching(t *testing.T) {
	i := newIssuer(t)
	document := set(t, jose.JSONWebKey{Key: i.ec.Public(), KeyID: "ec"})
	serve := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(document) }
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1); serve(w, r) }))
	defer other.Close()
	overTLS := httptest.NewTLSServer(http.HandlerFunc(serve))
	defer overTLS.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: overTLS.Certificate().Raw}))
	for _, r := range []struct {
		name    string
		handler http.HandlerFunc
		source  Source // in place of the handler's
		allowed func(netip.Addr) bool
		want    string // part of the error; "" is none
	}{
		{name: "over TLS, by its CA", source: Source{overTLS.URL, ca}, allowed: anywhere},
		{name: "over TLS, by no CA that is known", source: Source{overTLS.URL, ""}, allowed: anywhere, want: "certificate"},
		{name: "over TLS, where it may not be dialled", source: Source{overTLS.URL, ca}, allowed: nowhere, want: "not in the dialCidrs"},
		{name: "on this machine", handler: serve, allowed: anywhere},
		{name: "on this machine, where it may not be dialled", handler: serve, allowed: nowhere, want: "not in the dialCidrs"},
		{name: "in clear text from another machine", source: Source{"http://192.0.2.1/", ""}, allowed: anywhere, want: "over TLS only"},
		{name: "a metadata service", source: Source{"https://169.254.169.254/", ""}, allowed: nowhere, want: "not in the dialCidrs"},
		{name: "a redirect", handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }, allowed: anywhere, want: "302"},
		{name: "no keys", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) }, allowed: anywhere, want: "no key"},
		{name: "a page", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) }, allowed: anywhere, want: "not a JSON Web Key Set"},
		{name: "not found", handler: http.NotFound, allowed: anywhere, want: "404"},
		{name: "endless", handler: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, allowed: anywhere, want: "at most"},
	} {
		t.Run(r.name, func(t *testing.T) {
			source := r.source
			if r.handler != nil {
				srv := httptest.NewServer(r.handler)
				defer srv.Close()
				source = Source{URI: srv.URL}
			}
			k := NewKeyring(source)
			err := first(t, k, Fetching{Allowed: r.allowed})
			switch {
			case r.want == "" && (err != nil || k.Keys() == nil || k.Fetched().IsZero()):
				t.Errorf("got %v, keys %v", err, k.Keys())
			case r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want) || k.Keys() != nil):
				t.Errorf("got %v, keys %v, want an error with %q", err, k.Keys(), r.want)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests where a redirect leads", n)
	}
}

// Keys are kept between runs, so that a start needs no issuer.
func TestKeysAreKept(t *testing.T) {
	i := newIssuer(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(set(t, jose.JSONWebKey{Key: i.ec.Public(), KeyID: "ec"}))
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "jwks", "a.json")
	k := NewKeyring(Source{URI: srv.URL})
	if err := k.Load(file); err != nil || k.Keys() != nil {
		t.Fatalf("without a file: %v %v", err, k.Keys())
	}
	if err := first(t, k, Fetching{Allowed: anywhere, File: file}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	again := NewKeyring(k.Source())
	if err := again.Load(file); err != nil || !again.Keys().same(k.Keys()) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := NewKeyring(k.Source())
	if err := broken.Load(file); err == nil || broken.Keys() != nil {
		t.Errorf("of a broken file: %v %v", err, broken.Keys())
	}
}

// When keys are fetched: every ten minutes; after a failure a second later, then more and
// more seldom; for a token that names another key at once, but twice a minute at most.
func TestWhenKeysAreFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex // guards at
		var at []time.Duration
		var fail atomic.Bool
		fail.Store(true)
		fetched := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(at)
		}
		keys := &KeySet{keys: []*key{{public: (*ecdsa.PublicKey)(nil)}}}
		k := NewKeyring(Source{URI: "https://id.test"})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			k.refresh(ctx, func() (*KeySet, error) {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began).Round(time.Second))
				if fail.Load() {
					return nil, errors.New("away")
				}
				return keys, nil
			}, func(*KeySet, error) {})
		})
		sleep := func(d time.Duration) {
			timer := time.NewTimer(d)
			<-timer.C
			synctest.Wait()
		}
		sleep(200 * time.Second)
		want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183}
		first := fetched()
		for n, w := range want {
			if n >= len(first) || first[n] != w*time.Second {
				t.Fatalf("fetched at %v, want %v", first, want)
			}
		}
		fail.Store(false)
		sleep(100 * time.Second) // fetched at 243 s
		n := len(fetched())
		if fetched()[n-1] != 243*time.Second {
			t.Fatalf("fetched at %v", fetched())
		}
		for range 600 { // a minute of tokens with keys that nobody knows
			k.want()
			sleep(100 * time.Millisecond)
		}
		if got := len(fetched()) - n; got < 1 || got > 2 {
			t.Errorf("fetched %d times within a minute of unknown keys: %v", got, fetched()[n:])
		}
		n = len(fetched())
		sleep(9 * time.Minute)
		if len(fetched()) > n+1 {
			t.Errorf("fetched %v", fetched()[n:])
		}
		sleep(time.Minute)
		if len(fetched()) < n+1 {
			t.Errorf("not fetched again within ten minutes: %v", fetched())
		}
		cancel()
		run.Wait()
	})
}

// Before there are keys nothing is accepted, and nobody waits for them.
func TestNoKeysYet(t *testing.T) {
	i := newIssuer(t)
	k := NewKeyring(Source{URI: "https://id.test"})
	v := NewVerifier(Rules{Issuer: "https://id.test"}, k)
	_, no := v.Verify(sign(t, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, good), now)
	if no == nil || no.Reason != ReasonNoKeys {
		t.Errorf("got %v", no)
	}
	if len(k.wanted) != 1 {
		t.Error("nobody asked for the keys")
	}
}
