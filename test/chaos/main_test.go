package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/workload"
)

func TestChoose(t *testing.T) {
	all := []act{{name: "f15"}, {name: "f19", title: "a"}, {name: "f19", title: "b"}, {name: "slow"}}
	for _, tt := range []struct {
		name  string
		names []string
		want  int
		err   string
	}{
		{"nothing", nil, 0, "which rows?"},
		{"one", []string{"f15"}, 1, ""},
		{"one of two parts", []string{"f19"}, 2, ""},
		{"several", []string{"slow", "f15"}, 2, ""},
		{"all", []string{"all"}, 4, ""},
		{"an unknown one", []string{"f15", "f99"}, 0, "no row is called f99"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(all, tt.names)
			if len(got) != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("got %d rows, %v; want %d, %q", len(got), err, tt.want, tt.err)
			}
		})
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, args := range [][]string{nil, {"f99"}, {"-rate", "0", "f15"}, {"-nope"}, {"-binaries", "nowhere", "f15"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, &out, &errs); code != 2 || errs.Len() == 0 || out.Len() != 0 {
			t.Errorf("%q: exit code %d, printed %q and %q", args, code, out.String(), errs.String())
		}
	}
}

func TestProgramsHaveAnAbsolutePath(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("bin", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hedgerow", "hedgerow-edge"} {
		if _, err := programs("bin"); err == nil {
			t.Errorf("%s is not missed", name)
		}
		if err := os.WriteFile("bin/"+name, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if dir, err := programs("bin"); err != nil || !filepath.IsAbs(dir) {
		t.Errorf("got %q, %v", dir, err)
	}
}

func TestRow(t *testing.T) {
	for _, tt := range []struct {
		name string
		fill func(*row)
		want string
	}{
		{"within", func(r *row) { r.zero("errors", 0); r.note("p99", "1ms") }, "F1 fault: errors=0 allowed=0 p99=1ms PASS\n"},
		{"too many", func(r *row) { r.zero("errors", 2) }, "F1 fault: errors=2 allowed=0 FAIL\n  errors is 2, allowed is 0\n"},
		{"too few", func(r *row) { r.atLeast("n", 1, 2) }, "F1 fault: n=1 allowed=>=2 FAIL\n  n is 1, allowed is >=2\n"},
		{"enough", func(r *row) { r.atLeast("n", 2, 2) }, "F1 fault: n=2 allowed=>=2 PASS\n"},
		{"too late", func(r *row) { r.atMost("d", 2*time.Second, time.Second) }, "F1 fault: d=2s allowed=<=1s FAIL\n  d is 2s, allowed is <=1s\n"},
		{"in time", func(r *row) { r.atMost("d", time.Second, time.Second) }, "F1 fault: d=1s allowed=<=1s PASS\n"},
		{"a detail", func(r *row) { r.blame("a drain", "x\ny") }, "F1 fault: FAIL\n  a drain: x\n    y\n"},
		{"no load", func(r *row) { r.load(load.Report{}) }, "F1 fault: sent=0 errors=0 allowed=0 p50=0s p99=0s FAIL\n  void: no request was sent\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := row{id: "F1", title: "fault"}
			tt.fill(&r)
			var out strings.Builder
			if err := r.print(&out); err != nil || out.String() != tt.want {
				t.Errorf("got %q, want %q", out.String(), tt.want)
			}
			if r.passed() != strings.HasSuffix(strings.SplitN(tt.want, "\n", 2)[0], "PASS") {
				t.Errorf("passed is %t", r.passed())
			}
		})
	}
}

func TestAskBrokenTellsWholeFromBroken(t *testing.T) {
	s, err := workload.ServeBroken()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	target := load.Target{Address: s.Addr, Host: "broken.mesh"}
	for name, want := range map[string]int{
		"whole-length": 3, "whole-chunked": 3, "length-short-fin": 0, "no-last-chunk-fin": 0, "unknown": 0,
	} {
		if got := askBroken(t.Context(), target, name, 3); got != want {
			t.Errorf("%s: %d taken for whole, want %d", name, got, want)
		}
	}
}

func TestShedding(t *testing.T) {
	answer := func(status int, retryAfter string) *http.Response {
		header := http.Header{}
		if retryAfter != "" {
			header.Set("Retry-After", retryAfter)
		}
		return &http.Response{StatusCode: status, Header: header}
	}
	if n := serverErrors("3 2xx, 0 3xx, 1 4xx, 115 5xx"); n != 115 {
		t.Errorf("%d 5xx were read, want 115", n)
	}
	const low, high = 100 << 20, 120 << 20
	for _, tt := range []struct {
		name    string
		answers []*http.Response
		held    int64
		passed  bool
	}{
		{"nothing to shed", []*http.Response{answer(200, "")}, low, true},
		{"shed", []*http.Response{answer(200, ""), answer(503, "1")}, high, true},
		{"nothing shed at the limit", []*http.Response{answer(200, "")}, high, false},
		{"without Retry-After", []*http.Response{answer(503, "1"), answer(503, "")}, low, false},
		{"another failure", []*http.Response{answer(502, "1")}, high, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s shed
			for _, a := range tt.answers {
				s.count(a)
			}
			var r row
			r.judgeShed(s, tt.held)
			if r.passed() != tt.passed {
				t.Errorf("passed is %t: %q", r.passed(), r.failures)
			}
		})
	}
}

func TestReadingSlowhttptest(t *testing.T) {
	const status = "\x1b[1;32mpending:     \x1b[1;32m        1\n\x1b[1;32mconnected:   \x1b[1;32m        %s\n" +
		"\x1b[1;32mclosed:      \x1b[1;32m        3\n\x1b[1;32mservice available:\x1b[1;32m   \x1b[1;32m%s\x1b[0m\n"
	text := func(connected, available string) string {
		return strings.Replace(strings.Replace(status, "%s", connected, 1), "%s", available, 1)
	}
	for _, tt := range []struct {
		name string
		out  string
		want attack
		bad  bool
	}{
		{"available", text("20", "YES") + text("7", "YES"), attack{available: 2, connected: 20, closed: 3}, false},
		{"away for a while", text("20", "YES") + text("21", "NO"), attack{available: 1, away: 1, connected: 21, closed: 3}, false},
		{"no status at all", "Error in getaddrinfo", attack{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a attack
			if err := a.read(tt.out); (err != nil) != tt.bad || a != tt.want {
				t.Errorf("got %+v, %v, want %+v", a, err, tt.want)
			}
		})
	}
}

func TestAMissingToolIsAnError(t *testing.T) {
	if _, err := runTool(t.Context(), time.Second, "no-such-tool"); err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Errorf("got %v", err)
	}
	if _, err := runTool(t.Context(), time.Minute, "false"); err == nil {
		t.Error("exit code 1 is no error")
	}
	if out, err := runTool(t.Context(), time.Minute, "echo", "a"); err != nil || out != "a\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
