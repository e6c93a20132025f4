// Package role wires the data plane: it reads the configuration of a sidecar,
// gateway or bridge, builds the parts it needs from mesh/..., sidecar,
// gateway, mqttbridge and vaultpki, and runs them until it is told to stop.
// It is the only place where these parts meet.
//
// It does not know the control plane, so that hedgerow-edge, which links this
// package, stays small.
//
// A role that has started leaves in the order of Group.Stop: first out of the
// registry, then no new requests, then those in flight, then certificates.
package role

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/config"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Command returns the command that loads cfg (a pointer to a struct with the
// defaults), validates it and runs.
func Command[C any](use, short, long string, cfg *C, validate func(*C) error, run func(context.Context, *C) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  cobra.NoArgs,
	}
	loader := config.New(cfg, cmd.Flags())
	if e, ok := any(cfg).(interface{ fromEnrolment() error }); ok {
		loader.Complete = e.fromEnrolment
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		printed, err := loader.Load(os.Environ(), cmd.OutOrStdout())
		if err != nil || printed {
			return err
		}
		if err := validate(cfg); err != nil {
			return errors.Join(err, fmt.Errorf("run %q to see every key", cmd.CommandPath()+" --help"))
		}
		return run(cmd.Context(), cfg)
	}
	return cmd
}

// Main runs the command line and returns the exit code: 0, 2 if the command
// line is wrong, or after an error, which is printed one line each, the error's
// ExitCode or 1. SIGINT and SIGTERM end the context;
// a second one ends the process at once.
func Main(root *cobra.Command, args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // from now on a signal has its default effect
	}()
	root.SetArgs(args)
	root.SilenceErrors, root.SilenceUsage = true, true
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	if cmd, err := root.ExecuteContextC(ctx); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(stderr, "%s: %s\n", root.Name(), line) //nolint:errcheck // nowhere else to say it
		}
		var coded interface{ ExitCode() int }
		if !begun && !errors.As(err, &coded) {
			fmt.Fprintf(stderr, "%s: hint: run \"%s --help\"\n", root.Name(), cmd.CommandPath()) //nolint:errcheck // as above
			return 2
		}
		if hint := mesh.HintOf(err); hint != "" && !strings.Contains(err.Error(), "hint:") {
			fmt.Fprintf(stderr, "%s: hint: %s\n", root.Name(), hint) //nolint:errcheck // as above
		}
		if errors.As(err, &coded) {
			return coded.ExitCode()
		}
		return 1
	}
	return 0
}

// NewLog returns the logger of a role: JSON lines on w.
func NewLog(w io.Writer, level string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log.level: %q is none of debug, info, warn and error", level)
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
