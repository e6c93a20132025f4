package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// Table is everything that one mesh.Config compiles to. It never changes and
// has started nothing, so requests that still hold an old one may finish with
// it. Its lookups scan nothing; docs/performance.md says what they cost among many.
type Table struct {
	head     mesh.Head
	services map[string]*mesh.Service
	gateway  hostIndex // of routes that target GATEWAY
	outbound hostIndex // of routes that target MESH
	// builtin is the rule of every service at <service>.mesh, by service id.
	builtin map[string]*Rule

	servicePolicies setsByTarget
	gatewayPolicies setsByTarget
	allowByDefault  bool // at an Inbound only
	guards          guards
	// What follows is only for the next Table to take over.
	order          []string // ids of routes, sorted
	routes         map[string]*compiledRoute
	policies       map[string]*compiledPolicy
	routePolicies  setsByTarget
	authenticators map[string]*compiledAuthenticator
	rings          map[jwt.Source]*jwt.Keyring // that are to be fetched
	// keepsSlash has the services that some rule sends paths with escaped slashes
	// to. An Inbound takes them from nobody else's.
	keepsSlash map[string]bool
}

// Defaults of a rule.
const (
	// DefaultTimeout bounds an exchange whose rule sets no timeout (Envoy's
	// route timeout).
	DefaultTimeout = 15 * time.Second
	// DefaultBackoffBase and DefaultBackoffMax are Envoy's: 25 ms, ten times as much.
	DefaultBackoffBase = 25 * time.Millisecond
	DefaultBackoffMax  = 250 * time.Millisecond
)

// meshDomain ends the hosts at which services answer inside the mesh.
const meshDomain = ".mesh"

// hostIndex finds the routes of a host.
type hostIndex struct {
	exact    map[string]*site
	wildcard map[string]*site // by what follows the "*": ".example", "" for "*" alone
}

// newHostIndex files routes by their hostnames. It takes sites of old over whose routes
// are the same.
func newHostIndex(old hostIndex, routes map[string][]filed) hostIndex {
	x := hostIndex{exact: make(map[string]*site, len(routes)), wildcard: map[string]*site{}}
	for hostname, of := range routes {
		index, was := x.exact, old.exact
		if suffix, ok := strings.CutPrefix(hostname, "*"); ok {
			index, was, hostname = x.wildcard, old.wildcard, suffix
		}
		if s := was[hostname]; s != nil && slices.Equal(s.of, of) {
			index[hostname] = s
		} else {
			index[hostname] = newSite(of)
		}
	}
	return x
}

// find returns the best candidate for r among those of every hostname that
// matches, the most specific hostname first: the exact one, then wildcards from
// the longest to "*". As in the Gateway API, rules of a more specific hostname
// come first and do not hide those of a less specific one that they all decline.
func (x hostIndex) find(face Face, r *Request, path string) *candidate {
	if s := x.exact[r.Host]; s != nil {
		if c := s.find(face, r, path); c != nil {
			return c
		}
	}
	if len(x.wildcard) == 0 {
		return nil
	}
	for i := range len(r.Host) {
		if r.Host[i] != '.' {
			continue
		}
		if s := x.wildcard[r.Host[i:]]; s != nil {
			if c := s.find(face, r, path); c != nil {
				return c
			}
		}
	}
	if s := x.wildcard[""]; s != nil {
		return s.find(face, r, path)
	}
	return nil
}

// Compile builds the Table of cfg for the proxies of trustDomain. One bad
// object never takes the others with it: a route that does not validate is left
// out, and a policy that does not closes what it protects (see compilePolicies).
// Each is reported, and so is a rule that sends to a service or subset that does
// not exist; that share of its traffic finds no endpoint. The Table is never nil
// and keeps pointers into cfg, which must not change any more.
func Compile(cfg *mesh.Config, trustDomain string) (*Table, []error) {
	return (&Table{}).Next(cfg, trustDomain)
}

