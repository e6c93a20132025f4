package mesh

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Head names one revision of the configuration. Digest is Records.Digest of
// all records that are published. Time is when it was signed, which is done again while it is the
// newest; KeyID and Signature are of package signing.
type Head struct {
	Epoch     uint32    `json:"epoch"`
	Revision  uint32    `json:"revision"`
	Digest    string    `json:"digest"` // lower-case hex
	Time      time.Time `json:"time"`
	KeyID     string    `json:"keyId,omitempty"`
	Signature string    `json:"signature,omitempty"`
}

// Before reports whether h is an older revision than other.
func (h Head) Before(other Head) bool {
	if h.Epoch != other.Epoch {
		return h.Epoch < other.Epoch
	}
	return h.Revision < other.Revision
}

// Records maps object names ("routes/orders") to their stored JSON. The bytes
// are what is digested; they are never marshalled again on the way.
type Records map[string][]byte

// Change is one accepted write: the records it put and the names it deleted,
// leading to Head. It is what the revision log stores.
type Change struct {
	Head    Head     `json:"head"`
	Puts    Records  `json:"puts,omitempty"`
	Deletes []string `json:"deletes,omitempty"`
	Actor   string   `json:"actor,omitempty"` // who
}

// Add makes c lead to where next leads after it.
func (c *Change) Add(next Change) {
	if c.Puts == nil {
		c.Puts = Records{}
	}
	for _, name := range next.Deletes {
		delete(c.Puts, name)
	}
	c.Deletes = append(c.Deletes, next.Deletes...)
	maps.Copy(c.Puts, next.Puts)
	c.Head, c.Actor = next.Head, next.Actor
}

// Apply changes r by c, in place.
func (r Records) Apply(c Change) {
	for _, name := range c.Deletes {
		delete(r, name)
	}
	maps.Copy(r, c.Puts)
}

// Config is the decoded configuration at one revision, by id.
type Config struct {
	Head           Head
	Services       map[string]*Service
	Routes         map[string]*Route
	Policies       map[string]*Policy
	Authenticators map[string]*Authenticator
	TopicRules     map[string]*TopicRule
	Nodes          map[string]*Node
	Tokens         map[string]*Token // empty but in a control plane
	Defaults       *Defaults         // never nil; the zero mesh denies and dials nowhere
	// Quarantines are by the node's id.
	Quarantines map[string]*Quarantine

	failed map[string]error // why records were not accepted, by name
}

// Snapshot is one consistent read of the registry: the configuration and the
// instances, by service id, sorted by name. Both are immutable. A watcher that
// saw no change keeps the pointer of Config, so that users may compare it.
type Snapshot struct {
	Config *Config
	// Denies is whose certificates are refused. A watcher that saw no change keeps the
	// pointer.
	Denies    *Denies
	Instances map[string][]*Instance
}

// NewConfig returns an empty configuration.
func NewConfig() *Config {
	return &Config{
		Services:       map[string]*Service{},
		Routes:         map[string]*Route{},
		Policies:       map[string]*Policy{},
		Authenticators: map[string]*Authenticator{},
		TopicRules:     map[string]*TopicRule{},
		Nodes:          map[string]*Node{},
		Tokens:         map[string]*Token{},
		Defaults:       &Defaults{Meta: Meta{Name: string(AllDefault) + "/" + DefaultsID}, Authorization: Deny},
		Quarantines:    map[string]*Quarantine{},
	}
}

// DecodeRecords decodes every record. A record that does not decode or does
// not validate is reported and left out: one bad object never takes the others
// with it. Only a bad policy or authenticator stays, as one that nothing satisfies,
// so that what it protects is closed rather than open (see proxy.Compile), and a bad
// quarantine, as one that was never released.
func DecodeRecords(head Head, records Records) (*Config, []error) {
	return NewConfig().Next(head, nil, records)
}

