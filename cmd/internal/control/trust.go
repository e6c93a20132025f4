package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Trust says with which key the configuration is signed, who delegated to it, and whose
// certificates nodes have.
type Trust struct {
	CAFile         string `yaml:"caFile" help:"PEM roots of the certificates of nodes, by which what they register is believed; read again when it changes"`
	RootsFile      string `yaml:"rootsFile" help:"PEM public root keys of the configuration; without it the control plane keeps a root of its own below dataDir"`
	KeysFile       string `yaml:"keysFile" help:"what the roots signed with \"hedgerow root delegate\"; read again when it changes"`
	Signer         string `yaml:"signer" help:"where the key that signs is: file, or vault, from which nobody can take it"`
	SigningKeyFile string `yaml:"signingKeyFile" help:"PEM private key that signs; made on the first start, 0600, with the public half beside it"`
}

// RootsFile is where, below dataDir, a control plane with a root of its own has the public
// half: what data planes pin.
const RootsFile = rootDir + "/roots.pem"

// Other names below dataDir.
const (
	rootDir     = "root"
	rootKeyName = rootDir + "/root.key"
	keysName    = rootDir + "/keys.json"
)

const (
	// renewBefore is how long before its end a root of our own delegates again.
	renewBefore = signing.MaxKeyLife / 3
	keysEvery   = 2 * time.Second
)

// trust is what signs, and what is published of it.
type trust struct {
	cfg       Trust
	root      *signing.Key // nil if it is kept elsewhere
	roots     []ed25519.PublicKey
	authority *signing.Authority
	key       signer
	log       zerolog.Logger
	read      []byte // of KeysFile
	warned    time.Time
}

// signer is what signs: a *signing.Key, or a key in Vault.
type signer interface {
	signing.Signer
	ID() string
	Public() ed25519.PublicKey
}

// openTrust reads the keys, and makes what is missing of a control plane's own. vault is
// where the key that signs is, if the configuration says so.
func openTrust(ctx context.Context, c *Config, vault *vaultpki.Vault, log zerolog.Logger) (*trust, error) {
	meshName, dataDir := c.Mesh, c.DataDir
	t := &trust{cfg: c.Trust, log: log.With().Str("part", "trust").Logger()}
	own := t.cfg.RootsFile == ""
	if own {
		t.cfg.RootsFile, t.cfg.KeysFile = filepath.Join(dataDir, RootsFile), filepath.Join(dataDir, keysName)
		if err := t.openRoot(dataDir, meshName); err != nil {
			return nil, err
		}
	}
	if t.cfg.SigningKeyFile == "" {
		t.cfg.SigningKeyFile = filepath.Join(dataDir, "signing.key")
	}
	var err error
	if t.roots, err = signing.ReadPublicKeys(t.cfg.RootsFile); err != nil {
		return nil, err
	}
	verifier, err := signing.NewVerifier(meshName, t.roots...)
	if err != nil {
		return nil, err
	}
	if t.key, err = t.openSigner(ctx, vault); err != nil {
		return nil, err
	}
	t.authority = &signing.Authority{Verifier: verifier, Signer: t.key}
	if err := t.look(); err != nil {
		return nil, err
	}
	keys, _ := verifier.Keys()
	if t.root == nil && keys.EndOf(t.key.ID()).IsZero() {
		public := publicName(t.cfg.SigningKeyFile)
		if t.cfg.Signer == inVault {
			public = "hedgerow vault signing-key"
		}
		t.log.Error().Str("key", t.key.ID()).Str("public", public).
			Msg("no root has delegated to the key that signs here: nothing can be written until one does; see hedgerow root delegate --help")
	}
	return t, nil
}

func (t *trust) openSigner(ctx context.Context, vault *vaultpki.Vault) (signer, error) {
	if t.cfg.Signer == inVault {
		return vault.Signer(ctx)
	}
	return ensureKey(t.cfg.SigningKeyFile)
}

// openRoot reads the control plane's own root, or makes it.
func (t *trust) openRoot(dataDir, meshName string) error {
	if err := os.MkdirAll(filepath.Join(dataDir, rootDir), 0o700); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	var err error
	if t.root, err = ensureKey(filepath.Join(dataDir, rootKeyName)); err != nil {
		return err
	}
	public, err := signing.FormatPublicKeys(t.root.Public())
	if err != nil {
		return err
	}
	if err := ensureFile(t.cfg.RootsFile, public); err != nil {
		return err
	}
	first, err := signing.FirstKeys(t.root, meshName, time.Now())
	if err != nil {
		return err
	}
	return ensureFile(t.cfg.KeysFile, first)
}

// run looks after the keys until ctx ends.
func (t *trust) run(ctx context.Context) error {
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := t.look()
		if err != nil && !failed {
			t.log.Error().Err(err).Msg("the keys are not taken, those of before stand")
		}
		failed = err != nil
	}
}

// look takes the keys of the file if they changed, and has a root of our own delegate again
// in time.
func (t *trust) look() error {
	raw, err := os.ReadFile(t.cfg.KeysFile)
	if err != nil {
		return fmt.Errorf("trust.keysFile: %w", err)
	}
	if !bytes.Equal(raw, t.read) {
		if _, err := t.authority.Verifier.Learn(raw); err != nil {
			return fmt.Errorf("trust.keysFile: %s: %w", t.cfg.KeysFile, err)
		}
		t.read = raw
	}
	keys, _ := t.authority.Verifier.Keys()
	ends := keys.EndOf(t.key.ID())
	left := time.Until(ends)
	switch {
	case left > renewBefore:
	case t.root != nil:
		return t.delegate(raw)
	case !ends.IsZero():
		t.warn(left)
	}
	return nil
}

// delegate has a root of our own delegate to our key.
func (t *trust) delegate(before []byte) error {
	next, err := signing.Delegate(t.root, t.roots, before, t.key.Public(), signing.MaxKeyLife, time.Now())
	if err != nil {
		return err
	}
	if err := signing.WriteFile(t.cfg.KeysFile, next); err != nil {
		return err
	}
	if _, err := t.authority.Verifier.Learn(next); err != nil {
		return err
	}
	t.read = next
	return nil
}

// warn says that the key is about to expire: daily for a month, hourly in the last week.
func (t *trust) warn(left time.Duration) {
	every, event := 24*time.Hour, t.log.Warn()
	if left < 7*24*time.Hour {
		every, event = time.Hour, t.log.Error()
	}
	if time.Since(t.warned) < every {
		return
	}
	t.warned = time.Now()
	event.Stringer("left", left.Round(time.Hour)).Str("key", t.key.ID()).
		Msg("the key that signs the configuration expires: have a root delegate again, or data planes take nothing newer")
}

// ensureKey reads a private key, or makes it and writes its public half beside it.
func ensureKey(name string) (*signing.Key, error) {
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		return signing.ReadKey(name)
	}
	key, err := signing.NewKey()
	if err != nil {
		return nil, err
	}
	public, err := signing.FormatPublicKeys(key.Public())
	if err != nil {
		return nil, err
	}
	if err := signing.WriteFile(publicName(name), public); err != nil {
		return nil, err
	}
	return key, key.Write(name)
}

// publicName is where the public half of a key is.
func publicName(name string) string {
	ext := filepath.Ext(name)
	return name[:len(name)-len(ext)] + ".pub"
}

// ensureFile writes content unless the file is there.
func ensureFile(name string, content []byte) error {
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return signing.WriteFile(name, content)
}
