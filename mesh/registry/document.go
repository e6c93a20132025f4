package registry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

const (
	// documentLife is how far ahead notAfter lies when a document is written,
	// and skewTolerated how far clocks may differ when it is read.
	documentLife  = 10 * time.Minute
	skewTolerated = 5 * time.Minute

	maxLabels    = 64
	maxTextBytes = 255
	maxWeight    = 65_535
)

// document is what one process says about itself. Fields that it does not know
// are ignored: nodes are upgraded one by one.
type document struct {
	Node string `json:"node"`
	Role string `json:"role"` // mesh.RoleSidecar, RoleBridge or RoleGateway
	// Seq grows with every document of a process and its successors: Unix
	// milliseconds, or one more than the last.
	Seq       int64           `json:"seq"`
	NotAfter  time.Time       `json:"notAfter"`
	Instances []mesh.Instance `json:"instances"`
	Applied   *appliedReport  `json:"applied,omitempty"`
	Rejected  *rejectReport   `json:"rejected,omitempty"`
	// Contained are the newest quarantines that the process has carried out.
	Contained []Contained `json:"contained,omitempty"`
	// Broker is where a bridge takes messages from: BrokerEmbedded or an address.
	Broker string `json:"broker,omitempty"`
}

// Contained says that a quarantine is carried out: no connection of the node's is left,
// and none is made.
type Contained struct {
	Node  string    `json:"node"`
	Since time.Time `json:"since"` // the quarantine's Time
	Time  time.Time `json:"time"`  // when, by the process's clock
}

// BrokerEmbedded is the broker of a bridge that is one itself.
const BrokerEmbedded = "EMBEDDED"

// maxContained bounds what a document says of quarantines: older ones were read long ago.
const maxContained = 64

type appliedReport struct {
	Epoch    uint32 `json:"epoch"`
	Revision uint32 `json:"revision"`
}

type rejectReport struct {
	Revision uint32 `json:"revision"`
	Reason   string `json:"reason"`
}

// refusal is why something in Redis was not accepted: a label and a sentence.
type refusal struct {
	reason string
	err    error
}

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason: reason, err: fmt.Errorf(format, args...)}
}

// openDocument decodes the value of the key of a process, and checks what can be
// checked without the configuration: first what costs little, then that the node has
// signed it. The instances are as written. It returns the document and the certificate
// that signed it.
func (v *verification) openDocument(raw []byte, key instanceKey, known *certified) (*document, *certified, *refusal) {
	if len(raw) > maxDocumentBytes {
		return nil, nil, refuse(rejectOversize, "%d bytes, at most %d are read", len(raw), maxDocumentBytes)
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, nil, refuse(rejectMalformed, "decode the envelope: %w", err)
	}
	var d document
	if err := json.Unmarshal(e.Document, &d); err != nil {
		return nil, nil, refuse(rejectMalformed, "decode the document: %w", err)
	}
	if r := d.check(key, v.at); r != nil {
		return nil, nil, r
	}
	by, r := e.verify(v.mesh, key, v.bundle, known, v.at)
	if r != nil {
		return nil, nil, r
	}
	return &d, by, nil
}

// verification is what documents are held against.
type verification struct {
	mesh   string
	bundle *identity.Bundle
	at     time.Time
}

// renew makes d the next document of its process.
func (d *document) renew(now time.Time) {
	if time.UnixMilli(d.Seq).After(now.Add(skewTolerated)) {
		d.Seq = 0 // by a clock that was ahead: nobody has taken it, nor would what follows it
	}
	d.Seq = max(d.Seq+1, now.UnixMilli())
	d.NotAfter = now.Add(documentLife).UTC().Truncate(time.Second)
}

// check reports what is wrong with a document whoever wrote it.
func (d *document) check(key instanceKey, now time.Time) *refusal {
	switch {
	case d.Node != key.node || d.Role != key.role:
		return refuse(rejectOwner, "the document is of %.70q/%.20q", d.Node, d.Role)
	case d.expired(now):
		return refuse(rejectExpired, "not valid after %s", d.NotAfter.UTC().Format(time.RFC3339))
	case d.NotAfter.After(now.Add(documentLife + skewTolerated)):
		return refuse(rejectExpired, "valid until %s, which is too far ahead", d.NotAfter.UTC().Format(time.RFC3339))
	case time.UnixMilli(d.Seq).After(now.Add(skewTolerated)):
		// Accepted, it would shut out the process's own documents.
		return refuse(rejectExpired, "its seq %d is from the future", d.Seq)
	case len(d.Instances) > maxInstances:
		return refuse(rejectOversize, "%d instances, at most %d are read", len(d.Instances), maxInstances)
	case len(d.Contained) > maxContained:
		return refuse(rejectOversize, "%d quarantines, at most %d are read", len(d.Contained), maxContained)
	case !shortText(d.Broker):
		return refuse(rejectMalformed, "its broker %.60q is not up to %d printable ASCII characters", d.Broker, maxTextBytes)
	case d.Rejected != nil && len(d.Rejected.Reason) > maxReasonBytes:
		return refuse(rejectOversize, "a reason of %d bytes", len(d.Rejected.Reason))
	}
	return nil
}