// Next is DecodeRecords, where c was decoded from the records was: what has not changed
// is taken over, the same objects, and not decoded again.
func (c *Config) Next(head Head, was, records Records) (*Config, []error) {
	next := &Config{
		Head:           head,
		Services:       make(map[string]*Service, len(c.Services)),
		Routes:         make(map[string]*Route, len(c.Routes)),
		Policies:       make(map[string]*Policy, len(c.Policies)),
		Authenticators: make(map[string]*Authenticator, len(c.Authenticators)),
		TopicRules:     make(map[string]*TopicRule, len(c.TopicRules)),
		Nodes:          make(map[string]*Node, len(c.Nodes)),
		Tokens:         make(map[string]*Token, len(c.Tokens)),
		Defaults:       NewConfig().Defaults,
		failed:         map[string]error{},
		Quarantines:    make(map[string]*Quarantine, len(c.Quarantines)),
	}
	for name, record := range records {
		if old, known := was[name]; known && bytes.Equal(old, record) {
			next.takeOver(c, name)
		} else {
			next.decode(name, record)
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(next.failed)) {
		errs = append(errs, next.failed[name])
	}
	return next, errs
}

// takeOver puts what old has of name.
func (c *Config) takeOver(old *Config, name string) {
	of, id, _ := cutName(name)
	if err := old.failed[name]; err != nil {
		if c.failed[name] = err; of != Policies && of != Authenticators && of != Quarantines {
			return
		}
	}
	switch of {
	case Services:
		c.Services[id] = old.Services[id]
	case Routes:
		c.Routes[id] = old.Routes[id]
	case Policies:
		c.Policies[id] = old.Policies[id]
	case Authenticators:
		c.Authenticators[id] = old.Authenticators[id]
	case TopicRules:
		c.TopicRules[id] = old.TopicRules[id]
	case Nodes:
		c.Nodes[id] = old.Nodes[id]
	case Tokens:
		c.Tokens[id] = old.Tokens[id]
	case Quarantines:
		c.Quarantines[id] = old.Quarantines[id]
	case AllDefault:
		c.Defaults = old.Defaults
	}
}

// decode puts the object of one record.
func (c *Config) decode(name string, record []byte) {
	o, err := DecodeObject(name, record)
	if err == nil {
		err = Validate(o)
	}
	if err == nil {
		c.Put(o)
		return
	}
	c.failed[name] = err
	switch of, id, _ := cutName(name); {
	case of == Policies:
		c.Put(closedPolicy(name, record))
	case of == Authenticators:
		c.Put(closedAuthenticator(name, record))
	case of == Quarantines && ValidID(id):
		c.Put(closedQuarantine(name))
	}
}

// closedPolicy is what remains of a policy that is not understood: its target
// and action as far as they can be read, and no rule.
func closedPolicy(name string, record []byte) *Policy {
	var p Policy
	// What does not decode stays zero, and a policy without a target or of
	// unknown action closes the most.
	_ = json.Unmarshal(record, &p)
	return &Policy{Meta: Meta{Name: name}, Target: p.Target, Action: p.Action}
}

// closedAuthenticator is what remains of an authenticator that is not understood: its
// targets as far as they can be read, and nothing that would satisfy it.
func closedAuthenticator(name string, record []byte) *Authenticator {
	var a struct {
		Targets []AuthenticatorTarget `json:"targets"`
	}
	_ = json.Unmarshal(record, &a) // likewise
	return &Authenticator{Meta: Meta{Name: name}, Targets: a.Targets}
}

// Put stores o under its id. It is for building a Config, before it is published.
func (c *Config) Put(o Object) {
	id := o.Header().ID()
	switch o := o.(type) {
	case *Service:
		c.Services[id] = o
	case *Route:
		c.Routes[id] = o
	case *Policy:
		c.Policies[id] = o
	case *Authenticator:
		c.Authenticators[id] = o
	case *TopicRule:
		c.TopicRules[id] = o
	case *Node:
		c.Nodes[id] = o
	case *Token:
		c.Tokens[id] = o
	case *Quarantine:
		c.Quarantines[id] = o
	case *Defaults:
		c.Defaults = o
	}
}

// Objects returns every object of the collection, sorted by name.
func (c *Config) Objects(of Collection) []Object {
	var out []Object
	switch of {
	case Services:
		out = objects(c.Services)
	case Routes:
		out = objects(c.Routes)
	case Policies:
		out = objects(c.Policies)
	case Authenticators:
		out = objects(c.Authenticators)
	case TopicRules:
		out = objects(c.TopicRules)
	case Nodes:
		out = objects(c.Nodes)
	case Tokens:
		out = objects(c.Tokens)
	case Quarantines:
		out = objects(c.Quarantines)
	case AllDefault:
		out = []Object{c.Defaults}
	}
	return out
}

func objects[T Object](m map[string]T) []Object {
	out := make([]Object, 0, len(m))
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id])
	}
	return out
}

// cutName splits "services/orders".
func cutName(name string) (Collection, string, bool) {
	c, id, ok := strings.Cut(name, "/")
	return Collection(c), id, ok
}
