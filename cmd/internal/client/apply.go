package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// applyAnswer is the answer to POST /v1:apply.
type applyAnswer struct {
	Revision uint32 `json:"revision"`
	Changes  []struct {
		Name   string `json:"name"`
		Action string `json:"action"` // CREATED, UPDATED or UNCHANGED
		Diff   string `json:"diff"`
	} `json:"changes"`
	Warnings []string `json:"warnings"`
}

// apply is the flags of `apply`.
type apply struct {
	app    *app
	conn   connection
	output output
	file   string
	dryRun bool
}

func (a *app) applyCommand() *cobra.Command {
	v := &apply{app: a}
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or replace objects, all or none",
		Long: `Creates or replaces the objects of a file, of every .yaml, .yml and .json file
of a directory, or of standard input (-). A file holds JSON, or YAML documents
separated by "---"; the kind of each is read from its name ("routes/orders").
They are written as one revision: all of them, or none.`,
		Example: "  hedgerow apply -f mesh.yaml\n  hedgerow get routes -o yaml | hedgerow apply --dry-run -f -",
		Args:    usageArgs(cobra.NoArgs),
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.Flags().StringVarP(&v.file, "file", "f", "", "file or directory to read, or - for standard input")
	c.Flags().BoolVar(&v.dryRun, "dry-run", false, "print what would change, with differences, and store nothing")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if v.file == "" {
			return usageError(c, errors.New("-f says what to apply"))
		}
		label := filepath.Base(v.file)
		if v.file == "-" {
			label = "standard input"
		}
		return fail("apply "+label, v.run(c.Context(), c.InOrStdin()))
	}
	return c
}

func (v *apply) run(ctx context.Context, stdin io.Reader) error {
	objects, err := readObjects(v.file, stdin)
	if err != nil {
		return err
	}
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	batch := struct {
		Objects []json.RawMessage `json:"objects"`
	}{}
	for _, o := range objects {
		batch.Objects = append(batch.Objects, o.json)
	}
	body, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	query := url.Values{}
	if v.dryRun {
		query.Set("validateOnly", "true")
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	raw, err := server.call(ctx, http.MethodPost, "/v1:apply", query, body)
	if err != nil {
		return locate(err, objects)
	}
	return errors.Join(v.print(raw), v.app.warnUnpublished(server))
}

func (v *apply) print(raw []byte) error {
	if v.output != asTable {
		return v.app.printRaw(v.output, raw)
	}
	var answer applyAnswer
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("the answer is not as documented: %w", err)
	}
	t := newTable("NAME", "ACTION")
	for _, c := range answer.Changes {
		t.row(c.Name, c.Action)
	}
	if err := t.print(v.app.stdout); err != nil {
		return err
	}
	tail := fmt.Sprintf("revision %d\n", answer.Revision)
	if v.dryRun {
		tail = "nothing was stored\n"
		for _, c := range answer.Changes {
			if c.Diff != "" {
				tail = diffOf(c.Name, c.Diff) + tail
			}
		}
	}
	if _, err := io.WriteString(v.app.stdout, tail); err != nil {
		return err
	}
	for _, w := range answer.Warnings {
		if err := v.app.warn(w); err != nil {
			return err
		}
	}
	return nil
}

// diffOf prints a diff under the name of its object.
func diffOf(name, diff string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", printable(name))
	for line := range strings.Lines(diff) {
		fmt.Fprintf(&b, "  %s\n", printable(strings.TrimRight(line, "\r\n")))
	}
	b.WriteByte('\n')
	return b.String()
}

// objectField matches the part of a violation's field that counts the objects
// of the request: "objects[2].rules[0].name".
var objectField = regexp.MustCompile(`^(?:batch\.)?objects\[([0-9]+)\]\.?(.*)$`)

// locate says in which file and object each violation is, instead of at which
// position of the request.
func locate(err error, objects []object) error {
	p := (*problem)(nil)
	if !errors.As(err, &p) {
		return err
	}
	located := *p
	located.Violations = nil
	for _, v := range p.Violations {
		if m := objectField.FindStringSubmatch(v.Field); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil && i < len(objects) {
				where := fmt.Sprintf("%s: %s", objects[i].source, objects[i].name)
				if m[2] != "" {
					where += ": " + m[2]
				}
				v = mesh.Violation{Field: where, Message: v.Message, Hint: v.Hint}
			}
		}
		located.Violations = append(located.Violations, v)
	}
	return &located
}
