package control

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/controlapi/revlog"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Where the log of revisions, and the key that signs, are.
const (
	inFile  = "file"
	inVault = "vault"
)

// checkVault reports what is wrong with the keys that are about Vault.
func (c *Config) checkVault() []error {
	var errs []error
	needed := c.hasVault()
	for key, value := range map[string]string{"revisions": c.Revisions, "trust.signer": c.Trust.Signer} {
		switch value {
		case inFile, "":
		case inVault:
			needed = true
		default:
			errs = append(errs, fmt.Errorf("%s: %q is neither %s nor %s", key, value, inFile, inVault))
		}
	}
	if needed {
		errs = append(errs, c.Vault.Validate())
	}
	if c.Trust.Signer == inVault && c.Trust.SigningKeyFile != "" {
		errs = append(errs, fmt.Errorf("trust.signingKeyFile: trust.signer says that the key is in Vault; leave one of them out"))
	}
	return errs
}

// openVault returns the Vault of the configuration, nil if there is none.
func (c *Config) openVault(log zerolog.Logger, reg prometheus.Registerer) (*vaultpki.Vault, error) {
	if !c.hasVault() {
		return nil, nil
	}
	return vaultpki.Open(c.Vault.Access(), "control", log, reg)
}

// revisions is the log, and what it needs besides.
type revisions struct {
	controlapi.Log
	run   func(context.Context) error
	close func() error
}

// openLog opens the log of revisions.
func (c *Config) openLog(ctx context.Context, vault *vaultpki.Vault) (*revisions, error) {
	if c.Revisions == inVault {
		log, err := vault.Log(ctx, c.Mesh)
		if err != nil {
			return nil, err
		}
		return &revisions{log, log.Run, func() error { return nil }}, nil
	}
	log, err := revlog.Open(filepath.Join(c.DataDir, "revisions.db"))
	if err != nil {
		return nil, err
	}
	idle := func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}
	return &revisions{log, idle, log.Close}, nil
}

// vaultCheck warns while Vault is away, which reads do not notice.
func vaultCheck(vault *vaultpki.Vault) []controlapi.Check {
	if vault == nil {
		return nil
	}
	return []controlapi.Check{{Name: "vault", Advisory: true, Ready: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, vaultPatience)
		defer cancel()
		return vault.Probe(ctx)
	}}}
}

// vaultPatience is how long /readyz waits for a Vault that does not answer.
const vaultPatience = time.Second
