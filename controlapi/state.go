package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// Bounds on everything that is stored, and so published: the registry carries
// no more.
const (
	maxRecords     = 50_000
	maxConfigBytes = 64 << 20
)

// state is one revision, whole. It never changes.
type state struct {
	head    mesh.Head
	records mesh.Records
	public  mesh.Records // those of records that are published
	leaves  mesh.Leaves  // of public
	config  *mesh.Config
	tokens  map[hash]*mesh.Token // of config
	// broken has the references to what does not exist, by object. It is empty
	// unless the log holds objects that this version does not accept.
	broken map[string][]mesh.Violation
}

func newState(head mesh.Head, records mesh.Records) (*state, []error) {
	config, errs := mesh.DecodeRecords(head, records)
	public := records.Published()
	return &state{
		head: head, records: records, public: public, leaves: public.Leaves(),
		config: config, tokens: tokensByHash(config), broken: config.CheckAll(),
	}, errs
}

// header returns the Meta of the stored object, or nil.
func (s *state) header(name string) *mesh.Meta {
	raw, ok := s.records[name]
	if !ok {
		return nil
	}
	var m mesh.Meta
	if json.Unmarshal(raw, &m) != nil {
		return &mesh.Meta{Name: name}
	}
	return &m
}

// edit is one object of a write.
type edit struct {
	name   string
	object mesh.Object // nil deletes
	etag   string      // as the body has it; "" for any version
	field  string      // precedes fields in violations: "objects[3]."
	hash   string      // of the secret, if it is a token that is created
}

// conditions are If-Match and If-None-Match of a request for one object.
type conditions struct{ ifMatch, ifNoneMatch string }

// change is what a write does to one object.
type change struct {
	name          string
	before, after []byte // records; nil if there is none
	put           bool   // false: stored as it is already, or deleted
}

// plan is what a write would do, made without doing anything.
type plan struct {
	change  mesh.Change
	next    *state
	changes []change
}

// plan returns what edits do to s, or a *mesh.Error that names everything that
// is wrong with them: kind Denied, NotFound, Invalid, Conflict or Stale.
func (s *state) plan(edits []edit, when conditions, now time.Time, by caller) (*plan, error) {
	if by.err != nil {
		return nil, by.err
	}
	if err := by.writes(s, edits); err != nil {
		return nil, err
	}
	config := s.cloneConfig()
	for _, e := range edits {
		if e.object == nil {
			if s.records[e.name] == nil {
				return nil, mesh.Errorf("controlapi.write", e.name, mesh.NotFound, "there is no such object")
			}
			remove(config, e.name)
			continue
		}
		outputOnly(e.object)
		mesh.Normalize(e.object)
		if t, is := e.object.(*mesh.Token); is {
			keepHash(t, e, s.config.Tokens[t.ID()])
		}
		config.Put(e.object)
	}
	if err := s.validate(edits, config, now); err != nil {
		return nil, err
	}
	if err := by.refersTo(edits, config); err != nil {
		return nil, err
	}
	broken := s.broken
	if len(broken) > 0 || slices.ContainsFunc(edits, mayBreak) {
		broken = config.CheckAll()
	}
	if err := s.conflicts(edits, broken); err != nil {
		return nil, err
	}
	for _, e := range edits {
		if err := when.check(e.name, e.etag, s.header(e.name)); err != nil {
			return nil, err
		}
	}
	return s.stamp(edits, config, broken, now, by.name)
}

// mayBreak reports whether an edit may take away what objects that are not edited refer
// to. That it does not exist, and is of this kind, is all that these say of a route.
func mayBreak(e edit) bool {
	switch e.object.(type) {
	case *mesh.Route, *mesh.Policy, *mesh.Authenticator, *mesh.TopicRule, *mesh.Token:
		return false
	}
	return true
}

