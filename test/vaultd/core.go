package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	log "github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	"github.com/hashicorp/vault/helper/metricsutil"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/vault/plugincatalog"
)

// registry tells the core which engines and logins are built in.
type registry struct {
	logical    map[string]logical.Factory
	credential map[string]logical.Factory
}

var _ plugincatalog.BuiltinRegistry = registry{}

// builtins is every engine and login that tests of the mesh mount.
func builtins() registry {
	return registry{
		logical: map[string]logical.Factory{
			"kv":      kv.Factory,
			"pki":     pki.Factory,
			"transit": transit.Factory,
		},
		credential: map[string]logical.Factory{
			"approle": approle.Factory,
			"cert":    cert.Factory,
		},
	}
}

func (r registry) of(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return r.logical
	case consts.PluginTypeCredential:
		return r.credential
	default:
		return nil
	}
}

// Contains reports whether the plugin is built in.
func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.of(kind)[name]
	return ok
}

// Get returns the plugin's factory, wrapped as the catalog wants it.
func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory, ok := r.of(kind)[name]
	return func() (any, error) { return factory, nil }, ok
}

// Keys lists the built-in plugins of one kind.
func (r registry) Keys(kind consts.PluginType) []string {
	var keys []string
	for name := range r.of(kind) {
		keys = append(keys, name)
	}
	return keys
}

// DeprecationStatus calls every plugin that is built in supported.
func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if !r.Contains(name, kind) {
		return consts.Unknown, false
	}
	return consts.Supported, true
}

// IsBuiltinEntPlugin is false: there is nothing of the enterprise edition here.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

// newCore builds a sealed core over the directory, or over memory if it is "".
func newCore(dir string, stderr io.Writer) (*vault.Core, error) {
	logger := log.New(&log.LoggerOptions{Name: "vault", Level: log.Warn, Output: stderr})
	storage, err := newStorage(dir, logger)
	if err != nil {
		return nil, fmt.Errorf("open storage %q: %w", dir, err)
	}
	reg := builtins()
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		Logger:             logger,
		DisableMlock:       true,
		BuiltinRegistry:    reg,
		LogicalBackends:    reg.logical,
		CredentialBackends: reg.credential,
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		MetricSink:         metricsutil.BlackholeSink(),
		RawConfig:          &server.Config{SharedConfig: &configutil.SharedConfig{}},
	})
	if err != nil {
		return nil, fmt.Errorf("create the core: %w", err)
	}
	return core, nil
}

func newStorage(dir string, logger log.Logger) (physical.Backend, error) {
	if dir == "" {
		return inmem.NewInmem(nil, logger)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return file.NewFileBackend(map[string]string{"path": dir}, logger)
}

// open initializes the core if its storage is new, writing the key and the
// root token to their files, and unseals it. A core that was initialized
// before is unsealed with the key in keysFile.
func open(ctx context.Context, core *vault.Core, rootTokenFile, keysFile string) error {
	known, err := core.Initialized(ctx)
	if err != nil {
		return fmt.Errorf("read the storage's state: %w", err)
	}
	var key []byte
	if known {
		key, err = readKey(keysFile)
	} else {
		key, err = initialize(ctx, core, rootTokenFile, keysFile)
	}
	if err != nil {
		return err
	}
	unsealed, err := core.Unseal(key)
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	if !unsealed {
		return errors.New("unseal: one key was not enough: the storage was initialized by another program")
	}
	return nil
}

// initialize makes the barrier with a single key share. The key is saved
// before anything is stored under it, since data without it is lost.
func initialize(ctx context.Context, core *vault.Core, rootTokenFile, keysFile string) ([]byte, error) {
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	result, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: nil})
	if err != nil {
		return nil, fmt.Errorf("initialize: %w", err)
	}
	key := result.SecretShares[0]
	if keysFile != "" {
		if err := writeFile(keysFile, hex.EncodeToString(key)+"\n"); err != nil {
			return nil, err
		}
	}
	if rootTokenFile != "" {
		if err := writeFile(rootTokenFile, result.RootToken+"\n"); err != nil {
			return nil, err
		}
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the unseal key: %w: without it, remove the storage and start again", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("read the unseal key %s: %w", path, err)
	}
	return key, nil
}
