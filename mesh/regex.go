package mesh

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// Bounds of a regular expression. Matching takes time linear in the length of what
// is matched, times the size of the program.
const (
	maxRegexBytes        = 1024
	maxRegexInstructions = 1000
)

// CompileRegex compiles an RE2 expression that has to match all of a value, as
// Envoy's safe_regex does. It refuses what BoundRegex does.
func CompileRegex(expr string) (*regexp.Regexp, error) {
	if err := BoundRegex(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// BoundRegex refuses RE2 expressions that are longer than 1,024 bytes or compile to more
// than 1,000 instructions, and what is no expression.
func BoundRegex(expr string) error {
	if len(expr) > maxRegexBytes {
		return fmt.Errorf("the expression has %d bytes, at most %d are allowed", len(expr), maxRegexBytes)
	}
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return fmt.Errorf("%.80q: %w", expr, err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return fmt.Errorf("%.80q: %w", expr, err)
	}
	if n := len(program.Inst); n > maxRegexInstructions {
		return fmt.Errorf("%.80q compiles to %d instructions, at most %d are allowed", expr, n, maxRegexInstructions)
	}
	return nil
}

// checkRegex reports an expression that does not compile.
func checkRegex(field, expr string, v *Violations) {
	if _, err := CompileRegex(expr); err != nil {
		v.Add(field, "RE2 syntax, which has to match everything, e.g. \"/v[0-9]+/.*\"", "%v", err)
	}
}
