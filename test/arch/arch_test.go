// Package arch holds the rules of this source tree and tests the tree against
// them: who may import whom, what each program may link, and how large and how
// documented things are. Each rule carries its reason, which a failure prints.
// It says nothing about what the code does; formatting and common mistakes are
// the linters' business (.golangci.yml).
//
// Invariant: every rule is shown to fail on a bad example and to pass on a
// good one, next to the rule. A rule that cannot fail protects nothing.
package arch

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the path of the product's module, and of the folders below it.
const module = "github.com/hedgerow-mesh/hedgerow"

// rule is one rule of the tree.
type rule struct {
	name   string
	reason string
	check  func(*tree) []string // what breaks the rule, each with its place
	bad    []example
	good   []example
}

// example is a small tree: paths and what the files hold. For a bad one, want
// is part of what the rule says about it.
type example struct {
	name  string
	files map[string]string
	want  string
}

func rules() []rule {
	var all []rule
	all = append(all, importRules()...)
	all = append(all, sourceRules()...)
	all = append(all, sizeRules()...)
	all = append(all, testRules()...)
	return all
}

// TestTree holds the whole tree to every rule.
func TestTree(t *testing.T) {
	tree, err := load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.files) < 50 {
		t.Fatalf("only %d files were found", len(tree.files))
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, finding := range r.check(tree) {
				t.Errorf("%s\n\tthe rule: %s\n\tbecause %s", finding, r.name, r.reason)
			}
		})
	}
}

// TestRules shows that each rule finds what it is for, and nothing else.
func TestRules(t *testing.T) {
	for _, r := range rules() {
		if len(r.bad) == 0 || r.reason == "" {
			t.Errorf("%s: a rule has a reason and a bad example", r.name)
		}
		for _, e := range r.bad {
			t.Run(r.name+"/"+e.name, func(t *testing.T) {
				findings := r.check(loadExample(t, e))
				if len(findings) != 1 || !strings.Contains(findings[0], e.want) {
					t.Errorf("found %q, want one finding with %q", findings, e.want)
				}
			})
		}
		for _, e := range r.good {
			t.Run(r.name+"/"+e.name, func(t *testing.T) {
				if findings := r.check(loadExample(t, e)); len(findings) != 0 {
					t.Errorf("found %q", findings)
				}
			})
		}
	}
}

func loadExample(t *testing.T, e example) *tree {
	t.Helper()
	fsys := fstest.MapFS{}
	for path, text := range e.files {
		fsys[path] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.files) != len(e.files) {
		t.Fatalf("%d of %d files of the example were loaded", len(tree.files), len(e.files))
	}
	return tree
}
