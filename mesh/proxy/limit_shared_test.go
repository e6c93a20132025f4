package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// bank is Tokens as Redis keeps them, a network away.
type bank struct {
	delay time.Duration

	mu   sync.Mutex
	full map[string]time.Time
	away bool
}

// Tokens implements Tokens.
func (b *bank) Tokens(ctx context.Context, asks []mesh.TokenAsk) ([]mesh.TokenGrant, error) {
	select {
	case <-time.After(b.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return nil, errors.New("away")
	}
	var out []mesh.TokenGrant
	now := time.Now()
	for _, a := range asks {
		full := now
		if t := b.full[a.Bucket]; t.After(now) {
			full = t
		}
		depth := a.Interval * time.Duration(a.Burst)
		full = earlier(full.Add(time.Duration(a.Spent)*a.Interval), now.Add(depth+max(depth, time.Duration(a.Planes)*a.Interval)))
		full = full.Add(-time.Duration(a.Returned) * a.Interval)
		if full.Before(now) {
			full = now
		}
		left := max(int(now.Add(a.Interval*time.Duration(a.Burst)).Sub(full)/a.Interval), 0)
		g := mesh.TokenGrant{Granted: min(uint32(left), a.Want)}
		full = full.Add(time.Duration(g.Granted) * a.Interval)
		b.full[a.Bucket] = full
		if g.Granted < a.Want {
			g.Wait = full.Add(a.Interval - a.Interval*time.Duration(a.Burst)).Sub(now)
		}
		out = append(out, g)
	}
	return out, nil
}

func (b *bank) leave(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

// fleetOf starts n data planes that share the bank; they end with the test.
func fleetOf(t *testing.T, b *bank, n int) []*sharedLimits {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	var out []*sharedLimits
	for range n {
		m, err := newMetrics(prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		s := newSharedLimits(b, m)
		running.Go(func() { s.run(ctx) })
		out = append(out, s)
	}
	return out
}

// However traffic falls on the data planes, they admit what the rate allows and at most
// twice its burst, and little less.
func TestSharedLimitsHoldTheRate(t *testing.T) {
	const rate, burst, seconds = 200, 50, 10
	for _, tt := range []struct {
		planes int
		load   func(plane int) time.Duration // between two requests
		least  float64                       // share of the rate that is admitted
	}{
		{1, func(int) time.Duration { return time.Second / 400 }, 0.97},
		{3, func(int) time.Duration { return time.Second / 400 }, 0.97},
		{3, func(plane int) time.Duration { return time.Second / time.Duration(10+990*(plane%3/2)) }, 0.9},
		{10, func(int) time.Duration { return time.Second / 50 }, 0.95},
		{2, func(int) time.Duration { return time.Second / 50 }, 0.49}, // half of the rate is asked for
	} {
		t.Run(fmt.Sprint(tt.planes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bank{delay: 3 * time.Millisecond, full: map[string]time.Time{}}
				fleet := fleetOf(t, b, tt.planes)
				l := compileRateLimit("r", &mesh.RateLimit{Requests: rate, Per: mesh.Seconds(1), Burst: burst, Scope: mesh.ScopeMesh})
				began := time.Now()
				var mu sync.Mutex
				admitted, worst := 0, math.Inf(-1)
				var clients sync.WaitGroup
				for i, s := range fleet {
					clients.Go(func() {
						for time.Since(began) < seconds*time.Second {
							if s.take(l, "", tt.planes, time.Now()) == 0 {
								mu.Lock()
								admitted++
								worst = max(worst, float64(admitted)-burst-rate*time.Since(began).Seconds())
								mu.Unlock()
							}
							time.Sleep(tt.load(i))
						}
					})
				}
				clients.Wait()
				if most := burst*float64(tt.planes-1)/float64(tt.planes) + 1; worst > most {
					t.Errorf("%.1f more than the rate and its burst were admitted, at most %.1f may be", worst, most)
				}
				if float64(admitted) < tt.least*rate*seconds {
					t.Errorf("%d were admitted in %d s, want at least %.0f %% of %d a second", admitted, seconds, tt.least*100, rate)
				}
			})
		})
	}
}

// A rate of a few requests an hour is kept as well.
func TestSharedLimitsOfLowRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: 3 * time.Millisecond, full: map[string]time.Time{}}
		fleet := fleetOf(t, b, 2)
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 6, Per: mesh.Seconds(3600), Burst: 2, Scope: mesh.ScopeMesh})
		admitted := 0
		for i := range 10 * 60 { // a request a minute, for ten hours
			if fleet[i%2].take(l, "ann", 2, time.Now()) == 0 {
				admitted++
			}
			time.Sleep(time.Minute)
		}
		if admitted < 56 || admitted > 65 {
			t.Errorf("%d were admitted in 10 h, want about 60 and a burst of 2", admitted)
		}
	})
}

