package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What an issuer answers is served only if it is what was asked for.
func TestServerCertificate(t *testing.T) {
	names := []string{"shop.example", "*.shop.example"}
	key, request, err := NewServerRequest(time.Hour, names...)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(request.CSR)
	if err != nil || csr.CheckSignature() != nil || strings.Join(csr.DNSNames, " ") != "shop.example *.shop.example" || csr.Subject.CommonName != "" {
		t.Fatalf("the request is for %v, %v", csr, err)
	}
	other, _, err := NewServerRequest(0, "shop.example")
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(c *x509.Certificate) *ecdsa.PrivateKey{
		"":                       func(*x509.Certificate) *ecdsa.PrivateKey { return key },
		"another key":            func(*x509.Certificate) *ecdsa.PrivateKey { return other },
		"not for *.shop.example": func(c *x509.Certificate) *ecdsa.PrivateKey { c.DNSNames = names[:1]; return key },
		"not for servers": func(c *x509.Certificate) *ecdsa.PrivateKey {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			return key
		},
		"valid from": func(c *x509.Certificate) *ecdsa.PrivateKey { c.NotAfter = time.Now().Add(-time.Minute); return key },
	} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		certified := change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, template, certified.Public(), certified)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ServerCertificate(key, []*x509.Certificate{leaf}, names...)
		if want == "" && (err != nil || cert.Leaf != leaf || len(cert.Certificate) != 1) {
			t.Errorf("what was asked for: %v", err)
		}
		if want != "" && (mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := ServerCertificate(key, nil, names...); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("an empty answer: %v", err)
	}
}

// kept is a certificate that was there before.
type kept struct {
	from, until time.Time
	asked       int
}

var _ Renewable = (*kept)(nil)

func (k *kept) Life() (from, until time.Time) { return k.from, k.until }
func (k *kept) Ready() error                  { return nil }
func (k *kept) Renew(context.Context) error {
	k.asked++
	k.from, k.until = time.Now(), time.Now().Add(90*time.Hour)
	return nil
}

// A certificate that is there when Run begins, as one that was kept on disk, is not
// asked for again before its time.
func TestRotatorBeginsWithWhatIsThere(t *testing.T) {
	for name, tt := range map[string]struct {
		past, left time.Duration
		after      time.Duration
		asked      int
	}{
		"fresh":          {time.Hour, 89 * time.Hour, 50 * time.Hour, 0},
		"when it is due": {time.Hour, 89 * time.Hour, 70 * time.Hour, 1},
		"overdue":        {80 * time.Hour, 10 * time.Hour, time.Second, 1},
		"none":           {0, 0, time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &kept{}
				if tt.left > 0 {
					k.from, k.until = time.Now().Add(-tt.past), time.Now().Add(tt.left)
				}
				counted := 0
				r := NewRotatorOf(k, Pace{Share: 2.0 / 3, Timeout: time.Second}, func(err error) {
					if err == nil {
						counted++
					}
				}, zerolog.Nop())
				start(t, r)
				time.Sleep(tt.after)
				synctest.Wait()
				if k.asked != tt.asked || counted != tt.asked {
					t.Errorf("asked %d times, counted %d, want %d", k.asked, counted, tt.asked)
				}
			})
		})
	}
}