// validate reports everything that is wrong with the edited objects, also in
// view of what the configuration would be.
func (s *state) validate(edits []edit, config *mesh.Config, now time.Time) error {
	var found mesh.Violations
	seen := map[string]bool{}
	for _, e := range edits {
		if e.object == nil {
			continue
		}
		var own mesh.Violations
		if seen[e.name] {
			own.Add("name", "keep one of them", "%q is there twice", e.name)
		}
		seen[e.name] = true
		own = append(own, violationsOf(mesh.Validate(e.object))...)
		switch o := e.object.(type) {
		case *mesh.Policy:
			own = append(own, violationsOf(proxy.CheckConditions(o))...)
		case *mesh.Token:
			own = append(own, checkToken(o, s.config.Tokens[o.ID()], len(config.Tokens), now)...)
		}
		if a, is := e.object.(*mesh.Authenticator); is {
			own = merge(own, violationsOf(proxy.CheckAuthenticator(a)))
		}
		own = merge(own, config.CheckReferences(e.object))
		for _, v := range own {
			v.Field = e.field + v.Field
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return mesh.Refuse(edits[0].name, found)
}

// conflicts reports objects that are not written and would refer to something
// that the write takes away. References that were broken before do not count:
// they must not keep anyone from mending them.
func (s *state) conflicts(edits []edit, broken map[string][]mesh.Violation) error {
	written := map[string]bool{}
	for _, e := range edits {
		written[e.name] = true
	}
	var found mesh.Violations
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		for _, v := range broken[name] {
			if !written[name] && !slices.Contains(s.broken[name], v) {
				found.Add(name+" "+v.Field, "change or delete "+name+" first", "refers to what would be gone: %s", v.Message)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return &mesh.Error{
		Op: "controlapi.write", Kind: mesh.Conflict,
		Err: &mesh.ValidationError{Name: edits[0].name, Violations: found},
	}
}

// stamp makes the records of the next revision. Objects that are stored as they
// were sent already keep their revision; if all are, there is no next one.
func (s *state) stamp(edits []edit, config *mesh.Config, broken map[string][]mesh.Violation, now time.Time, actor string) (*plan, error) {
	now = now.UTC().Truncate(time.Millisecond)
	head := mesh.Head{Epoch: max(s.head.Epoch, 1), Revision: s.head.Revision + 1, Time: now}
	p := &plan{change: mesh.Change{Puts: mesh.Records{}, Actor: actor}}
	for _, e := range edits {
		c := change{name: e.name, before: s.records[e.name]}
		if e.object == nil {
			p.change.Deletes = append(p.change.Deletes, e.name)
			p.changes = append(p.changes, c)
			continue
		}
		same, err := sameContent(c.before, e.object)
		if err != nil {
			return nil, err
		}
		if c.after = c.before; !same {
			c.put = true
			if c.after, err = record(e.object, s.header(e.name), head, now); err != nil {
				return nil, err
			}
			p.change.Puts[e.name] = c.after
		}
		p.changes = append(p.changes, c)
	}
	if len(p.change.Puts)+len(p.change.Deletes) == 0 {
		p.change.Head, p.next = s.head, s
		return p, nil
	}
	records := maps.Clone(s.records)
	if records == nil {
		records = mesh.Records{}
	}
	records.Apply(p.change)
	if err := checkSize(records); err != nil {
		return nil, err
	}
	leaves := s.leaves.Next(p.change.Published())
	head.Digest = leaves.Digest()
	config.Head, p.change.Head = head, head
	p.next = &state{head: head, records: records, public: records.Published(), leaves: leaves, config: config, tokens: tokensByHash(config), broken: broken}
	return p, nil
}

// record returns what is stored for o. before is the Meta that was.
func record(o mesh.Object, before *mesh.Meta, head mesh.Head, now time.Time) ([]byte, error) {
	h := o.Header()
	h.Revision, h.Etag = head.Revision, strconv.FormatUint(uint64(head.Revision), 10)
	h.CreateTime, h.UpdateTime = &now, &now
	if before != nil && before.CreateTime != nil {
		h.CreateTime = before.CreateTime
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.write", Name: h.Name, Kind: mesh.Internal, Err: err}
	}
	if len(raw) > mesh.MaxObjectBytes {
		return nil, tooLarge(h.Name, len(raw))
	}
	return raw, nil
}

// sameContent reports whether the record holds what o says, stamps aside. o
// carries none.
func sameContent(stored []byte, o mesh.Object) (bool, error) {
	if stored == nil {
		return false, nil
	}
	old, err := mesh.DecodeObject(o.Header().Name, stored)
	if err != nil {
		return false, nil //nolint:nilerr // a record that is not readable is written anew
	}
	outputOnly(old)
	a, err := json.Marshal(old)
	if err != nil {
		return false, &mesh.Error{Op: "controlapi.write", Name: o.Header().Name, Kind: mesh.Internal, Err: err}
	}
	b, err := json.Marshal(o)
	if err != nil {
		return false, &mesh.Error{Op: "controlapi.write", Name: o.Header().Name, Kind: mesh.Internal, Err: err}
	}
	return bytes.Equal(a, b), nil
}

// outputOnly clears what callers do not set: it is ignored if sent.
func outputOnly(o mesh.Object) {
	h := o.Header()
	h.Etag, h.Revision, h.CreateTime, h.UpdateTime = "", 0, nil, nil
	switch o := o.(type) {
	case *mesh.Node:
		o.State, o.AppliedRevision, o.LastSeenTime, o.JoinAlarm, o.TrustError, o.Quarantine = "", 0, nil, nil, "", nil
	case *mesh.Token: // what becomes of its hash, see keepHash
		o.Secret, o.LastUsedTime = "", nil
	case *mesh.Quarantine:
		o.State, o.Contained = "", nil
	}
}

func checkSize(records mesh.Records) error {
	size := 0
	for name, raw := range records {
		size += len(name) + len(raw)
	}
	var v mesh.Violations
	if len(records) > maxRecords {
		v.Add("", "delete what is not needed", "there would be %d objects, at most %d are allowed", len(records), maxRecords)
	}
	if size > maxConfigBytes {
		v.Add("", "delete what is not needed", "all objects would have %d bytes, at most %d are allowed", size, maxConfigBytes)
	}
	if len(v) == 0 {
		return nil
	}
	return mesh.Refuse("the configuration", v)
}

func (s *state) cloneConfig() *mesh.Config {
	c := *s.config
	c.Services, c.Routes, c.Policies = maps.Clone(c.Services), maps.Clone(c.Routes), maps.Clone(c.Policies)
	c.TopicRules, c.Nodes, c.Tokens = maps.Clone(c.TopicRules), maps.Clone(c.Nodes), maps.Clone(c.Tokens)
	c.Authenticators = maps.Clone(c.Authenticators)
	c.Quarantines = maps.Clone(c.Quarantines)
	return &c
}

// remove takes the object out of c, which is not published yet.
func remove(c *mesh.Config, name string) {
	of, id, _ := strings.Cut(name, "/")
	switch mesh.Collection(of) {
	case mesh.Services:
		delete(c.Services, id)
	case mesh.Routes:
		delete(c.Routes, id)
	case mesh.Policies:
		delete(c.Policies, id)
	case mesh.Authenticators:
		delete(c.Authenticators, id)
	case mesh.TopicRules:
		delete(c.TopicRules, id)
	case mesh.Nodes:
		delete(c.Nodes, id)
	case mesh.Tokens:
		delete(c.Tokens, id)
	case mesh.Quarantines:
		delete(c.Quarantines, id)
	}
}

// violationsOf returns the violations in err's chain.
func violationsOf(err error) mesh.Violations {
	var v *mesh.ValidationError
	if !errors.As(err, &v) {
		return nil
	}
	return v.Violations
}

// check compares the conditions of a request with the stored object's Meta,
// nil if there is none.
func (c conditions) check(name, etag string, stored *mesh.Meta) error {
	const op = "controlapi.write"
	is := "nothing is stored"
	current := ""
	if stored != nil {
		current = stored.Etag
		is = fmt.Sprintf("version %q is stored", current)
	}
	stale := func(sent string) error {
		return mesh.Errorf(op, name, mesh.Stale, "%s, you sent %.80q", is, sent).
			WithHint("read it again and decide on what is stored now")
	}
	if etag != "" && (stored == nil || etag != current) {
		return stale(etag)
	}
	if c.ifMatch != "" && (stored == nil || !matches(c.ifMatch, current)) {
		return stale(c.ifMatch)
	}
	if c.ifNoneMatch != "" && stored != nil && matches(c.ifNoneMatch, current) {
		return mesh.Errorf(op, name, mesh.Stale, "%s, and If-None-Match asks that it is not", is)
	}
	return nil
}
