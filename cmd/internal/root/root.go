// Package root is `hedgerow root`: what an operator does with the root keys of a
// mesh's configuration, offline. It reads and writes files, and nothing else: it
// talks to no control plane and no Redis.
package root

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// files are where the keys are.
type files struct {
	Key   string // the private root key that signs
	Roots string // the public halves, as nodes pin them
	Keys  string // what the roots signed
}

// Command returns `root`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "root",
		Short: "Say which keys may sign the configuration, and who is shut out",
		Long: `A mesh takes the configuration that a signing key has signed, if one of its root
keys has delegated to that key. Root keys are kept offline; every node pins their
public halves (trust.rootsFile). These commands make root keys and edit the
document keys.json with one of them. Copy it to where the control plane has its
trust.keysFile: it is read again when it changes, and published.

A control plane without trust.rootsFile keeps a root of its own in dataDir/root,
and these commands work on that directory too (--key dataDir/root/root.key).`,
	}
	cmd.AddCommand(initCommand(), delegateCommand(), revokeCommand(), epochCommand(), denyCommand(), allowCommand(), showCommand())
	return cmd
}

// flags adds the files' flags.
func (f *files) flags(cmd *cobra.Command, signs bool) {
	if signs {
		cmd.Flags().StringVar(&f.Key, "key", "root-1.key", "PEM private root key that signs")
	}
	cmd.Flags().StringVar(&f.Roots, "roots", "roots.pem", "PEM public root keys, as nodes pin them")
	cmd.Flags().StringVar(&f.Keys, "keys", "keys.json", "what the roots signed last; replaced by what is signed now")
}

func initCommand() *cobra.Command {
	var dir, name string
	count := 2
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the root keys of a mesh",
		Long: `Init makes root keys, their public halves in roots.pem, and keys.json, in which no
key may sign yet. Keep the private keys apart from each other and from the mesh:
any one of them can replace a signing key, also after another was lost.`,
		Example: "  hedgerow root init --dir /media/usb/root --mesh default",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return initialize(cmd.OutOrStdout(), dir, name, count)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory to write to; created 0700")
	cmd.Flags().StringVar(&name, "mesh", "default", "the mesh's name")
	cmd.Flags().IntVar(&count, "count", count, "how many root keys to make, 1 to 9")
	return cmd
}

// initialize makes the files of a new mesh. It replaces none.
func initialize(out io.Writer, dir, name string, count int) error {
	const op = "root.init"
	if count < 1 || count > 9 {
		return mesh.Errorf(op, "", mesh.Invalid, "--count: %d is not 1 to 9", count)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f := files{Roots: filepath.Join(dir, "roots.pem"), Keys: filepath.Join(dir, "keys.json")}
	for _, file := range []string{f.Roots, f.Keys} {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return mesh.Errorf(op, file, mesh.Invalid, "it is there already").WithHint("a mesh has one set of roots; choose another --dir for another mesh")
		}
	}
	var public []ed25519.PublicKey
	var first *signing.Key
	for n := 1; n <= count; n++ {
		key, err := signing.NewKey()
		if err != nil {
			return err
		}
		file := filepath.Join(dir, fmt.Sprintf("root-%d.key", n))
		if err := key.Write(file); err != nil {
			return err
		}
		say(out, "%s: root %s, keep it offline", file, key.ID())
		public = append(public, key.Public())
		if first == nil {
			first = key
		}
	}
	pem, err := signing.FormatPublicKeys(public...)
	if err != nil {
		return err
	}
	keys, err := signing.FirstKeys(first, name, time.Now())
	if err != nil {
		return err
	}
	if err := errors.Join(signing.WriteFile(f.Roots, pem), signing.WriteFile(f.Keys, keys)); err != nil {
		return err
	}
	say(out, "%s: for trust.rootsFile of every node and control plane", f.Roots)
	say(out, "%s: for trust.keysFile of the control planes, once a key may sign: hedgerow root delegate", f.Keys)
	return nil
}

func delegateCommand() *cobra.Command {
	var f files
	life := signing.MaxKeyLife
	cmd := &cobra.Command{
		Use:     "delegate PUBLIC-KEY-FILE",
		Short:   "Have a key sign configuration, for up to 90 days",
		Example: "  hedgerow root delegate --key root-1.key signing.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := signing.ReadPublicKeys(args[0])
			if err != nil {
				return err
			}
			if len(public) != 1 {
				return mesh.Errorf("root.delegate", args[0], mesh.Invalid, "it holds %d keys, one is needed", len(public))
			}
			return f.edit(cmd.OutOrStdout(), func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error) {
				return signing.Delegate(root, roots, before, public[0], life, time.Now())
			})
		},
	}
	f.flags(cmd, true)
	cmd.Flags().DurationVar(&life, "life", life, "for how long it may sign, at most 2160h")
	return cmd
}

