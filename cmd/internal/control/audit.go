package control

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
)

// auditFile, in the data directory, is the audit log; those that were rotated away are beside it.
const auditFile = "audit.log"

// AuditCommand returns `audit`, which prints to stdout.
func AuditCommand(stdout io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Verify audit logs of a control plane",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	verify := &cobra.Command{
		Use:   "verify DIR|FILE...",
		Short: "Verify that nobody has changed the files",
		Long: `Verifies the chain of hashes in the audit log of a data directory, with the files
that were rotated away and are still there; or in the files that are given, in the
order in which they continue each other: audit-*.log, then audit.log. It prints
where the chain ends. That the end was not cut off shows when this is compared
with what was printed earlier, or is kept elsewhere.`,
		Example: `  hedgerow audit verify /var/lib/hedgerow/control
  hedgerow audit verify archive/audit-*.log /var/lib/hedgerow/control`,
		Args:          cobra.MinimumNArgs(1),
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := auditFiles(args)
			if err != nil {
				return fmt.Errorf("audit verify: %w", err)
			}
			var tail auditlog.Tail
			for _, name := range files {
				if tail, err = verifyFile(name, tail); err != nil {
					return fmt.Errorf("audit verify: %s: %w", name, err)
				}
			}
			_, err = fmt.Fprintf(stdout, "intact up to entry %d, whose hash is %s\n", tail.Seq, tail.Hash)
			return err
		},
	}
	c.AddCommand(verify)
	return c
}

// auditFiles returns the files that args name, a directory by those of the log in it.
func auditFiles(args []string) ([]string, error) {
	var files []string
	for _, name := range args {
		info, err := os.Stat(name)
		if err != nil || !info.IsDir() {
			files = append(files, name) // opening it says what is wrong
			continue
		}
		log, err := auditlog.Files(filepath.Join(name, auditFile))
		if err != nil {
			return nil, err
		}
		files = append(files, log...)
	}
	return files, nil
}

func verifyFile(name string, after auditlog.Tail) (auditlog.Tail, error) {
	f, err := os.Open(name)
	if err != nil {
		return after, err
	}
	defer f.Close() //nolint:errcheck // only read from
	return auditlog.Verify(f, after)
}
