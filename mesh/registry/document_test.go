package registry

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// now is any moment; documents are judged by it and not by the clock.
func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func sealed(t testing.TB, edit func(*document)) []byte {
	t.Helper()
	d := document{Node: "n1", Role: mesh.RoleSidecar, Seq: 1, NotAfter: now().Add(documentLife), Instances: []mesh.Instance{}}
	edit(&d)
	return signed(t, &d, ours.Node("n1"))
}

// ours and theirs are the CAs of this mesh and of another.
var ours, theirs = signers.NewNodes(), signers.NewNodes()

// open is openDocument of the sidecar of n1, now.
func open(raw []byte) (*document, *refusal) {
	v := verification{mesh: "test", bundle: ours.Bundle(), at: now()}
	d, _, r := v.openDocument(raw, instanceKey{"n1", mesh.RoleSidecar}, nil)
	return d, r
}

func TestOpenDocument(t *testing.T) {
	whole := func(*document) {}
	cases := []struct {
		name string
		raw  []byte
		want string // the reason of the refusal, "" for none
	}{
		{"as written", sealed(t, whole), ""},
		{"with unknown fields", wrapped(t, `{"node":"n1","role":"SIDECAR","notAfter":"2026-01-02T03:04:05Z","later":1}`, `"more":2`), ""},
		{"of another node", sealed(t, func(d *document) { d.Node = "n2" }), rejectOwner},
		{"of another role", sealed(t, func(d *document) { d.Role = mesh.RoleBridge }), rejectOwner},
		{"within the skew tolerated", sealed(t, func(d *document) { d.NotAfter = now().Add(-skewTolerated) }), ""},
		{"expired", sealed(t, func(d *document) { d.NotAfter = now().Add(-skewTolerated - time.Second) }), rejectExpired},
		{"without an end", sealed(t, func(d *document) { d.NotAfter = time.Time{} }), rejectExpired},
		{"with an end far ahead", sealed(t, func(d *document) { d.NotAfter = now().AddDate(1, 0, 0) }), rejectExpired},
		{"with a seq that the skew explains", sealed(t, func(d *document) { d.Seq = now().Add(skewTolerated).UnixMilli() }), ""},
		{"with a seq from the future", sealed(t, func(d *document) { d.Seq = now().Add(skewTolerated + time.Second).UnixMilli() }), rejectExpired},
		{"with too many instances", sealed(t, func(d *document) { d.Instances = make([]mesh.Instance, maxInstances+1) }), rejectOversize},
		{"with a long reason", sealed(t, func(d *document) { d.Rejected = &rejectReport{Reason: strings.Repeat("x", maxReasonBytes+1)} }), rejectOversize},
		{"too large", append(sealed(t, whole), make([]byte, maxDocumentBytes)...), rejectOversize},
		{"empty", nil, rejectMalformed},
		{"no envelope", []byte(`[]`), rejectMalformed},
		{"no document", []byte(`{"keyId":""}`), rejectMalformed},
		{"bytes behind", append(sealed(t, whole), '{'), rejectMalformed},
		{"a revision that is too large", []byte(`{"document":{"node":"n1","role":"SIDECAR","applied":{"revision":4294967296}}}`), rejectMalformed},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			d, r := open(tc.raw)
			switch {
			case tc.want == "" && (r != nil || d == nil):
				t.Errorf("refused: %v", r)
			case tc.want != "" && (r == nil || r.reason != tc.want):
				t.Errorf("got %+v, want %s", r, tc.want)
			}
		})
	}
}