// Next is Compile, but that it takes over what t has of objects that are the very same
// in the configuration that t was compiled from.
func (t *Table) Next(cfg *mesh.Config, trustDomain string) (*Table, []error) {
	old := t
	t = &Table{
		head:       cfg.Head,
		services:   cfg.Services,
		routes:     make(map[string]*compiledRoute, len(cfg.Routes)),
		policies:   make(map[string]*compiledPolicy, len(cfg.Policies)),
		keepsSlash: map[string]bool{},
		builtin:    make(map[string]*Rule, len(cfg.Services)),
		// Anything but a clear ALLOW denies.
		allowByDefault: cfg.Defaults != nil && cfg.Defaults.Authorization == mesh.Allow,
	}
	for id, service := range cfg.Services {
		if service.Protocol == mesh.ProtocolTCP {
			continue
		}
		if t.builtin[id] = old.builtin[id]; t.builtin[id] != nil {
			continue
		}
		t.builtin[id] = &Rule{
			Timeout:     DefaultTimeout,
			backends:    []backend{{service: id, weight: 1}},
			totalWeight: 1,
		}
	}
	policies, errs := t.compilePolicies(old, cfg, trustDomain)
	errs = append(errs, t.compileAuthenticators(old, cfg)...)
	t.servicePolicies = policies.services.over(old.servicePolicies, trustDomain)
	t.gatewayPolicies = policies.gateways.over(old.gatewayPolicies, trustDomain)
	t.routePolicies = policies.routes.over(old.routePolicies, trustDomain)
	t.order = old.sameOrder(cfg.Routes)
	atGateway, inMesh := make(map[string][]filed, len(old.gateway.exact)), make(map[string][]filed, len(old.outbound.exact))
	for _, id := range t.order {
		r := old.routes[id]
		if r == nil || r.route != cfg.Routes[id] {
			r = compileRoute(cfg.Routes[id])
		}
		t.routes[id] = r
		errs = append(errs, t.addRoute(r)...)
		if len(r.matches) == 0 { // it is not valid, and takes no host from anybody
			continue
		}
		f := filed{r, t.routePolicies[id], t.guards.routes[id]}
		for _, hostname := range r.route.Hostnames {
			if slices.Contains(r.route.Targets, mesh.TargetGateway) {
				atGateway[hostname] = append(atGateway[hostname], f)
			}
			if slices.Contains(r.route.Targets, mesh.TargetMesh) {
				inMesh[hostname] = append(inMesh[hostname], f)
			}
		}
	}
	t.gateway, t.outbound = newHostIndex(old.gateway, atGateway), newHostIndex(old.outbound, inMesh)
	return t, errs
}

// sameOrder returns the sorted ids of routes.
func (t *Table) sameOrder(routes map[string]*mesh.Route) []string {
	if len(routes) == len(t.order) && !slices.ContainsFunc(t.order, func(id string) bool { return routes[id] == nil }) {
		return t.order
	}
	return slices.Sorted(maps.Keys(routes))
}

// Head names the configuration that the table was compiled from.
func (t *Table) Head() mesh.Head { return t.head }

// Service returns the service called id, or nil.
func (t *Table) Service(id string) *mesh.Service { return t.services[id] }

// compiledRoute is what of a route depends on nothing else.
type compiledRoute struct {
	route   *mesh.Route
	rules   []*Rule
	matches []compiledMatch
	errs    []error
}

// compiledMatch is a candidate and where it is filed.
type compiledMatch struct {
	path      *mesh.PathMatch // nil is the prefix "/"
	template  []mesh.TemplateSegment
	candidate candidate
}

func compileRoute(route *mesh.Route) *compiledRoute {
	out := &compiledRoute{route: route}
	if err := mesh.Validate(route); err != nil {
		out.errs = []error{fmt.Errorf("proxy.Compile: route left out: %w", err)}
		return out
	}
	for i := range route.Rules {
		rule := compileRule(fmt.Sprintf("%s/%d", route.Name, i), &route.Rules[i])
		if rule.limit != nil {
			rule.limit.atGateway = slices.Contains(route.Targets, mesh.TargetGateway)
			rule.limit.inMesh = slices.Contains(route.Targets, mesh.TargetMesh)
		}
		out.rules = append(out.rules, rule)
		for j, match := range matchesOf(&route.Rules[i]) {
			c, err := newCandidate(route, rule, match, [2]int{i, j})
			m := compiledMatch{path: match.Path, candidate: c}
			if err == nil && match.Path != nil && match.Path.Template != "" {
				var template mesh.PathTemplate
				template, err = mesh.ParsePathTemplate(match.Path.Template)
				m.template = template.Segments
			}
			if err != nil { // which validation does not let happen
				out.errs = append(out.errs, fmt.Errorf("proxy.Compile: match left out: %w", err))
				continue
			}
			out.matches = append(out.matches, m)
		}
	}
	return out
}

// addRoute takes note of the services of a route, and reports what is wrong with it.
func (t *Table) addRoute(r *compiledRoute) []error {
	errs := slices.Clone(r.errs)
	for i, rule := range r.rules {
		errs = append(errs, t.checkBackends(r.route.Name, i, rule)...)
		if rule.keepsSlash {
			for _, b := range rule.backends {
				t.keepsSlash[b.service] = true
			}
			for _, m := range rule.mirrors {
				t.keepsSlash[m.service] = true
			}
		}
	}
	return errs
}

