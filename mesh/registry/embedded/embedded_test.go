package embedded_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh/registry/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, password string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start("127.0.0.1:0", password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, s *embedded.Server, password string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: password, MaxRetries: -1})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestKeysExpireByThemselves(t *testing.T) {
	ctx, c := context.Background(), client(t, start(t, ""), "")
	if err := c.Set(ctx, "k", "v", 50*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for c.Exists(ctx, "k").Val() != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the key did not expire")
		}
	}
}

func TestRestartEmptyKeepsTheAddressAndNothingElse(t *testing.T) {
	s := start(t, "")
	ctx, c := context.Background(), client(t, s, "")
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	before := s.Addr()
	if err := s.RestartEmpty(); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != before {
		t.Errorf("the address changed from %s to %s", before, s.Addr())
	}
	if n, err := client(t, s, "").Exists(ctx, "k").Result(); err != nil || n != 0 {
		t.Errorf("EXISTS = %d, %v; want nothing left", n, err)
	}
	// A blocked read must wait and time out on the new one too.
	began := time.Now()
	_, err := client(t, s, "").XRead(ctx, &redis.XReadArgs{Streams: []string{"s", "0-0"}, Block: 100 * time.Millisecond}).Result()
	if !errors.Is(err, redis.Nil) || time.Since(began) < 90*time.Millisecond {
		t.Errorf("XREAD returned %v after %v", err, time.Since(began))
	}
}

func TestPassword(t *testing.T) {
	s, ctx := start(t, "secret"), context.Background()
	if err := client(t, s, "secret").Ping(ctx).Err(); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if err := client(t, s, "").Ping(ctx).Err(); err == nil {
		t.Error("answered without the password")
	}
}

func TestStartRefusesToServeTheNetworkWithoutPassword(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "localhost", "example.com:0"} {
		if s, err := embedded.Start(addr, ""); err == nil {
			s.Close()
			t.Errorf("Start(%q) served without a password", addr)
		}
	}
}
