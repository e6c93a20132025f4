package role

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
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
		looks, password, err, connected := 0, "first", error(nil), true
		p := passwordOf(t, func() (string, error) { looks++; return password, err })
		onDisk := func() string {
			raw, _ := os.ReadFile(p.record.RedisPasswordFile()) // "" if there is none
			return strings.TrimSpace(string(raw))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.run(ctx, func() bool { return connected }) }()
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		pass(passwordEvery + passwordAwayEvery)
		if onDisk() != "first" || looks != 1 {
			t.Errorf("%q after %d looks", onDisk(), looks)
		}
		// With Redis away it looks within seconds, and then less and less often.
		password, connected, looks = "second", false, 0
		pass(passwordAwayEvery + time.Second)
		if onDisk() != "second" || looks != 1 {
			t.Errorf("%q after %d looks with Redis away", onDisk(), looks)
		}
		pass(time.Hour)
		if looks > 20 {
			t.Errorf("%d looks in an hour with Redis away", looks)
		}
		// What cannot be read changes nothing, and is counted.
		err, connected = errors.New("sealed"), true
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
