// Package devices is devices that publish by the client libraries of others, over
// and over, whatever becomes of the broker: each message is a text of its own, and
// each that the library says is acknowledged is told.
//
// It judges nothing. A message that a library gives up is not sent again.
package devices

import (
	"bufio"
	"context"
	_ "embed" // for the scripts
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Fleet says which devices publish where.
type Fleet struct {
	Broker string // "127.0.0.1:port"
	First  int    // the number of the first device
	Count  int
	Acked  func(device, n int) // called for each message that was acknowledged, by any goroutine
}

// Library is a client library. Start has the devices of a fleet publish until stop is called,
// which waits a while for what is under way.
type Library struct {
	Name  string
	Start func(ctx context.Context, f Fleet) (stop func() error, err error)
}

// Libraries returns all.
func Libraries() []Library {
	return []Library{
		{"paho.mqtt.golang", Go},
		{"mqtt.js", script("node", nodeEnv, "-e", node)},
		{"paho-python", script("/usr/bin/python3", noEnv, "-c", python)},
		{"mosquitto_pub", mosquitto},
	}
}

// Topic returns where a device publishes.
func Topic(device int) string { return fmt.Sprintf("devices/d%d/telemetry", device) }

// Text is a device's n-th message.
func Text(device, n int) string { return fmt.Sprintf("%d %d", device, n) }

// Parse reads what Text wrote, and ignores what follows it after another space.
func Parse(text string) (device, n int, err error) {
	_, err = fmt.Sscanf(text, "%d %d", &device, &n)
	return device, n, err
}

// lastWords is how long stop waits for acknowledgements of what is under way.
const lastWords = 20 * time.Second

//go:embed node.js
var node string

//go:embed python.py
var python string

func noEnv() []string { return nil }

// nodeEnv is where .ci/deps has npm install.
func nodeEnv() []string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil // node says what it does not find
	}
	return []string{"NODE_PATH=" + filepath.Join(cache, "hedgerow-test", "node", "node_modules")}
}

// script returns how devices are started that one program is. It prints a line for each
// acknowledgement, and ends some time after its input does.
func script(program string, env func() []string, args ...string) func(context.Context, Fleet) (func() error, error) {
	return func(ctx context.Context, f Fleet) (func() error, error) {
		host, port, err := net.SplitHostPort(f.Broker)
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, program, append(args[:len(args):len(args)], host, port, fmt.Sprint(f.First), fmt.Sprint(f.Count))...)
		cmd.Env = append(os.Environ(), env()...)
		return run(cmd, nil, func(line string) {
			if device, n, err := Parse(line); err == nil {
				f.Acked(device, n)
			}
		})
	}
}

// run starts cmd and has heard called for each line of its output. feed is what writes into its
// input until that is closed, if anything does.
func run(cmd *exec.Cmd, feed func(io.Writer), heard func(string)) (func() error, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var failed strings.Builder
	cmd.Stderr = &failed
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	all.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			heard(lines.Text())
		}
	})
	if feed != nil {
		all.Go(func() { feed(in) })
	}
	return sync.OnceValue(func() error {
		closed := in.Close()
		late := time.AfterFunc(lastWords+10*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		all.Wait()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %.500s", cmd.Path, err, failed.String())
		}
		if errors.Is(closed, os.ErrClosed) {
			return nil
		}
		return closed
	}), nil
}
