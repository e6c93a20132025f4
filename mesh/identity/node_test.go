package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const edge7 = "spiffe://hedgerow.local/node/edge7"

// nodeTemplate is what the certificate of a node is made from.
func nodeTemplate(t testing.TB, uri, name string) *x509.Certificate {
	t.Helper()
	template := leafTemplate(t, uri)
	template.Subject = pkix.Name{CommonName: name}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return template
}

// putNode leaves a certificate of edge7 in dir, half of whose life is over.
func putNode(t testing.TB, dir string, root *pair) *pair {
	t.Helper()
	leaf := root.sign(t, nodeTemplate(t, edge7, "edge7"))
	issued := Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}
	if err := PutNode(dir, mustID(t, edge7), leaf.key, issued); err != nil {
		t.Fatal(err)
	}
	c, err := newNodeCredential(mustID(t, edge7), leaf.key, issued, time.Now().Add(-time.Hour+time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKept(filepath.Join(dir, nodeFile), c); err != nil {
		t.Fatal(err)
	}
	return leaf
}

func openNode(t testing.TB, dir string) *Node {
	t.Helper()
	n, err := OpenNode(dir, mustID(t, edge7), newMetrics(t))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// nodeIssuer signs certificates of nodes and notes how often.
type nodeIssuer struct {
	t    testing.TB
	root *pair

	mu    sync.Mutex
	asked int   // guarded by mu
	err   error // guarded by mu
}

// times returns how often it was asked.
func (i *nodeIssuer) times() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// Issue implements Issuer.
func (i *nodeIssuer) Issue(_ context.Context, r Request) (Issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if i.err != nil {
		return Issued{}, i.err
	}
	key, err := r.Check()
	if err != nil {
		return Issued{}, err
	}
	node, _ := r.ID.Node()
	template := nodeTemplate(i.t, r.ID.String(), node)
	template.SerialNumber = i.root.cert.SerialNumber
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, i.root.cert, key, i.root.key)
	if err != nil {
		return Issued{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, err
	}
	bundle, err := NewBundle(td, i.root.cert)
	return Issued{Chain: []*x509.Certificate{leaf}, Bundle: bundle}, err
}

func TestVerifyNode(t *testing.T) {
	root, stranger := newRoot(t, "root"), newRoot(t, "stranger")
	for _, tt := range []struct {
		name     string
		template *x509.Certificate
		by       *pair
		want     string
	}{
		{"a node's", nodeTemplate(t, edge7, "edge7"), root, ""},
		{"without a common name", nodeTemplate(t, edge7, ""), root, "not a node's"},
		{"with the common name of another node", nodeTemplate(t, edge7, "edge9"), root, "not a node's"},
		{"of a service", nodeTemplate(t, ordersID, "edge7"), root, "not a node's"},
		{"of something below a node", nodeTemplate(t, edge7+"/x", "edge7"), root, "not a node's"},
		{"of another trust domain", nodeTemplate(t, "spiffe://other.local/node/edge7", "edge7"), root, "another trust domain"},
		{"of another CA", nodeTemplate(t, edge7, "edge7"), stranger, "unknown authority"},
		{"for servers", leafTemplate(t, edge7), root, "clientAuth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "for servers" {
				tt.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}
			leaf := tt.by.sign(t, tt.template)
			node, err := VerifyNode([]*x509.Certificate{leaf.cert}, mustBundle(t, root.cert), time.Now())
			if tt.want == "" {
				if err != nil || node != "edge7" {
					t.Fatalf("%q, %v", node, err)
				}
				return
			}
			if mesh.KindOf(err) != mesh.Unauthentic || !strings.Contains(err.Error(), tt.want) || node != "" {
				t.Errorf("%q, %v, want %q", node, err, tt.want)
			}
		})
	}
}

// A source of a node's certificate takes it, and no service's.
func TestASourceOfANode(t *testing.T) {
	root := newRoot(t, "root")
	src := NewSource(mustID(t, edge7), newMetrics(t))
	for _, tt := range []struct {
		name string
		leaf *pair
		good bool
	}{
		{"a service's", root.sign(t, leafTemplate(t, ordersID)), false},
		{"another node's", root.sign(t, nodeTemplate(t, "spiffe://hedgerow.local/node/edge9", "edge9")), false},
		{"its own", root.sign(t, nodeTemplate(t, edge7, "edge7")), true},
	} {
		err := src.Swap(tt.leaf.key, Issued{Chain: []*x509.Certificate{tt.leaf.cert}, Bundle: mustBundle(t, root.cert)})
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestANodeThatIsNotKept(t *testing.T) {
	root := newRoot(t, "root")
	leaf := root.sign(t, nodeTemplate(t, edge7, "edge7"))
	other := root.sign(t, nodeTemplate(t, "spiffe://hedgerow.local/node/edge9", "edge9"))
	bundle := mustBundle(t, root.cert)
	for name, tt := range map[string]struct {
		issued Issued
		key    *pair
	}{
		"another node's": {Issued{Chain: []*x509.Certificate{other.cert}, Bundle: bundle}, other},
		"another key":    {Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: bundle}, other},
		"no roots":       {Issued{Chain: []*x509.Certificate{leaf.cert}}, leaf},
		"no certificate": {Issued{Bundle: bundle}, leaf},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			if err := PutNode(dir, mustID(t, edge7), tt.key.key, tt.issued); mesh.KindOf(err) != mesh.Invalid {
				t.Error(err)
			}
			if _, err := OpenNode(dir, mustID(t, edge7), newMetrics(t)); mesh.KindOf(err) != mesh.NotFound || mesh.HintOf(err) == "" {
				t.Errorf("and it is there: %v", err)
			}
		})
	}
	t.Run("could be read by others", func(t *testing.T) {
		dir := t.TempDir()
		putNode(t, dir, root)
		if err := os.Chmod(filepath.Join(dir, nodeFile), 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenNode(dir, mustID(t, edge7), newMetrics(t)); mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), "0640") {
			t.Error(err)
		}
	})
}

