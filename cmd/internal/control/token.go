package control

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// tokenBytes is the entropy of a generated token.
const tokenBytes = 32

// tokenFile, in the data directory, holds the administrator's token.
const tokenFile = "admin.token"

// ensureToken makes dir/admin.token if there is none, and dir/curlrc, which
// gives it to `curl -K`. Both are 0600; a token that others can read is refused.
func ensureToken(dir string) error {
	name := filepath.Join(dir, tokenFile)
	info, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return newToken(dir, name)
	}
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("admin token: %s can be read by others (%v); run chmod 600 %s", name, info.Mode().Perm(), name)
	}
	return nil
}

func newToken(dir, name string) error {
	raw := make([]byte, tokenBytes)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	token := base64.RawURLEncoding.EncodeToString(raw)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	return writeCurlrc(dir, token)
}

func writeCurlrc(dir, token string) error {
	text := fmt.Sprintf("header = \"Authorization: Bearer %s\"\nheader = \"Content-Type: application/json\"\n", token)
	if err := os.WriteFile(filepath.Join(dir, "curlrc"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("curlrc: %w", err)
	}
	return nil
}
