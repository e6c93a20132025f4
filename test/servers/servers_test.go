package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// redisDo sends one inline command and returns the first line of the answer,
// and the second if the first announces a string.
func redisDo(t *testing.T, addr string, commands ...string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answers, line := bufio.NewReader(conn), ""
	for _, command := range commands {
		if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
			t.Fatal(err)
		}
		line, err = answers.ReadString('\n')
		if err == nil && strings.HasPrefix(line, "$") && line != "$-1\r\n" {
			line, err = answers.ReadString('\n')
		}
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	return strings.TrimSpace(line)
}

func TestRedis(t *testing.T) {
	t.Run("data in the append-only file survive a kill, on the same port", func(t *testing.T) {
		r := Redis(t, RedisAppendOnly())
		addr, pid := r.Addr, r.Pid()
		if got := redisDo(t, r.Addr, "SET k v"); got != "+OK" {
			t.Fatalf("SET = %q", got)
		}
		r.Kill()
		if conn, err := net.Dial("tcp", r.Addr); err == nil {
			conn.Close()
			t.Fatal("a killed Redis still accepts connections")
		}
		r.Restart(false)
		if r.Addr != addr || r.Pid() == pid {
			t.Errorf("after Restart: %s pid %d, before: %s pid %d", r.Addr, r.Pid(), addr, pid)
		}
		if got := redisDo(t, addr, "GET k"); got != "v" {
			t.Errorf("GET k = %q, want v", got)
		}
	})
	t.Run("an empty restart forgets even the append-only file", func(t *testing.T) {
		r := Redis(t, RedisAppendOnly())
		redisDo(t, r.Addr, "SET k v")
		r.Restart(true)
		if got := redisDo(t, r.Addr, "GET k"); got != "$-1" {
			t.Errorf("GET k = %q, want no value", got)
		}
	})
	t.Run("a password is asked for", func(t *testing.T) {
		r := Redis(t, RedisPassword(`s3 "cret`))
		if got := redisDo(t, r.Addr, "GET k"); !strings.HasPrefix(got, "-NOAUTH") {
			t.Errorf("GET without password = %q, want -NOAUTH", got)
		}
		if got := redisDo(t, r.Addr, `AUTH "s3 \"cret"`, "GET k"); got != "$-1" {
			t.Errorf("GET with password = %q, want no value", got)
		}
		if text, err := os.ReadFile(r.PasswordFile); err != nil || string(text) != `s3 "cret` {
			t.Errorf("password file = %q, %v", text, err)
		}
	})
}

func TestServersEndWithTheirTest(t *testing.T) {
	var pid int
	var addr string
	t.Run("inner", func(t *testing.T) {
		r := Redis(t)
		pid, addr = r.Pid(), r.Addr
	})
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the server still accepts connections after its test")
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal 0 to the server after its test: %v, want no such process", err)
	}
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	s := newServer(t, "redis-server")
	r := &RedisServer{server: s, settings: []string{"--no-such-directive", "1"}}
	s.start, s.probe = r.command, r.ping
	s.port, _ = freePort(t)
	err := s.run()
	if err == nil || !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("error = %v, want Redis's own words in it", err)
	}
	if _, err := findBinary("no-such-server"); err == nil || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("error = %v, want the hint to run make deps", err)
	}
}

func TestTailKeepsTheEndAndIsBounded(t *testing.T) {
	var o tail
	for i := range 20_000 {
		_, _ = fmt.Fprintf(&o, "line %d\n", i)
	}
	got := o.String()
	if len(got) > outputLimit || !strings.HasSuffix(got, "line 19999\n") {
		t.Errorf("kept %d bytes ending in %q", len(got), got[len(got)-20:])
	}
}

// client runs mosquitto_pub or mosquitto_sub against the broker.
func client(t *testing.T, m *MosquittoServer, program string, args ...string) (string, error) {
	t.Helper()
	binary, err := findBinary(program)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(m.Addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// roundTrip publishes a retained message and reads it back.
func roundTrip(t *testing.T, m *MosquittoServer, args ...string) {
	t.Helper()
	if out, err := client(t, m, "mosquitto_pub", append(args, "-q", "1", "-r", "-t", "a/b", "-m", "hello")...); err != nil {
		t.Fatalf("publish: %v: %s", err, out)
	}
	readBack(t, m, args...)
}

func readBack(t *testing.T, m *MosquittoServer, args ...string) {
	t.Helper()
	out, err := client(t, m, "mosquitto_sub", append(args, "-q", "1", "-C", "1", "-W", "10", "-t", "a/+")...)
	if err != nil || out != "hello" {
		t.Fatalf("subscribe: %q, %v, want the message", out, err)
	}
}

func TestMosquitto(t *testing.T) {
	t.Run("anybody may publish and subscribe by default", func(t *testing.T) {
		roundTrip(t, Mosquitto(t))
	})
	t.Run("with users, only they may", func(t *testing.T) {
		m := Mosquitto(t, MosquittoUsers(map[string]string{"bridge": "pw"}))
		roundTrip(t, m, "-u", "bridge", "-P", "pw")
		for _, args := range [][]string{nil, {"-u", "bridge", "-P", "wrong"}} {
			if out, err := client(t, m, "mosquitto_pub", append(args, "-t", "a/b", "-m", "x")...); err == nil {
				t.Errorf("publish as %q succeeded: %s", args, out)
			}
		}
	})
	t.Run("persistence keeps messages over a restart on the same port", func(t *testing.T) {
		m := Mosquitto(t, MosquittoPersistence())
		roundTrip(t, m)
		m.Restart()
		readBack(t, m)
	})
	t.Run("without persistence a kill loses them", func(t *testing.T) {
		m := Mosquitto(t)
		roundTrip(t, m)
		m.Kill()
		m.Restart()
		if out, err := client(t, m, "mosquitto_sub", "-C", "1", "-W", "1", "-t", "a/+"); err == nil {
			t.Errorf("read %q from a broker that came back empty", out)
		}
	})
	t.Run("TLS, with a client certificate demanded", func(t *testing.T) {
		files := LoopbackTLS(t)
		m := Mosquitto(t, MosquittoTLS(files, files.CAFile))
		roundTrip(t, m, "--cafile", files.CAFile, "--cert", files.CertFile, "--key", files.KeyFile)
		if out, err := client(t, m, "mosquitto_pub", "--cafile", files.CAFile, "-t", "a/b", "-m", "x"); err == nil {
			t.Errorf("publish without a certificate succeeded: %s", out)
		}
	})
	t.Run("a setting is passed on", func(t *testing.T) {
		m := Mosquitto(t, MosquittoSetting("retain_available", "false"))
		if out, err := client(t, m, "mosquitto_pub", "-r", "-t", "a/b", "-m", "hello"); err != nil {
			t.Logf("publish: %v: %s", err, out) // a client may notice, this one need not
		}
		if out, err := client(t, m, "mosquitto_sub", "-C", "1", "-W", "1", "-t", "a/+"); err == nil {
			t.Errorf("a broker that retains nothing sent %q", out)
		}
	})
}
