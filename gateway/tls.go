package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// certificateCheck is how often, at most, the files of a certificate are looked
// at. A renewed one is in use that long after it was written.
const certificateCheck = 10 * time.Second

// publicTLS returns the TLS configuration of a listener that serves certs.
func publicTLS(l *Listener, certs *certificates, log zerolog.Logger) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: certs.get,
	}
	if certs.authority != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return certs.proof(hello), nil }
	}
	if l.ClientCAFile == "" {
		return config, nil
	}
	cas := &caFile{path: l.ClientCAFile, log: log, now: time.Now}
	if err := cas.load(); err != nil {
		return nil, mesh.Errorf("gateway.New", l.Address, mesh.Invalid, "client CAs of the listener: %w", err)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.SessionTicketsDisabled = true // a client whose CA is gone does not resume
	asking := config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if proof := certs.proof(hello); proof != nil { // who verifies hostnames has no certificate
			return proof, nil
		}
		c := asking.Clone()
		c.ClientCAs = cas.current()
		return c, nil
	}
	return config, nil
}

// caFile is CAs in a file that somebody else changes.
type caFile struct {
	path string
	log  zerolog.Logger
	now  func() time.Time

	// mu guards what follows. The file is read under it, as those of certFiles.
	mu      sync.Mutex
	pool    *x509.CertPool
	changed time.Time
	checked time.Time
}

// current returns the CAs, read again if the file changed. While that fails, the old
// ones hold.
func (f *caFile) current() *x509.CertPool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= certificateCheck {
		f.checked = now
		if err := f.loadLocked(); err != nil {
			f.log.Error().Err(err).Str("ca_file", f.path).Msg("the new client CAs cannot be used; the old ones hold")
		}
	}
	return f.pool
}

func (f *caFile) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = f.now()
	return f.loadLocked()
}

// loadLocked reads the file if it changed. f.mu must be held.
func (f *caFile) loadLocked() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if f.pool != nil && info.ModTime().Equal(f.changed) {
		return nil
	}
	pem, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s has no certificate", f.path)
	}
	f.pool, f.changed = pool, info.ModTime()
	return nil
}

// certFiles is a certificate in files that somebody else renews.
type certFiles struct {
	cert, key string
	log       zerolog.Logger
	now       func() time.Time

	// mu guards what follows. The files are read under it: handshakes wait for
	// a renewal once, rather than each reading it.
	mu      sync.Mutex
	loaded  *tls.Certificate
	changed time.Time // of the cert file, when it was loaded
	checked time.Time
}

// current returns the certificate, read again if its file changed. While that
// fails, for example between the writing of the two files, the old one serves.
func (f *certFiles) current() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= certificateCheck {
		f.checked = now
		if err := f.loadLocked(); err != nil {
			f.log.Error().Err(err).Str("cert_file", f.cert).Msg("the renewed certificate cannot be used; the old one serves on")
		}
	}
	return f.loaded
}

func (f *certFiles) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = f.now()
	return f.loadLocked()
}

// loadLocked reads the files if they changed. f.mu must be held.
func (f *certFiles) loadLocked() error {
	info, err := os.Stat(f.cert)
	if err != nil {
		return err
	}
	if f.loaded != nil && info.ModTime().Equal(f.changed) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	f.loaded, f.changed = &pair, info.ModTime()
	return nil
}
