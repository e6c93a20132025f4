// Package peers runs the proxies beside which ours is measured, HAProxy and
// nginx of the distribution, and the workload behind all of them, with the
// configurations in this folder.
//
// The settings that cost or save CPU are the same on all sides as far as they
// exist: no log, TLS 1.3 with TLS_AES_128_GCM_SHA256 and P-256 certificates,
// verified in both directions, connections kept without end. It measures
// nothing and sends no requests.
package peers

import (
	"context"
	_ "embed" // for the configurations
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

var (
	//go:embed haproxy.cfg
	haproxyConfig string
	//go:embed nginx.conf
	nginxConfig string
)

// serveMost is how long a program may take to listen.
const serveMost = 10 * time.Second

// Hop is one listener of a proxy and where it sends what comes.
type Hop struct {
	Name   string // a word
	Listen string // "127.0.0.1:port"
	Next   []string
	// Secure: the listener serves TLS. Mutual: it also wants a certificate of
	// the CA, and names the client in X-Forwarded-Client-Cert.
	Secure, Mutual bool
	Encrypts       bool // it goes on by mutual TLS
	GRPC           bool // all of it by HTTP/2
}

// Answers is a workload: what a server answers with 200, whatever the path. It
// reads the body of a POST before that.
type Answers struct {
	Listen    string
	Get, Post string // without a single quote
}

// Config says what a peer's processes serve.
type Config struct {
	Dir  string // of their files
	Name string // of the process, and of its files; a word
	TLS  servers.TLSFiles
	Hops []Hop
}

// file is what the templates see.
type file struct {
	Config
	servers.TLSFiles
	PairFile string // certificate and key in one, for HAProxy
	Answers  []Answers
}

// HAProxy starts one HAProxy with one thread and returns when it listens.
func HAProxy(t testing.TB, c Config) *rig.Process {
	t.Helper()
	pair, err := pairFile(c)
	if err != nil {
		t.Fatalf("start %s: %v", c.Name, err)
	}
	path := write(t, c, "cfg", haproxyConfig, file{Config: c, TLSFiles: c.TLS, PairFile: pair})
	return start(t, c, addresses(c.Hops), "haproxy", "-db", "-f", path)
}

// NGINX starts one nginx with one process and returns when it listens.
func NGINX(t testing.TB, c Config) *rig.Process {
	t.Helper()
	path := write(t, c, "conf", nginxConfig, file{Config: c, TLSFiles: c.TLS})
	return start(t, c, addresses(c.Hops), "nginx", "-p", c.Dir, "-e", "stderr", "-c", path)
}

// Workload starts one nginx that gives the answers and returns when it listens.
func Workload(t testing.TB, dir string, a Answers) *rig.Process {
	t.Helper()
	c := Config{Dir: dir, Name: "workload"}
	path := write(t, c, "conf", nginxConfig, file{Config: c, Answers: []Answers{a}})
	return start(t, c, []string{a.Listen}, "nginx", "-p", dir, "-e", "stderr", "-c", path)
}

func addresses(hops []Hop) []string {
	var all []string
	for _, h := range hops {
		all = append(all, h.Listen)
	}
	return all
}

// write writes the configuration file of a process and returns its path.
func write(t testing.TB, c Config, ending, text string, data file) string {
	t.Helper()
	var b strings.Builder
	parsed, err := template.New(c.Name).Option("missingkey=error").Parse(text)
	if err == nil {
		err = parsed.Execute(&b, data)
	}
	path := filepath.Join(c.Dir, c.Name+"."+ending)
	if err := errors.Join(err, os.WriteFile(path, []byte(b.String()), 0o600)); err != nil {
		t.Fatalf("configure %s: %v", c.Name, err)
	}
	return path
}

// pairFile puts certificate and key into one file.
func pairFile(c Config) (string, error) {
	var pair []byte
	for _, name := range []string{c.TLS.CertFile, c.TLS.KeyFile} {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		pair = append(pair, text...)
	}
	path := filepath.Join(c.Dir, c.Name+".pem")
	return path, os.WriteFile(path, pair, 0o600)
}

// start starts a program and waits until it listens at all addresses.
func start(t testing.TB, c Config, listens []string, program string, args ...string) *rig.Process {
	t.Helper()
	path, err := find(program)
	if err != nil {
		t.Fatalf("start %s: %v", c.Name, err)
	}
	p := rig.Start(t, rig.Command{Name: c.Name, Dir: c.Dir, Program: path, Args: args})
	p.Until(serveMost, "listens", func(ctx context.Context) error {
		for _, address := range listens {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	})
	return p
}

// Versions returns what the peers call themselves: "HAProxy 2.6.12-...",
// "nginx 1.22.1".
func Versions(ctx context.Context) ([]string, error) {
	var all []string
	for _, program := range []string{"haproxy", "nginx"} {
		path, err := find(program)
		if err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s -v: %w: %s", program, err, out)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		for _, words := range []string{"version: ", "version "} {
			line = strings.Replace(line, words, "", 1)
		}
		line, _, _ = strings.Cut(strings.Replace(line, "nginx nginx/", "nginx ", 1), " - ")
		all = append(all, line)
	}
	return all, nil
}

// find looks in PATH and where Debian puts servers, which the PATH of an
// ordinary user lacks.
func find(program string) (string, error) {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run test/bench/deps", program)
}
