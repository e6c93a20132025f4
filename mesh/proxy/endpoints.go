package proxy

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// EndpointKey names one endpoint by everything that makes it differ. An
// instance that comes back at another address is another endpoint.
type EndpointKey struct {
	Service  string // id of the service
	Instance string // name of the instance, "instances/orders-v1-1"
	Address  string // host:port of the sidecar's inbound
}

// Endpoint is one instance as a target of requests. It is immutable, but for what
// this proxy finds out about it, which is shared with the endpoints of the same key
// in other snapshots.
type Endpoint struct {
	EndpointKey
	Node     string         // names, with Service, the identity to expect: /svc/<service>/n/<node>
	Weight   uint32         // at least 1
	Healthy  bool           // as the registry has it
	distance int            // nearest is 0; see the tiers of a pool
	started  time.Time      // when its sidecar did; zero if that does not say
	external *mesh.External // nil for an instance
	host     string         // of requests to an external one
	*endpointState
}

// endpointState is what a proxy finds out about an endpoint. Times are nanoseconds
// since 1970; 0 is none.
type endpointState struct {
	inFlight atomic.Int64
	usable   atomic.Int64 // since when it may be used; 0 is from the start
	avoid    atomic.Int64 // until when it asked for no more requests
	latency  peakEWMA
	outlier  outlier
}

// Acquire counts a request that goes to e. Each has one Release.
func (e *Endpoint) Acquire() { e.inFlight.Add(1) }

// Release ends what Acquire began.
func (e *Endpoint) Release() { e.inFlight.Add(-1) }

// InFlight returns the number of requests that e has now.
func (e *Endpoint) InFlight() int64 { return e.inFlight.Load() }

// EndpointSet is the endpoints of one service, all and by subset, and how one is
// chosen. It is immutable; a nil set has none.
type EndpointSet struct {
	all       pool
	subsets   map[string]*pool
	balancing balancing
	*setState
}

// setState is what the endpoint sets of one service in all snapshots share.
type setState struct {
	ejections ejections
	shun      atomic.Int64 // until when some endpoint asked for no more requests; 0 is never
	breaker   breaker
	retries   retryBudget
	mu        sync.Mutex
	robins    map[string]*roundRobin // by subset
}

// avoid leaves e alone until then, in nanoseconds since 1970.
func (s *setState) avoid(e *Endpoint, until int64) {
	e.endpointState.avoid.Store(until)
	for known := s.shun.Load(); known < until && !s.shun.CompareAndSwap(known, until); {
		known = s.shun.Load()
	}
}

// robin returns the turns of a subset.
func (s *setState) robin(subset string) *roundRobin {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.robins[subset]
	if r == nil {
		r = &roundRobin{credit: map[*endpointState]float64{}}
		s.robins[subset] = r
	}
	return r
}

// Endpoints is every endpoint of one snapshot. It is immutable; nil has none.
type Endpoints struct {
	sets map[string]*EndpointSet
}

// NewEndpoints builds the endpoints of snap as the proxy on node sees them. Those that
// prev has too, by EndpointKey, keep what is known of them, so a new snapshot forgets
// no request in flight. prev may be nil. Instances of services that the configuration
// does not have, and ones filed under a service that is not theirs, are left out.
func NewEndpoints(prev *Endpoints, snap *mesh.Snapshot, node string) *Endpoints {
	out := &Endpoints{sets: make(map[string]*EndpointSet, len(snap.Instances))}
	b := endpointBuilder{config: snap.Config, here: localityOf(snap.Config, node), now: time.Now(), first: prev == nil}
	for id, instances := range snap.Instances {
		if service := snap.Config.Services[id]; service != nil && service.External == nil {
			out.sets[id] = b.set(id, service, instances, prev.Of(id))
		}
	}
	for id, service := range snap.Config.Services {
		if service.External != nil { // whatever registers for it
			there := mesh.Instance{Meta: mesh.Meta{Name: service.Name}, Service: id, Address: externalAddress(service.External)}
			out.sets[id] = b.set(id, service, []*mesh.Instance{&there}, prev.Of(id))
		}
	}
	return out
}

// localityOf returns "region/zone" of a node; "" if it is not known.
func localityOf(config *mesh.Config, node string) string {
	if n := config.Nodes[node]; n != nil {
		return n.Locality
	}
	return ""
}

// endpointBuilder builds the endpoint sets of one snapshot.
type endpointBuilder struct {
	config *mesh.Config
	here   string // our own locality
	now    time.Time
	first  bool // nothing was known before: nobody is new
}

