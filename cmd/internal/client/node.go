package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// join is the flags of `node join`.
type join struct {
	app  *app
	conn connection
	file string
}

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "Have hosts become nodes",
		Args:  usageArgs(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.joinCommand())
	for _, verb := range c.Commands() {
		verb.SilenceErrors, verb.SilenceUsage = true, true
		verb.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	}
	return c
}

func (a *app) joinCommand() *cobra.Command {
	v := &join{app: a}
	c := &cobra.Command{
		Use:   "join NODE -o FILE",
		Short: "Make the file with which a host becomes a node, once",
		Long: `Makes a join file for a node that exists ("hedgerow apply" makes one). Who has the
file can become the node, once and within 15 minutes: bring it to the host and
nowhere else, and run "hedgerow enroll" there. A file that was made before is worth
nothing from then on, and an alarm about it ends.`,
		Example: "  hedgerow node join edge7 -o edge7.json",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	v.conn.flags(c)
	c.Flags().StringVarP(&v.file, "output-file", "o", "", "where to write it, 0600")
	c.RunE = func(c *cobra.Command, args []string) error {
		if v.file == "" {
			return usageError(c, errors.New("-o FILE is needed: the token is not printed"))
		}
		if !mesh.ValidID(args[0]) {
			return usageError(c, fmt.Errorf("%.80q is not the id of a node", args[0]))
		}
		return fail("node join "+args[0], v.run(c.Context(), args[0]))
	}
	return c
}

func (v *join) run(ctx context.Context, node string) error {
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	raw, err := server.call(ctx, http.MethodPost, "/v1/nodes/"+node+":join", nil, []byte("{}"))
	if p := (*problem)(nil); errors.As(err, &p) && p.Status == http.StatusNotFound && p.Hint == "" {
		p.Hint = "make nodes/" + node + " first, with: hedgerow apply"
	}
	if err != nil {
		return err
	}
	var is struct {
		ExpireTime time.Time `json:"expireTime"`
	}
	if err := json.Unmarshal(raw, &is); err != nil {
		return err
	}
	if err := writeSecretFile(v.file, raw); err != nil {
		return err
	}
	_, err = fmt.Fprintf(v.app.stdout, "%s is good once, until %s: bring it to the host, and there run\n  hedgerow enroll --token-file %s --data /var/lib/hedgerow\n",
		printable(v.file), is.ExpireTime.UTC().Format(time.RFC3339), printable(filepath.Base(v.file)))
	return err
}

// writeSecretFile replaces a file that only its owner may read.
func writeSecretFile(name string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