// Keys do not share what they have.
func TestSharedLimitsByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{full: map[string]time.Time{}}
		s := fleetOf(t, b, 1)[0]
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(60), Scope: mesh.ScopeMesh})
		for _, key := range []string{"ann", "bob", ""} {
			if after := s.take(l, key, 1, time.Now()); after != 0 {
				t.Errorf("the first of %q is to wait for %v", key, after)
			}
			if after := s.take(l, key, 1, time.Now()); after == 0 {
				t.Errorf("a second of %q is admitted", key)
			}
		}
		time.Sleep(time.Second)
		if after := s.take(l, "ann", 1, time.Now()); after < 58*time.Second || after > time.Minute {
			t.Errorf("ann is to come again after %v, want 59 s", after)
		}
	})
}

// While nobody answers each data plane keeps to its part, and tells later.
func TestSharedLimitsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{full: map[string]time.Time{}, away: true}
		fleet := fleetOf(t, b, 4)
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 100, Per: mesh.Seconds(1), Burst: 20, Scope: mesh.ScopeMesh})
		run := func(d time.Duration) (admitted int) {
			for began := time.Now(); time.Since(began) < d; time.Sleep(time.Millisecond) {
				for _, s := range fleet {
					if s.take(l, "", 4, time.Now()) == 0 {
						admitted++
					}
				}
			}
			return admitted
		}
		if n := run(10 * time.Second); n < 990 || n > 1045 {
			t.Errorf("%d were admitted in 10 s with nobody there, want about 1000 and twice the burst at most", n)
		}
		b.leave(false)
		run(2 * time.Second) // until somebody is heard
		if n := run(10 * time.Second); n < 970 || n > 1041 {
			t.Errorf("%d were admitted in 10 s when it was back, want about 1000", n)
		}
		b.leave(true)
		if n := run(10 * time.Second); n < 970 || n > 1045 {
			t.Errorf("%d were admitted in 10 s when it left again, want about 1000", n)
		}
	})
}

// A call that hangs is as good as none, and no request waits for it.
func TestSharedLimitsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: time.Minute, full: map[string]time.Time{}}
		s := fleetOf(t, b, 1)[0]
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 10, Per: mesh.Seconds(1), Burst: 5, Scope: mesh.ScopeMesh})
		began, admitted := time.Now(), 0
		for range 1000 {
			if s.take(l, "", 1, time.Now()) == 0 {
				admitted++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took != 10*time.Second || admitted < 95 || admitted > 112 {
			t.Errorf("%d were admitted in %v", admitted, took)
		}
	})
}

func TestSharedLimitsBoundTheirMemory(t *testing.T) {
	s := newSharedLimits(nil, mustMetrics(t))
	open, other := compileRateLimit("open", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(10), Scope: mesh.ScopeMesh}), compileRateLimit("other", &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(10), Scope: mesh.ScopeMesh})
	now := time.Now()
	for i := range 2 * mostBuckets {
		s.take(open, fmt.Sprint(i), 1, now)
	}
	if after := s.take(other, "ann", 1, now); after != 0 {
		t.Errorf("a client of another rule is to wait for %v", after)
	}
	if n := len(s.buckets); n > mostBuckets+2 {
		t.Errorf("%d buckets, at most %d", n, mostBuckets)
	}
	s.take(open, "later", 1, now.Add(time.Hour))
	if n := len(s.buckets); n > 2 {
		t.Errorf("%d buckets an hour later", n)
	}
}

