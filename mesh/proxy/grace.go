package proxy

import (
	"net/http"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// graceLife is how long a connection lasts that was made with an expired certificate: then
// both sides look whether there is a better one.
const (
	graceLife    = time.Minute
	clientsFirst = 10 * time.Second // by which who dialled ends it before
)

// grace is what defaults.identityGrace compiles to. Callers keep to its routes, which they
// choose. A destination does not see a route, and keeps to the services that they lead to.
type grace struct {
	routes   map[*mesh.Route]bool
	services map[string]bool
}

// newGrace returns nil if c has no grace.
func newGrace(c *mesh.Config) *grace {
	if graceWindow(c) == 0 {
		return nil
	}
	g := &grace{routes: map[*mesh.Route]bool{}, services: map[string]bool{}}
	for _, id := range c.Defaults.IdentityGrace.Routes {
		route := c.Routes[id]
		if route == nil {
			continue
		}
		g.routes[route] = true
		for _, rule := range route.Rules {
			for _, b := range rule.Backends {
				g.services[b.Service] = true
			}
		}
	}
	return g
}

// graceWindow returns for how long after its end a certificate may do; 0 is never.
func graceWindow(c *mesh.Config) time.Duration {
	if c.Defaults == nil || c.Defaults.IdentityGrace == nil || len(c.Defaults.IdentityGrace.Routes) == 0 {
		return 0
	}
	return min(max(c.Defaults.IdentityGrace.Window.Or(0), 0), mesh.MaxIdentityGrace)
}

// GraceOf returns whose certificates node takes after their end by c: of peers whose nodes
// are in the same region and zone. It is nil if c has none, or does not say where node is.
func GraceOf(c *mesh.Config, node string) *identity.Grace {
	window, here := graceWindow(c), localityOf(c, node)
	if window == 0 || here == "" {
		return nil
	}
	return &identity.Grace{Window: window, Near: func(peer mesh.ID) bool {
		if _, at, ok := peer.Service(); ok {
			return localityOf(c, at) == here
		}
		gateway, ok := peer.Gateway()
		found := false
		for _, n := range c.Nodes {
			if slices.Contains(n.Gateways, gateway) {
				if n.Locality != here { // who knows which of them it is
					return false
				}
				found = true
			}
		}
		return ok && found
	}}
}

// graces reports whether a peer whose certificate has expired may ask for service.
func (e *Engine) graces(service string) bool {
	s := e.state.Load()
	return s != nil && s.grace != nil && s.grace.services[service]
}

func expiredPeer() *Refusal {
	return &Refusal{http.StatusForbidden, CodeExpired, "the certificate of the connection has expired, and this is not among what it would do for"}
}
