package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	nodeFile  = "node.json" // the certificate of a node and its key, below a directory of identities
	lockEvery = 50 * time.Millisecond

	hintEnrol = "enrol the node again: hedgerow node join, then hedgerow enroll"
)

// Node is the certificate by which a node is known: to Vault, where it logs in with it, and
// to whoever reads what it signs of itself. It is in one file, which all processes of the
// node share: who renews it holds a lock beside the file, and the others find the new one
// there. It is safe for concurrent use.
type Node struct {
	id      mesh.ID
	file    string
	metrics *Metrics
	clock   *Clock
	denies  *Denies

	mu      sync.Mutex
	current *Credential // guarded by mu
	stamp   os.FileInfo // of the file that current was read from, or stands for; guarded by mu
	unkept  bool        // current is not in the file; guarded by mu

	write func(file string, c *Credential) error // writeKept, but in tests
}

// OpenNode reads the certificate of the node id, which PutNode left in dir. An error of kind
// NotFound says that there is none, one of kind Invalid that it is not this node's or
// could be read by others.
func OpenNode(dir string, id mesh.ID, metrics *Metrics) (*Node, error) {
	n := &Node{id: id, file: filepath.Join(dir, nodeFile), metrics: metrics, clock: NewClock(time.Time{}, nil), write: writeKept}
	if _, err := n.Current(); err != nil {
		return nil, err
	}
	return n, nil
}

// PutNode verifies the certificate of the node id and writes it, with its key, to dir, where
// OpenNode finds it. It returns once it is on disk.
func PutNode(dir string, id mesh.ID, key *ecdsa.PrivateKey, issued Issued) error {
	const op = "identity.PutNode"
	c, err := newNodeCredential(id, key, issued, time.Now())
	if err != nil {
		return mesh.Errorf(op, id.String(), mesh.Invalid, "the issuer's answer is refused: %w", err)
	}
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = writeKept(filepath.Join(dir, nodeFile), c)
	}
	if err != nil {
		return mesh.Errorf(op, dir, mesh.Unavailable, "%w", err)
	}
	return nil
}

// newNodeCredential verifies what belongs together, as of when it was received: a clock that
// is wrong now, or an end since, is for Certificate to find.
func newNodeCredential(id mesh.ID, key *ecdsa.PrivateKey, issued Issued, received time.Time) (*Credential, error) {
	if len(issued.Chain) == 0 || issued.Bundle == nil {
		return nil, errors.New("it lacks a certificate or the trust bundle")
	}
	node, err := VerifyNode(issued.Chain, issued.Bundle, received)
	if err != nil {
		return nil, err
	}
	if want, _ := id.Node(); node != want || issued.Bundle.trustDomain != id.TrustDomain() {
		return nil, fmt.Errorf("it is for the node %s of %s", node, issued.Bundle.trustDomain)
	}
	leaf := issued.Chain[0]
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("it certifies another key")
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &Credential{Certificate: cert, Bundle: issued.Bundle, Received: received, chain: slices.Clone(issued.Chain)}, nil
}

// UseClock has n tell the time by c: while c is wrong, there is no certificate to present.
// Call it before n is used.
func (n *Node) UseClock(c *Clock) { n.clock = c }

// ID returns whose certificate it is.
func (n *Node) ID() mesh.ID { return n.id }

// Current returns the certificate and the roots that came with it: those in the file, if
// another process has replaced it. After its end it may still be returned; Certificate
// refuses that.
func (n *Node) Current() (*Credential, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	stamp, err := os.Stat(n.file)
	if err == nil && n.stamp != nil && os.SameFile(stamp, n.stamp) && stamp.ModTime().Equal(n.stamp.ModTime()) {
		return n.current, nil // writeKept makes a file of its own each time
	}
	if err == nil {
		err = n.read(stamp)
	}
	switch {
	case err == nil || n.current != nil:
		// What is in use outlives a file that somebody took away or damaged.
		return n.current, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, mesh.Errorf("identity.OpenNode", n.file, mesh.NotFound, "the node has no certificate").WithHint(hintEnrol)
	default:
		return nil, mesh.Errorf("identity.OpenNode", n.file, mesh.Invalid, "%w", err).WithHint(hintEnrol)
	}
}

// read reads the file; n.mu is held.
func (n *Node) read(stamp os.FileInfo) error {
	key, issued, received, err := readKept(n.file, n.id.TrustDomain())
	if err != nil {
		return err
	}
	c, err := newNodeCredential(n.id, key, issued, received)
	if err != nil {
		return err
	}
	n.current, n.stamp, n.unkept = c, stamp, false
	n.metrics.notAfter.WithLabelValues(n.id.String()).Set(float64(c.Certificate.Leaf.NotAfter.Unix()))
	return nil
}

