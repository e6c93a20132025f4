package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// How soon things are right again.
const (
	renewedWithin   = 10 * time.Second // after Vault was unsealed
	recoveredWithin = 5 * time.Second  // after it came back, past expiry
	loginWithin     = 5 * time.Second  // after a token was revoked
)

// playSealed seals Vault while every certificate comes to be renewed. Those in use serve
// on, and are renewed soon after it is unsealed.
func playSealed(t *stage.T, r *row, s settings) {
	ttl := pick(s, 120*time.Second, 45*time.Second)
	m := stage.New(t, stage.Options{Binaries: s.binaries, TTL: ttl})
	streams := load.OpenStreams(t.Context(), m.Out(), streamsEach)
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	t.Pause(ttl / 6)
	m.Vault().Seal()
	t.Pause(ttl / 2) // renewal was due at a third
	before := renewals(t, m.Sidecars())
	failed := sumOf(t, m.Sidecars(), "hedgerow_identity_renewal_failures_total")
	m.Vault().Unseal()
	began := time.Now()
	awaitRenewals(t, m.Sidecars(), before)
	took := time.Since(began)
	t.Pause(ttl / 6)
	report := run.Stop()
	cuts := streams.Close()
	r.load(report)
	r.zero("streams_cut", len(cuts))
	r.blame("a stream was cut", cuts...)
	r.note("sealed", ttl/2)
	r.atLeast("renewals_that_failed_meanwhile", int(failed), len(m.Sidecars()))
	r.atMost("renewed_after_unsealing", took, renewedWithin)
}

// playExpiry has Vault gone until every certificate has expired. From then on no request
// may pass, /ready must say why, and all is well soon after Vault is back.
func playExpiry(t *stage.T, r *row, s settings) {
	const ttl = 30 * time.Second
	away := pick(s, 60*time.Second, 40*time.Second)
	m := stage.New(t, stage.Options{Binaries: s.binaries, TTL: ttl})
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	t.Pause(2 * time.Second)
	m.Vault().Stop()
	gone := time.Now()
	ends := lastEnd(t, m.Sidecars())
	t.Pause(max(0, time.Until(ends)-4*time.Second)) // what is sent until then was served
	report := run.Stop()
	r.load(report)

	t.Pause(max(0, time.Until(ends)))
	asked, served := 0, 0
	client := m.Out().Client(5*time.Second, 4)
	defer client.CloseIdleConnections()
	for time.Since(gone) < away {
		asked++
		if answers(t.Context(), client, m.Out()) == nil {
			served++
		}
		for _, p := range m.Shop {
			asked++
			if _, err := dialLeaf(t.Context(), p.Inbound, "shop."+p.Name+".default"); err == nil {
				served++
			}
		}
		t.Pause(100 * time.Millisecond)
	}
	unready := 0
	for _, p := range m.Sidecars() {
		status, text, err := p.Admin.Readiness(t.Context())
		if err == nil && status == http.StatusServiceUnavailable && strings.Contains(text, "it expired at") && strings.Contains(text, "the last attempt") {
			unready++
		} else {
			r.blame(p.Name+" is ready, or does not say why not", fmt.Sprintf("%d %s, %v", status, text, err))
		}
	}
	m.Vault().Restart()
	back := time.Now()
	m.Caller.Until(time.Minute, "is served again", func(ctx context.Context) error { return answers(ctx, client, m.Out()) })
	took := time.Since(back)
	for _, p := range m.Sidecars() {
		p.Until(time.Minute, "is ready again", p.Admin.Ready)
	}
	all := time.Since(back)
	r.note("asked_past_expiry", asked)
	r.zero("served_past_expiry", served)
	r.atLeast("unready_with_the_reason", unready, len(m.Sidecars()))
	r.atMost("served_again_after", took, recoveredWithin)
	r.atMost("all_ready_again_after", all, recoveredWithin)
}

