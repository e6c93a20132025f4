package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	pageSize = 500
	maxPages = 10_000 // a server that never ends its list is stopped here
)

// get is the flags of `get`.
type get struct {
	app    *app
	conn   connection
	output output
}

func (a *app) getCommand() *cobra.Command {
	v := &get{app: a}
	c := &cobra.Command{
		Use:     "get COLLECTION[/ID]",
		Short:   "Print one object or all of a collection",
		Long:    "Prints one object, or all of a collection: " + strings.Join(collectionNames(), ", ") + ".\nWhat -o yaml and -o json print, apply -f reads.",
		Example: "  hedgerow get routes\n  hedgerow get routes/demo -o yaml",
		Args:    usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return collectionNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		collection, id, err := parseTarget(args[0])
		if err != nil {
			return usageError(c, err)
		}
		return fail("get "+args[0], v.run(c.Context(), collection, id))
	}
	return c
}

// collectionNames lists what can be read.
func collectionNames() []string {
	var names []string
	for _, c := range append(mesh.Collections(), mesh.Instances, mesh.Quarantines) {
		names = append(names, string(c))
	}
	slices.Sort(names)
	return names
}

// parseTarget reads "routes" or "routes/demo". The collection may be written
// in any case and in the singular. The only defaults need no id.
func parseTarget(s string) (mesh.Collection, string, error) {
	kind, id, one := strings.Cut(s, "/")
	for _, name := range collectionNames() {
		if !strings.EqualFold(kind, name) && !strings.EqualFold(kind, singular(name)) {
			continue
		}
		switch {
		case one && !mesh.ValidID(id):
			return "", "", fmt.Errorf("%.80q is not an id of 1 to 63 characters a-z, 0-9 and '-'", id)
		case name == string(mesh.AllDefault):
			if one && id != mesh.DefaultsID {
				return "", "", fmt.Errorf("the only defaults are defaults/%s", mesh.DefaultsID)
			}
			id = mesh.DefaultsID
		}
		return mesh.Collection(name), id, nil
	}
	return "", "", fmt.Errorf("%.80q is none of %s", kind, strings.Join(collectionNames(), ", "))
}

func singular(name string) string {
	if stem, ok := strings.CutSuffix(name, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(name, "s")
}

func (v *get) run(ctx context.Context, collection mesh.Collection, id string) error {
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	if id != "" {
		raw, err := server.call(ctx, http.MethodGet, "/v1/"+string(collection)+"/"+id, nil, nil)
		if err != nil {
			return err
		}
		if v.output != asTable {
			return v.app.printRaw(v.output, raw)
		}
		return v.app.printObjects(collection, []json.RawMessage{raw})
	}
	items, err := server.list(ctx, collection)
	if err != nil {
		return err
	}
	switch v.output {
	case asJSON:
		if items == nil {
			items = []json.RawMessage{}
		}
		raw, err := json.Marshal(map[string]any{string(collection): items})
		if err != nil {
			return err
		}
		return v.app.printRaw(asJSON, raw)
	case asYAML:
		return v.app.printDocuments(items)
	default:
		return v.app.printObjects(collection, items)
	}
}

// list returns every object of a collection, page by page.
func (a *api) list(ctx context.Context, collection mesh.Collection) ([]json.RawMessage, error) {
	query := url.Values{"pageSize": {strconv.Itoa(pageSize)}}
	var all []json.RawMessage
	for range maxPages {
		raw, err := a.call(ctx, http.MethodGet, "/v1/"+string(collection), query, nil)
		if err != nil {
			return nil, err
		}
		var page map[string]json.RawMessage
		var items []json.RawMessage
		var next string
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, fmt.Errorf("the answer is not as documented: %w", err)
		}
		for field, into := range map[string]any{string(collection): &items, "nextPageToken": &next} {
			if value, ok := page[field]; ok {
				if err := json.Unmarshal(value, into); err != nil {
					return nil, fmt.Errorf("the answer is not as documented: %s: %w", field, err)
				}
			}
		}
		all = append(all, items...)
		if next == "" {
			return all, nil
		}
		query.Set("pageToken", next)
	}
	return nil, fmt.Errorf("the list does not end after %d pages", maxPages)
}
