package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// failure is an error as the user reads it: one line for each thing that is
// wrong, each followed by a line "hint: ..." where there is one. Whoever prints
// it puts the name of the program before each line.
type failure struct {
	lines []string
	code  int
	cause error
}

// Error returns the lines, separated by newlines.
func (f *failure) Error() string { return strings.Join(f.lines, "\n") }

// Unwrap returns the cause, for errors.Is and errors.As.
func (f *failure) Unwrap() error { return f.cause }

// ExitCode returns what the process should return: 1, or 2 for wrong usage.
func (f *failure) ExitCode() int { return f.code }

// add appends a line and, if hint is not empty, the line with the hint. Both
// may hold text from the network.
func (f *failure) add(line, hint string) {
	f.lines = append(f.lines, printable(line))
	if hint != "" {
		f.lines = append(f.lines, "hint: "+printable(hint))
	}
}

// fail returns err as the failure of an operation like "apply routes.yaml". A
// nil err stays nil and a failure stays as it is.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if f := (*failure)(nil); errors.As(err, &f) {
		return err
	}
	f := &failure{code: exitFailed, cause: err}
	var p *problem
	if errors.As(err, &p) {
		f.addProblem(op, p)
		return f
	}
	text := err.Error()
	if e := (*mesh.Error)(nil); errors.As(err, &e) && e.Err != nil {
		text = e.Err.Error() // op says it better
	}
	f.add(op+": "+text, mesh.HintOf(err))
	return f
}

// addProblem adds an answer of the API: its detail, then every violation.
func (f *failure) addProblem(op string, p *problem) {
	headline := p.Detail
	if headline == "" {
		headline = p.Title
	}
	hint := p.Hint
	if hint == "" {
		hint = hintForStatus(p)
	}
	// "delete routes/a: routes/a: there is no such object" says it twice.
	if _, object, ok := strings.Cut(op, " "); ok {
		headline = strings.TrimPrefix(headline, object+": ")
	}
	f.add(fmt.Sprintf("%s: %s (%d %s)", op, headline, p.Status, p.Code), hint)
	for _, v := range p.Violations {
		f.add(fmt.Sprintf("%s: %s", v.Field, v.Message), v.Hint)
	}
}

// hintForStatus says what to do about an answer that does not say it itself.
func hintForStatus(p *problem) string {
	switch p.Status {
	case 401:
		return p.tokenHint
	case 413:
		return "apply fewer objects at a time"
	case 412:
		return "somebody else changed it; get it again, or leave the etag out to overwrite"
	case 503:
		return "try again when what it names is back"
	default:
		return ""
	}
}

// usageError is for a command line that is wrong in itself.
func usageError(c *cobra.Command, err error) error {
	f := &failure{code: exitUsage, cause: err}
	f.add(c.Name()+": "+err.Error(), fmt.Sprintf("run %q", c.CommandPath()+" --help"))
	return f
}

// usageArgs makes the errors of an argument check errors of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError(c, err)
		}
		return nil
	}
}

// printable replaces what could move the cursor, colour the terminal or begin
// a line of its own. Servers and files are not trusted with that.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case r < 0x20, r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return '\uFFFD'
		default:
			return r
		}
	}, s)
}