// playRevoked revokes every token while certificates are renewed every few seconds.
func playRevoked(t *stage.T, r *row, s settings) {
	m := stage.New(t, stage.Options{Binaries: s.binaries, TTL: 9 * time.Second})
	times := pick(s, 5, 2)
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	var longest time.Duration
	for range times {
		before := logins(t, m.Sidecars())
		revokeTokens(t, m)
		began := time.Now()
		for i, p := range m.Sidecars() {
			p.Until(time.Minute, "logs in again", func(ctx context.Context) error {
				n, err := p.Admin.Sum(ctx, "hedgerow_vaultpki_requests_total", `operation="login"`, `result="ok"`)
				if err == nil && int(n) == before[i] {
					err = fmt.Errorf("it has logged in %d times", before[i])
				}
				return err
			})
		}
		longest = max(longest, time.Since(began))
	}
	after := renewals(t, m.Sidecars())
	awaitRenewals(t, m.Sidecars(), after) // they go on
	r.load(run.Stop())
	r.note("times", times)
	r.atMost("longest_until_a_new_token", longest, loginWithin)
}

// revokeTokens revokes the tokens of all nodes.
func revokeTokens(t *stage.T, m *stage.Mesh) {
	t.Helper()
	answer, err := m.Vault().Request(t.Context(), "LIST", "auth/token/accessors", nil)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := answer["data"].(map[string]any)
	keys, _ := data["keys"].([]any)
	revoked := 0
	for _, key := range keys {
		of, err := m.Vault().Request(t.Context(), http.MethodPost, "auth/token/lookup-accessor", map[string]any{"accessor": key})
		if err != nil {
			continue // it has expired meanwhile
		}
		about, _ := of["data"].(map[string]any)
		if path, _ := about["path"].(string); !strings.HasPrefix(path, "auth/approle/") {
			continue // root's
		}
		if _, err := m.Vault().Request(t.Context(), http.MethodPost, "auth/token/revoke-accessor", map[string]any{"accessor": key}); err != nil {
			t.Fatal(err)
		}
		revoked++
	}
	if revoked < len(m.Sidecars()) {
		t.Fatalf("only %d tokens were there to revoke", revoked)
	}
}

// logins returns how often each process has logged in.
func logins(t *stage.T, planes []*stage.Plane) []int {
	t.Helper()
	out := make([]int, len(planes))
	for i, p := range planes {
		n, err := p.Admin.Sum(t.Context(), "hedgerow_vaultpki_requests_total", `operation="login"`, `result="ok"`)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		out[i] = int(n)
	}
	return out
}

// sumOf adds a metric of several processes up.
func sumOf(t *stage.T, planes []*stage.Plane, metric string, labels ...string) float64 {
	t.Helper()
	sum := 0.0
	for _, p := range planes {
		n, err := p.Admin.Sum(t.Context(), metric, labels...)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		sum += n
	}
	return sum
}

// awaitRenewals waits until each process has been issued more certificates than before.
func awaitRenewals(t *stage.T, planes []*stage.Plane, before []int) {
	t.Helper()
	for i, p := range planes {
		p.Until(time.Minute, "renews its certificate", func(ctx context.Context) error {
			n, err := p.Admin.Sum(ctx, "hedgerow_identity_renewals_total")
			if err == nil && int(n) <= before[i] {
				err = fmt.Errorf("it has %d", before[i])
			}
			return err
		})
	}
}

// lastEnd returns when the last certificate of the processes expires.
func lastEnd(t *stage.T, planes []*stage.Plane) time.Time {
	t.Helper()
	var last time.Time
	for _, p := range planes {
		certs, err := p.Admin.Certs(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		for _, c := range certs {
			if c.NotAfter.After(last) {
				last = c.NotAfter
			}
		}
	}
	return last
}

// answers reports why a request to target is not answered 200.
func answers(ctx context.Context, client *http.Client, target load.Target) error {
	req, err := target.Request(ctx, http.MethodGet, "/echo", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