// TestANodeIsRenewedOnce: the processes of a node share one certificate, and whoever is first
// renews it.
func TestANodeIsRenewedOnce(t *testing.T) {
	dir, root := t.TempDir(), newRoot(t, "root")
	old := putNode(t, dir, root)
	issuer := &nodeIssuer{t: t, root: root}
	var wg sync.WaitGroup
	nodes := []*Node{openNode(t, dir), openNode(t, dir), openNode(t, dir)}
	for _, n := range nodes {
		wg.Go(func() {
			if err := n.Renewable(issuer).Renew(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if issuer.asked != 1 {
		t.Errorf("%d certificates were issued for one node", issuer.asked)
	}
	for _, n := range nodes {
		cert, err := n.Certificate()
		if err != nil || cert.Leaf.Equal(old.cert) || n.Ready() != nil {
			t.Errorf("a process has not got the new one: %v", err)
		}
		if from, _ := n.Life(); time.Since(from) > time.Minute {
			t.Errorf("its life counts from %v", from)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, nodeFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

func TestANodeThatIsNotRenewedServesOn(t *testing.T) {
	dir, root := t.TempDir(), newRoot(t, "root")
	putNode(t, dir, root)
	n := openNode(t, dir)
	before, err := n.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	issuer := &nodeIssuer{t: t, root: root, err: errors.New("away")}
	if err := n.Renewable(issuer).Renew(t.Context()); err == nil {
		t.Error("renewed by an issuer that is away")
	}
	n.Count(issuer.err)
	if got := testutil.ToFloat64(n.metrics.failures.WithLabelValues(edge7, mesh.KindOf(issuer.err).String())); got != 1 {
		t.Errorf("%v failures are counted", got)
	}
	for name, spoil := range map[string]func(file string) error{
		"damaged": func(file string) error { return os.WriteFile(file, []byte("{}"), 0o600) },
		"gone":    os.Remove,
	} {
		if err := spoil(n.file); err != nil {
			t.Fatal(err)
		}
		if now, err := n.Certificate(); err != nil || now != before {
			t.Errorf("its file is %s: %v", name, err)
		}
	}
}

func TestALockIsWaitedForAndNotForever(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockEvery)
	defer cancel()
	if _, err := lockFile(ctx, file); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	again, err := lockFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// A disk that takes nothing costs the node nothing while its process lives.
func TestANodeIsRenewedWithoutADisk(t *testing.T) {
	dir, root := t.TempDir(), newRoot(t, "root")
	old := putNode(t, dir, root)
	n, issuer := openNode(t, dir), &nodeIssuer{t: t, root: root}
	full := true
	n.write = func(file string, c *Credential) error {
		if full {
			return syscall.ENOSPC
		}
		return writeKept(file, c)
	}
	renewal := n.Renewable(issuer)
	for range 3 {
		if err := renewal.Renew(t.Context()); mesh.KindOf(err) != mesh.Unavailable || !errors.Is(err, syscall.ENOSPC) || mesh.HintOf(err) == "" {
			t.Errorf("that it is not on disk is not said: %v", err)
		}
	}
	cert, err := n.Certificate()
	if err != nil || cert.Leaf.Equal(old.cert) || issuer.asked != 1 {
		t.Fatalf("it has no new certificate: %v, after %d were issued", err, issuer.asked)
	}
	if on, err := openNode(t, dir).Certificate(); err != nil || !on.Leaf.Equal(old.cert) {
		t.Errorf("the one of before is not on disk: %v", err)
	}
	full = false
	if err := renewal.Renew(t.Context()); err != nil || issuer.asked != 1 {
		t.Errorf("%v, after %d were issued", err, issuer.asked)
	}
	if on, err := openNode(t, dir).Certificate(); err != nil || !on.Leaf.Equal(cert.Leaf) {
		t.Errorf("the new one is not on disk: %v", err)
	}

	// What another process has written meanwhile counts.
	full = true
	n.use(n.current)
	other := putNode(t, dir, root)
	if now, err := n.Certificate(); err != nil || !now.Leaf.Equal(other.cert) {
		t.Errorf("the other process's is not taken: %v", err)
	}
}