// wrapped is an envelope with a document of these bytes, signed, and one more member.
func wrapped(t testing.TB, document, more string) []byte {
	t.Helper()
	cert := ours.Node("n1").Pair
	signature, err := cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, documentDigest("test", "n1", mesh.RoleSidecar, []byte(document)), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := json.Marshal(envelope{Document: []byte("{}"), Certificates: cert.Certificate, Signature: signature})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{%s,"document":%s%s`, more, document, bytes.TrimPrefix(rest, []byte(`{"document":{}`)))
}

// TestEnvelopeKeepsTheDocumentsBytes is what signatures rest on.
func TestEnvelopeKeepsTheDocumentsBytes(t *testing.T) {
	d := document{Node: "n1", Role: mesh.RoleSidecar, Instances: []mesh.Instance{{Meta: mesh.Meta{Labels: mesh.Labels{"a": "<&> \u2028"}}}}}
	want, err := json.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	b := signed(t, &d, ours.Node("n1"))
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil || string(e.Document) != string(want) {
		t.Errorf("%v: the envelope holds\n%s, want\n%s", err, e.Document, want)
	}
}

func testConfig() *mesh.Config {
	c := mesh.NewConfig()
	c.Put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}})
	c.Put(&mesh.Node{Meta: mesh.Meta{Name: "nodes/n1"}, Roles: []string{mesh.RoleSidecar, mesh.RoleGateway}, Services: []string{"orders"}})
	c.Put(&mesh.Node{Meta: mesh.Meta{Name: "nodes/n2"}, Roles: []string{mesh.RoleSidecar}, Services: []string{"orders"}, DialCidrs: []string{"127.0.0.2/32"}})
	c.Put(&mesh.Defaults{Meta: mesh.Meta{Name: "defaults/mesh"}, DialCidrs: []string{"127.0.0.0/8", "2001:db8::/32", "f000::/4"}})
	c.Put(&mesh.Node{Meta: mesh.Meta{Name: "nodes/n3"}, Roles: []string{mesh.RoleSidecar}, Services: []string{"orders"}})
	return c
}

func TestInstanceOfADocument(t *testing.T) {
	good := mesh.Instance{Meta: mesh.Meta{Name: "instances/n1-1"}, Service: "orders", Address: "127.0.0.1:1"}
	cases := []struct {
		name string
		doc  document
		edit func(*mesh.Instance)
		want string
	}{
		{"as it must be", document{}, func(*mesh.Instance) {}, ""},
		{"IPv6", document{}, func(in *mesh.Instance) { in.Address = "[2001:db8::1]:443" }, ""},
		{"of a node that there is not", document{Node: "n9"}, func(in *mesh.Instance) { in.Name = "instances/n9-1" }, rejectEntitled},
		{"of a role that the node has not", document{Role: mesh.RoleBridge}, func(*mesh.Instance) {}, rejectEntitled},
		{"of a gateway, which has no service", document{Role: mesh.RoleGateway}, func(*mesh.Instance) {}, rejectEntitled},
		{"of a service that the node may not run", document{}, func(in *mesh.Instance) { in.Service = "billing" }, rejectEntitled},
		{"with another node's name", document{}, func(in *mesh.Instance) { in.Name = "instances/n2-1" }, rejectOwner},
		{"with another node inside", document{}, func(in *mesh.Instance) { in.Node = "n2" }, rejectOwner},
		{"with a name that another node could have", document{}, func(in *mesh.Instance) { in.Name = "instances/n1-b-1" }, rejectOwner},
		{"without a number", document{}, func(in *mesh.Instance) { in.Name = "instances/n1-" }, rejectOwner},
		{"without a name", document{}, func(in *mesh.Instance) { in.Name = "" }, rejectOwner},
		{"at a name", document{}, func(in *mesh.Instance) { in.Address = "localhost:80" }, rejectAddress},
		{"at decimal digits", document{}, func(in *mesh.Instance) { in.Address = "2130706433:80" }, rejectAddress},
		{"at a mapped address", document{}, func(in *mesh.Instance) { in.Address = "[::ffff:127.0.0.1]:80" }, rejectAddress},
		{"at an address with a zone", document{}, func(in *mesh.Instance) { in.Address = "[2001:db8::1%eth0]:80" }, rejectAddress},
		{"at port 0", document{}, func(in *mesh.Instance) { in.Address = "127.0.0.1:0" }, rejectAddress},
		{"at metadata", document{}, func(in *mesh.Instance) { in.Address = "169.254.169.254:80" }, rejectAddress},
		{"at metadata, in a list of everything", document{Node: "n3"}, func(in *mesh.Instance) { in.Name, in.Address = "instances/n3-1", "[fe80::1]:80" }, rejectAddress},
		{"outside the mesh's list", document{}, func(in *mesh.Instance) { in.Address = "10.0.0.1:80" }, rejectAddress},
		{"outside the node's own list", document{Node: "n2"}, func(in *mesh.Instance) { in.Name = "instances/n2-1" }, rejectAddress},
		{"with a line break in a label", document{}, func(in *mesh.Instance) { in.Labels = mesh.Labels{"a": "b\n"} }, rejectMalformed},
		{"with an empty label", document{}, func(in *mesh.Instance) { in.Labels = mesh.Labels{"": "b"} }, rejectMalformed},
		{"with an unknown health", document{}, func(in *mesh.Instance) { in.Health = "FINE" }, rejectMalformed},
		{"with a huge weight", document{}, func(in *mesh.Instance) { in.Weight = 1 << 30 }, rejectMalformed},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			in := good
			tc.edit(&in)
			if tc.doc.Node == "" {
				tc.doc.Node = "n1"
			}
			if tc.doc.Role == "" {
				tc.doc.Role = mesh.RoleSidecar
			}
			out, r := tc.doc.instance(&in, testConfig())
			switch {
			case tc.want == "" && r != nil:
				t.Errorf("refused as %s: %v", r.reason, r.err)
			case tc.want == "" && (out.Weight != 1 || out.Health != mesh.Healthy || out.Node != "n1"):
				t.Errorf("got %+v", out)
			case tc.want != "" && (r == nil || r.reason != tc.want):
				t.Errorf("got %+v, want %s", r, tc.want)
			}
		})
	}
}

func TestInstanceKeepsOnlyWhatANodeMaySay(t *testing.T) {
	in := mesh.Instance{Meta: mesh.Meta{Name: "instances/n1-1", Etag: "9", Revision: 9, CreateTime: &time.Time{}, UpdateTime: &time.Time{}}, Service: "orders", Address: "127.0.0.1:1", LeaseExpireTime: &time.Time{}}
	d := document{Node: "n1", Role: mesh.RoleSidecar}
	out, r := d.instance(&in, testConfig())
	if r != nil {
		t.Fatal(r.err)
	}
	if out.Etag != "" || out.Revision != 0 || out.UpdateTime != nil || out.LeaseExpireTime != nil {
		t.Errorf("kept %+v", out)
	}
	if out.CreateTime == nil {
		t.Error("when the process started is not kept")
	}
}

// FuzzDocument holds that nothing a node writes gets past the checks: every
// instance that is accepted is the node's own, entitled and dialable.
func FuzzDocument(f *testing.F) {
	f.Add(sealed(f, func(d *document) {
		d.Instances = []mesh.Instance{{Meta: mesh.Meta{Name: "instances/n1-1"}, Service: "orders", Address: "127.0.0.1:1"}}
	}))
	f.Add(wrapped(f, `{"node":"n1","role":"SIDECAR","notAfter":"2026-01-02T03:04:05Z","instances":[{"name":"instances/n1-1","service":"orders","address":"127.0.0.1:1","labels":{"a":"b"}}]}`, `"x":1`))
	f.Add([]byte(`{"document":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, r := open(raw)
		if r != nil {
			return
		}
		for i := range d.Instances {
			in, r := d.instance(&d.Instances[i], testConfig())
			if r != nil {
				continue
			}
			if in.Node != "n1" || in.Service != "orders" || !ownName(in.Name, "n1") || !strings.HasPrefix(in.Address, "127.") && !strings.HasPrefix(in.Address, "[2001:db8:") {
				t.Errorf("accepted %+v", in)
			}
		}
	})
}

// FuzzEntry holds that an entry of changes that is accepted has a head that
// can be judged, and the revision of its id.
func FuzzEntry(f *testing.F) {
	digest := strings.Repeat("ab", 32)
	f.Add("7-0", fmt.Sprintf(`{"epoch":1,"revision":7,"digest":%q}`, digest), "put:routes/a", "{}")
	f.Add("7-0", `{}`, "whole", "1")
	f.Add("18446744073709551615-0", fmt.Sprintf(`{"revision":4294967295,"digest":%q}`, digest), "del:", "")
	f.Fuzz(func(t *testing.T, id, head, field, value string) {
		e, r := decodeEntry(redis.XMessage{ID: id, Values: map[string]any{fieldHead: head, field: value}})
		if r != nil {
			return
		}
		if e.Head.Revision == 0 || len(e.Head.Digest) != 64 || !strings.HasPrefix(id, fmt.Sprint(e.Head.Revision)) && !strings.HasPrefix(id, "0") {
			t.Errorf("accepted %q with %+v", id, e.Head)
		}
	})
}

// A clock that was two hours ahead, as one that was set to local time, is put right. What the
// process says from then on is taken, and follows what it said before.
func TestDocumentsAfterTheClockWasAhead(t *testing.T) {
	d := &document{Node: "n1", Role: mesh.RoleSidecar, Instances: []mesh.Instance{}}
	seq := func(at time.Time, reason string) int64 {
		t.Helper()
		d.renew(at)
		if _, r := open(signed(t, d, ours.Node("n1"))); (r == nil) != (reason == "") || r != nil && r.reason != reason {
			t.Errorf("at %v: %v", at, r)
		}
		return d.Seq
	}
	first := seq(now().Add(-time.Second), "")
	seq(now().Add(2*time.Hour), rejectExpired)
	if second := seq(now(), ""); second <= first {
		t.Errorf("%d after %d", second, first)
	}
	little := seq(now().Add(skewTolerated-time.Second), "") // which is taken, so that the next one goes on from it
	if next := seq(now(), ""); next <= little {
		t.Errorf("%d after %d, which was taken", next, little)
	}
}
