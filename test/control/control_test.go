package main

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.." // of the module

// The controls are not run here. But whoever moves a check learns at once that a
// control was about it.
func TestControlsAreAboutWhatIsThere(t *testing.T) {
	tests := map[string][]string{}
	var seen []string
	for _, table := range tables() {
		if tests[table.dir] == nil {
			tests[table.dir] = testsIn(t, filepath.Join(root, table.dir))
		}
		for _, c := range table.controls {
			name := trial{table, c}.name()
			if slices.Contains(seen, name) {
				t.Errorf("%s is there twice", name)
			}
			seen = append(seen, name)
			source, err := os.ReadFile(filepath.Join(root, table.dir, c.file))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			changed, err := c.apply(string(source))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if _, err := parser.ParseFile(token.NewFileSet(), c.file, changed, parser.SkipObjectResolution); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for test := range strings.SplitSeq(c.tests, "|") {
				if !slices.Contains(tests[table.dir], test) {
					t.Errorf("%s: no test is called %s", name, test)
				}
			}
		}
	}
}

// testsIn returns the names of the tests of a package, and of the fuzz targets: go
// test runs their seeds.
func testsIn(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name   string
		c      control
		source string
		want   string // "" is an error
	}{
		{"one text", without("", "", "b", "x", ""), "abc", "axc"},
		{"two texts", without("", "", "b", "x", "").and("c", "y"), "abc", "axy"},
		{"a text that is gone", without("", "", "z", "x", ""), "abc", ""},
		{"a second text that is gone", without("", "", "b", "x", "").and("z", "y"), "abc", ""},
		{"a text that is there twice", without("", "", "a", "x", ""), "aba", ""},
		{"no change", without("", "", "b", "b", ""), "abc", ""},
	} {
		got, err := tt.c.apply(tt.source)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

func TestJudge(t *testing.T) {
	failed := errors.New("exit status 1")
	const hung = "panic: test timed out after 20s\n\trunning tests:\n\t\tTestA (20s)\n"
	for _, tt := range []struct {
		name  string
		out   string
		err   error
		hangs bool
		want  result
	}{
		{"passes", "PASS\n", nil, false, result{survived, "every test passes"}},
		{"has no test", noTests + "\nPASS\n", nil, false, result{broken, "no test has that name"}},
		{"fails", "--- FAIL: TestA (0.00s)\n    a_test.go:7: x\nFAIL\n", failed, false, result{caught, "TestA"}},
		{"fails within", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b_(c) (0.00s)\n        a_test.go:7: x\nFAIL\n", failed, false, result{caught, "TestA/b_(c)"}},
		{"panics in a test", "--- FAIL: TestA (0.00s)\npanic: x\n", failed, false, result{caught, "TestA"}},
		{"panics elsewhere", "panic: x\n\ngoroutine 1", failed, false, result{caught, "panic: x"}},
		{"ends fatally", "fatal error: stack overflow\n", failed, false, result{caught, "fatal error: stack overflow"}},
		{"hangs", hung, failed, false, result{broken, "the time is up"}},
		{"hangs as it may", hung, failed, true, result{caught, "a test hangs"}},
		{"says nothing", "", failed, true, result{broken, "exit status 1: "}},
	} {
		if got := judge(tt.out, tt.err, tt.hangs); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// sample is a module with a check, a test of it, and a wait.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module sample\n\ngo 1.26\n",
		"a.go": `package sample

func even(n int) bool { return n%2 == 0 }

func wait(c chan bool) { <-c }

func over(n int) bool { return n > 9 }
`,
		"a_test.go": `package sample

import "testing"

func TestEven(t *testing.T) {
	for _, n := range []int{1, 2} {
		if even(n) != (n == 2) {
			t.Error(n)
		}
	}
}

func TestWait(t *testing.T) {
	c := make(chan bool, 1)
	c <- true
	wait(c)
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	parity := table{"parity", ".", []control{
		without("odd is not even", "a.go", "n%2 == 0", "true", "TestEven"),
		without("nine is not over", "a.go", "n > 9", "n >= 9", "TestEven"),
		without("does not compile", "a.go", "n > 9", "n", "TestEven"),
		without("has no test", "a.go", "n > 9", "n >= 9", "TestOver"),
		without("is not there", "a.go", "n > 10", "n >= 9", "TestEven"),
	}}
	waits := table{"waits", ".", []control{without("waits for something", "a.go", "<-c", "<-c; panic(c)", "TestWait")}}
	all := []table{parity, waits}
	dir := sample(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string // in the output, in this order
	}{
		{"all", nil, 1, []string{
			"caught    parity: odd is not even  (TestEven)",
			"SURVIVED  parity: nine is not over  (every test passes)",
			"BROKEN    parity: does not compile  (does not compile: ",
			"BROKEN    parity: has no test  (no test has that name)",
			"BROKEN    parity: is not there  (a.go has \"n > 10\" 0 times, not once)",
			"caught    waits: waits for something  (TestWait)",
			"controls=6 caught=2 survived=1 broken=3 ",
		}},
		{"the short form", []string{"-short"}, 0, []string{"parity: odd is not even", "waits: waits", "controls=2 caught=2 survived=0 broken=0 "}},
		{"some", []string{"-j", "1", "-run", "^parity: (odd|nine)"}, 1, []string{"odd is", "nine is", "controls=2 caught=1 survived=1 broken=0 "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), all, append(tt.args, "-root", dir), &out, &errs)
			rest := out.String()
			for _, want := range tt.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Errorf("no %q in %q", want, out.String())
				}
				rest = after
			}
			if code != tt.code || errs.Len() > 0 {
				t.Errorf("exit code %d, want %d; %s", code, tt.code, errs.String())
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Errorf("in the tree are %q, %v", files, err)
	}
}

func TestTestsThatFailAsTheyAreShowNothing(t *testing.T) {
	dir := sample(t)
	if err := os.WriteFile(filepath.Join(dir, "b_test.go"), []byte("package sample\n\nimport \"testing\"\n\nfunc TestOver(t *testing.T) { t.Error(over(9)) }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	over := table{"over", ".", []control{without("nine is not over", "a.go", "n > 9", "n >= 9", "TestOver")}}
	if code := run(t.Context(), []table{over}, []string{"-root", dir}, &out, &errs); code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "fails as it is") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errs.String())
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, args := range [][]string{{"-run", "("}, {"-run", "no such control"}, {"-j", "0"}, {"-nope"}, {"h1"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), tables(), args, &out, &errs); code != 2 || errs.Len() == 0 || out.Len() > 0 {
			t.Errorf("%q: exit code %d, %q, %q", args, code, out.String(), errs.String())
		}
	}
}

// The short form has one control of every table, so that none is forgotten.
func TestShortFormHasEveryTable(t *testing.T) {
	seen := map[string]int{}
	for _, c := range choose(tables(), regexp.MustCompile(""), true) {
		seen[c.table.name]++
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s has %d controls", name, n)
		}
	}
	if len(seen) != len(tables()) {
		t.Errorf("only of %v", slices.Sorted(maps.Keys(seen)))
	}
}
