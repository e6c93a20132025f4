package role

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// Version returns the version that the go command recorded in the binary: the
// module's version, or the commit it was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	if version == "" || version == "(devel)" {
		version = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				version += "+" + s.Value[:12]
			}
		}
	}
	return version + " " + info.GoVersion
}

// firstBuilt is before any program with this code was built.
var firstBuilt = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// builtAt returns a time before which this program was not built: that of its commit, or
// of no commit if the go command knew none.
func builtAt() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return firstBuilt
	}
	for _, s := range info.Settings {
		if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && at.After(firstBuilt) {
			return at
		}
	}
	return firstBuilt
}

// VersionCommand returns `version` for a program without the client verbs.
func VersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "hedgerow-edge", Version())
			return err
		},
	}
}
