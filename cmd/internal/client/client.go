// Package client is the client verbs of hedgerow: apply, get, delete, node, status,
// publish, dead-letters, token and version. Each is one or a few plain HTTP requests to the control
// API (publish: one MQTT message; dead-letters: a bridge), its answer as a table, JSON or YAML, and an
// error that says what to do next.
//
// It does not validate objects, which the control plane does, with all it
// knows; and it shares no code with the server, so that the API is used here as
// anybody else would use it.
//
// Invariant: the token goes to the server that was named and nowhere else: not
// over plain HTTP to another machine, not to where a redirect points.
package client

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// app is what the verbs share.
type app struct {
	stdout, stderr io.Writer
	version        string
}

// New returns the verbs as commands of a root that prints their errors. An
// error may print as several lines, and an error of usage has a method
// ExitCode that returns 2.
func New(stdout, stderr io.Writer, version string) []*cobra.Command {
	a := &app{stdout: stdout, stderr: stderr, version: version}
	verbs := []*cobra.Command{
		a.applyCommand(), a.getCommand(), a.deleteCommand(), a.nodeCommand(), a.quarantineCommand(), a.releaseCommand(), a.statusCommand(), a.publishCommand(),
		a.deadLettersCommand(), a.tokenCommand(), a.versionCommand(),
	}
	for _, c := range verbs {
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	}
	return verbs
}

// connection is the flags that say which control plane to talk to, and how.
type connection struct {
	server    string
	tokenFile string
	caFile    string
	certFile  string
	keyFile   string
	timeout   time.Duration
}

// flags adds the connection's flags to c. Their defaults come from the
// environment when the command runs, so that --help shows no secret path.
func (n *connection) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&n.server, "server", "", "URL of the control plane; else $HEDGEROW_SERVER, else "+defaultServer)
	f.StringVar(&n.tokenFile, "token-file", "", "file with the API token; else $HEDGEROW_TOKEN_FILE, else the token in $HEDGEROW_TOKEN, else "+defaultTokenFile)
	f.StringVar(&n.caFile, "ca-file", "", "PEM file with the CA of an https server; else $HEDGEROW_CA_FILE, else the system's")
	f.StringVar(&n.certFile, "cert-file", "", "PEM client certificate, presented instead of a token; else $HEDGEROW_CERT_FILE")
	f.StringVar(&n.keyFile, "key-file", "", "its PEM private key; else $HEDGEROW_KEY_FILE")
	f.DurationVar(&n.timeout, "timeout", 30*time.Second, "how long the whole command may take")
}

// output is the -o flag.
type output string

const (
	asTable output = "table"
	asJSON  output = "json"
	asYAML  output = "yaml"
)

// String, Set and Type make output a flag whose wrong values are refused while
// flags are read.
func (o *output) String() string { return string(*o) }

// Set accepts json, yaml and table.
func (o *output) Set(s string) error {
	switch v := output(strings.ToLower(s)); v {
	case asTable, asJSON, asYAML:
		*o = v
		return nil
	default:
		return fmt.Errorf("%.20q is none of json, yaml and table", s)
	}
}

// Type names the flag's value in --help.
func (o *output) Type() string { return "json|yaml|table" }

func (o *output) flag(c *cobra.Command) {
	*o = asTable
	c.Flags().VarP(o, "output", "o", "how to print the answer")
	// The flag exists: it was defined the line before.
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "table"}, cobra.ShellCompDirectiveNoFileComp))
}

// warn prints what is no error and should be known.
func (a *app) warn(text string) error {
	_, err := fmt.Fprintln(a.stderr, "hedgerow: warning:", printable(text))
	return err
}

// warnUnpublished says that a write is stored and not in force yet.
func (a *app) warnUnpublished(server *api) error {
	if !server.unpublished {
		return nil
	}
	return a.warn("stored, but the registry is away: the change takes effect when it returns")
}

// versionCommand returns `version`.
func (a *app) versionCommand() *cobra.Command {
	var as output
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return a.printDone(as, "hedgerow "+a.version, struct {
				Name    string `json:"name"`
				Version string `json:"version"`
			}{"hedgerow", a.version})
		},
	}
	as.flag(c)
	return c
}

// env returns the first of value and the environment variable that is set.
func env(value, variable string) string {
	if value != "" {
		return value
	}
	return os.Getenv(variable)
}