// Bundle returns the roots that came with the certificate of now; nil if there is none.
func (n *Node) Bundle() *Bundle {
	c, err := n.Current()
	if err != nil {
		return nil
	}
	return c.Bundle
}

// Certificate returns the certificate to log in and to sign with. One that has ended is an error of kind
// Unauthentic: it renews nothing any more.
func (n *Node) Certificate() (*tls.Certificate, error) {
	if err := n.clock.Check(); err != nil {
		return nil, err
	}
	c, err := n.Current()
	if err != nil {
		return nil, err
	}
	if end := c.Certificate.Leaf.NotAfter; n.clock.Now().After(end) {
		return nil, mesh.Errorf("identity.NodeCertificate", n.id.String(), mesh.Unauthentic, "it expired at %s", end.UTC().Format(time.RFC3339)).WithHint(hintEnrol)
	}
	return c.Certificate, nil
}

// Renewable returns what a Rotator renews n by, with what issuer signs. Of the processes of
// a node that have one, whoever comes first renews; the others take that.
func (n *Node) Renewable(issuer Issuer) Renewable { return &nodeRenewal{n, issuer} }

type nodeRenewal struct {
	*Node
	issuer Issuer
}

// Renew implements Renewable.
func (r *nodeRenewal) Renew(ctx context.Context) error {
	unlock, err := lockFile(ctx, r.file+".lock")
	if err != nil {
		return mesh.Errorf("identity.RenewNode", r.id.String(), mesh.Unavailable, "%w", err)
	}
	defer unlock()
	if r.fresh() {
		return r.rewrite() // it was by another process, while this one waited or slept
	}
	key, request, err := NewRequest(r.id)
	if err != nil {
		return err
	}
	issued, err := r.issuer.Issue(ctx, request)
	if err != nil {
		return err
	}
	c, err := newNodeCredential(r.id, key, issued, time.Now())
	if err != nil {
		return mesh.Errorf("identity.RenewNode", r.id.String(), mesh.Invalid, "the issuer's answer is refused: %w", err)
	}
	r.use(c)
	return r.rewrite()
}

// use has c be the certificate of this process, whatever becomes of the file: a disk that is
// full for longer than a certificate lives must not cost the node its identity.
func (n *Node) use(c *Credential) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.current, n.unkept = c, true
	n.stamp, _ = os.Stat(n.file) // until another process replaces that
	n.metrics.notAfter.WithLabelValues(n.id.String()).Set(float64(c.Certificate.Leaf.NotAfter.Unix()))
}

// rewrite writes what is in use, if it is not in the file yet.
func (n *Node) rewrite() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.unkept {
		return nil
	}
	if err := n.write(n.file, n.current); err != nil {
		return mesh.Errorf("identity.KeepNode", n.file, mesh.Unavailable, "the node's certificate is not written to disk, which is tried again: %w", err).
			WithHint("make room on its disk: a restart would have the certificate of before")
	}
	n.unkept = false
	n.stamp, _ = os.Stat(n.file) // or else it is read again
	return nil
}

// fresh reports whether the certificate in the file is one that no Rotator renews: it is
// young, and nobody refuses what it signs.
func (n *Node) fresh() bool {
	c, err := n.Current()
	if err != nil || !n.denies.renewFrom(n.id, c).IsZero() {
		return false
	}
	life, age := c.Certificate.Leaf.NotAfter.Sub(c.Received), n.clock.Now().Sub(c.Received)
	return float64(age) < float64(life)*LeafPace().Share*(1-jitter)
}

// Life implements Renewable.
func (n *Node) Life() (from, until time.Time) {
	c, err := n.Current()
	if err != nil {
		return time.Time{}, time.Time{}
	}
	return c.Received, c.Certificate.Leaf.NotAfter
}

// Ready implements Renewable.
func (n *Node) Ready() error {
	_, err := n.Certificate()
	return err
}

// Count counts an attempt to renew, for NewRotatorOf.
func (n *Node) Count(err error) {
	if err != nil {
		n.metrics.failures.WithLabelValues(n.id.String(), mesh.KindOf(err).String()).Inc()
		return
	}
	n.metrics.renewals.WithLabelValues(n.id.String()).Inc()
}

// lockFile takes the lock of a file, which it makes, and returns how to release it. The
// kernel releases it too, when the process ends in any way.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // which unlocks
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another process holds %s: %w", name, ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}
