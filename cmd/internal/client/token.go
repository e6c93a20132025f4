package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// tokenCommand returns `token`, with a verb for each thing to do with tokens.
func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens of the API",
		Long:  "Tokens let people and programs call the control API, each with a role, within\nscopes if it has some, and until it expires. Only an admin may deal with them.",
		Args:  usageArgs(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	for _, verb := range c.Commands() {
		verb.SilenceErrors, verb.SilenceUsage = true, true
		verb.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	}
	return c
}

// tokenCreate is the flags of `token create`.
type tokenCreate struct {
	app       *app
	conn      connection
	role      string
	scopes    []string
	labels    []string
	expiresIn time.Duration
	out       string
}

func (a *app) tokenCreateCommand() *cobra.Command {
	v := &tokenCreate{app: a}
	c := &cobra.Command{
		Use:   "create ID",
		Short: "Make a token and print its secret, this once",
		Long: `Makes a token and prints its secret, which cannot be seen again. A token of that
id that is there already is not touched.

A --scope is collections, labels or both: "routes,policies", "team=shop",
"routes,team=shop". Of several, one has to hold. Without any, everything that
the role may do is allowed.`,
		Example: "  hedgerow token create ci --role editor --scope routes,team=shop --out ci.token\n  hedgerow get routes --token-file ci.token",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	v.conn.flags(c)
	c.Flags().StringVar(&v.role, "role", "viewer", "viewer, editor or admin")
	c.Flags().StringArrayVar(&v.scopes, "scope", nil, "what alone it may read and write; may be given several times")
	c.Flags().StringArrayVar(&v.labels, "label", nil, "KEY=VALUE, a label of the token itself; may be given several times")
	c.Flags().DurationVar(&v.expiresIn, "expires-in", 90*24*time.Hour, "how long it may be used, at most 9600h")
	c.Flags().StringVar(&v.out, "out", "", "write the secret to this new file, 0600, and not to standard output")
	c.RunE = func(c *cobra.Command, args []string) error {
		t, err := v.token(args[0])
		if err != nil {
			return usageError(c, err)
		}
		return fail("token create "+args[0], v.run(c.Context(), t))
	}
	return c
}

// token returns what the flags ask for.
func (v *tokenCreate) token(id string) (*mesh.Token, error) {
	if !mesh.ValidID(id) {
		return nil, fmt.Errorf("%.80q is not an id of 1 to 63 characters a-z, 0-9 and '-'", id)
	}
	expires := time.Now().Add(v.expiresIn).UTC().Truncate(time.Second)
	t := &mesh.Token{Meta: mesh.Meta{Name: string(mesh.Tokens) + "/" + id}, Role: strings.ToUpper(v.role), ExpireTime: &expires}
	for _, text := range v.scopes {
		var s mesh.Scope
		for part := range strings.SplitSeq(text, ",") {
			if key, value, label := strings.Cut(part, "="); label {
				if s.Labels == nil {
					s.Labels = mesh.Labels{}
				}
				s.Labels[key] = value
			} else {
				s.Collections = append(s.Collections, part)
			}
		}
		t.Scopes = append(t.Scopes, s)
	}
	for _, text := range v.labels {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--label %.80q is not KEY=VALUE", text)
		}
		if t.Labels == nil {
			t.Labels = mesh.Labels{}
		}
		t.Labels[key] = value
	}
	return t, nil
}

func (v *tokenCreate) run(ctx context.Context, t *mesh.Token) error {
	server, err := v.conn.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.conn.timeout)
	defer cancel()
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	out := v.app.stdout
	if v.out != "" { // before there is a secret that has no place
		file, err := os.OpenFile(v.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		out = file
		defer func() { _ = file.Close() }() // closed with a check where it was written
	}
	secret, err := server.create(ctx, "/v1/"+t.Name, body)
	if err != nil {
		if v.out != "" {
			err = errors.Join(err, os.Remove(v.out))
		}
		return err
	}
	if _, err := fmt.Fprintln(out, secret); err != nil {
		return fmt.Errorf("the token was made and its secret is lost, revoke it: %w", err)
	}
	if file, is := out.(*os.File); is && v.out != "" {
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			return fmt.Errorf("the token was made and its secret may be lost, revoke it: %w", err)
		}
	}
	return v.app.warnUnpublished(server)
}

// create puts a token that is not there yet and returns its secret.
func (a *api) create(ctx context.Context, path string, body []byte) (string, error) {
	raw, err := a.call(ctx, http.MethodPut, path, nil, body, "If-None-Match", "*")
	if p := (*problem)(nil); errors.As(err, &p) && p.Status == http.StatusPreconditionFailed {
		p.Detail, p.Hint = "there is such a token already", "take another id, or revoke that one first"
	}
	if err != nil {
		return "", err
	}
	var stored mesh.Token
	if err := json.Unmarshal(raw, &stored); err != nil || stored.Secret == "" {
		return "", errors.New("the answer is not as documented: there is no secret")
	}
	return stored.Secret, nil
}

func (a *app) tokenListCommand() *cobra.Command {
	v := &get{app: a}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Args:  usageArgs(cobra.NoArgs),
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return fail("token list", v.run(c.Context(), mesh.Tokens, ""))
	}
	return c
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	v := &remove{app: a}
	c := &cobra.Command{
		Use:   "revoke ID...",
		Short: "Delete tokens: they are refused from then on",
		Args:  usageArgs(cobra.MinimumNArgs(1)),
	}
	v.conn.flags(c)
	v.output.flag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if i := slices.IndexFunc(args, func(id string) bool { return !mesh.ValidID(id) }); i >= 0 {
			return usageError(c, fmt.Errorf("%.80q is not the id of a token", args[i]))
		}
		for _, id := range args {
			if err := v.run(c.Context(), string(mesh.Tokens)+"/"+id); err != nil {
				return fail("token revoke "+id, err)
			}
		}
		return nil
	}
	return c
}

// describeScope prints a scope as --scope takes it.
func describeScope(s mesh.Scope) string {
	out := strings.Join(s.Collections, ",")
	if pairs := labels(s.Labels); pairs != "" {
		out = strings.TrimPrefix(out+","+pairs, ",")
	}
	return out
}

func scopes(t *mesh.Token) string {
	var out []string
	for _, s := range t.Scopes {
		out = append(out, describeScope(s))
	}
	return strings.Join(out, " ")
}

func expiry(t *mesh.Token) string {
	if t.ExpireTime == nil {
		return ""
	}
	return t.ExpireTime.UTC().Format(time.RFC3339)
}
