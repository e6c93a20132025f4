package role

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// coded is an error with an exit code of its own.
type coded struct{ error }

func (coded) ExitCode() int { return 7 }

func TestMainsExitCodeSaysWhoseFaultItIs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		err    error
		code   int
		stderr string
	}{
		{"success", []string{"do"}, nil, 0, ""},
		{"an error, one line each", []string{"do"}, errors.Join(errors.New("a"), errors.New("b")), 1, "tool: a\ntool: b\n"},
		{"an error with a code", []string{"do"}, coded{errors.New("a")}, 7, "tool: a\n"},
		{"an unknown flag", []string{"do", "--nope"}, nil, 2, "tool: unknown flag: --nope\ntool: hint: run \"tool do --help\"\n"},
		{"an error with a hint", []string{"do"}, mesh.Errorf("bind", "x", mesh.Invalid, "taken").WithHint("choose another"), 1, "tool: bind x: taken\ntool: hint: choose another\n"},
		{"an unknown command", []string{"nope"}, nil, 2, "tool: unknown command \"nope\" for \"tool\"\ntool: hint: run \"tool --help\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := &cobra.Command{Use: "tool"}
			root.AddCommand(&cobra.Command{Use: "do", RunE: func(*cobra.Command, []string) error { return tt.err }})
			var stderr bytes.Buffer
			if code := Main(root, tt.args, &stderr); code != tt.code || stderr.String() != tt.stderr {
				t.Errorf("exit code %d, printed %q; want %d, %q", code, &stderr, tt.code, tt.stderr)
			}
		})
	}
}
