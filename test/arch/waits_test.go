package arch

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

func testRules() []rule {
	return []rule{
		{
			name:   "no test is skipped",
			reason: "a test that may be skipped is one day skipped everywhere, and nobody sees it; what it needs is installed by make deps",
			check:  checkSkips,
			bad: []example{
				{"Skip", map[string]string{"mesh/a_test.go": "package mesh\nfunc f() { t.Skip(\"later\") }\n"}, "mesh/a_test.go:2: Skip"},
				{"SkipNow in a helper", map[string]string{"test/servers/a.go": "package servers\nfunc f() { t.SkipNow() }\n"}, "SkipNow"},
				{"short mode", map[string]string{"mesh/a_test.go": "package mesh\nimport \"testing\"\nfunc f() bool { return testing.Short() }\n"}, "testing.Short"},
				{"in a script", map[string]string{"test/e2e/testdata/script/a.txtar": "# x\n[!net] skip\n"}, "test/e2e/testdata/script/a.txtar:2: skip"},
			},
			good: []example{
				{"a method of that name elsewhere", map[string]string{"mesh/a.go": "package mesh\nfunc f() { d.Skip() }\n"}, ""},
				{"the word in a script", map[string]string{"test/e2e/testdata/script/a.txtar": "# skip nothing\n"}, ""},
			},
		},
		{
			name:   "tests do not sleep",
			reason: "a sleep is too short on a loaded machine and too long on every other: poll with a deadline, or use testing/synctest, where sleeping is free",
			check:  checkSleeps,
			bad: []example{
				{"time.Sleep", map[string]string{"mesh/a_test.go": "package mesh\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"}, "mesh/a_test.go:3: time.Sleep"},
				{"by another name, in a helper", map[string]string{"test/servers/a.go": "package servers\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }\n"}, "time.Sleep"},
				{"beside a bubble", map[string]string{"mesh/a_test.go": "package mesh\nimport (\n\"testing/synctest\"\n\"time\"\n)\nfunc f() {\n synctest.Test(nil, func() { time.Sleep(1) })\n time.Sleep(1)\n}\n"}, "mesh/a_test.go:8: time.Sleep"},
			},
			good: []example{
				{"in a bubble", map[string]string{"mesh/a_test.go": "package mesh\nimport (\n\"testing/synctest\"\n\"time\"\n)\nfunc f() {\n synctest.Test(nil, func() { time.Sleep(1) })\n}\n"}, ""},
				{"in shipped code", map[string]string{"mesh/a.go": "package mesh\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"}, ""},
			},
		},
	}
}

// skips are the ways to skip a test in Go, and a command in a script.
var (
	skips      = []string{"Skip", "Skipf", "SkipNow"}
	scriptSkip = regexp.MustCompile(`^(\[[^]]*\]\s*)*skip(\s|$)`)
)

// forTests reports whether a Go file runs in tests only.
func forTests(f *file) bool {
	return f.syntax != nil && (f.test || under(f.dir, "test") || strings.HasSuffix(f.dir, "test"))
}

func checkSkips(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if strings.HasSuffix(f.path, ".txtar") {
			for i, line := range strings.Split(string(f.text), "\n") {
				if scriptSkip.MatchString(line) {
					found = append(found, fmt.Sprintf("%s:%d: skip", f.path, i+1))
				}
			}
		}
		if !forTests(f) {
			continue
		}
		testing := f.importName("testing")
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if slices.Contains(skips, s.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: %s", t.at(s), s.Sel.Name))
			}
			if x, ok := s.X.(*ast.Ident); ok && testing != "" && x.Name == testing && s.Sel.Name == "Short" {
				found = append(found, t.at(s)+": testing.Short")
			}
			return true
		})
	}
	return found
}

func checkSleeps(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if !forTests(f) {
			continue
		}
		clock, bubbles := f.importName("time"), f.importName("testing/synctest")
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && bubbles != "" && names(call.Fun, bubbles, "Test") {
				return false // the clock inside a bubble is not the real one
			}
			if s, ok := n.(*ast.SelectorExpr); ok && clock != "" && names(s, clock, "Sleep") {
				found = append(found, t.at(s)+": time.Sleep")
			}
			return true
		})
	}
	return found
}

// names reports whether e is the name sel of the package known as pkg.
func names(e ast.Expr, pkg, sel string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != sel {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}
