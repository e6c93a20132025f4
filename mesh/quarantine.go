package mesh

import (
	"time"
)

// Quarantine shuts a node out of the mesh: quarantines/edge7 is about nodes/edge7, and
// stays when that is deleted. It is written by the control plane's own methods alone, so
// that no write of a Node lifts it.
type Quarantine struct {
	Meta
	// Time is since when. While there is no ReleaseTime every certificate that names the
	// node is refused, whenever it was issued.
	Time   *time.Time `json:"time,omitempty"`
	Reason string     `json:"reason,omitempty"`
	By     string     `json:"by,omitempty"` // who

	// ReleaseTime is when the node was allowed to enrol again. Its older certificates stay
	// refused.
	ReleaseTime *time.Time `json:"releaseTime,omitempty"`
	ReleasedBy  string     `json:"releasedBy,omitempty"`

	// Gateways are the ids that the node could serve. An identity of a gateway names no
	// node, so that all certificates of these are refused which may be older than the
	// quarantine, whoever has them; others get new ones.
	Gateways []string `json:"gateways,omitempty"`
	// CertificatesFrom is the first start of validity (NotBefore) of a certificate that
	// is certainly newer than the quarantine, or once there is a ReleaseTime than that.
	CertificatesFrom *time.Time `json:"certificatesFrom,omitempty"`

	// Output only: what became of it.
	State     string        `json:"state,omitempty"`
	Contained []Containment `json:"contained,omitempty"`
}

// Values of Quarantine.State.
const (
	Containing   = "CONTAINING"    // somewhere that is reached it is not carried out yet
	AllContained = "ALL_CONTAINED" // everywhere that is reached it is
	Released     = "RELEASED"
)

// Containment is how far one part of the mesh is with a quarantine.
type Containment struct {
	// Where is "sidecar/orders-v1", as the data plane calls itself, or what access was
	// withdrawn from: "access/redis".
	Where string `json:"where,omitempty"`
	State string `json:"state,omitempty"`
	// Time is when, and After how long after the quarantine.
	Time   *time.Time `json:"time,omitempty"`
	After  *Duration  `json:"after,omitempty"`
	Detail string     `json:"detail,omitempty"`
}

// Values of Containment.State.
const (
	ContainmentDone    = "DONE"
	ContainmentPending = "PENDING" // it is reached, and has not said so yet
	ContainmentOffline = "OFFLINE" // it is not reached: it goes on until it is, or its peers' certificates end
	ContainmentFailed  = "FAILED"  // tried again until it succeeds
	ContainmentNever   = "NOT_CONTAINED"
)

// Times of a quarantine.
const (
	// LongestLife is for how long a certificate of a node may be taken: its own lives 7 days,
	// and Defaults.IdentityGrace may add 7 to that of a service.
	LongestLife = 14 * 24 * time.Hour
	// ClockSkew is how far the clocks of the control plane and of who issues certificates
	// may differ.
	ClockSkew = 10 * time.Second
	// maxReason bounds Quarantine.Reason, and who is named.
	maxReason = 1 << 10
)

// Collection returns Quarantines.
func (*Quarantine) Collection() Collection { return Quarantines }

func (q *Quarantine) normalize() {}

func (q *Quarantine) validate(v *Violations) {
	if q.Time == nil {
		v.Add("time", "", "a quarantine has a beginning")
	}
	if q.ReleaseTime != nil && q.CertificatesFrom == nil {
		v.Add("certificatesFrom", "", "without it a release would let old certificates in")
	}
	if len(q.Gateways) > 0 && q.CertificatesFrom == nil {
		v.Add("certificatesFrom", "", "without it the certificates of gateways could not be told apart")
	}
	for i, g := range q.Gateways {
		if !ValidID(g) {
			v.Add(at("gateways", i), "", "%q is not a gateway id", g)
		}
	}
	for field, text := range map[string]string{"reason": q.Reason, "by": q.By, "releasedBy": q.ReleasedBy} {
		if len(text) > maxReason {
			v.Add(field, "", "%d bytes, at most %d are kept", len(text), maxReason)
		}
	}
}

// Active reports whether the node is shut out whatever certificate it has.
func (q *Quarantine) Active() bool { return q.ReleaseTime == nil }

