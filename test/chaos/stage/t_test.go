package stage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

func TestRunGivesBackInReverse(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(*T)
		want string // of the error; empty for none
	}{
		{"a row that passes", func(*T) {}, ""},
		{"an error", func(t *T) { t.Errorf("no %s", "good") }, "no good"},
		{"a fatal error", func(t *T) { t.Fatal("the end") }, "the end"},
		{"two", func(t *T) { t.Error("one"); t.Fatalf("two") }, "one\ntwo"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var order []int
			dir := ""
			var ctx context.Context
			err := Run(t.Context(), "row", func(row *T) {
				dir, ctx = row.TempDir(), row.Context()
				row.Cleanup(func() { order = append(order, 1) })
				row.Cleanup(func() { order = append(order, 2) })
				tt.f(row)
			})
			if got := errorText(err); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if ctx.Err() == nil {
				t.Error("its context has not ended")
			}
			if !slices.Equal(order, []int{2, 1}) {
				t.Errorf("cleanups ran in the order %v", order)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRunGoesOnAfterACleanupThatFailed(t *testing.T) {
	ran := false
	err := Run(t.Context(), "row", func(row *T) {
		row.Cleanup(func() { ran = true })
		row.Cleanup(func() { row.Fatal("stuck") })
	})
	if !ran || errorText(err) != "stuck" {
		t.Errorf("ran is %t, error %v", ran, err)
	}
}

func TestARowThatIsGivenUpEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cleaned := false
	err := Run(ctx, "row", func(row *T) {
		row.Cleanup(func() { cleaned = true })
		row.Pause(time.Hour)
		row.Error("it went on")
	})
	if !cleaned || !strings.Contains(errorText(err), "given up") || strings.Contains(errorText(err), "went on") {
		t.Errorf("cleaned is %t, error %v", cleaned, err)
	}
}

// output runs a shell with args under limits.
func output(l Limits, args ...string) ([]byte, error) {
	c := l.apply(rig.Command{Program: "/bin/sh", Args: args})
	cmd := exec.Command(c.Program, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	return cmd.CombinedOutput()
}

func TestLimitsAreThoseOfTheProgram(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits Limits
		script string
		want   string
	}{
		{"files, soft", Limits{Files: 123}, "ulimit -S -n", "123\n"},
		{"files, hard", Limits{Files: 123}, "ulimit -H -n", "123\n"},
		{"environment", Limits{Env: []string{"GOMEMLIMIT=1MiB"}}, "echo $GOMEMLIMIT", "1MiB\n"},
		{"arguments", Limits{Files: 100}, `echo "$0"`, "a b\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := output(tt.limits, "-c", tt.script, "a b")
			if err != nil || string(out) != tt.want {
				t.Errorf("got %q, %v, want %q", out, err, tt.want)
			}
		})
	}
	t.Run("group", func(t *testing.T) {
		procs := t.TempDir() + "/cgroup.procs"
		out, err := output(Limits{Group: procs}, "-c", "echo $$")
		if err != nil {
			t.Fatal(err)
		}
		entered, err := os.ReadFile(procs)
		if err != nil || string(entered) != string(out) {
			t.Errorf("process %q entered itself as %q, %v", out, entered, err)
		}
	})
}
