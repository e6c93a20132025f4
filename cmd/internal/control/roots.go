package control

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// roots are those of the certificates of nodes, as a file has them.
type roots struct {
	file, trustDomain string
	log               zerolog.Logger
	read              []byte
	current           atomic.Pointer[identity.Bundle]
}

// openRoots reads the file.
func openRoots(file, trustDomain string, log zerolog.Logger) (*roots, error) {
	r := &roots{file: file, trustDomain: trustDomain, log: log.With().Str("part", "roots").Logger()}
	return r, r.look()
}

// bundle returns the roots of now.
func (r *roots) bundle() *identity.Bundle { return r.current.Load() }

// run takes the roots of the file when it changes, until ctx ends. What cannot be read
// changes nothing.
func (r *roots) run(ctx context.Context) error {
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := r.look()
		if err != nil && !failed {
			r.log.Error().Err(err).Msg("the roots of nodes' certificates are not taken, those of before stand")
		}
		failed = err != nil
	}
}

// look takes the file's roots if they changed.
func (r *roots) look() error {
	raw, err := os.ReadFile(r.file)
	if err != nil {
		return fmt.Errorf("trust.caFile: %w", err)
	}
	if bytes.Equal(raw, r.read) {
		return nil
	}
	certs, err := identity.ParseCertificates(raw)
	if err != nil {
		return fmt.Errorf("trust.caFile: %s: %w", r.file, err)
	}
	bundle, err := identity.NewBundle(r.trustDomain, certs...)
	if err != nil {
		return fmt.Errorf("trust.caFile: %s: %w", r.file, err)
	}
	if r.read != nil {
		r.log.Info().Int("roots", len(certs)).Msg("other roots of nodes' certificates are taken now")
	}
	r.read = raw
	r.current.Store(bundle)
	return nil
}
