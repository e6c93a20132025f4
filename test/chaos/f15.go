package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

const (
	// rotationTTL is the life of a certificate; it is renewed at a third.
	rotationTTL = 20 * time.Second
	// rotationFor and rotationsLeast are the full row.
	rotationFor    = 10 * time.Minute
	rotationsLeast = 50
	// streamsEach is how many of each kind of long-lived stream stand.
	streamsEach = 5
)

// playRotation lets every process renew its certificate again and again under
// load. Requests and streams must not notice, and new handshakes must get the
// new leaf.
func playRotation(t *stage.T, r *row, s settings) {
	length := pick(s, rotationFor, 25*time.Second)
	m := stage.New(t, stage.Options{Binaries: s.binaries, TTL: rotationTTL})
	planes := append([]*stage.Plane{m.Caller}, m.Shop...)
	before := renewals(t, planes)

	streams := load.OpenStreams(t.Context(), m.Out(), streamsEach)
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	var watch sync.WaitGroup
	leaves := &leafWatch{seen: map[string]bool{}}
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range m.Shop {
		watch.Go(func() { leaves.follow(watching, m.Shop[i], i) })
	}
	t.Pause(length)
	stop()
	watch.Wait()
	report := run.Stop()
	cuts := streams.Close()

	fewest := math.MaxInt
	for i, n := range renewals(t, planes) {
		fewest = min(fewest, n-before[i])
	}
	r.load(report)
	r.zero("streams_cut", len(cuts))
	r.blame("a stream was cut", cuts...)
	r.atLeast("rotations", fewest, max(1, int(rotationsLeast*length/rotationFor)))
	r.atLeast("leaves_seen_by_dialling", len(leaves.seen), len(m.Shop)*max(2, int(rotationsLeast*length/rotationFor)/2))
	r.atLeast("self_checks", int(sumOf(t, planes, "hedgerow_identity_self_checks_total", `result="ok"`)), len(planes)*fewest/2)
	r.zero("self_checks_failed", int(sumOf(t, planes, "hedgerow_identity_self_checks_total", `result="failed"`)))
	r.zero("handshakes_with_an_old_leaf", len(leaves.wrong))
	r.blame("handshake", leaves.wrong...)
}

// renewals returns how many certificates each process was issued so far, beside those of its
// node, which peers never see.
func renewals(t *stage.T, planes []*stage.Plane) []int {
	out := make([]int, len(planes))
	for i, p := range planes {
		const metric = "hedgerow_identity_renewals_total"
		all, err := p.Admin.Sum(t.Context(), metric)
		own, ownErr := p.Admin.Sum(t.Context(), metric, fmt.Sprintf("identity=\"spiffe://hedgerow.local/node/%s\"", p.Name))
		if err := errors.Join(err, ownErr); err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		out[i] = int(all - own)
	}
	return out
}

// leafWatch dials inbound ports and compares the leaf that they present with
// the one that the process says it has.
type leafWatch struct {
	mu    sync.Mutex // guards what follows
	seen  map[string]bool
	wrong []string
}

// follow dials one sidecar once a second until ctx ends.
func (l *leafWatch) follow(ctx context.Context, p *stage.Plane, index int) {
	id := fmt.Sprintf("spiffe://hedgerow.local/svc/shop/n/%s", p.Name)
	name := fmt.Sprintf("shop.%s.default", p.Name)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		serial, err := compareLeaf(ctx, p, id, name)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		if err != nil {
			l.wrong = append(l.wrong, fmt.Sprintf("%s: %v", p.Name, err))
		}
		l.seen[fmt.Sprint(index, serial)] = true
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// compareLeaf makes one handshake and returns the serial number of the leaf. It
// is an error if that is neither what the process had before nor what it has
// after: a renewal may fall in between.
func compareLeaf(ctx context.Context, p *stage.Plane, id, serverName string) (string, error) {
	before, err := p.Admin.Serials(ctx)
	if err != nil {
		return "", err
	}
	serial, err := dialLeaf(ctx, p.Inbound, serverName)
	if err != nil {
		return "", err
	}
	after, err := p.Admin.Serials(ctx)
	if err != nil {
		return "", err
	}
	if serial != before[id] && serial != after[id] {
		return "", fmt.Errorf("the leaf has serial %s; the process has %s", serial, after[id])
	}
	return serial, nil
}

// dialLeaf returns the serial number of the leaf that a server presents, in
// hex. It has no certificate itself: the server refuses it afterwards, which in
// TLS 1.3 the client's handshake does not wait for.
func dialLeaf(ctx context.Context, address, serverName string) (string, error) {
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // only the serial is looked at
	}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates // tls.Dialer returns nothing else
	if len(certs) == 0 {
		return "", fmt.Errorf("%s presents no certificate", address)
	}
	return certs[0].SerialNumber.Text(16), nil
}
