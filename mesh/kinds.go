package mesh

import "time"

// Service is a named group of interchangeable instances.
type Service struct {
	Meta
	// Protocol is what the workload speaks: HTTP (default), HTTP2, GRPC or TCP.
	Protocol            string               `json:"protocol,omitempty"`
	External            *External            `json:"external,omitempty"`
	Subsets             []Subset             `json:"subsets,omitempty"`
	LoadBalancing       *LoadBalancing       `json:"loadBalancing,omitempty"`
	Health              *Health              `json:"health,omitempty"`
	OutlierDetection    *OutlierDetection    `json:"outlierDetection,omitempty"`
	CircuitBreaker      *CircuitBreaker      `json:"circuitBreaker,omitempty"`
	AdaptiveConcurrency *AdaptiveConcurrency `json:"adaptiveConcurrency,omitempty"`
	Activation          *Activation          `json:"activation,omitempty"`
}

// Values of Service.Protocol.
const (
	ProtocolHTTP  = "HTTP"
	ProtocolHTTP2 = "HTTP2"
	ProtocolGRPC  = "GRPC"
	ProtocolTCP   = "TCP"
)

// Subset is the instances of a service that carry all of Labels.
type Subset struct {
	Name   string `json:"name,omitempty"`
	Labels Labels `json:"labels,omitempty"`
}

// External is where a service that lives outside the mesh is found: at a host name,
// looked up for each new connection, or an IP address. It may be any public address, and
// others only in Defaults.DialCidrs. Policies of the service are enforced by the proxy of
// who calls it.
type External struct {
	Address string       `json:"address,omitempty"`
	Port    uint32       `json:"port,omitempty"`
	TLS     *ExternalTLS `json:"tls,omitempty"`
}

// ExternalTLS is how TLS is originated towards an external service: for ServerName (its
// address if absent), by the CAs in CAPem (those of the system if absent).
type ExternalTLS struct {
	ServerName string `json:"serverName,omitempty"`
	CAPem      string `json:"caPem,omitempty"`
}

// LoadBalancing chooses among the endpoints of a service. Hash is what RING_HASH and
// MAGLEV go by; requests without it go by chance. For SlowStart after an endpoint
// came, or came back, its share grows from a tenth to all.
type LoadBalancing struct {
	Policy    string         `json:"policy,omitempty"`
	Hash      *HashKey       `json:"hash,omitempty"`
	SlowStart *Duration      `json:"slowStart,omitempty"`
	Locality  *LocalityPrefs `json:"locality,omitempty"`
}

// Values of LoadBalancing.Policy.
const (
	// LeastRequest is the default: of two endpoints drawn at random, the one with
	// fewer requests in flight for its weight (Envoy LEAST_REQUEST with
	// choice_count 2).
	LeastRequest = "LEAST_REQUEST"
	// PeakEWMA is likewise, by requests in flight times a moving average of the
	// time to the response, which a slow one raises at once (Linkerd).
	PeakEWMA = "PEAK_EWMA"
	// RoundRobin is nginx's smooth weighted round robin.
	RoundRobin = "ROUND_ROBIN"
	// Random is by weight alone.
	Random = "RANDOM"
	// RingHash and Maglev choose by Hash: requests that agree in it go to the same
	// endpoint, until that has half as much again as its share under way.
	RingHash = "RING_HASH"
	Maglev   = "MAGLEV"
)

// Values of LocalityPrefs.Mode.
const (
	LocalityPrefer = "PREFER_LOCAL" // the default
	LocalityAny    = "ANY"
	LocalityStrict = "STRICT"
)

// HashKey says which part of a request is hashed; exactly one field is set.
type HashKey struct {
	Header         string `json:"header,omitempty"`
	Cookie         string `json:"cookie,omitempty"`
	Query          string `json:"query,omitempty"`
	SourceIdentity bool   `json:"sourceIdentity,omitempty"`
	Device         bool   `json:"device,omitempty"`
}

// LocalityPrefs prefers endpoints that are near: in the zone of the caller's node,
// then in its region. While less than OverflowPercent of those are healthy (72 if
// absent), a part of their traffic goes further, in proportion. STRICT uses the same
// zone alone.
type LocalityPrefs struct {
	Mode            string `json:"mode,omitempty"`
	OverflowPercent uint32 `json:"overflowPercent,omitempty"`
}