func revokeCommand() *cobra.Command {
	var f files
	cmd := &cobra.Command{
		Use:   "revoke KEY-ID",
		Short: "Have nothing believed any more that a key signs",
		Long: `Revoke withdraws a signing key. What it signed and nodes have applied stays in
force until something newer comes. If the key was stolen, run "hedgerow root
bump-epoch" too: nodes then take what the control plane has over whatever the
thief has signed.`,
		Example: "  hedgerow root show\n  hedgerow root revoke --key root-1.key 3f1c90a2e1b04d55aa0c2b7d1e9f8a66",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd.OutOrStdout(), func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error) {
				return signing.Revoke(root, roots, before, args[0], time.Now())
			})
		},
	}
	f.flags(cmd, true)
	return cmd
}

func epochCommand() *cobra.Command {
	var f files
	cmd := &cobra.Command{
		Use:   "bump-epoch",
		Short: "Have nodes take the control plane's configuration over a later revision",
		Long: `Bump-epoch is for after a signing key was stolen, or the log of the control plane
was restored from a backup: nodes refuse revisions below the one they applied,
unless a root says that another epoch has begun.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.edit(cmd.OutOrStdout(), func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error) {
				return signing.BumpEpoch(root, roots, before, time.Now())
			})
		},
	}
	f.flags(cmd, true)
	return cmd
}

func denyCommand() *cobra.Command {
	var f files
	var gateways []string
	cmd := &cobra.Command{
		Use:   "deny NODE",
		Short: "Shut a node out while no quarantine can be written",
		Long: `Deny is for a stolen box while "hedgerow quarantine" cannot be written: Vault is away
or sealed, or the signing key was stolen too. Copy keys.json to where the control plane
has its trust.keysFile: every data plane that reaches Redis refuses the node's
certificates and cuts its connections within six seconds. It stays until
"hedgerow root allow"; withdrawing Vault's access is left to a quarantine, to be made
when it can be.`,
		Example: "  hedgerow root deny edge7 --key root-1.key\n  hedgerow root deny gw2 --gateway public",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd.OutOrStdout(), func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error) {
				return signing.Deny(root, roots, before, args[0], gateways, time.Now())
			})
		},
	}
	f.flags(cmd, true)
	cmd.Flags().StringSliceVar(&gateways, "gateway", nil, "gateway ids that the node could serve, whose older certificates are refused")
	return cmd
}

func allowCommand() *cobra.Command {
	var f files
	cmd := &cobra.Command{
		Use:   "allow NODE",
		Short: "Take back what \"root deny\" said of a node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd.OutOrStdout(), func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error) {
				return signing.Allow(root, roots, before, args[0], time.Now())
			})
		},
	}
	f.flags(cmd, true)
	return cmd
}

func showCommand() *cobra.Command {
	var f files
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what the roots signed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			roots, raw, err := f.read()
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), roots, raw, time.Now())
		},
	}
	f.flags(cmd, false)
	return cmd
}

// read reads the roots and what they signed.
func (f *files) read() (roots []ed25519.PublicKey, keys []byte, err error) {
	if roots, err = signing.ReadPublicKeys(f.Roots); err != nil {
		return nil, nil, err
	}
	if keys, err = os.ReadFile(f.Keys); err != nil {
		return nil, nil, mesh.Errorf("root.read", f.Keys, mesh.Invalid, "%w", err).WithHint("see --keys, and hedgerow root init")
	}
	return roots, keys, nil
}

// edit replaces what the roots signed by what change makes of it, and shows it.
func (f *files) edit(out io.Writer, change func(root *signing.Key, roots []ed25519.PublicKey, before []byte) ([]byte, error)) error {
	root, err := signing.ReadKey(f.Key)
	if err != nil {
		return err
	}
	roots, before, err := f.read()
	if err != nil {
		return err
	}
	after, err := change(root, roots, before)
	if err != nil {
		return err
	}
	if err := signing.WriteFile(f.Keys, after); err != nil {
		return err
	}
	return show(out, roots, after, time.Now())
}

// show prints what the roots signed.
func show(out io.Writer, roots []ed25519.PublicKey, raw []byte, now time.Time) error {
	keys, err := signing.ReadKeys(roots, raw)
	if err != nil {
		return err
	}
	say(out, "mesh %s, serial %d, epoch %d, signed %s", keys.Mesh, keys.Serial, keys.Epoch, keys.Time.Format(time.RFC3339))
	for _, root := range roots {
		say(out, "root %s is pinned", signing.KeyID(root))
	}
	for _, key := range keys.Keys {
		if until := key.NotAfter; now.After(until) {
			say(out, "key %s could sign until %s", key.ID, until.Format(time.RFC3339))
		} else {
			say(out, "key %s may sign until %s, %d days from now", key.ID, until.Format(time.RFC3339), int(until.Sub(now).Hours()/24))
		}
	}
	for _, id := range keys.Revoked {
		say(out, "key %s was revoked", id)
	}
	for _, d := range keys.Denied {
		with := ""
		if len(d.Gateways) > 0 {
			with = ", with older certificates of gateways " + strings.Join(d.Gateways, ", ")
		}
		say(out, "node %s is denied since %s%s", d.Node, d.Time.Format(time.RFC3339), with)
	}
	return nil
}

func say(out io.Writer, format string, args ...any) {
	fmt.Fprintf(out, format+"\n", args...) //nolint:errcheck // what was done is on disk
}