// Strangers who choose many keys take the room of others for as long as it takes their buckets to be
// full again, and no longer: not for a long burst, and not while nobody answers.
func TestSharedLimitsForgetStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{full: map[string]time.Time{}, away: true}
		s := fleetOf(t, b, 1)[0]
		l := compileRateLimit("open", &mesh.RateLimit{Requests: 3600, Per: mesh.Seconds(3600), Burst: 3600, Scope: mesh.ScopeMesh})
		for i := range mostBuckets {
			s.take(l, fmt.Sprint(i), 1, time.Now())
		}
		took := mostBuckets / mostAsks * (askAgain + askEvery)
		time.Sleep(took + 2*time.Second) // each was told of once, in vain
		s.take(l, "later", 1, time.Now())
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.buckets); n > mostBuckets/10 {
			t.Errorf("%d buckets after %v", n, took)
		}
	})
}

func mustMetrics(t *testing.T) *metrics {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What was told to nobody is told again.
func TestSharedLimitsTellAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: 20 * time.Millisecond, full: map[string]time.Time{}}
		s := fleetOf(t, b, 1)[0]
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 60, Per: mesh.Seconds(3600), Burst: 10, Scope: mesh.ScopeMesh})
		b.leave(true)
		for range 4 {
			s.take(l, "", 1, time.Now()) // of its own part
		}
		time.Sleep(2 * time.Second)
		b.leave(false)
		s.take(l, "", 1, time.Now())
		time.Sleep(4 * time.Second) // what it leased is given back
		b.mu.Lock()
		defer b.mu.Unlock()
		for name, full := range b.full {
			if left := time.Until(full); left < 4*time.Minute || left > 5*time.Minute {
				t.Errorf("%s was told of requests for %v, want five minutes of them", name, left)
			}
		}
		if len(b.full) != 1 {
			t.Errorf("%d buckets were told of", len(b.full))
		}
	})
}

// One data plane gets all of the rate if it gets all of the traffic, at once too; what it
// does not need is the others' again.
func TestSharedLimitsAreLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: 3 * time.Millisecond, full: map[string]time.Time{}}
		fleet := fleetOf(t, b, 5)
		l := compileRateLimit("r", &mesh.RateLimit{Requests: 100, Per: mesh.Seconds(1), Burst: 100, Scope: mesh.ScopeMesh})
		run := func(s *sharedLimits, n int) (admitted int) {
			for range n {
				if s.take(l, "", 5, time.Now()) == 0 {
					admitted++
				}
				time.Sleep(time.Millisecond)
			}
			return admitted
		}
		for i, s := range fleet {
			if n := run(s, 1000); n < 100 || n > 220 {
				t.Errorf("data plane %d admitted %d in a second, want the rate and what was left of the burst", i, n)
			}
			time.Sleep(3 * time.Second)
		}
		// After pauses there is all of the burst again.
		if n := run(fleet[0], 120); n < 80 {
			t.Errorf("%d of 120 were admitted after a pause", n)
		}
	})
}

// What many hold and do not use comes on top of the burst only as far as it is promised.
func TestSharedLimitsThatAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: 3 * time.Millisecond, full: map[string]time.Time{}}
		const planes, rate, burst = 10, 5000, 100
		fleet := fleetOf(t, b, planes)
		l := compileRateLimit("r", &mesh.RateLimit{Requests: rate, Per: mesh.Seconds(1), Burst: burst, Scope: mesh.ScopeMesh})
		for _, pause := range []time.Duration{300 * time.Millisecond, 0} {
			for _, s := range fleet { // a spike at each, one after another
				for range 50 {
					s.take(l, "", planes, time.Now())
				}
				time.Sleep(15 * time.Millisecond)
			}
			time.Sleep(pause)
			admitted := 0
			for _, s := range fleet { // and one at all of them, at once
				for range 2 * burst {
					if s.take(l, "", planes, time.Now()) == 0 {
						admitted++
					}
				}
			}
			if most := burst + max(burst/4, rate*20/1000) + burst*(planes-1)/planes; admitted > most {
				t.Errorf("%d were admitted at one instant, at most %d may be", admitted, most)
			}
		}
	})
}

