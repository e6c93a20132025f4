package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// paper is what a process says of itself under its node's own key in Redis, as
// docs/signing.md has it.
type paper struct {
	Node      string          `json:"node"`
	Role      string          `json:"role"`
	Seq       int64           `json:"seq"`
	NotAfter  time.Time       `json:"notAfter"`
	Instances []mesh.Instance `json:"instances"`
}

// draft is a paper before it is written, and what is done to it then.
type draft struct {
	paper
	by   *tls.Certificate    // who signs it
	then func([]byte) []byte // what becomes of the bytes that were signed
}

// overreaching is a document that says more than its node may.
type overreaching struct {
	what   string
	reason string // by which it is counted
	calls  string // the service whose callers it is meant for
	beyond bool   // it points outside of where instances may live
	spoil  func(*draft)
}

// paperAs is how a document is judged: with the configuration as it is, or by another that
// allows what it says; sound documents are the same without what is wrong with them.
type paperAs struct{ sound bool }

// papers writes documents with the credentials of the thief, whose process is the node's now.
type papers struct {
	e      *estate
	l      *loot
	redis  *redis.Client
	caller *rig.Plane // who reads them, and calls
	good   *impostor  // where the node's service is
	bait   *impostor  // where what overreaches points
	far    *impostor  // likewise, beyond
	seq    int64
}

// newPapers has a caller read what is written; the process that wrote for the node is to
// have ended.
func (e *estate) newPapers(l *loot, caller *rig.Plane) *papers {
	e.t.Helper()
	p := &papers{
		e: e, l: l, redis: l.client(), caller: caller,
		good: newImpostor(e.t, "127.0.0.1", l.leaf()), bait: newImpostor(e.t, "127.0.0.1", l.leaf()), far: newImpostor(e.t, beyond, l.leaf()),
	}
	e.t.Cleanup(func() { _ = p.redis.Close() })
	return p
}

// overreach writes documents that say more than the node may, and counts which were
// believed.
func (e *estate) overreach(r *row, l *loot) {
	if err := e.planes[victim].Stop(); err != nil {
		e.t.Fatal(err)
	}
	p := e.newPapers(l, e.planes["ledger"])
	if v := p.try(e.t.Context(), p.draft(p.good.addr), "a", p.good, ""); !v.done {
		r.blame("the node's own right to say where its service is", v.answer)
	}
	rights, rest := p.attempts()
	assail(e.t, r, "documents", 10, append(rights, rest...), paperAs{})
	// What a configuration can allow, it has to be seen to allow; else only the document is
	// there to be set right.
	e.apply("name: defaults/mesh\nauthorization: DENY\ndialCidrs: [\"127.0.0.0/8\"]\n---\nname: nodes/" + victim + "\nroles: [SIDECAR]\nservices: [a, shop]\n")
	vouch(e.t, r, "documents_by_configuration", rights, paperAs{})
	vouch(e.t, r, "documents_set_right", rest, paperAs{sound: true})
}

// draft is a document with which nothing is wrong.
func (p *papers) draft(address string) *draft {
	p.seq = max(p.seq+1, time.Now().UnixMilli())
	return &draft{by: p.l.node, paper: paper{
		Node: victim, Role: mesh.RoleSidecar, Seq: p.seq, NotAfter: time.Now().Add(10 * time.Minute).UTC(),
		Instances: []mesh.Instance{{Meta: mesh.Meta{Name: "instances/" + victim + "-1"}, Service: "a", Address: address, Weight: 1, Health: mesh.Healthy}},
	}}
}

// attempts are all of them: rights are those that a configuration could allow.
func (p *papers) attempts() (rights, rest []attempt[paperAs]) {
	for _, o := range overreaches(p.l) {
		a := attempt[paperAs]{name: o.what, why: "^refused: " + o.reason + "$", do: func(ctx context.Context, as paperAs) verdict {
			trap := p.bait
			if o.beyond {
				trap = p.far
			}
			d, service := p.draft(trap.addr), o.calls
			if !as.sound {
				o.spoil(d)
			}
			return p.try(ctx, d, service, trap, o.reason)
		}}
		if o.reason == "entitled" || o.beyond {
			rights = append(rights, a)
		} else {
			rest = append(rest, a)
		}
	}
	return rights, rest
}

