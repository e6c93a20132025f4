// Package proc reads from outside what a running process costs and says of
// itself: its memory from /proc, its series from /metrics, its certificates
// from the admin port. It also puts processes under a memory limit of their
// own (cgroup v1).
//
// It starts and ends no process, and keeps nothing but the cgroups it made.
// All sizes are bytes.
package proc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// RSS returns the resident memory of process pid (VmRSS, proc(5)).
func RSS(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return 0, fmt.Errorf("%s: VmRSS %q: %w", path, rest, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no VmRSS: the process has ended", path)
}

// Files returns how many file descriptors process pid has open.
func Files(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}

// PeakRSS samples the resident memory of processes until stop is called, which
// returns the highest of each, in the order of pids.
func PeakRSS(pids ...int) (stop func() ([]int64, error)) {
	peaks, end, done := make([]int64, len(pids)), make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for i, pid := range pids {
				rss, err := RSS(pid)
				if err != nil {
					done <- err
					return
				}
				peaks[i] = max(peaks[i], rss)
			}
			select {
			case <-end:
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return sync.OnceValues(func() ([]int64, error) {
		close(end)
		err := <-done
		return peaks, err
	})
}

// Admin is the admin port of a data plane.
type Admin struct {
	Address string // "127.0.0.1:15000"
}

// Page is what /metrics says at one moment, by lines.
type Page []string

// Metrics returns what /metrics says now.
func (a Admin) Metrics(ctx context.Context) (Page, error) {
	var p Page
	err := a.get(ctx, "/metrics", func(resp *http.Response) error {
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			p = append(p, lines.Text())
		}
		return lines.Err()
	})
	return p, err
}

// Sum adds up the series of a metric whose labels have all of the given
// fragments, such as `face="inbound"`. A metric without series is 0.
func (p Page) Sum(metric string, labels ...string) float64 {
	sum := 0.0
	for _, line := range p {
		if value, ok := series(line, metric, labels); ok {
			sum += value
		}
	}
	return sum
}

// Sum is Page.Sum of what /metrics says now.
func (a Admin) Sum(ctx context.Context, metric string, labels ...string) (float64, error) {
	p, err := a.Metrics(ctx)
	return p.Sum(metric, labels...), err
}

// series returns the value of one line of the text format of Prometheus, if it
// is of metric and has the labels.
func series(line, metric string, labels []string) (float64, bool) {
	rest, ok := strings.CutPrefix(line, metric)
	if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
		return 0, false
	}
	for _, label := range labels {
		if !strings.Contains(rest, label) {
			return 0, false
		}
	}
	value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
	return value, err == nil
}

// Cert is a certificate that a data plane holds.
type Cert struct {
	Identity, Serial, Issuer string
	NotAfter                 time.Time
	Roots                    []struct{ Subject string }
}

// Certs returns the certificate of each identity.
func (a Admin) Certs(ctx context.Context) ([]Cert, error) {
	var answer struct{ Certs []Cert }
	err := a.get(ctx, "/certs", func(resp *http.Response) error { return json.NewDecoder(resp.Body).Decode(&answer) })
	return answer.Certs, err
}

// Serials returns the serial number, in hex, of each identity's certificate.
func (a Admin) Serials(ctx context.Context) (map[string]string, error) {
	certs, err := a.Certs(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, c := range certs {
		out[c.Identity] = c.Serial
	}
	return out, nil
}

// Endpoints returns the instances of a service that a data plane knows.
func (a Admin) Endpoints(ctx context.Context, service string) ([]string, error) {
	var answer struct {
		Endpoints []struct{ Service, Instance string }
	}
	err := a.get(ctx, "/endpoints", func(resp *http.Response) error { return json.NewDecoder(resp.Body).Decode(&answer) })
	var out []string
	for _, e := range answer.Endpoints {
		if e.Service == service {
			out = append(out, e.Instance)
		}
	}
	return out, err
}

// Ready returns nil once /ready answers 200.
func (a Admin) Ready(ctx context.Context) error {
	return a.get(ctx, "/ready", func(*http.Response) error { return nil })
}

// Readiness returns the status of /ready, and what it says.
func (a Admin) Readiness(ctx context.Context) (status int, text string, err error) {
	err = a.ask(ctx, "/ready", func(resp *http.Response) error {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		status, text = resp.StatusCode, string(body)
		return err
	})
	return status, text, err
}

// get is ask of what must be answered 200.
func (a Admin) get(ctx context.Context, path string, use func(*http.Response) error) error {
	return a.ask(ctx, path, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s%s: %s", a.Address, path, resp.Status)
		}
		return use(resp)
	})
}

// ask asks for path on a connection of its own: a process that is being
// restarted must not be asked on the old one's.
func (a Admin) ask(ctx context.Context, path string, use func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Address+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return use(resp)
}

// MemoryGroup is a memory cgroup (v1) of our own.
type MemoryGroup struct {
	dir string
}

// memoryRoot is where Linux mounts the memory controller of cgroup v1.
const memoryRoot = "/sys/fs/cgroup/memory"

// NewMemoryGroup makes a group whose processes may hold limit bytes together,
// with the page cache of files that nobody else had read before. The caller removes it when
// they have ended. It needs root and cgroup v1.
func NewMemoryGroup(name string, limit int64) (*MemoryGroup, error) {
	g := &MemoryGroup{dir: filepath.Join(memoryRoot, name)}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a memory cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "memory.limit_in_bytes"), strconv.AppendInt(nil, limit, 10), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("limit a memory cgroup: %w", err), g.Remove())
	}
	return g, nil
}

// Procs is the file into which a process writes its id, or 0 for its own, to
// enter the group.
func (g *MemoryGroup) Procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// Peak returns the most that the group ever held.
func (g *MemoryGroup) Peak() (int64, error) { return g.number("memory.max_usage_in_bytes", "") }

// Kills returns how many processes of the group the kernel has killed for want
// of memory.
func (g *MemoryGroup) Kills() (int64, error) { return g.number("memory.oom_control", "oom_kill ") }

// number reads the number after prefix in a file of the group.
func (g *MemoryGroup) number(file, prefix string) (int64, error) {
	path := filepath.Join(g.dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %q", path, prefix)
}

// Remove removes the group. Its processes have ended; the kernel may need a
// moment to notice.
func (g *MemoryGroup) Remove() error {
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := os.Remove(g.dir)
		if err == nil || os.IsNotExist(err) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove a memory cgroup: %w", err)
		}
		<-tick.C
	}
}