// Health is how the sidecar beside a workload checks it: by a GET of Path that answers
// 2xx or 3xx, or by connecting if there is none, every Interval (2 s if absent) within
// Timeout (1 s). UnhealthyAfter (2) failures in a row make an instance unhealthy,
// HealthyAfter (1) successes healthy again.
type Health struct {
	Path           string    `json:"path,omitempty"`
	Interval       *Duration `json:"interval,omitempty"`
	Timeout        *Duration `json:"timeout,omitempty"`
	UnhealthyAfter uint32    `json:"unhealthyAfter,omitempty"`
	HealthyAfter   uint32    `json:"healthyAfter,omitempty"`
}

// OutlierDetection ejects endpoints that fail (Envoy outlier_detection.proto): after 5
// server errors (a response 5xx, or none) or 3 connections that could not be made, in a
// row, for 30 s times how often it was ejected, less one for each Interval (10 s)
// since. At most MaxEjectionPercent (50) are out at a time, but one may always be.
// These defaults hold for every service.
type OutlierDetection struct {
	ConsecutiveServerErrors    uint32    `json:"consecutiveServerErrors,omitempty"`
	ConsecutiveConnectFailures uint32    `json:"consecutiveConnectFailures,omitempty"`
	Interval                   *Duration `json:"interval,omitempty"`
	BaseEjectionTime           *Duration `json:"baseEjectionTime,omitempty"`
	MaxEjectionPercent         uint32    `json:"maxEjectionPercent,omitempty"`
}

// CircuitBreaker caps concurrency of each proxy towards a service (Envoy
// CircuitBreakers.Thresholds): connections of a service of protocol TCP, requests under
// way, requests that wait for a connection (1,024 each if absent), and retries under
// way (no cap if absent: there is a budget).
type CircuitBreaker struct {
	MaxConnections uint32 `json:"maxConnections,omitempty"`
	MaxPending     uint32 `json:"maxPending,omitempty"`
	MaxRequests    uint32 `json:"maxRequests,omitempty"`
	MaxRetries     uint32 `json:"maxRetries,omitempty"`
}

// AdaptiveConcurrency has the sidecar beside a workload bound its requests under way at
// how many it answers before they wait for each other (Envoy's adaptive_concurrency): at
// least MinConcurrency (3) and at most MaxConcurrency (1,000), while the median of the
// latency is at most BufferPercent (25) over that without load, which is measured at
// least each MeasureEvery (60 s).
type AdaptiveConcurrency struct {
	MinConcurrency uint32    `json:"minConcurrency,omitempty"`
	MaxConcurrency uint32    `json:"maxConcurrency,omitempty"`
	BufferPercent  uint32    `json:"bufferPercent,omitempty"`
	MeasureEvery   *Duration `json:"measureEvery,omitempty"`
}

// Activation starts a workload on demand and stops it when idle.
type Activation struct {
	Command        []string         `json:"command,omitempty"`
	SystemdUnit    string           `json:"systemdUnit,omitempty"`
	Ready          *ActivationReady `json:"ready,omitempty"`
	MinInstances   uint32           `json:"minInstances,omitempty"`
	IdleAfter      *Duration        `json:"idleAfter,omitempty"`
	StartTimeout   *Duration        `json:"startTimeout,omitempty"`
	MaxConcurrency uint32           `json:"maxConcurrency,omitempty"`
	Queue          uint32           `json:"queue,omitempty"`
}

// ActivationReady says when a started workload may be used; one field is set.
type ActivationReady struct {
	Path string `json:"path,omitempty"`
	Port uint32 `json:"port,omitempty"`
}

// Instance is one running copy of a service, as its sidecar registered it. It
// is read-only in the control API.
type Instance struct {
	Meta
	Service  string `json:"service,omitempty"`
	Node     string `json:"node,omitempty"`
	Address  string `json:"address,omitempty"` // of the sidecar's inbound: "10.3.0.7:15006"
	Locality string `json:"locality,omitempty"`
	Weight   uint32 `json:"weight,omitempty"`
	// Health is HEALTHY or UNHEALTHY, by the sidecar beside the workload.
	Health          string     `json:"health,omitempty"`
	LeaseExpireTime *time.Time `json:"leaseExpireTime,omitempty"`
}

