package role

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// spoolOptions returns where the messages of a bridge are kept.
func spoolOptions(cfg *Bridge, log zerolog.Logger) (spool.Options, error) {
	o := spool.Options{Dir: filepath.Join(cfg.DataDir, "spool"), MaxBytes: int64(cfg.Spool.MaxMib) << 20, Log: log}
	if cfg.Spool.KeyFile == "" {
		return o, nil
	}
	raw, err := os.ReadFile(cfg.Spool.KeyFile)
	if err != nil {
		return o, fmt.Errorf("spool.keyFile: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != 32 { // what is wrong with it is not said: it is secret
		return o, fmt.Errorf("spool.keyFile: %s is not 64 hex digits; make it with: openssl rand -hex 32", cfg.Spool.KeyFile)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return o, fmt.Errorf("spool.keyFile: %w", err)
	}
	o.Seal, err = cipher.NewGCM(block)
	return o, err
}