// Expired reports whether q refuses nothing any more that is not refused without it: it
// was released, and every certificate from before has ended.
func (q *Quarantine) Expired(now time.Time) bool {
	return !q.Active() && now.After(q.ReleaseTime.Add(LongestLife+ClockSkew))
}

// closedQuarantine is what remains of a quarantine that is not understood: one that was
// never released. Its gateways are not known.
func closedQuarantine(name string) *Quarantine { return &Quarantine{Meta: Meta{Name: name}} }

// CertificatesFrom returns the first start of validity of a certificate that was
// certainly issued after t, by an issuer that dates the start back by backdate at least.
//
// A certificate does not say when it was issued. Its NotBefore is that time, by the
// issuer's clock, less what the issuer dates back (vaultpki's roles and localca: 5 min),
// cut to a second. So what was issued at or before t has a NotBefore of at most
// t + ClockSkew - backdate, and everything later than that is new. If backdate is said to
// be more than it is, a thief's certificate of the minutes before t would pass; 0 is
// always right, and has who is honest wait until what it is issued is dated from then on.
func CertificatesFrom(t time.Time, backdate time.Duration) time.Time {
	return t.Add(ClockSkew - backdate + time.Second).UTC().Truncate(time.Second)
}

// Denies is whose certificates are refused. It never changes. Nil refuses nobody's.
type Denies struct {
	nodes    map[string]deny
	gateways map[string]deny
}

// deny is the certificates of one node, or of one gateway, that are refused.
type deny struct {
	all  bool      // whenever they were issued
	from time.Time // or else those with an earlier NotBefore
}

// and returns what both refuse.
func (d deny) and(other deny) deny {
	if other.from.After(d.from) {
		d.from = other.from
	}
	d.all = d.all || other.all
	return d
}

// NewDenies returns what all of lists together refuse.
func NewDenies(lists ...map[string]*Quarantine) *Denies {
	d := &Denies{nodes: map[string]deny{}, gateways: map[string]deny{}}
	for _, list := range lists {
		for node, q := range list {
			var from time.Time
			if q.CertificatesFrom != nil {
				from = *q.CertificatesFrom
			}
			d.nodes[node] = d.nodes[node].and(deny{all: q.Active(), from: from})
			for _, g := range q.Gateways {
				d.gateways[g] = d.gateways[g].and(deny{from: from})
			}
		}
	}
	return d
}

// of returns what is refused of id's certificates.
func (d *Denies) of(id ID) (deny, bool) {
	if d == nil {
		return deny{}, false
	}
	if gateway, ok := id.Gateway(); ok {
		found, denied := d.gateways[gateway]
		return found, denied
	}
	node, ok := id.Node()
	if !ok {
		_, node, ok = id.Service()
	}
	found, denied := d.nodes[node]
	return found, ok && denied
}

// Refuses reports whether a certificate of id that is valid from notBefore on is refused.
func (d *Denies) Refuses(id ID, notBefore time.Time) bool {
	found, denied := d.of(id)
	return denied && (found.all || notBefore.Before(found.from))
}

// From returns the first start of validity of a certificate of id that is not refused;
// ok is false if none would be. It is zero if nothing of id's is refused.
func (d *Denies) From(id ID) (from time.Time, ok bool) {
	found, _ := d.of(id)
	return found.from, !found.all
}

// Node reports whether the node is shut out whatever certificate it has.
func (d *Denies) Node(id string) bool { return d != nil && d.nodes[id].all }

// RefusesNode is Refuses of /node/<id>.
func (d *Denies) RefusesNode(id string, notBefore time.Time) bool {
	if d == nil {
		return false
	}
	found, denied := d.nodes[id]
	return denied && (found.all || notBefore.Before(found.from))
}

// Equal reports whether both refuse the same.
func (d *Denies) Equal(other *Denies) bool {
	return d == other || d != nil && other != nil && sameDenies(d.nodes, other.nodes) && sameDenies(d.gateways, other.gateways)
}

func sameDenies(a, b map[string]deny) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		if y, ok := b[name]; !ok || x.all != y.all || !x.from.Equal(y.from) {
			return false
		}
	}
	return true
}
