// Package enroll is `hedgerow enroll`: it makes the host that it runs on a node of the mesh.
// What it does is package enrolment's, where it asks is vaultpki's; here they meet. It is
// linked into hedgerow-edge too, and knows no control plane but by its URL.
package enroll

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Command returns `enroll`.
func Command() *cobra.Command {
	var file, data string
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Make this host a node of the mesh, with a join file",
		Long: `Enroll trades the token of a join file, which is good once and for 15 minutes, for
the certificate of the node. Its key is made here and stays here. A sidecar,
gateway or bridge with the same dataDir needs to be told neither Vault nor Redis.

If it is cut short, run it again: it goes on from where it was. If it says that
somebody else has used the token, believe it.`,
		Example: "  hedgerow node join edge7 -o edge7.json        # where the control plane is\n  hedgerow enroll --token-file edge7.json --data /var/lib/hedgerow   # on the host, or hedgerow-edge enroll",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), cmd.OutOrStdout(), file, data)
		},
	}
	cmd.Flags().StringVar(&file, "token-file", "", "the join file, 0600")
	cmd.Flags().StringVar(&data, "data", "/var/lib/hedgerow", "the dataDir of the node's processes; created 0700")
	_ = cmd.MarkFlagRequired("token-file") // it was defined three lines before
	return cmd
}

func run(ctx context.Context, out io.Writer, file, data string) error {
	j, err := enrolment.ReadJoinFile(file)
	if err != nil {
		return err
	}
	a := &authority{join: j}
	if j.Vault.CAPem != "" {
		// vaultpki reads it again for each client.
		f, err := os.CreateTemp("", "hedgerow-vault-ca-*.pem")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) //nolint:errcheck // it is public
		_, err = f.WriteString(j.Vault.CAPem)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
		a.caFile = f.Name()
	}
	e := &enrolment.Enroller{
		DataDir: data, Authority: a, Report: enrolment.Report,
		Say: func(format string, args ...any) {
			fmt.Fprintf(out, format+"\n", args...) //nolint:errcheck // what was done is on disk
		},
	}
	if err := e.Run(ctx, j); err != nil {
		return err
	}
	e.Say("this host is %s in the mesh %s", j.Node, j.Mesh)
	return nil
}

// authority is the Vault of a join file.
type authority struct {
	join   *enrolment.JoinFile
	caFile string
}

var _ enrolment.Authority = (*authority)(nil)

// open returns the Vault for who logs in with the token in a file.
func (a *authority) open(tokenFile string) (*vaultpki.Vault, error) {
	return vaultpki.Open(vaultpki.Access{Addresses: a.join.Vault.Addresses, CAFile: a.caFile, TokenFile: tokenFile}, a.join.Node, zerolog.Nop(), prometheus.NewRegistry())
}

// anonymous is the token file of who does not log in.
const anonymous = os.DevNull

// Unwrap implements enrolment.Authority.
func (a *authority) Unwrap(ctx context.Context, token, node string) (string, error) {
	v, err := a.open(anonymous)
	if err != nil {
		return "", err
	}
	defer v.Close()
	return v.Unwrap(ctx, token, node)
}

// Login implements enrolment.Authority.
func (a *authority) Login(ctx context.Context, roleID, secretID string) (string, error) {
	v, err := a.open(anonymous)
	if err != nil {
		return "", err
	}
	defer v.Close()
	return v.TradeSecretID(ctx, roleID, secretID)
}

// RedisPassword implements enrolment.Authority.
func (a *authority) RedisPassword(ctx context.Context, tokenFile, node string) (string, error) {
	v, err := a.open(tokenFile)
	if err != nil {
		return "", err
	}
	defer v.Close()
	return v.RedisPassword(ctx, node)
}

// Sign implements enrolment.Authority.
func (a *authority) Sign(ctx context.Context, tokenFile string, r identity.Request) (identity.Issued, error) {
	v, err := a.open(tokenFile)
	if err != nil {
		return identity.Issued{}, err
	}
	defer v.Close()
	client, err := v.Client(vaultpki.MountNode, a.join.Node)
	if err != nil {
		return identity.Issued{}, err
	}
	return client.Issue(ctx, r)
}
