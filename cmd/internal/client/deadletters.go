package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

const (
	defaultBridge     = "127.0.0.1:15020"
	maxDeadLetterPage = 512 << 20 // a hundred messages of 1 MiB, escaped
)

// deadLetters is the flags of `dead-letters`.
type deadLetters struct {
	app     *app
	bridge  string
	timeout time.Duration
	all     bool
	output  output
}

func (a *app) deadLettersCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dead-letters",
		Short: "List, replay or purge the messages that a bridge gave up",
		Long: `A message that a service refuses for good, or that is older than its topic rule
allows, is kept by its bridge as a dead letter. These commands ask the admin port
of that bridge, on its own machine.`,
		Args: usageArgs(cobra.NoArgs),
	}
	c.AddCommand(
		a.deadLettersVerb("list", "List dead letters, the oldest first", cobra.NoArgs, (*deadLetters).list),
		a.deadLettersVerb("replay [ID...]", "Deliver dead letters again, with the message ids they had", nil, (*deadLetters).replay),
		a.deadLettersVerb("purge [ID...]", "Forget dead letters", nil, (*deadLetters).purge),
	)
	for _, verb := range c.Commands() {
		verb.SilenceErrors, verb.SilenceUsage = true, true
	}
	return c
}

// deadLettersVerb returns a command of `dead-letters`; args is nil if it takes ids.
func (a *app) deadLettersVerb(use, short string, args cobra.PositionalArgs, run func(*deadLetters, context.Context, []string) error) *cobra.Command {
	v := &deadLetters{app: a}
	c := &cobra.Command{Use: use, Short: short}
	if args != nil {
		c.Args = usageArgs(args)
	} else {
		c.Flags().BoolVar(&v.all, "all", false, "all of them, instead of IDs")
	}
	v.output.flag(c)
	c.Flags().StringVar(&v.bridge, "bridge", defaultBridge, "admin address of the bridge")
	c.Flags().DurationVar(&v.timeout, "timeout", 30*time.Second, "how long the whole command may take")
	c.RunE = func(c *cobra.Command, ids []string) error {
		if args == nil && (len(ids) == 0) != v.all {
			return usageError(c, errors.New("name the ids that \"dead-letters list\" shows, or --all"))
		}
		ctx, cancel := context.WithTimeout(c.Context(), v.timeout)
		defer cancel()
		return fail("dead-letters "+c.Name(), run(v, ctx, ids))
	}
	return c
}

func (v *deadLetters) list(ctx context.Context, _ []string) error {
	all := mqttbridge.DeadLetterPage{DeadLetters: []mqttbridge.DeadLetter{}}
	for after := ""; ; {
		var page mqttbridge.DeadLetterPage
		if err := v.ask(ctx, http.MethodGet, "after="+after, nil, &page); err != nil {
			return err
		}
		all.DeadLetters = append(all.DeadLetters, page.DeadLetters...)
		if after = page.NextAfter; after == "" {
			break
		}
	}
	if v.output != asTable {
		return v.app.printDone(v.output, "", all)
	}
	t := newTable("ID", "TIME", "REASON", "TOPIC", "CLIENT", "MESSAGE")
	for _, d := range all.DeadLetters {
		t.row(d.ID, d.Time.Format(time.RFC3339), d.Reason, d.Topic, d.Client, d.MessageID)
	}
	return t.print(v.app.stdout)
}

func (v *deadLetters) replay(ctx context.Context, ids []string) error {
	return v.change(ctx, "replay", "replayed", ids)
}

func (v *deadLetters) purge(ctx context.Context, ids []string) error {
	return v.change(ctx, "purge", "purged", ids)
}

func (v *deadLetters) change(ctx context.Context, action, done string, ids []string) error {
	body, err := json.Marshal(mqttbridge.DeadLetterAction{IDs: ids, All: v.all})
	if err != nil {
		return err
	}
	var result mqttbridge.DeadLetterResult
	if err := v.ask(ctx, http.MethodPost, "action="+action, body, &result); err != nil {
		return err
	}
	if err := v.app.printDone(v.output, fmt.Sprintf("%d %s", result.Done, done), result); err != nil {
		return err
	}
	f := &failure{code: exitFailed}
	for id, why := range result.Failed {
		f.add(id+": "+why, "")
	}
	if slices.Sort(f.lines); len(f.lines) > 0 {
		return f
	}
	return nil
}

// ask sends one request to the bridge and reads its answer.
func (v *deadLetters) ask(ctx context.Context, method, query string, body []byte, answer any) error {
	base, err := parseServer(v.bridge)
	if err != nil {
		return err
	}
	base.Path, base.RawQuery = "/dead-letters", query
	req, err := http.NewRequestWithContext(ctx, method, base.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return mesh.Errorf("ask the bridge", v.bridge, mesh.Unavailable, "%w", err).
			WithHint("run this on the bridge's machine; --bridge is the admin address of its configuration")
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxDeadLetterPage))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNotFound {
		return mesh.Errorf("ask the bridge", v.bridge, mesh.NotFound, "no bridge answers at %s", v.bridge).
			WithHint("it is the admin port of another role; --bridge is the admin address of the bridge's configuration")
	}
	if resp.StatusCode != http.StatusOK {
		return mesh.Errorf("ask the bridge", v.bridge, mesh.Unavailable, "it answers %s: %.300s", resp.Status, bytes.TrimSpace(raw))
	}
	return json.Unmarshal(raw, answer)
}
