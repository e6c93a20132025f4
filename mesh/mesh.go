// Package mesh holds the nouns that every part of the mesh shares: Service,
// Instance, Route, Policy, Authenticator, TopicRule, Node and Defaults, the Config and
// Snapshot that carry them from the registry to the proxies, the identity of
// a peer (ID), and Error.
//
// The JSON encoding of each kind is the contract: it is the shape that the
// control API speaks, that Redis stores and that files hold. Package mesh
// validates structure. It does no I/O, starts no goroutine, compiles no
// expression and imports nothing outside the standard library, so any package
// may depend on it.
//
// Values reachable from a published Config or Snapshot are immutable.
package mesh

import (
	"time"
)

// Collection names the REST collection, and the key prefix, of a kind.
type Collection string

// The collections of this version of the contract.
const (
	Services       Collection = "services"
	Instances      Collection = "instances" // read-only: instances register themselves
	Routes         Collection = "routes"
	Policies       Collection = "policies"
	Authenticators Collection = "authenticators"
	TopicRules     Collection = "topicRules"
	Nodes          Collection = "nodes"
	AllDefault     Collection = "defaults" // a singleton: defaults/mesh
	Tokens         Collection = "tokens"   // private
	// Quarantines is read-only in the API but for methods of its own.
	Quarantines Collection = "quarantines"
)

// DefaultsID is the id of the only Defaults object.
const DefaultsID = "mesh"

// Meta is what every kind has. Name is "<collection>/<id>". Etag and Revision
// name the revision that last changed the object; they and the times are set
// by the control plane and ignored on input, but for an etag, which makes the
// write conditional.
type Meta struct {
	Name       string            `json:"name,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Etag       string            `json:"etag,omitempty"`
	Revision   uint32            `json:"revision,omitempty"`
	CreateTime *time.Time        `json:"createTime,omitempty"`
	UpdateTime *time.Time        `json:"updateTime,omitempty"`
}

// ID returns the part of the name after the slash: "orders" of
// "services/orders".
func (m *Meta) ID() string {
	_, id, _ := cutName(m.Name)
	return id
}

// Object is one stored object of any kind but Instance. *Service, *Route,
// *Policy, *Authenticator, *TopicRule, *Node, *Quarantine, *Defaults and *Token are the implementations.
type Object interface {
	// Header returns the object's Meta, to read and, before it is
	// published, to set.
	Header() *Meta
	// Collection names the kind.
	Collection() Collection
	// normalize fills in the defaults that are stored, such as an absent
	// weight.
	normalize()
	// validate reports what is wrong with the object by itself, without
	// looking at others.
	validate(v *Violations)
}

// Header returns the Meta itself, so that every kind that embeds it is an Object.
func (m *Meta) Header() *Meta { return m }

// Labels selects and describes instances: "version" -> "v1".
type Labels = map[string]string