// matchesOf returns the matches of a rule; none means one that matches all.
func matchesOf(rule *mesh.RouteRule) []mesh.RouteMatch {
	if len(rule.Matches) == 0 {
		return []mesh.RouteMatch{{}}
	}
	return rule.Matches
}

// checkBackends reports backends that cannot work. They stay: dropping one
// would silently move its share to the others.
func (t *Table) checkBackends(route string, rule int, r *Rule) []error {
	var errs []error
	for _, b := range r.backends {
		s := t.services[b.service]
		switch {
		case s == nil:
			errs = append(errs, mesh.Errorf("proxy.Compile", route, mesh.NotFound, "rules[%d] sends to service %q, which does not exist", rule, b.service))
		case b.subset != "" && !slices.ContainsFunc(s.Subsets, func(sub mesh.Subset) bool { return sub.Name == b.subset }):
			errs = append(errs, mesh.Errorf("proxy.Compile", route, mesh.NotFound, "rules[%d] sends to subset %q of service %q, which does not exist", rule, b.subset, b.service))
		}
	}
	for _, m := range r.mirrors {
		if t.services[m.service] == nil {
			errs = append(errs, mesh.Errorf("proxy.Compile", route, mesh.NotFound, "rules[%d] mirrors to service %q, which does not exist", rule, m.service))
		}
	}
	return errs
}

// compileRule compiles a rule that has been validated. id names it among all.
func compileRule(id string, rule *mesh.RouteRule) *Rule {
	out := &Rule{
		Name:        rule.Name,
		Timeout:     rule.Timeout.Or(DefaultTimeout),
		timed:       rule.Timeout != nil,
		IdleTimeout: rule.IdleTimeout.Or(0),
		Retry:       compileRetry(rule.Retry),
		filters:     compileFilters(id, rule.Filters),
		affinity:    rule.Affinity,
		keepsSlash:  rule.KeepEncodedSlash,
	}
	for _, b := range rule.Backends {
		weight := uint64(1)
		if b.Weight != nil {
			weight = uint64(*b.Weight)
		}
		out.backends = append(out.backends, backend{service: b.Service, subset: b.Subset, weight: weight})
		out.totalWeight += weight
	}
	return out
}

func compileRetry(r *mesh.Retry) RetryPolicy {
	if r == nil || r.Attempts == 0 {
		return RetryPolicy{}
	}
	out := RetryPolicy{
		Attempts:         int(r.Attempts),
		OnConnectFailure: slices.Contains(r.On, mesh.OnConnectFailure),
		OnReset:          slices.Contains(r.On, mesh.OnReset),
		OnGatewayError:   slices.Contains(r.On, mesh.OnGatewayError),
		OnTooMany:        slices.Contains(r.On, mesh.OnTooManyRequests),
		PerTryTimeout:    r.PerTryTimeout.Or(0),
		HedgeAfter:       r.HedgeAfter.Or(0),
		Budget:           given(r.BudgetPercent, defaultBudget),
		BackoffBase:      DefaultBackoffBase,
		BackoffMax:       DefaultBackoffMax,
	}
	if b := r.Backoff; b != nil {
		out.BackoffBase = b.Base.Or(min(DefaultBackoffBase, b.Max.Or(DefaultBackoffBase)))
		out.BackoffMax = b.Max.Or(10 * out.BackoffBase)
	}
	return out
}

// choose returns the backend that draw, a number in [0,1), falls on. ok is
// false if all weights are 0.
func (r *Rule) choose(draw float64) (b *backend, ok bool) {
	if r.totalWeight == 0 {
		return nil, false
	}
	if !(draw >= 0) { // NaN too
		draw = 0
	}
	// Compared before it is converted: a float64 over the range has no uint64.
	at := r.totalWeight - 1
	if point := draw * float64(r.totalWeight); point < float64(at) {
		at = uint64(point)
	}
	for i := range r.backends {
		if at < r.backends[i].weight {
			return &r.backends[i], true
		}
		at -= r.backends[i].weight
	}
	return nil, false
}

// oldestFirst compares creation times; one without comes last.
func oldestFirst(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(*b)
}

// compareCandidates orders the candidates of one path as the Gateway API does:
// a method, most headers, most query parameters, the oldest route, its name,
// the order of its rules.
func compareCandidates(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(min(len(b.methods), 1), min(len(a.methods), 1)),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.query), len(a.query)),
		oldestFirst(a.route.CreateTime, b.route.CreateTime),
		strings.Compare(a.route.Name, b.route.Name),
		cmp.Compare(a.order[0], b.order[0]),
		cmp.Compare(a.order[1], b.order[1]),
	)
}
