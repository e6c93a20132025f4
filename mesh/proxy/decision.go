package proxy

import (
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Request is what a decision looks at: one request, already in canonical form.
// It is a view: decisions never change it.
type Request struct {
	Method string
	Host   string // lower case, no port, no trailing dot
	Path   string // canonical, see CanonicalPath
	// DecodedPath is the path that a server sees which decodes the escaped slashes in
	// Path. It is "" if there are none; where there are, only a rule with
	// keepEncodedSlash takes the request.
	DecodedPath string
	RawQuery    string
	TCP         bool // it is no request but a connection, of which nothing but Peer is known
	Fields      header.List
	// Remote is the IP address that the request comes from: at a gateway the client's, as far
	// as what stands in front is believed, else that of the connection. "" is not known.
	Remote string
	// Peer is the caller: the mTLS peer at an inbound or a gateway, the local
	// workload at an outbound. Zero is anonymous.
	Peer mesh.ID
}

// FaceKind says at which side of the data plane a request entered.
type FaceKind uint8

// The faces of the data plane.
const (
	Gateway  FaceKind = iota // from outside the mesh; only routes targeting GATEWAY
	Outbound                 // from the local workload or the bridge into the mesh
	Inbound                  // from a mesh peer to the local workload
)

// Face is where a request entered. It selects which routes and which policies
// apply.
type Face struct {
	Kind    FaceKind
	Gateway string // the gateway's id, at a Gateway
	Service string // the destination's id, at an Inbound: chosen by SNI, never by Host
}

// Decision is the outcome of the pure decision functions for one request. It
// says what happens and why; forwarding carries it out.
type Decision struct {
	// Refusal is nil if the request is to be forwarded.
	Refusal *Refusal
	// Route and Rule are the winner; nil at an Inbound, and for the route that
	// every service has at <service>.mesh without any Route.
	Route *mesh.Route
	Rule  *Rule // never nil when forwarding at a Gateway or Outbound
	// Service and Subset are the chosen backend, Draw the number in [0,1) that chose it.
	Service string
	Subset  string
	Draw    float64
	// Authorization says which policy decided, if one was consulted.
	Authorization Authorization

	// What came of the credentials. fields are what is sent on where that is not what came; a
	// trailer must not be one of identity either.
	proof     proof
	asks      []*forwardAuth // that have to agree
	fields    header.List
	identity  []string
	challenge string // of a 401

	prefix    int    // bytes of the path that the rule matched as a prefix
	preflight string // the method that a CORS preflight asks about; "" if it is none
}

// Refusal is an answer that the proxy gives itself, as problem+json. Detail is
// for the caller and names no policy; the reasons are in Authorization.
type Refusal struct {
	Status int
	Code   string // "no_route", "denied", "no_healthy_endpoint", "timeout", "bad_request", ...
	Detail string
}

// Authorization is the outcome of the policies of one target.
type Authorization struct {
	Decision   string // mesh.Allow or mesh.Deny; "" if no policy was consulted
	Policy     string // "policies/orders-read"; "" if the mesh default decided
	Reason     string // "DENY_MATCHED", "ALLOW_MATCHED", "NO_ALLOW_MATCHED", "DEFAULT"
	NearMisses []NearMiss
	// Would is what would be decided if the AUDIT policies of the target were ALLOW policies:
	// mesh.Allow or mesh.Deny; "" if it is the same.
	Would   string
	audited *policy // the AUDIT policy that is the reason
}

// count counts what an AUDIT policy would have changed.
func (a *Authorization) count() {
	switch a.Would {
	case mesh.Allow:
		a.audited.audits.allow.Add(1)
	case mesh.Deny:
		a.audited.audits.deny.Add(1)
	}
}

// NearMiss names an ALLOW policy that would have matched but for one field.
type NearMiss struct {
	Policy string
	Failed string // "from.identities", "to.methods", "to.paths"
}

// Rule is a compiled mesh.RouteRule: what forwarding needs of it. It never changes.
type Rule struct {
	filters     // first, with what decides: it lies together
	backends    []backend
	totalWeight uint64
	affinity    *mesh.HashKey // by which the backend is chosen; nil: by chance
	keepsSlash  bool          // takes paths with escaped slashes
	Name        string
	Timeout     time.Duration // of the whole exchange; 0 is none
	timed       bool          // the route says so: a stream of gRPC has no other bound
	IdleTimeout time.Duration // in which nothing moves; 0 is the proxy's own
	Retry       RetryPolicy
}

// RetryPolicy is a compiled mesh.Retry. The zero value never retries.
type RetryPolicy struct {
	Attempts         int // tries after the first
	OnConnectFailure bool
	OnReset          bool
	OnGatewayError   bool
	OnTooMany        bool
	PerTryTimeout    time.Duration // 0 is none
	HedgeAfter       time.Duration // 0 is never
	Budget           int           // percent of the requests
	BackoffBase      time.Duration
	BackoffMax       time.Duration
}

// backend is one weighted destination of a Rule.
type backend struct {
	service string
	subset  string
	weight  uint64
}