// overreaches are the documents, and by which reason each is refused.
func overreaches(l *loot) []overreaching {
	return []overreaching{
		{what: "a service that the node may not run", reason: "entitled", calls: "shop", spoil: func(d *draft) { d.Instances[0].Service = "shop" }},
		{what: "an address where no instance may live", reason: "address", calls: "a", beyond: true, spoil: func(*draft) {}},
		{what: "a name for an address", reason: "address", calls: "a", spoil: func(d *draft) {
			d.Instances[0].Address = strings.Replace(d.Instances[0].Address, "127.0.0.1", "localhost", 1)
		}},
		{what: "an instance of another node's name", reason: "owner", calls: "a", spoil: func(d *draft) { d.Instances[0].Name = "instances/shop-1" }},
		{what: "an instance that is another node's", reason: "owner", calls: "a", spoil: func(d *draft) { d.Instances[0].Node = "shop" }},
		{what: "to be another node", reason: "owner", calls: "a", spoil: func(d *draft) { d.Node = "shop" }},
		{what: "to be a gateway", reason: "owner", calls: "a", spoil: func(d *draft) { d.Role = mesh.RoleGateway }},
		{what: "to hold for a year", reason: "expired", calls: "a", spoil: func(d *draft) { d.NotAfter = d.NotAfter.AddDate(1, 0, 0) }},
		{what: "to have ended", reason: "expired", calls: "a", spoil: func(d *draft) { d.NotAfter = time.Now().Add(-time.Hour) }},
		{what: "to be from the future", reason: "expired", calls: "a", spoil: func(d *draft) { d.Seq += time.Hour.Milliseconds() }},
		{what: "what is older than what was said", reason: "replayed", calls: "a", spoil: func(d *draft) { d.Seq -= time.Hour.Milliseconds() }},
		{what: "the signature of its service", reason: "wrong_signer", calls: "a", spoil: func(d *draft) { d.by = l.leaf() }},
		{what: "what was changed after it was signed", reason: "bad_signature", calls: "a", spoil: func(d *draft) {
			d.then = func(raw []byte) []byte { return bytes.Replace(raw, []byte(`"weight":1`), []byte(`"weight":2`), 1) }
		}},
		{what: "a weight above all", reason: "malformed", calls: "a", spoil: func(d *draft) { d.Instances[0].Weight = 1 << 20 }},
		{what: "more than is read", reason: "oversize", calls: "a", spoil: func(d *draft) {
			for len(d.Instances) <= 64 {
				d.Instances = append(d.Instances, d.Instances[0])
			}
		}},
	}
}

// try writes a document and waits until it was refused, or until somebody is led to the
// trap by it.
func (p *papers) try(ctx context.Context, d *draft, service string, trap *impostor, reason string) verdict {
	counted := func() float64 {
		n, err := p.caller.Admin.Sum(ctx, "hedgerow_registry_rejects_total", fmt.Sprintf("reason=%q", reason))
		if err != nil {
			return -1
		}
		return n
	}
	before := counted()
	trap.begin(nil)
	raw, err := d.seal()
	if err == nil {
		err = p.write(ctx, raw)
	}
	if err != nil {
		return failed(err)
	}
	const more = 20 // calls after it was refused
	refused := 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_ = p.e.call(ctx, p.caller, service, "/public") // where it goes is what counts
		if conns, served, _ := trap.saw(); conns+served > 0 {
			return verdict{done: true, answer: "a caller was led there"}
		}
		if reason != "" && before >= 0 && counted() > before {
			refused++
		}
		if refused > more {
			if err := p.listed(ctx, trap.addr); err != nil {
				return verdict{done: true, answer: err.Error()}
			}
			return verdict{answer: "refused: " + reason}
		}
		select {
		case <-ctx.Done():
			return verdict{answer: "neither refused nor believed"}
		case <-tick.C:
		}
	}
}

// listed reports that the control plane lists an instance at an address.
func (p *papers) listed(ctx context.Context, address string) error {
	e := p.e
	out, err := runTool(ctx, time.Minute, e.binaries+"/hedgerow", "get", "instances", "-o", "json", "--server", e.api, "--ca-file", e.tls.CAFile, "--token-file", e.path("control/admin.token"))
	if err == nil && strings.Contains(out, address) {
		err = fmt.Errorf("the control plane lists it: %s", out)
	}
	return err
}

// seal signs the document by the node's key, and puts it into its envelope.
func (d *draft) seal() ([]byte, error) {
	raw, err := json.Marshal(d.paper)
	if err != nil {
		return nil, err
	}
	key, ok := d.by.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T signs nothing", d.by.PrivateKey)
	}
	h := sha256.New()
	h.Write([]byte(strings.Join([]string{"hedgerow instance document 1", rig.Name, d.Node, d.Role, ""}, "\n")))
	h.Write(raw)
	signature, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if d.then != nil {
		raw = d.then(raw)
	}
	return json.Marshal(map[string]any{"document": json.RawMessage(raw), "certificates": d.by.Certificate, "signature": signature})
}

// write writes below the node's own key, and hints that it did.
func (p *papers) write(ctx context.Context, raw []byte) error {
	if err := p.redis.Set(ctx, prefix+"inst:"+victim+"/SIDECAR", raw, 15*time.Second).Err(); err != nil {
		return err
	}
	stream := fmt.Sprintf("%sev:%d", prefix, sha256.Sum256([]byte(victim))[0]%64)
	return p.redis.XAdd(ctx, &redis.XAddArgs{Stream: stream, MaxLen: 256, Approx: true, Values: []string{"node", victim}}).Err()
}
