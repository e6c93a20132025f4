package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

func TestRedisThroughTwoSidecars(t *testing.T) {
	server := servers.Redis(t)
	listen, _ := address(t)
	newSite(t, "cache", "TCP", server.Addr, listen)
	client := redis.NewClient(&redis.Options{Addr: listen})
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.Set(ctx, "k", strings.Repeat("v", 1<<20), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if v, err := client.Get(ctx, "k").Result(); err != nil || len(v) != 1<<20 {
		t.Fatalf("%d bytes, %v", len(v), err)
	}
	pipe := client.Pipeline()
	for range 1000 {
		pipe.Incr(ctx, "n")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Get(ctx, "n").Int(); err != nil || n != 1000 {
		t.Errorf("counted to %d, %v", n, err)
	}
	sub := client.Subscribe(ctx, "news")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client.Publish(ctx, "news", "hello").Err(); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.ReceiveMessage(ctx); err != nil || m.Payload != "hello" {
		t.Errorf("received %v, %v", m, err)
	}
}

func TestPostgresThroughTwoSidecars(t *testing.T) {
	bin := postgresPrograms(t)
	data := filepath.Join(t.TempDir(), "data")
	where, listens := address(t)
	args := func(program string, more ...string) []string {
		command := append([]string{filepath.Join(bin, program)}, more...)
		if os.Geteuid() == 0 { // which PostgreSQL refuses to run as
			if err := openTo(filepath.Dir(data)); err != nil {
				t.Fatal(err)
			}
			return append([]string{"runuser", "-u", "postgres", "--"}, command...)
		}
		return command
	}
	initdb := args("initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync")
	command(t, time.Minute, "/", initdb[0], initdb[1:]...)
	server := args("postgres", "-D", data, "-h", "127.0.0.1", "-p", listens, "-k", "")
	serve(t, where, "postgres", server[0], server[1:]...)
	listen, port := address(t)
	newSite(t, "ledger", "TCP", where, listen)
	psql := func(sql string) string {
		return strings.TrimSpace(command(t, time.Minute, "/", filepath.Join(bin, "psql"), "-h", "127.0.0.1", "-p", port, "-U", "tester", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", sql))
	}
	psql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n")
	if got := psql("SELECT count(*), sum(n) FROM t"); got != "100000|5000050000" {
		t.Errorf("got %q", got)
	}
	if got := psql("SELECT n FROM t ORDER BY n"); strings.Count(got, "\n") != 99_999 {
		t.Errorf("%d rows came", strings.Count(got, "\n")+1)
	}
}

// postgresPrograms returns the directory of Debian's PostgreSQL.
func postgresPrograms(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Fatalf("PostgreSQL is not installed (%v): run `make deps`", err)
	}
	return filepath.Dir(found[len(found)-1])
}

// openTo lets the user postgres use the test's directory.
func openTo(dir string) error {
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			return fmt.Errorf("open %s to postgres: %w", d, err)
		}
	}
	return nil
}
