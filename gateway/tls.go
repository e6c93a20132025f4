package gateway

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// certificateCheck is how often, at most, the files of a certificate are looked
// at. A renewed one is in use that long after it was written.
const certificateCheck = 10 * time.Second

// publicTLS returns the TLS configuration of l, or nil for clear text.
func publicTLS(l Listener, log zerolog.Logger) (*tls.Config, error) {
	if l.CertFile == "" {
		return nil, nil
	}
	f := &certFiles{cert: l.CertFile, key: l.KeyFile, log: log, now: time.Now}
	if err := f.load(); err != nil {
		return nil, mesh.Errorf("gateway.New", l.Address, mesh.Invalid, "certificate of the listener: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.current(), nil
		},
	}, nil
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