// Values of Instance.Health.
const (
	Healthy   = "HEALTHY"
	Unhealthy = "UNHEALTHY"
)

// Policy says who may call what. Deny first; then, if any ALLOW policy has the
// target, one must match; else Defaults.Authorization decides.
type Policy struct {
	Meta
	Target *PolicyTarget `json:"target,omitempty"`
	Action string        `json:"action,omitempty"`
	Rules  []PolicyRule  `json:"rules,omitempty"`
}

// Values of Policy.Action and, the first two, of Defaults.Authorization.
const (
	Allow = "ALLOW"
	Deny  = "DENY"
	Audit = "AUDIT"
)

// PolicyTarget is what a policy protects; exactly one field is set, to an id.
// Service policies are enforced at the destination's inbound, route policies
// at the first proxy that selects the route, gateway policies at the gateway.
type PolicyTarget struct {
	Service string `json:"service,omitempty"`
	Route   string `json:"route,omitempty"`
	Gateway string `json:"gateway,omitempty"`
}

// PolicyRule matches a request that some From, some To and When all match. An
// absent From means anyone, anonymous included; an absent To everything.
type PolicyRule struct {
	From []PolicyFrom `json:"from,omitempty"`
	To   []PolicyTo   `json:"to,omitempty"`
	When string       `json:"when,omitempty"` // CEL
}

// PolicyFrom describes callers. Entries of one list are ORed, fields ANDed.
type PolicyFrom struct {
	Identities    []string `json:"identities,omitempty"` // see ParseIDPattern
	NotIdentities []string `json:"notIdentities,omitempty"`
	// Nodes are ids of nodes with sidecars or bridges. A gateway's identity
	// does not name its node.
	Nodes    []string      `json:"nodes,omitempty"`
	IPBlocks []string      `json:"ipBlocks,omitempty"`
	Devices  []string      `json:"devices,omitempty"`
	Claims   []PolicyClaim `json:"claims,omitempty"`
}

// PolicyClaim asks that a claim of the caller has one of Values (see Authenticator).
// All claims of an entry of from have to.
type PolicyClaim struct {
	Name   string   `json:"name,omitempty"`
	Values []string `json:"values,omitempty"`
}

