// Package vault is `hedgerow vault`: what an operator does once with the Vault of a
// mesh. It runs no part of the mesh, and keeps no token: the one that sets up a Vault is
// read from a file and may be revoked afterwards.
package vault

import (
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Command returns `vault`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vault",
		Short: "Set up the Vault of a mesh",
		Long: `A mesh takes its certificates from a Vault, and may keep its revisions and the key
that signs them there. One Vault, or one namespace of it, serves one mesh.`,
	}
	cmd.AddCommand(bootstrapCommand(), signingKeyCommand())
	return cmd
}

// flags adds what says which Vault, and with what token.
func flags(cmd *cobra.Command, access *vaultpki.Access) {
	cmd.Flags().StringSliceVar(&access.Addresses, "address", []string{"https://127.0.0.1:8200"}, "URL of Vault, or of each of its nodes")
	cmd.Flags().StringVar(&access.CAFile, "ca-file", "", "PEM file with the CA of Vault; the system's if absent")
	cmd.Flags().StringVar(&access.TokenFile, "token-file", "", "file with a token of Vault")
}

func open(access vaultpki.Access) (*vaultpki.Vault, error) {
	if access.TokenFile == "" {
		return nil, mesh.Errorf("vault", "", mesh.Invalid, "--token-file is needed: a file with a token of Vault, 0600")
	}
	return vaultpki.Open(access, "operator", zerolog.Nop(), prometheus.NewRegistry())
}

func bootstrapCommand() *cobra.Command {
	var access vaultpki.Access
	var cfg vaultpki.Bootstrap
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Set up a Vault for a mesh, or what is missing in it",
		Long: `Bootstrap makes what a mesh needs in a fresh Vault: a root CA and the two CAs below
it that sign services and nodes, the logins by AppRole and certificate, the key
that signs configuration, a KV engine, and two policies: what a node may, and what
a control plane may. It writes the control plane's role-id and secret-id, and the
root of the mesh's certificates, to --credentials (0600). It needs a token that may do everything, such as the root
token, which you can revoke afterwards.

It changes nothing that is there, but the two policies if they are not this
version's: run it again after an upgrade, or after it failed. --dry-run lists what
it would write.`,
		Example: "  hedgerow vault bootstrap --address https://10.0.0.6:8200 --ca-file vault-ca.pem --token-file root-token \\\n    --mesh default --trust-domain hedgerow.local --credentials /etc/hedgerow/control",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := open(access)
			if err != nil {
				return err
			}
			defer v.Close()
			cfg.Out = cmd.OutOrStdout()
			writes, err := v.Bootstrap(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return report(cfg.Out, writes, cfg.DryRun)
		},
	}
	flags(cmd, &access)
	cmd.Flags().StringVar(&cfg.Mesh, "mesh", "default", "the mesh's name")
	cmd.Flags().StringVar(&cfg.TrustDomain, "trust-domain", "hedgerow.local", "the SPIFFE trust domain")
	cmd.Flags().StringVar(&cfg.Credentials, "credentials", "", "directory for role-id and secret-id of the control plane; made 0700")
	cmd.Flags().BoolVar(&cfg.DryRun, "dry-run", false, "only say what would be written")
	return cmd
}

func report(out io.Writer, writes int, dry bool) error {
	text := fmt.Sprintf("%d writes", writes)
	switch {
	case writes == 0:
		text = "nothing changed"
	case dry:
		text += " to do, none was done"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func signingKeyCommand() *cobra.Command {
	var access vaultpki.Access
	cmd := &cobra.Command{
		Use:   "signing-key",
		Short: "Print the public half of the key in Vault that signs configuration",
		Long: `Signing-key prints what "hedgerow root delegate" is given, so that a root can say
that the key in Vault may sign. A control plane with trust.signer: vault signs
with it, and keeps no signing key on its disk.`,
		Example: "  hedgerow vault signing-key --token-file token > signing.pub\n  hedgerow root delegate --key root-1.key signing.pub",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := open(access)
			if err != nil {
				return err
			}
			defer v.Close()
			signer, err := v.Signer(cmd.Context())
			if err != nil {
				return err
			}
			pem, err := signing.FormatPublicKeys(signer.Public())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(pem)
			return err
		},
	}
	flags(cmd, &access)
	return cmd
}
