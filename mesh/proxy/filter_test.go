package proxy

import (
	"fmt"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// GCRA admits exactly the burst at once, then one at each interval.
func TestRateLimitAdmitsTheBurstAndThenTheRate(t *testing.T) {
	l := compileRateLimit("r", &mesh.RateLimit{Requests: 10, Per: mesh.Seconds(1), Burst: 5})
	r := newRateLimits()
	now := r.epoch
	for i := range 5 {
		if after := r.take(l, "", now); after != 0 {
			t.Fatalf("request %d of the burst is to wait for %v", i, after)
		}
	}
	if after := r.take(l, "", now); after != 100*time.Millisecond {
		t.Fatalf("the one after the burst is to wait for %v, want 100 ms", after)
	}
	if after := r.take(l, "", now.Add(99*time.Millisecond)); after != time.Millisecond {
		t.Errorf("just too early: %v, want 1 ms", after)
	}
	admitted := 0
	for ms := range 10_000 {
		if r.take(l, "", now.Add(time.Duration(ms)*time.Millisecond)) == 0 {
			admitted++
		}
	}
	if admitted != 99 {
		t.Errorf("%d were admitted in 10 s after the burst, want 99", admitted)
	}
	if after := r.take(l, "", now.Add(time.Hour)); after != 0 {
		t.Errorf("after a pause: %v", after)
	}
}

func TestRateLimitBoundsItsMemory(t *testing.T) {
	l := compileRateLimit("r", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(10), Burst: 2})
	r := newRateLimits()
	for i := range mostBuckets + 1000 {
		r.take(l, fmt.Sprint(i), r.epoch)
	}
	if n := len(r.taken); n > mostBuckets+1 {
		t.Errorf("%d keys are counted, at most %d may be", n, mostBuckets)
	}
	if after := r.take(l, "one more", r.epoch); after == 0 {
		t.Error("a key beyond the bound is not counted at all")
	}
	later := r.epoch.Add(time.Hour)
	if after := r.take(l, "one more", later); after != 0 || len(r.taken) > 1 {
		t.Errorf("later: wait for %v, %d keys", after, len(r.taken))
	}
}

// A rule whose keys strangers choose takes from no other rule what that needs.
func TestRateLimitsDoNotCrowdEachOtherOut(t *testing.T) {
	open, other := compileRateLimit("open", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(3600)}), compileRateLimit("other", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(3600)})
	r := newRateLimits()
	for i := range 2 * mostBuckets {
		r.take(open, fmt.Sprint(i), r.epoch)
	}
	for i := range 1000 {
		if after := r.take(other, fmt.Sprint(i), r.epoch); after != 0 {
			t.Fatalf("the first request of client %d is to wait for %v", i, after)
		}
	}
	for i := range 2 * mostBuckets {
		r.take(other, fmt.Sprint(i), r.epoch)
	}
	if n := len(r.taken); n > 2*mostBuckets {
		t.Errorf("%d keys are counted, at most %d may be", n, 2*mostBuckets)
	}
	later := r.epoch.Add(2 * time.Hour)
	for i := range mostBuckets {
		r.take(open, fmt.Sprint("later ", i), later)
		if r.take(open, fmt.Sprint("later ", i), later) == 0 {
			t.Fatalf("key %d is not counted after the sweep", i)
		}
	}
	if open, other := r.keys["open"], r.keys["other"]; open != mostBuckets || other != 0 || len(r.taken) != mostBuckets {
		t.Errorf("%d and %d keys of the rules are known, %d in all", open, other, len(r.taken))
	}
}

func TestOrigins(t *testing.T) {
	c := compileCORS(&mesh.CORS{AllowOrigins: []string{"https://shop.test", "https://*.api.test"}})
	for origin, want := range map[string]bool{
		"https://shop.test":               true,
		"http://shop.test":                false,
		"https://shop.test:8443":          false,
		"https://shop.test.evil.test":     false,
		"https://a.api.test":              true,
		"https://a.b.api.test":            true,
		"https://api.test":                false,
		"https://.api.test":               false,
		"https://evilapi.test":            false,
		"https://evil.test/.api.test":     false,
		"https://evil.test?.api.test":     false,
		"https://user@evil.test.api.test": false,
		"null":                            false,
		"":                                false,
	} {
		if got := c.allows(origin); got != want {
			t.Errorf("%q: %v, want %v", origin, got, want)
		}
	}
}

func TestHashValue(t *testing.T) {
	r := &Request{RawQuery: "a=1&b=x%20y&b=2", Fields: header.List{
		{Name: "X-User", Value: "ann"}, {Name: "cookie", Value: "a=1; sid=x=y ;b=2"}, {Name: "Cookie", Value: "late=1"}, {Name: forwardedFor, Value: "192.0.2.7, 10.0.0.1"},
	}}
	for _, tt := range []struct {
		key  mesh.HashKey
		want string
		ok   bool
	}{
		{mesh.HashKey{Header: "x-user"}, "ann", true},
		{mesh.HashKey{Header: "x-none"}, "", false},
		{mesh.HashKey{Cookie: "sid"}, "x=y", true},
		{mesh.HashKey{Cookie: "late"}, "1", true},
		{mesh.HashKey{Cookie: "SID"}, "", false},
		{mesh.HashKey{Query: "b"}, "x y", true},
		{mesh.HashKey{Query: "c"}, "", false},
		{mesh.HashKey{SourceIdentity: true}, "192.0.2.7", true},
		{mesh.HashKey{Device: true}, "", false},
	} {
		if got, ok := hashValue(&tt.key, r); got != tt.want || ok != tt.ok {
			t.Errorf("%+v: %q %v, want %q %v", tt.key, got, ok, tt.want, tt.ok)
		}
	}
}

func TestDrawsForDifferentPurposesAreIndependent(t *testing.T) {
	const n = 10_000
	both := 0
	for i := range n {
		draw := float64(i) / n
		if another(draw, drawFault) < 0.5 && another(draw, drawMirror) < 0.5 {
			both++
		}
	}
	if both < n/4-250 || both > n/4+250 { // 5.8 standard deviations
		t.Errorf("%d of %d are below a half for both, want a quarter", both, n)
	}
}