func (b *endpointBuilder) set(id string, service *mesh.Service, instances []*mesh.Instance, prev *EndpointSet) *EndpointSet {
	set := &EndpointSet{subsets: make(map[string]*pool, len(service.Subsets)), balancing: compileBalancing(service.LoadBalancing, b.here != "")}
	known := map[EndpointKey]*Endpoint{}
	if prev != nil {
		set.setState = prev.setState
		for _, e := range prev.all.all {
			known[e.EndpointKey] = e
		}
	} else {
		set.setState = &setState{robins: map[string]*roundRobin{}}
	}
	set.ejections.configure(service.OutlierDetection, len(instances))
	set.breaker.configure(service.CircuitBreaker)
	for _, subset := range service.Subsets {
		set.subsets[subset.Name] = &pool{}
	}
	seen := make(map[EndpointKey]bool, len(instances))
	for _, instance := range instances {
		key := EndpointKey{Service: id, Instance: instance.Name, Address: instance.Address}
		if instance.Service != id || seen[key] {
			continue
		}
		seen[key] = true
		e := b.endpoint(key, instance, known[key])
		if e.external = service.External; e.external != nil {
			e.host = externalHost(e.external)
		}
		set.all.add(e)
		for _, subset := range service.Subsets {
			if hasLabels(instance.Labels, subset.Labels) {
				set.subsets[subset.Name].add(e)
			}
		}
	}
	kept := make(map[*endpointState]bool, len(set.all.all))
	for _, e := range set.all.all {
		kept[e.endpointState] = true
	}
	for _, e := range known {
		if !kept[e.endpointState] {
			set.ejections.forget(e)
		}
	}
	set.balancing.prepare(&set.all, prev, "")
	for name, p := range set.subsets {
		set.balancing.prepare(p, prev, name)
	}
	return set
}

func (b *endpointBuilder) endpoint(key EndpointKey, instance *mesh.Instance, known *Endpoint) *Endpoint {
	e := &Endpoint{
		EndpointKey: key,
		Node:        instance.Node,
		Weight:      max(instance.Weight, 1), // absent is 1
		Healthy:     instance.Health != mesh.Unhealthy,
		distance:    distance(b.here, localityOf(b.config, instance.Node)),
	}
	if instance.CreateTime != nil {
		e.started = *instance.CreateTime
	}
	if known != nil && !known.started.Equal(e.started) {
		known = nil // another process: what the last one did wrong is over
	}
	if known != nil {
		e.endpointState = known.endpointState
	} else {
		e.endpointState = &endpointState{}
	}
	if e.Healthy && !b.first && (known == nil || !known.Healthy) {
		e.usable.Store(b.now.UnixNano()) // it starts slowly, if the service says so
	}
	return e
}

// Distances between two localities: the same zone, the same region, elsewhere.
const (
	sameZone = iota
	sameRegion
	elsewhere
	distances
)

// distance compares two localities "region/zone". What is not known is near to
// nothing.
func distance(a, b string) int {
	regionA, _, _ := strings.Cut(a, "/")
	regionB, _, _ := strings.Cut(b, "/")
	switch {
	case a == "" || b == "" || regionA != regionB:
		return elsewhere
	case a == b:
		return sameZone
	}
	return sameRegion
}

// hasLabels reports whether have carries every label of want.
func hasLabels(have, want mesh.Labels) bool {
	for key, value := range want {
		if got, ok := have[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Of returns the endpoints of a service, or nil.
func (e *Endpoints) Of(service string) *EndpointSet {
	if e == nil {
		return nil
	}
	return e.sets[service]
}

// All returns every endpoint of the set, in the order of the snapshot. The
// caller must not change it.
func (s *EndpointSet) All() []*Endpoint {
	if s == nil {
		return nil
	}
	return s.all.all
}

// pool is endpoints to choose from.
type pool struct {
	all     []*Endpoint
	healthy []*Endpoint
	tiers   [distances]tier // by distance; only the last one where that does not matter
	hash    hashIndex       // of all, for policies that need one; nil for others
}

// tier is the healthy endpoints at one distance, and how many there are in all.
type tier struct {
	healthy []*Endpoint
	of      int
}

func (p *pool) add(e *Endpoint) {
	p.all = append(p.all, e)
	p.tiers[e.distance].of++
	if e.Healthy {
		p.healthy = append(p.healthy, e)
		p.tiers[e.distance].healthy = append(p.tiers[e.distance].healthy, e)
	}
}

// same reports whether q has the same endpoints with the same weights as p, in the
// same order.
func (p *pool) same(q *pool) bool {
	return slices.EqualFunc(p.all, q.all, func(a, b *Endpoint) bool { return a.EndpointKey == b.EndpointKey && a.Weight == b.Weight })
}

// pool returns the endpoints of a subset; "" is all of the service. It is nil for a
// subset that the service does not define.
func (s *EndpointSet) pool(subset string) *pool {
	switch {
	case s == nil:
		return nil
	case subset == "":
		return &s.all
	}
	return s.subsets[subset]
}
