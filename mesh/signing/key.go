package signing

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The PEM types of keys, as `openssl genpkey -algorithm ed25519` writes them.
const (
	pemPrivate = "PRIVATE KEY" // PKCS #8
	pemPublic  = "PUBLIC KEY"  // SubjectPublicKeyInfo
)

// maxKeyFileBytes bounds the files of keys.
const maxKeyFileBytes = 64 << 10

// Key is a private key in memory: a root, or what a control plane signs with.
type Key struct {
	private ed25519.PrivateKey
}

var _ Signer = (*Key)(nil)

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, mesh.Errorf("signing.NewKey", "", mesh.Internal, "%w", err)
	}
	return &Key{private}, nil
}

// Public returns the public half.
func (k *Key) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// ID returns the KeyID of the public half.
func (k *Key) ID() string { return KeyID(k.Public()) }

// Sign implements Signer.
func (k *Key) Sign(_ context.Context, message []byte) (signature []byte, keyID string, err error) {
	return k.sign(message), k.ID(), nil
}

func (k *Key) sign(message []byte) []byte { return ed25519.Sign(k.private, message) }

// ReadKey reads a private key: PEM, PKCS #8, Ed25519. Others than the file's owner
// must not be able to read it. Errors are of kind Invalid.
func ReadKey(file string) (*Key, error) {
	const op = "signing.ReadKey"
	raw, err := readBounded(file)
	if err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err).WithHint("make one with: hedgerow root init")
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "its mode is %04o: others than its owner may read the key", info.Mode().Perm()).
			WithHint("chmod 600 " + file + ", and think about who may have read it")
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemPrivate || len(rest) != 0 {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "it is not one PEM %s", pemPrivate)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "it is a %T, an Ed25519 key is needed", key).
			WithHint("openssl genpkey -algorithm ed25519 makes one too")
	}
	return &Key{private}, nil
}

// Write writes the key to a new file of mode 0600 and returns once it is on disk.
// It replaces none.
func (k *Key) Write(file string) error {
	const op = "signing.WriteKey"
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return mesh.Errorf(op, file, mesh.Internal, "%w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: pemPrivate, Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return mesh.Errorf(op, file, mesh.Internal, "%w", errors.Join(err, os.Remove(file)))
	}
	return syncDir(op, file)
}

// ReadPublicKeys reads one or more public keys: PEM, Ed25519, one after another. It is
// the form in which roots are pinned. Errors are of kind Invalid.
func ReadPublicKeys(file string) ([]ed25519.PublicKey, error) {
	const op = "signing.ReadPublicKeys"
	raw, err := readBounded(file)
	if err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	keys, err := ParsePublicKeys(raw)
	if err != nil {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	return keys, nil
}

// ParsePublicKeys is ReadPublicKeys of bytes.
func ParsePublicKeys(raw []byte) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for len(raw) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil || block.Type != pemPublic {
			return nil, fmt.Errorf("it holds more, or something else, than PEM %ss", pemPublic)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		public, ok := key.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("it holds a %T, Ed25519 keys are needed", key)
		}
		keys, raw = append(keys, public), rest
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return keys, nil
}

// FormatPublicKeys returns what ParsePublicKeys reads.
func FormatPublicKeys(keys ...ed25519.PublicKey) ([]byte, error) {
	var out []byte
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, mesh.Errorf("signing.FormatPublicKeys", "", mesh.Internal, "%w", err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der})...)
	}
	return out, nil
}

// WriteFile replaces a file of public keys, or of what roots signed, as a whole or not at
// all: 0644, synced.
func WriteFile(file string, content []byte) error {
	const op = "signing.WriteFile"
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return mesh.Errorf(op, file, mesh.Invalid, "%w", err)
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return mesh.Errorf(op, file, mesh.Internal, "%w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return syncDir(op, file)
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeyFileBytes {
		return nil, fmt.Errorf("%d bytes, at most %d are read", info.Size(), maxKeyFileBytes)
	}
	return os.ReadFile(file)
}

// syncDir makes the entry of file in its directory last.
func syncDir(op, file string) error {
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return mesh.Errorf(op, file, mesh.Internal, "%w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return mesh.Errorf(op, file, mesh.Internal, "sync the directory: %w", err)
	}
	return nil
}
