package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// readiness is the answer of /readyz, with 200 as with 503.
type readiness struct {
	Ready    bool    `json:"ready"`
	Revision uint32  `json:"revision"`
	Checks   []check `json:"checks,omitempty"`
	Warnings []check `json:"warnings,omitempty"`
}

// check is one reason for not being ready, or a warning.
type check struct {
	Name    string `json:"name"`
	Message string `json:"message,omitempty"`
}

// report is what `status -o json` prints.
type report struct {
	Server string `json:"server"`
	readiness
	Nodes     []json.RawMessage `json:"nodes"`
	Instances []json.RawMessage `json:"instances"`
}

// status is the flags of `status`.
type status struct {
	app    *app
	conn   connection
	output output
}

func (a *app) statusCommand() *cobra.Command {
	v := &status{app: a}
	c := &cobra.Command{
		Use:   "status",
		Short: "Show whether the mesh is well: control plane, nodes, instances",
		Long: `Shows whether the control plane is ready and at which revision, which revision
each node has applied and when it was last seen, and the health of the
instances. It fails when the control plane is not ready.`,
		Args: usageArgs(cobra.NoArgs),
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return fail("status", v.run(c.Context())) }
	return c
}

func (v *status) run(ctx context.Context) error {
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	r := report{Server: server.base.String(), Nodes: []json.RawMessage{}, Instances: []json.RawMessage{}}
	if r.readiness, err = server.ready(ctx); err != nil {
		return err
	}
	// What is known is printed even if the lists cannot be had.
	nodes, nodesErr := server.list(ctx, mesh.Nodes)
	instances, instancesErr := server.list(ctx, mesh.Instances)
	r.Nodes, r.Instances = append(r.Nodes, nodes...), append(r.Instances, instances...)
	if err := v.print(&r); err != nil {
		return err
	}
	switch {
	case nodesErr != nil:
		return nodesErr
	case instancesErr != nil:
		return instancesErr
	case !r.Ready:
		return errors.New("the control plane is not ready")
	default:
		return nil
	}
}

// ready asks /readyz, which needs no token and answers 503 when not ready.
func (a *api) ready(ctx context.Context) (readiness, error) {
	var r readiness
	raw, err := a.call(ctx, http.MethodGet, "/readyz", nil, nil)
	if err != nil && raw == nil {
		return r, err
	}
	var shape map[string]json.RawMessage
	if json.Unmarshal(raw, &shape) != nil || shape["ready"] == nil || json.Unmarshal(raw, &r) != nil {
		if err == nil {
			err = a.notOurs(http.StatusOK, "application/json")
		}
		return r, err
	}
	return r, nil
}

func (v *status) print(r *report) error {
	if v.output != asTable {
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return v.app.printRaw(v.output, raw)
	}
	ready := "yes"
	if !r.Ready {
		ready = "no"
	}
	lines := []string{"server     " + r.Server, "ready      " + ready, fmt.Sprintf("revision   %d", r.Revision)}
	for _, c := range r.Checks {
		lines = append(lines, "waits for  "+printable(strings.TrimSuffix(c.Name+": "+c.Message, ": ")))
	}
	for _, c := range r.Warnings {
		lines = append(lines, "warns      "+printable(strings.TrimSuffix(c.Name+": "+c.Message, ": ")))
	}
	if _, err := fmt.Fprintln(v.app.stdout, strings.Join(lines, "\n")); err != nil {
		return err
	}
	if err := v.printNodes(r); err != nil {
		return err
	}
	if len(r.Instances) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(v.app.stdout); err != nil {
		return err
	}
	return v.app.printObjects(mesh.Instances, r.Instances)
}

func (v *status) printNodes(r *report) error {
	if len(r.Nodes) == 0 {
		return nil
	}
	t := newTable("NODE", "ROLES", "APPLIED", "LAST SEEN")
	for _, raw := range r.Nodes {
		var n mesh.Node
		if err := json.Unmarshal(raw, &n); err != nil {
			return fmt.Errorf("the answer is not as documented: %w", err)
		}
		applied, seen := "", "never"
		if n.AppliedRevision > 0 {
			applied = strconv.FormatUint(uint64(n.AppliedRevision), 10)
			if n.AppliedRevision < r.Revision {
				applied += " (behind)"
			}
		}
		if n.LastSeenTime != nil {
			seen = n.LastSeenTime.UTC().Format(time.RFC3339)
		}
		t.row(n.ID(), strings.Join(n.Roles, ","), applied, seen)
	}
	if _, err := fmt.Fprintln(v.app.stdout); err != nil {
		return err
	}
	return t.print(v.app.stdout)
}
