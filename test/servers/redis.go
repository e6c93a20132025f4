package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// RedisServer is a running redis-server.
type RedisServer struct {
	*server
	// Addr is its address, "127.0.0.1:port"; it stays over restarts.
	Addr string
	// PasswordFile holds the password of RedisPassword (0600); else empty.
	PasswordFile string

	user     string // "" is the default one
	password string
	settings []string // alternating name and value, as redis-server's flags
}

// RedisOption adjusts a Redis before it starts.
type RedisOption func(*RedisServer)

// RedisAppendOnly keeps the data in an append-only file, so that they outlive
// Stop and Kill. Without it a Redis that was ended comes back empty.
func RedisAppendOnly() RedisOption { return RedisSetting("appendonly", "yes") }

// RedisPassword makes clients authenticate as the default user.
func RedisPassword(password string) RedisOption {
	return func(r *RedisServer) { r.password = password }
}

// RedisUser says by which user of its aclfile the server is asked whether it serves.
func RedisUser(name, password string) RedisOption {
	return func(r *RedisServer) { r.user, r.password = name, password }
}

// RedisSetting sets one directive of redis.conf.
func RedisSetting(name, value string) RedisOption {
	return func(r *RedisServer) { r.settings = append(r.settings, "--"+name, value) }
}

// Redis starts a redis-server that saves no snapshots and waits for its PONG.
// It is ended with the test.
func Redis(t testing.TB, opts ...RedisOption) *RedisServer {
	t.Helper()
	r := &RedisServer{server: newServer(t, "redis-server")}
	for _, opt := range opts {
		opt(r)
	}
	if r.password != "" && r.user == "" {
		r.PasswordFile = writeSecret(t, filepath.Join(t.TempDir(), "redis-password"), r.password)
		r.settings = append(r.settings, "--requirepass", r.password)
	}
	r.start = r.command
	r.probe = r.ping
	r.launch()
	r.Addr = r.address()
	return r
}

// Restart ends the server, if it still runs, and starts it on the same port:
// with the data of its append-only file, or with none if empty is set.
func (r *RedisServer) Restart(empty bool) {
	r.t.Helper()
	r.Stop()
	if empty {
		if err := clearDir(r.dir); err != nil {
			r.t.Fatalf("empty redis-server's directory: %v", err)
		}
	}
	r.relaunch()
}

func (r *RedisServer) command() (string, []string, error) {
	binary, err := findBinary("redis-server")
	args := []string{
		"--bind", "127.0.0.1", "--port", fmt.Sprint(r.port), "--dir", r.dir,
		"--save", "", "--daemonize", "no",
	}
	return binary, append(args, r.settings...), err
}

// ping asks PING by hand, as this package must not depend on the client that
// it serves to test. A Redis that still loads its file answers -LOADING.
func (r *RedisServer) ping(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.address())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	answers := bufio.NewReader(conn)
	ask := func(want, command string, args ...string) error {
		line := command
		for _, arg := range args {
			line += fmt.Sprintf(" %q", arg)
		}
		if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
			return err
		}
		got, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(got) != want {
			return fmt.Errorf("%s: %s", command, strings.TrimSpace(got))
		}
		return nil
	}
	if r.password != "" {
		login := []string{r.password}
		if r.user != "" {
			login = []string{r.user, r.password}
		}
		if err := ask("+OK", "AUTH", login...); err != nil {
			return err
		}
	}
	return ask("+PONG", "PING")
}

// clearDir removes everything in dir and leaves dir.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return err
}

// writeSecret writes a file that only its owner reads and returns its path.
func writeSecret(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatalf("write a secret: %v", err)
	}
	return path
}
