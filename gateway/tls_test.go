package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// writePair writes a certificate with the serial number and its key.
func writePair(t *testing.T, f *certFiles, serial int64, modified time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{f.cert: {Type: "CERTIFICATE", Bytes: der}, f.key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(f.cert, modified, modified); err != nil {
		t.Fatal(err)
	}
}

func TestRenewedCertificateIsUsed(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	var log bytes.Buffer
	f := &certFiles{cert: filepath.Join(dir, "c"), key: filepath.Join(dir, "k"), log: zerolog.New(&log), now: func() time.Time { return now }}
	serial := func() int64 { return f.current().Leaf.SerialNumber.Int64() }
	writePair(t, f, 1, now)
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	writePair(t, f, 2, now.Add(time.Second))
	if got := serial(); got != 1 {
		t.Errorf("serial %d before the next check", got)
	}
	now = now.Add(certificateCheck)
	if got := serial(); got != 2 {
		t.Errorf("serial %d after the next check", got)
	}
	if err := os.WriteFile(f.cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certificateCheck)
	if got := serial(); got != 2 || !strings.Contains(log.String(), "the old one serves on") {
		t.Errorf("serial %d while the file is broken; log %s", got, log.String())
	}
	writePair(t, f, 3, now)
	now = now.Add(certificateCheck)
	if got := serial(); got != 3 {
		t.Errorf("serial %d after it was repaired", got)
	}
}
