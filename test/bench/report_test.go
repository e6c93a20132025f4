package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func example() *report {
	return &report{
		tables: []table{{title: "What", head: []string{"load", "MiB"}, rows: [][]string{{"GET, 8", "9.5"}, {"POST, 128", "10.0"}}}},
		notes:  []string{"A note."},
		lines:  []string{"more=2"},
		last:   "figure=1",
	}
}

func TestReport(t *testing.T) {
	r := example()
	const text = "\nWhat\nload       MiB\nGET, 8     9.5\nPOST, 128  10.0\n\nA note.\nmore=2\n"
	if got := r.text(); got != text {
		t.Errorf("got %q, want %q", got, text)
	}
	const markdown = "\nWhat:\n\n| load | MiB |\n|---|---:|\n| GET, 8 | 9.5 |\n| POST, 128 | 10.0 |\n\nA note.\n\n```\nmore=2\nfigure=1\n```\n"
	if got := r.markdown(); got != markdown {
		t.Errorf("got %q, want %q", got, markdown)
	}
}

func TestMarkdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.md")
	write := func(name, tables string) {
		t.Helper()
		if err := checkMarkdown(path, name); err != nil {
			t.Error(err)
		}
		if err := writeMarkdown(path, name, tables); err != nil {
			t.Error(err)
		}
	}
	write("chain", "old\n")
	write("chain", "new\n")
	const chain = "<!-- bench-chain -->\nnew\n<!-- end of bench-chain -->\n"
	got, err := os.ReadFile(path)
	if err != nil || string(got) != chain {
		t.Errorf("got %q, %v, want %q", got, err, chain)
	}
	if err := os.WriteFile(path, []byte("# Title\n"+chain+"text\n<!-- bench-stream -->\n<!-- end of bench-stream -->\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("stream", "more\n")
	want := "# Title\n" + chain + "text\n<!-- bench-stream -->\nmore\n<!-- end of bench-stream -->\nend\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for name, path := range map[string]string{"memory": path, "chain": t.TempDir()} {
		if check, write := checkMarkdown(path, name), writeMarkdown(path, name, ""); check == nil || write == nil {
			t.Errorf("%s in %s: %v, %v", name, path, check, write)
		}
	}
}

// TestPerform looks at what a run says and leaves, and its exit code.
func TestPerform(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	void := errors.New("haproxy swings\nin many words")
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		play    func(*world) (*report, error)
		code    int
		last    string
		tables  bool
		stderr  string
		written bool
	}{
		{"counts", t.Context(), func(*world) (*report, error) { return example(), nil }, 0, "figure=1", true, "", true},
		{"is void with its tables", t.Context(), func(*world) (*report, error) { return example(), void }, 1, "void: haproxy swings", true, "in many words", false},
		{"could not be measured", t.Context(), func(*world) (*report, error) { return nil, void }, 1, "void: haproxy swings", false, "in many words", false},
		{"broke off", t.Context(), func(w *world) (*report, error) { w.t.Fatal("no Redis"); return example(), nil }, 1, "void: no Redis", false, "no Redis", false},
		{"left something behind", t.Context(), func(w *world) (*report, error) {
			w.t.Cleanup(func() { w.t.Error("it hangs") })
			return example(), nil
		}, 1, "void: it hangs", true, "it hangs", false},
		{"was interrupted", ended, func(*world) (*report, error) { return nil, void }, 1, "void: interrupted", false, "interrupted", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			s := settings{markdown: filepath.Join(t.TempDir(), "figures.md")}
			about := machine{date: "today", kernel: "Linux 1", cpu: "a CPU", cores: 2, programs: []string{"peer 1"}, run: "bench chain"}
			code := perform(tt.ctx, bench{name: "chain", play: tt.play}, s, about, &stdout, &stderr)
			out := stdout.String()
			if code != tt.code || !strings.HasPrefix(out, "today; Linux 1; 2 cores, a CPU\npeer 1\nbench chain\n") || !strings.HasSuffix(out, "\n"+tt.last+"\n") || strings.Contains(out, "POST, 128") != tt.tables {
				t.Errorf("exit code %d and\n%s", code, out)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("got %q, want %q", stderr.String(), tt.stderr)
			}
			if text, err := os.ReadFile(s.markdown); (err == nil) != tt.written || tt.written && !strings.Contains(string(text), "peer 1  \nbench chain\n\nWhat:") {
				t.Errorf("written: %q, %v", text, err)
			}
		})
	}
}

// TestPerformSaysWhatItCannotWrite: figures that went nowhere are no success.
func TestPerformSaysWhatItCannotWrite(t *testing.T) {
	play := func(*world) (*report, error) { return example(), nil }
	for name, s := range map[string]settings{"output": {}, "markdown": {markdown: t.TempDir()}} {
		var stdout, stderr bytes.Buffer
		out := failAfter{&stdout, name == "output"}
		if code := perform(t.Context(), bench{name: "chain", play: play}, s, machine{}, out, &stderr); code != 1 || stderr.Len() == 0 {
			t.Errorf("%s: exit code %d, %q", name, code, stderr.String())
		}
	}
}

// failAfter fails every write, or none.
type failAfter struct {
	w    *bytes.Buffer
	fail bool
}

func (f failAfter) Write(p []byte) (int, error) {
	if f.fail {
		return 0, errors.New("nobody reads")
	}
	return f.w.Write(p)
}

func TestFindings(t *testing.T) {
	all := []finding{
		{"GET", "cpu", 32, "nginx", 0.651}, {"GET", "cpu", 8, "haproxy", 1.5}, {"POST", "cpu", 32, "haproxy", 9},
		{"GET", "cpu", 128, "haproxy", 0.7}, {"GET", "cpu_all", 32, "haproxy", 8}, {"GET", "cpu", 32, "haproxy", 0.8},
	}
	for _, tt := range []struct {
		name      string
		all       []finding
		last      string
		get, post string
	}{
		{
			"all points", all, "ratio_cpu_32_vs_haproxy=0.80 ratio_cpu_128_vs_haproxy=0.70 ratio_cpu_32_vs_nginx=0.65",
			"get_ratio_cpu_32_vs_nginx=0.65 get_ratio_cpu_8_vs_haproxy=1.50 get_ratio_cpu_128_vs_haproxy=0.70 get_ratio_cpu_all_32_vs_haproxy=8.00 get_ratio_cpu_32_vs_haproxy=0.80",
			"post_ratio_cpu_32_vs_haproxy=9.00",
		},
		{"one of them", all[:1], "ratio_cpu_32_vs_nginx=0.65", "get_ratio_cpu_32_vs_nginx=0.65", ""},
		{"others only", all[1:3], "get_ratio_cpu_8_vs_haproxy=1.50 post_ratio_cpu_32_vs_haproxy=9.00", "get_ratio_cpu_8_vs_haproxy=1.50", "post_ratio_cpu_32_vs_haproxy=9.00"},
		{"no peer", nil, "measured=hedgerow", "", ""},
	} {
		var f findings
		for _, one := range tt.all {
			f.add(one)
		}
		if last, get, post := f.last(), strings.Join(f.lines(get), "|"), strings.Join(f.lines(post), "|"); last != tt.last || get != tt.get || post != tt.post {
			t.Errorf("%s: got %q, %q and %q", tt.name, last, get, post)
		}
	}
}
