package acmecert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// cache is a folder of mode 0700 with files of mode 0600: account.key, and for each
// hostname one with its key and the chain, leaf first, so that the two can never be
// of different orders.
type cache struct{ dir string }

const accountFile = "account.key"

// account returns the account's key. The first time it makes one, which is kept
// before it is used: a key that is lost is an account that is lost.
func (c cache) account() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(c.dir, accountFile)
	data, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(data)
		key, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, c.write(accountFile, block)
}

// certificate returns what is kept for name: nil if that is nothing, an error if it is
// of no use.
func (c cache) certificate(name string) (*tls.Certificate, error) {
	data, err := os.ReadFile(c.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	key, err := parseKey(block)
	if err != nil {
		return nil, err
	}
	chain, err := identity.ParseCertificates(rest)
	if err != nil {
		return nil, err
	}
	return identity.ServerCertificate(key, chain, name)
}

// keep keeps cert for name.
func (c cache) keep(name string, cert *tls.Certificate) error {
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("a key of type %T", cert.PrivateKey)
	}
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	for _, der := range cert.Certificate {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return c.write(name+".pem", data)
}

func (c cache) path(name string) string { return filepath.Join(c.dir, name+".pem") }

// write puts data into a file, whole or not at all, and durable when it returns.
func (c cache) write(name string, data []byte) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, "."+name+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(c.dir, name)); err != nil {
		return err
	}
	dir, openErr := os.Open(c.dir)
	if openErr != nil {
		return nil // it is there; only a power cut could take its name again
	}
	return errors.Join(dir.Sync(), dir.Close())
}

const keyType = "PRIVATE KEY" // PKCS #8

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

func parseKey(block *pem.Block) (*ecdsa.PrivateKey, error) {
	if block == nil || block.Type != keyType {
		return nil, errors.New("it does not begin with a private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("its key is not an ECDSA key")
	}
	return key, nil
}