// PolicyTo describes operations. Paths are exact ("/a"; a DENY ignores one
// final slash), "{x}" is one segment and a trailing "/**" the rest.
type PolicyTo struct {
	Methods    []string `json:"methods,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	NotPaths   []string `json:"notPaths,omitempty"`
	IgnoreCase bool     `json:"ignoreCase,omitempty"`
}

// Node is a machine that may run a part of the mesh's data plane.
type Node struct {
	Meta
	Roles    []string `json:"roles,omitempty"`
	Services []string `json:"services,omitempty"` // ids the node may run
	Gateways []string `json:"gateways,omitempty"` // gateway ids the node may serve
	Locality string   `json:"locality,omitempty"`
	// DialCidrs narrows Defaults.DialCidrs for this node's instances.
	DialCidrs []string `json:"dialCidrs,omitempty"`

	// Output only, from what the node last reported.
	State           string     `json:"state,omitempty"`
	AppliedRevision uint32     `json:"appliedRevision,omitempty"`
	LastSeenTime    *time.Time `json:"lastSeenTime,omitempty"`
	// Quarantine is that of the node, if there is one.
	Quarantine *Quarantine `json:"quarantine,omitempty"`
	JoinAlarm  *JoinAlarm  `json:"joinAlarm,omitempty"`
	// TrustError is why Vault does not yet allow the node what it may be.
	TrustError string `json:"trustError,omitempty"`
}

// JoinAlarm says that a join token of a node may be in other hands.
type JoinAlarm struct {
	Reason string     `json:"reason,omitempty"`
	Time   *time.Time `json:"time,omitempty"`
}

// Values of Node.Roles: the processes a node may run.
const (
	RoleSidecar = "SIDECAR"
	RoleBridge  = "BRIDGE"
	RoleGateway = "GATEWAY"
)

// Defaults is the mesh-wide singleton, defaults/mesh.
type Defaults struct {
	Meta
	// Authorization decides at a destination's inbound when no ALLOW policy
	// targets the service: DENY (default) or ALLOW.
	Authorization string `json:"authorization,omitempty"`
	// DialCidrs lists where instances may be dialled. Empty means nowhere.
	DialCidrs     []string       `json:"dialCidrs,omitempty"`
	IdentityGrace *IdentityGrace `json:"identityGrace,omitempty"`
}

// IdentityGrace lets peers of one site (Node.Locality) accept a leaf that expired within
// Window, for requests of Routes alone. Without a Window there is none.
type IdentityGrace struct {
	Window *Duration `json:"window,omitempty"`
	Routes []string  `json:"routes,omitempty"`
}

// TopicRule maps MQTT messages to requests, or requests to messages.
type TopicRule struct {
	Meta
	// Filter is an MQTT topic filter whose "{name}" levels capture.
	Filter     string        `json:"filter,omitempty"`
	QoS        *uint32       `json:"qos,omitempty"`       // 1 if absent
	Direction  string        `json:"direction,omitempty"` // UPLINK if absent
	Device     string        `json:"device,omitempty"`    // "{device}"
	To         *TopicTo      `json:"to,omitempty"`
	Encoding   string        `json:"encoding,omitempty"` // RAW if absent
	When       string        `json:"when,omitempty"`     // CEL
	Ordering   string        `json:"ordering,omitempty"` // PER_TOPIC if absent
	Batch      *TopicBatch   `json:"batch,omitempty"`
	Ack        string        `json:"ack,omitempty"` // SPOOLED if absent
	Retry      *TopicRetry   `json:"retry,omitempty"`
	DeadLetter *DeadLetter   `json:"deadLetter,omitempty"`
	Spool      *SpoolOptions `json:"spool,omitempty"`
}

// Values of TopicRule's enums.
const (
	Uplink       = "UPLINK"
	Downlink     = "DOWNLINK"
	RequestReply = "REQUEST_REPLY"
	EncodingRaw  = "RAW"
	CloudEvents  = "CLOUDEVENTS"
	PerTopic     = "PER_TOPIC"
	NoOrder      = "NONE"
	AckSpooled   = "SPOOLED"
	AckDelivered = "DELIVERED"
)

// TopicTo is the request that a message becomes. "{name}" in Path is replaced
// by the capture, percent-encoded as one segment.
type TopicTo struct {
	Service string            `json:"service,omitempty"`
	Method  string            `json:"method,omitempty"` // POST if absent
	Path    string            `json:"path,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// TopicBatch joins several messages into one request.
type TopicBatch struct {
	MaxMessages uint32    `json:"maxMessages,omitempty"`
	MaxBytes    uint32    `json:"maxBytes,omitempty"`
	Linger      *Duration `json:"linger,omitempty"`
}

// TopicRetry is how a message that was not accepted is tried again.
type TopicRetry struct {
	Backoff *Backoff  `json:"backoff,omitempty"`
	MaxAge  *Duration `json:"maxAge,omitempty"`
}

// Backoff is exponential with full jitter, from Base up to Max.
type Backoff struct {
	Base *Duration `json:"base,omitempty"`
	Max  *Duration `json:"max,omitempty"`
}

// DeadLetter is where a message goes that can never be delivered.
type DeadLetter struct {
	Topic   string `json:"topic,omitempty"`
	Service string `json:"service,omitempty"`
	Path    string `json:"path,omitempty"`
}

// SpoolOptions bounds what is kept for one rule.
type SpoolOptions struct {
	MaxMib uint32 `json:"maxMib,omitempty"`
	OnFull string `json:"onFull,omitempty"`
}

// Collection implementations.

// Collection returns Services.
func (*Service) Collection() Collection { return Services }

// Collection returns Policies.
func (*Policy) Collection() Collection { return Policies }

// Collection returns Nodes.
func (*Node) Collection() Collection { return Nodes }

// Collection returns AllDefault.
func (*Defaults) Collection() Collection { return AllDefault }

// Collection returns TopicRules.
func (*TopicRule) Collection() Collection { return TopicRules }
