package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// remove is the flags of `delete`.
type remove struct {
	app    *app
	conn   connection
	etag   string
	dryRun bool
	output output
}

func (a *app) deleteCommand() *cobra.Command {
	v := &remove{app: a}
	c := &cobra.Command{
		Use:     "delete NAME...",
		Short:   "Delete objects, one after the other",
		Long:    "Deletes objects by name (\"routes/demo\"), each as a revision of its own, and\nstops at the first that is refused. An object that others refer to is refused.",
		Example: "  hedgerow delete routes/demo",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.Flags().StringVar(&v.etag, "etag", "", "delete only this version; for one object")
	c.Flags().BoolVar(&v.dryRun, "dry-run", false, "say whether they could be deleted, and delete nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if v.etag != "" && len(args) > 1 {
			return usageError(c, errors.New("--etag is for one object"))
		}
		for _, name := range args {
			if _, id, err := parseTarget(name); err != nil {
				return usageError(c, err)
			} else if id == "" {
				return usageError(c, fmt.Errorf("%q names a collection, not an object", name))
			}
		}
		for _, name := range args {
			if err := v.run(c.Context(), name); err != nil {
				return fail("delete "+name, err)
			}
		}
		return nil
	}
	return c
}

func (v *remove) run(ctx context.Context, target string) error {
	collection, id, err := parseTarget(target)
	if err != nil {
		return err
	}
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	query := url.Values{}
	done, action := "deleted", "DELETED"
	if v.etag != "" {
		query.Set("etag", v.etag)
	}
	if v.dryRun {
		query.Set("validateOnly", "true")
		done, action = "could be deleted", "UNCHANGED"
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	name := string(collection) + "/" + id
	if _, err := server.call(ctx, http.MethodDelete, "/v1/"+name, query, nil); err != nil {
		return err
	}
	err = v.app.printDone(v.output, name+" "+done, struct {
		Name   string `json:"name"`
		Action string `json:"action"`
	}{name, action})
	return errors.Join(err, v.app.warnUnpublished(server))
}
