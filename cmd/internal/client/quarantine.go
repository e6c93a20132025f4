package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// shutOut is the flags of `quarantine` and `release`.
type shutOut struct {
	app      *app
	conn     connection
	reason   string
	gateways []string
	output   output
}

func (a *app) quarantineCommand() *cobra.Command {
	v := &shutOut{app: a}
	c := &cobra.Command{
		Use:   "quarantine NODE",
		Short: "Shut a node out of the mesh, now",
		Long: `Quarantine has every part of the mesh refuse the node's certificates and cut its
connections, drops its registrations, ends its MQTT work and withdraws its access.
It prints a receipt: which parts have carried that out, and after how long. The node
need not exist any more. "hedgerow get quarantine/NODE -o yaml" shows the receipt later.`,
		Example: "  hedgerow quarantine edge7 --reason \"box stolen\"",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	c.Flags().StringVar(&v.reason, "reason", "", "why, for those who come after")
	c.Flags().StringSliceVar(&v.gateways, "gateway", nil, "a gateway that the node could serve, if its object does not say so; may be repeated")
	v.command(c, "quarantine", func() any {
		return struct {
			Reason   string   `json:"reason,omitempty"`
			Gateways []string `json:"gateways,omitempty"`
		}{v.reason, v.gateways}
	})
	return c
}

func (a *app) releaseCommand() *cobra.Command {
	v := &shutOut{app: a}
	c := &cobra.Command{
		Use:     "release NODE",
		Short:   "Let a node enrol again that was shut out",
		Long:    "Release ends a quarantine. What the node was issued before stays refused, so that\nit has to enrol again.",
		Example: "  hedgerow release edge7",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	v.command(c, "release", nil)
	return c
}

// command has c call the node's method.
func (v *shutOut) command(c *cobra.Command, method string, body func() any) {
	v.conn.flags(c)
	v.output.flag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		node := strings.TrimPrefix(args[0], string(mesh.Nodes)+"/")
		if !mesh.ValidID(node) {
			return usageError(c, fmt.Errorf("%.80q is not the id of a node", args[0]))
		}
		var raw []byte
		if body != nil {
			var err error
			if raw, err = json.Marshal(body()); err != nil {
				return err
			}
		}
		if err := v.run(c.Context(), node, method, raw); err != nil {
			return fail(method+" "+node, err)
		}
		return nil
	}
}

func (v *shutOut) run(ctx context.Context, node, method string, body []byte) error {
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	raw, err := server.call(ctx, http.MethodPost, "/v1/nodes/"+node+":"+method, nil, body)
	if p := (*problem)(nil); errors.As(err, &p) && p.Status == http.StatusServiceUnavailable && method == "quarantine" {
		p.Hint = "a root key shuts the node out meanwhile: hedgerow root deny " + node
	}
	if err != nil {
		return err
	}
	var q mesh.Quarantine
	if err := json.Unmarshal(raw, &q); err != nil {
		return fmt.Errorf("the answer is not as documented: %w", err)
	}
	if v.output != asTable {
		err = v.app.printRaw(v.output, raw)
	} else {
		err = v.app.printReceipt(node, &q)
	}
	if q.State == mesh.Containing {
		err = errors.Join(err, v.app.warn("not carried out everywhere yet; see: hedgerow get quarantine/"+node+" -o yaml"))
	}
	return errors.Join(err, v.app.warnUnpublished(server))
}

// printReceipt prints what became of a quarantine.
func (a *app) printReceipt(node string, q *mesh.Quarantine) error {
	if _, err := fmt.Fprintf(a.stdout, "node %s: %s\n", node, printable(q.State)); err != nil {
		return err
	}
	if q.ReleaseTime != nil {
		_, err := fmt.Fprintf(a.stdout, "certificates from before stay refused: enrol it again, with hedgerow node join %s -o FILE\n", node)
		return err
	}
	if len(q.Contained) == 0 {
		return nil
	}
	t := newTable("WHERE", "STATE", "AFTER", "DETAIL")
	for _, c := range q.Contained {
		after := ""
		if c.After != nil {
			after = time.Duration(*c.After).Round(time.Millisecond).String()
		}
		t.row(c.Where, c.State, after, c.Detail)
	}
	return t.print(a.stdout)
}
