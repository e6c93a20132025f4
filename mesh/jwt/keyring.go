package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Times of fetching.
const (
	fetchTimeout = 5 * time.Second
	fetchEvery   = 10 * time.Minute // Envoy's cache_duration
	// wantedEvery is how often tokens with an unknown key may have the keys fetched.
	wantedEvery  = 30 * time.Second
	firstBackoff = time.Second
	mostBackoff  = time.Minute
)

// Source is where an issuer publishes its keys.
type Source struct {
	URI   string // https, or http of this machine
	CAPem string // whom its server is certified by; "" is the system's CAs
}

// Keyring is the keys of an issuer as they are now. It may be used by many goroutines.
type Keyring struct {
	source  Source
	keys    atomic.Pointer[KeySet]
	fetched atomic.Int64 // when, in seconds since 1970; 0 is never
	wanted  chan struct{}
}

// Fixed returns a Keyring whose keys do not change.
func Fixed(keys *KeySet) *Keyring {
	k := NewKeyring(Source{})
	k.keys.Store(keys)
	return k
}

// NewKeyring returns a Keyring without keys. Run fetches them.
func NewKeyring(source Source) *Keyring {
	return &Keyring{source: source, wanted: make(chan struct{}, 1)}
}

// Source returns where the keys come from; it is zero if they do not change.
func (k *Keyring) Source() Source { return k.source }

// Keys returns the keys, or nil if there are none yet.
func (k *Keyring) Keys() *KeySet { return k.keys.Load() }

// Fetched returns when the keys were fetched; it is zero before.
func (k *Keyring) Fetched() time.Time {
	if at := k.fetched.Load(); at != 0 {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// want asks for the keys to be fetched soon. It never waits.
func (k *Keyring) want() {
	select {
	case k.wanted <- struct{}{}:
	default:
	}
}

// Fetching is how keys are fetched.
type Fetching struct {
	// Allowed reports whether addr may be dialled. It is asked after the name was
	// looked up, of each address.
	Allowed func(addr netip.Addr) bool
	// File is where the keys are kept between runs; "" nowhere.
	File string
	// Fetched is told of each fetch: what keys it brought, nil if none, and what went
	// wrong. Keys with an error count, and could not be kept.
	Fetched func(keys *KeySet, err error)
}

// Load takes the keys that an earlier run kept, if there are any. An error says why
// what is there is no good; nothing else depends on it.
func (k *Keyring) Load(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(f, MaxSetBytes+1))
	if err != nil {
		return err
	}
	keys, err := ParseKeySet(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	k.fetched.Store(info.ModTime().Unix())
	k.keys.Store(keys)
	return nil
}

// Run fetches the keys now, and again before they are old or when a token names one that
// is not among them, until ctx ends. Keys that were fetched count until others are: an
// issuer that is away locks nobody out.
func (k *Keyring) Run(ctx context.Context, f Fetching) {
	client, err := k.client(f.Allowed)
	if err != nil { // its CAs were validated
		f.Fetched(nil, err)
		return
	}
	defer client.CloseIdleConnections()
	k.refresh(ctx, func() (*KeySet, error) { return k.fetch(ctx, client, f.File) }, f.Fetched)
}

// refresh is Run, by fetch.
func (k *Keyring) refresh(ctx context.Context, fetch func() (*KeySet, error), fetched func(*KeySet, error)) {
	for backoff := firstBackoff; ; {
		keys, err := fetch()
		if ctx.Err() != nil {
			return
		}
		fetched(keys, err)
		pause := fetchEvery - rand.N(fetchEvery/10)
		if keys == nil {
			pause, backoff = backoff, min(2*backoff, mostBackoff)
		} else {
			backoff = firstBackoff
		}
		if !k.pause(ctx, pause) {
			return
		}
	}
}

// pause waits until it is time to fetch again; it is not ok if ctx ends first.
func (k *Keyring) pause(ctx context.Context, d time.Duration) bool {
	began := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-k.wanted: // who asks before it is time asks again
			if time.Since(began) >= wantedEvery {
				return true
			}
		}
	}
}

// client returns what fetches: it goes nowhere that is not allowed, follows no redirect,
// uses no proxy of the environment, and inflates nothing.
func (k *Keyring) client(allowed func(netip.Addr) bool) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.source.CAPem != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(k.source.CAPem)) {
			return nil, errors.New("the CAs of the issuer cannot be read")
		}
	}
	plain := strings.HasPrefix(k.source.URI, "http://")
	d := net.Dialer{Timeout: fetchTimeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		switch addr := at.Addr().Unmap(); {
		case plain && !addr.IsLoopback():
			return fmt.Errorf("%s is another machine, where keys are fetched over TLS only", addr)
		case !allowed(addr):
			return fmt.Errorf("%s is not a public address, and not in the dialCidrs of the mesh", addr)
		}
		return nil
	}}
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: fetchTimeout,
			DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// fetch brings the keys, and keeps them in file.
func (k *Keyring) fetch(ctx context.Context, client *http.Client, file string) (*KeySet, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, k.source.URI, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", k.source.URI, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxSetBytes+1))
	if err != nil {
		return nil, err
	}
	keys, err := ParseKeySet(raw)
	if err != nil {
		return nil, err
	}
	k.take(keys)
	if file == "" {
		return keys, nil
	}
	return keys, keep(file, raw)
}

// take makes keys those that count. The same ones stay, and with them what was verified.
func (k *Keyring) take(keys *KeySet) {
	k.fetched.Store(time.Now().Unix())
	if was := k.keys.Load(); was == nil || !was.same(keys) {
		k.keys.Store(keys)
	}
}

// keep writes raw to file, as a whole or not at all.
func keep(file string, raw []byte) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".keys-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