// A limit that was raised is not held up by what was owed under the old one.
func TestRaisedLimits(t *testing.T) {
	at := func(requests uint32, per float64) *rateLimit {
		return compileRateLimit("routes/x/0", &mesh.RateLimit{Requests: requests, Per: mesh.Seconds(per)})
	}
	low, high := at(2, 3600), at(1000, 1)
	own, shared := newRateLimits(), newSharedLimits(nil, mustMetrics(t))
	now := time.Now()
	for name, take := range map[string]func(*rateLimit, time.Time) time.Duration{
		"local": func(l *rateLimit, now time.Time) time.Duration { return own.take(l, "", now) },
		"mesh":  func(l *rateLimit, now time.Time) time.Duration { return shared.take(l, "", 1, now) },
	} {
		for range 2 {
			if take(low, now) != 0 {
				t.Fatalf("%s: the burst is not admitted", name)
			}
		}
		if after := take(high, now); after > high.interval {
			t.Errorf("%s: admitted after %v, want %v", name, after, high.interval)
		}
		if after := take(high, now.Add(high.interval)); after != 0 {
			t.Errorf("%s: not admitted after an interval but after %v", name, after)
		}
	}
}

// A rule in force at gateways and inside is one rate for all of them; a node is as many
// data planes as it has roles.
func TestEnforcers(t *testing.T) {
	config := mesh.NewConfig()
	for id, roles := range map[string][]string{"a": {mesh.RoleGateway}, "b": {mesh.RoleSidecar}, "c": {mesh.RoleSidecar, mesh.RoleBridge, mesh.RoleGateway}} {
		config.Put(&mesh.Node{Meta: mesh.Meta{Name: "nodes/" + id}, Roles: roles})
	}
	s := &state{config: config}
	s.count()
	for _, tt := range []struct {
		targets []string
		want    int
	}{
		{[]string{mesh.TargetGateway}, 2},
		{[]string{mesh.TargetMesh}, 3},
		{[]string{mesh.TargetGateway, mesh.TargetMesh}, 5},
	} {
		route := &mesh.Route{Meta: mesh.Meta{Name: "routes/r"}, Targets: tt.targets, Hostnames: []string{"a.mesh"}, Rules: []mesh.RouteRule{{
			Filters: []mesh.Filter{{RateLimit: &mesh.RateLimit{Requests: 1, Per: mesh.Seconds(1), Scope: mesh.ScopeMesh}}, {Respond: &mesh.Respond{Status: 200}}},
		}}}
		mesh.Normalize(route)
		compiled := compileRoute(route)
		if len(compiled.errs) > 0 {
			t.Fatal(compiled.errs)
		}
		if got := s.enforcers(compiled.rules[0].limit); got != tt.want {
			t.Errorf("%v: %d data planes, want %d", tt.targets, got, tt.want)
		}
	}
}

// Of more data planes than the burst has requests each may admit one at a time, and all
// together no more than the rate.
func TestSharedLimitsOfManyPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bank{delay: 3 * time.Millisecond, full: map[string]time.Time{}}
		const planes, rate, burst, seconds = 50, 10, 5, 60
		fleet := fleetOf(t, b, planes)
		l := compileRateLimit("r", &mesh.RateLimit{Requests: rate, Per: mesh.Seconds(1), Burst: burst, Scope: mesh.ScopeMesh})
		admitted := 0
		for range seconds * 20 {
			for _, s := range fleet {
				if s.take(l, "", planes, time.Now()) == 0 {
					admitted++
				}
			}
			<-time.After(50 * time.Millisecond)
		}
		if most := rate*seconds + burst + planes; admitted > most {
			t.Errorf("%d were admitted in %d s, at most %d may be", admitted, seconds, most)
		}
	})
}

// A part that was used up is not forgotten before it is full again.
func TestSharedLimitsRememberLongParts(t *testing.T) {
	s := newSharedLimits(nil, mustMetrics(t))
	l := compileRateLimit("r", &mesh.RateLimit{Requests: 60, Per: mesh.Seconds(60), Burst: 1, Scope: mesh.ScopeMesh})
	now := time.Now()
	const planes = 100
	if s.take(l, "a", planes, now) != 0 {
		t.Fatal("the first is not admitted")
	}
	s.mu.Lock()
	s.sweep(now.Add(30 * time.Second))
	s.mu.Unlock()
	if s.take(l, "a", planes, now.Add(30*time.Second)) == 0 {
		t.Error("admitted after 30 s of 100")
	}
}
