package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// keyrings has the keys of issuers fetched that the configuration names. Its caller holds
// Engine.update.
type keyrings struct {
	dir     string // where keys are kept; "" nowhere
	allowed func(netip.Addr) bool
	fetches *prometheus.CounterVec
	log     zerolog.Logger
	running map[*jwt.Keyring]context.CancelFunc
	runs    sync.WaitGroup
	closed  bool
}

// keep has the keys of rings fetched from now on, and no others.
func (k *keyrings) keep(rings map[jwt.Source]*jwt.Keyring) {
	if k.closed || len(rings)+len(k.running) == 0 {
		return
	}
	wanted := make(map[*jwt.Keyring]bool, len(rings))
	files := map[string]bool{}
	for _, ring := range rings {
		wanted[ring] = true
		file := k.file(ring.Source())
		files[file] = true
		if k.running[ring] == nil {
			k.start(ring, file)
		}
	}
	for ring, stop := range k.running {
		if !wanted[ring] {
			stop()
			delete(k.running, ring)
		}
	}
	k.prune(files)
}

func (k *keyrings) start(ring *jwt.Keyring, file string) {
	if file != "" {
		if err := ring.Load(file); err != nil {
			k.log.Warn().Err(err).Str("issuer_keys", ring.Source().URI).Msg("keys of an issuer that were kept cannot be read; they are fetched again")
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	k.running[ring] = stop
	k.runs.Go(func() {
		ring.Run(ctx, jwt.Fetching{Allowed: k.allowed, File: file, Fetched: func(keys *jwt.KeySet, err error) {
			outcome := "fetched"
			if keys == nil {
				outcome = "failed"
			}
			k.fetches.WithLabelValues(outcome).Inc()
			if err != nil {
				k.log.Warn().Err(err).Str("issuer_keys", ring.Source().URI).Time("fetched", ring.Fetched()).Msg("keys of an issuer were not fetched, or not kept; those that were fetched before count")
			}
		}})
	})
}

// file returns where the keys of a source are kept: those of another source are other keys.
func (k *keyrings) file(source jwt.Source) string {
	if k.dir == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(source.URI + "\x00" + source.CAPem))
	return filepath.Join(k.dir, hex.EncodeToString(sum[:16])+".json")
}

// prune removes the files of sources that are no more.
func (k *keyrings) prune(files map[string]bool) {
	if k.dir == "" {
		return
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil { // it is made with the first file
		return
	}
	for _, entry := range entries {
		file := filepath.Join(k.dir, entry.Name())
		if !strings.HasSuffix(file, ".json") || files[file] {
			continue
		}
		if err := os.Remove(file); err != nil {
			k.log.Warn().Err(err).Msg("kept keys of an issuer that is no more cannot be removed")
		}
	}
}

// close ends all fetching.
func (k *keyrings) close() {
	k.closed = true
	for ring, stop := range k.running {
		stop()
		delete(k.running, ring)
	}
	k.runs.Wait()
}
