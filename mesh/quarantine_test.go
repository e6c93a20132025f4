package mesh

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const quarantineTD = "spiffe://hedgerow.local"

func parsedID(t *testing.T, path string) ID {
	t.Helper()
	id, err := ParseID(quarantineTD + path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDeniesRefuse(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	from := CertificatesFrom(at, 5*time.Minute)
	released := at.Add(time.Hour)
	old, fresh := at.Add(-24*time.Hour), released.Add(time.Hour)
	shutOut := &Quarantine{Meta: Meta{Name: "quarantines/edge7"}, Time: &at, CertificatesFrom: &from, Gateways: []string{"demo"}}
	let := &Quarantine{Meta: Meta{Name: "quarantines/edge8"}, Time: &at, ReleaseTime: &released, CertificatesFrom: &released, Gateways: []string{"out"}}
	d := NewDenies(map[string]*Quarantine{"edge7": shutOut, "edge8": let})
	for _, tt := range []struct {
		name, path string
		notBefore  time.Time
		refused    bool
	}{
		{"a service of the node", "/svc/orders/n/edge7", old, true},
		{"another service of the node", "/svc/mqtt-bridge/n/edge7", old, true},
		{"the node itself", "/node/edge7", old, true},
		{"a certificate from after the quarantine", "/svc/orders/n/edge7", fresh, true},
		{"a gateway that the node could serve", "/gateway/demo", old, true},
		{"such a gateway's new certificate", "/gateway/demo", fresh, false},
		{"another gateway", "/gateway/other", old, false},
		{"another node", "/svc/orders/n/edge70", old, false},
		{"a service that is called as the node", "/svc/edge7/n/edge9", old, false},
		{"a gateway that is called as the node", "/gateway/edge7", old, false},
		{"a released node's old certificate", "/svc/orders/n/edge8", old, true},
		{"a released node's own old certificate", "/node/edge8", released.Add(-time.Second), true},
		{"a released node's new certificate", "/svc/orders/n/edge8", released, false},
		{"a released node's gateway, old", "/gateway/out", old, true},
		{"a released node's gateway, new", "/gateway/out", fresh, false},
		{"none of our forms", "/other", old, false},
	} {
		if got := d.Refuses(parsedID(t, tt.path), tt.notBefore); got != tt.refused {
			t.Errorf("%s: %s from %v: refused %v", tt.name, tt.path, tt.notBefore, got)
		}
	}
	if !d.Node("edge7") || d.Node("edge8") || d.Node("edge9") || (*Denies)(nil).Node("edge7") || (*Denies)(nil).Refuses(parsedID(t, "/node/edge7"), old) {
		t.Error("which nodes are shut out")
	}
	if from, ok := d.From(parsedID(t, "/svc/orders/n/edge7")); ok {
		t.Errorf("a certificate of a node that is shut out would be taken from %v on", from)
	}
	if got, ok := d.From(parsedID(t, "/svc/orders/n/edge8")); !ok || !got.Equal(released) {
		t.Errorf("%v, %v", got, ok)
	}
	if !d.Equal(NewDenies(map[string]*Quarantine{"edge8": let}, map[string]*Quarantine{"edge7": shutOut})) || d.Equal(NewDenies()) || d.Equal(nil) {
		t.Error("Equal")
	}
}

// What two lists say of one node both holds.
func TestDeniesAdd(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := at.Add(time.Hour)
	let := map[string]*Quarantine{"edge7": {Time: &at, ReleaseTime: &later, CertificatesFrom: &later}}
	earlier := map[string]*Quarantine{"edge7": {Time: &at, ReleaseTime: &at, CertificatesFrom: &at}}
	for _, d := range []*Denies{NewDenies(let, earlier), NewDenies(earlier, let)} {
		if !d.Refuses(parsedID(t, "/node/edge7"), at) {
			t.Error("the earlier time holds")
		}
	}
	if d := NewDenies(let, map[string]*Quarantine{"edge7": {Time: &at}}); !d.Node("edge7") {
		t.Error("one list releases what another shuts out")
	}
}

// A thief's certificate, issued until the very moment, is refused, whatever the issuer's
// clock does within ClockSkew; an honest one is taken after twice that at the latest.
func TestCertificatesFromAtItsBoundary(t *testing.T) {
	id := parsedID(t, "/gateway/demo")
	for _, at := range []time.Time{
		time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 999_999_999, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 500_000_000, time.UTC),
	} {
		for _, backdate := range []time.Duration{0, 30 * time.Second, 5 * time.Minute} {
			from := CertificatesFrom(at, backdate)
			d := NewDenies(map[string]*Quarantine{"edge7": {Time: &at, CertificatesFrom: &from, Gateways: []string{"demo"}}})
			issued := func(when time.Time, skew, really time.Duration) time.Time { // a NotBefore
				return when.Add(skew - really).Truncate(time.Second)
			}
			for skew := -ClockSkew; skew <= ClockSkew; skew += time.Second / 2 {
				for _, really := range []time.Duration{backdate, backdate + time.Minute} { // at least backdate
					if !d.Refuses(id, issued(at, skew, really)) {
						t.Errorf("issued at %v by a clock off by %v, backdated by %v: taken", at, skew, really)
					}
				}
				if honest := at.Add(2*ClockSkew + 2*time.Second); d.Refuses(id, issued(honest, skew, backdate)) {
					t.Errorf("issued %v after, by a clock off by %v: refused", honest.Sub(at), skew)
				}
			}
		}
	}
}

// A quarantine that is not understood shuts the node out: who could write it meant to.
func TestAQuarantineThatCannotBeReadShutsOut(t *testing.T) {
	for name, record := range map[string]string{
		"no JSON":                          `{`,
		"a field of a newer version":       `{"time":"2026-01-02T03:04:05Z","only":["orders"]}`,
		"released without a time to go by": `{"time":"2026-01-02T03:04:05Z","releaseTime":"2026-01-02T03:04:06Z"}`,
		"no time":                          `{}`,
	} {
		records := Records{"quarantines/edge7": []byte(record)}
		c, errs := DecodeRecords(Head{Revision: 1}, records)
		if len(errs) != 1 || !NewDenies(c.Quarantines).Node("edge7") {
			t.Errorf("%s: %v, %v", name, errs, c.Quarantines)
		}
		next, errs := c.Next(Head{Revision: 2}, records, records) // taken over
		if len(errs) != 1 || !NewDenies(next.Quarantines).Node("edge7") {
			t.Errorf("%s, taken over: %v", name, errs)
		}
	}
}

func TestQuarantineValidation(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	q := &Quarantine{Meta: Meta{Name: "quarantines/edge7"}, Time: &at, Gateways: []string{"Demo"}, Reason: strings.Repeat("x", maxReason+1)}
	err := Validate(q)
	for _, want := range []string{"gateways[0]", "reason", "certificatesFrom"} {
		raw, _ := json.Marshal(err)
		if err == nil || !strings.Contains(string(raw), `"field":"`+want+`"`) {
			t.Errorf("%s is not reported: %s", want, raw)
		}
	}
	q = &Quarantine{Meta: Meta{Name: "quarantines/edge7"}, Time: &at}
	if err := Validate(q); err != nil {
		t.Error(err)
	}
	if q.Expired(at.AddDate(1, 0, 0)) {
		t.Error("a node is let in because nobody released it for long")
	}
	q.ReleaseTime = &at
	if q.Expired(at.Add(LongestLife)) || !q.Expired(at.Add(LongestLife+ClockSkew+time.Second)) {
		t.Error("a released node's certificates of before are refused until they have ended")
	}
}