// expired reports whether the document is too old to be taken.
func (d *document) expired(now time.Time) bool { return now.After(d.NotAfter.Add(skewTolerated)) }

// instance checks one instance of d against the configuration and returns it
// with nothing but the fields that a node may set.
func (d *document) instance(in *mesh.Instance, c *mesh.Config) (*mesh.Instance, *refusal) {
	node := c.Nodes[d.Node]
	if node == nil || !slices.Contains(node.Roles, d.Role) || d.Role == mesh.RoleGateway {
		return nil, refuse(rejectEntitled, "nodes/%s may not offer services as a %s", d.Node, d.Role)
	}
	if !slices.Contains(node.Services, in.Service) {
		return nil, refuse(rejectEntitled, "nodes/%s may not run service %.70q", d.Node, in.Service)
	}
	if !ownName(in.Name, d.Node) || (in.Node != "" && in.Node != d.Node) {
		return nil, refuse(rejectOwner, "instance %.160q is not of nodes/%s", in.Name, d.Node)
	}
	if err := checkAddress(in.Address, node, c.Defaults); err != nil {
		return nil, refuse(rejectAddress, "%s: %w", in.Name, err)
	}
	if err := checkText(in); err != nil {
		return nil, refuse(rejectMalformed, "%s: %w", in.Name, err)
	}
	out := &mesh.Instance{
		Meta:    mesh.Meta{Name: in.Name, Labels: in.Labels, CreateTime: in.CreateTime},
		Service: in.Service, Node: d.Node, Address: in.Address,
		Locality: in.Locality, Weight: in.Weight, Health: in.Health,
	}
	out.Weight = max(out.Weight, 1)
	if out.Health == "" {
		out.Health = mesh.Healthy
	}
	return out, nil
}

// ownName reports whether name is "instances/<node>-<n>". The number keeps the
// names of node "a" apart from those of a node "a-b".
func ownName(name, node string) bool {
	n, ok := strings.CutPrefix(name, string(mesh.Instances)+"/"+node+"-")
	if !ok || len(n) > 5 {
		return false
	}
	_, err := strconv.ParseUint(n, 10, 32)
	return err == nil
}

// checkAddress reports an address that may not be dialled: the list of where
// instances may live is in the configuration, so that a node cannot point
// others at whatever it likes. A name would be resolved later, to anything.
func checkAddress(address string, node *mesh.Node, defaults *mesh.Defaults) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
		return fmt.Errorf("%.60q is not an IP address and port", address)
	}
	if !within(ap.Addr(), defaults.DialCidrs) {
		return fmt.Errorf("%s is outside defaults.dialCidrs", address)
	}
	if len(node.DialCidrs) > 0 && !within(ap.Addr(), node.DialCidrs) {
		return fmt.Errorf("%s is outside the node's dialCidrs", address)
	}
	return nil
}

func within(addr netip.Addr, cidrs []string) bool {
	return slices.ContainsFunc(cidrs, func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		return err == nil && mesh.Lists(p, addr)
	})
}

func checkText(in *mesh.Instance) error {
	if len(in.Labels) > maxLabels {
		return fmt.Errorf("%d labels, at most %d are read", len(in.Labels), maxLabels)
	}
	for key, value := range in.Labels {
		if key == "" || !shortText(key) || !shortText(value) {
			return fmt.Errorf("label %.60q is not 1 to %d printable ASCII characters", key, maxTextBytes)
		}
	}
	if !shortText(in.Locality) {
		return fmt.Errorf("locality %.60q is not up to %d printable ASCII characters", in.Locality, maxTextBytes)
	}
	if in.Weight > maxWeight {
		return fmt.Errorf("weight %d is over %d", in.Weight, maxWeight)
	}
	switch in.Health {
	case "", mesh.Healthy, mesh.Unhealthy:
		return nil
	}
	return fmt.Errorf("health %.20q is neither %s nor %s", in.Health, mesh.Healthy, mesh.Unhealthy)
}

func shortText(s string) bool {
	return len(s) <= maxTextBytes && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
