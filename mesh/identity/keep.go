package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// maxKeptBytes bounds the file of a credential: a key, a chain and 32 roots.
const maxKeptBytes = 256 << 10

// storedCredential is a credential on disk.
type storedCredential struct {
	Key      string    `json:"key"`   // PEM, PKCS #8
	Chain    string    `json:"chain"` // PEM, the leaf first
	Roots    string    `json:"roots"` // PEM
	Received time.Time `json:"received"`
}

// KeepIn has s keep its credential in a file in dir (0600), whenever it gets another one, and
// takes what is there from an earlier run: a process that starts while the issuer is away
// has its identity. What has expired meanwhile is taken too, though Certificate refuses it:
// so it is known since when. dir is made 0700. Without a file nothing happens. What is there
// and is refused, because it is damaged or for somebody else, is an error of kind Invalid,
// after which s has no certificate and goes on keeping what it gets. While the clock is
// wrong nothing is read yet; a Rotator does so later. Call it before s is used.
func (s *Source) KeepIn(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return mesh.Errorf("identity.KeepIn", s.id.String(), mesh.Invalid, "%w", err)
	}
	s.file = filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(s.id.Path(), "/"), "/", "_")+".json")
	return s.takeKept()
}

// takeKept takes what is on disk, or defers that while the clock is wrong.
func (s *Source) takeKept() error {
	if s.deferred = s.clock.Check() != nil; s.deferred {
		return nil
	}
	key, issued, received, err := readKept(s.file, s.id.TrustDomain())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		at := s.clock.Now()
		if end := issued.Chain[0].NotAfter; at.After(end) {
			at = end
		}
		err = s.put(key, issued, received, at)
	}
	if err != nil {
		return mesh.Errorf("identity.KeepIn", s.file, mesh.Invalid, "%w", err).WithHint("it is replaced when a certificate is issued")
	}
	return nil
}

// readKept reads the file of a credential.
func readKept(file, trustDomain string) (*ecdsa.PrivateKey, Issued, time.Time, error) {
	fail := func(err error) (*ecdsa.PrivateKey, Issued, time.Time, error) {
		return nil, Issued{}, time.Time{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return fail(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("its mode is %04o: others than its owner may have read the key", info.Mode().Perm()))
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeptBytes+1))
	if err != nil {
		return fail(err)
	}
	var k storedCredential
	if len(raw) > maxKeptBytes {
		return fail(fmt.Errorf("over %d bytes", maxKeptBytes))
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return fail(err)
	}
	block, _ := pem.Decode([]byte(k.Key))
	if block == nil || block.Type != "PRIVATE KEY" {
		return fail(errors.New("its key is not a PEM PRIVATE KEY"))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return fail(fmt.Errorf("its key is a %T", parsed))
	}
	chain, err := ParseCertificates([]byte(k.Chain))
	if err != nil {
		return fail(fmt.Errorf("its chain: %w", err))
	}
	roots, err := ParseCertificates([]byte(k.Roots))
	if err != nil {
		return fail(fmt.Errorf("its roots: %w", err))
	}
	bundle, err := NewBundle(trustDomain, roots...)
	if err != nil {
		return fail(err)
	}
	return key, Issued{Chain: chain, Bundle: bundle}, k.Received, nil
}

// keep writes the file, if the source has one.
func (s *Source) keep(c *Credential) error {
	if s.file == "" {
		return nil
	}
	return writeKept(s.file, c)
}

// writeKept replaces the file of a credential (0600), as a whole or not at all, and returns
// once it is on disk.
func writeKept(file string, c *Credential) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.Certificate.PrivateKey)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(storedCredential{
		Key:      string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		Chain:    encodeCertificates(c.chain),
		Roots:    encodeCertificates(c.Bundle.roots),
		Received: c.Received.UTC(),
	})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncDir(filepath.Dir(file))
}

// syncDir has a file that was renamed into dir survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encodeCertificates(certs []*x509.Certificate) string {
	var out strings.Builder
	for _, c := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.String()
}
