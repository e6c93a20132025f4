package role

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
)

// passwordOf makes what keeps a password that read returns.
func passwordOf(t *testing.T, read func() (string, error)) *redisPassword {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "enrolment"), 0o700); err != nil {
		t.Fatal(err)
	}
	const record = `{"node":"edge7","mesh":"default","trustDomain":"hedgerow.local","vault":["https://127.0.0.1:8200"],"redis":{"addresses":["127.0.0.1:6379"],"passwordInVault":true}}`
	if err := os.WriteFile(filepath.Join(dir, "enrolment", "node.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := enrolment.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &redisPassword{
		read: func(context.Context) (string, error) { return read() }, record: r, log: zerolog.Nop(),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "failed"}),
	}
}

func TestAnotherPasswordIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		var connected atomic.Bool
		var password atomic.Pointer[string]
		say := func(text string) { password.Store(&text) }
		p := passwordOf(t, func() (string, error) {
			looks.Add(1)
			if text := *password.Load(); text != "" {
				return text, nil
			}
			return "", errors.New("sealed")
		})
		say("first")
		connected.Store(true)
		onDisk := func() string {
			raw, _ := os.ReadFile(p.record.RedisPasswordFile()) // "" if there is none
			return strings.TrimSpace(string(raw))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.run(ctx, connected.Load) }()
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		pass(passwordEvery + passwordAwayEvery)
		if onDisk() != "first" || looks.Load() != 1 {
			t.Errorf("%q after %d looks", onDisk(), looks.Load())
		}
		// With Redis away it looks within seconds, and then less and less often.
		say("second")
		connected.Store(false)
		looks.Store(0)
		pass(passwordAwayEvery + time.Second)
		if onDisk() != "second" || looks.Load() != 1 {
			t.Errorf("%q after %d looks with Redis away", onDisk(), looks.Load())
		}
		pass(time.Hour)
		if looks.Load() > 20 {
			t.Errorf("%d looks in an hour with Redis away", looks.Load())
		}
		// What cannot be read changes nothing, and is counted.
		say("")
		connected.Store(true)
		pass(2 * passwordEvery)
		if onDisk() != "second" || testutil.ToFloat64(p.failed) == 0 {
			t.Errorf("%q, and %v failures", onDisk(), testutil.ToFloat64(p.failed))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
