package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/client/yamljson"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// table is rows under a heading, in columns.
type table struct {
	rows [][]string
}

func newTable(heading ...string) *table { return &table{rows: [][]string{heading}} }

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
		if c == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

func (t *table) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, cells := range t.rows {
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// printDone prints what was done: one line for people, or answer for programs.
func (a *app) printDone(as output, line string, answer any) error {
	if as == asTable {
		_, err := fmt.Fprintln(a.stdout, line)
		return err
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return a.printRaw(as, raw)
}

// printRaw prints one JSON answer, indented, or as YAML.
func (a *app) printRaw(as output, raw []byte) error {
	if as == asYAML {
		return a.printDocuments([]json.RawMessage{raw})
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := a.stdout.Write(b.Bytes())
	return err
}

// printDocuments prints values as YAML documents.
func (a *app) printDocuments(values []json.RawMessage) error {
	for i, value := range values {
		doc, err := yamljson.FromJSON(value)
		if err != nil {
			return fmt.Errorf("the answer is not as documented: %w", err)
		}
		if i > 0 {
			doc = append([]byte("---\n"), doc...)
		}
		if _, err := a.stdout.Write(doc); err != nil {
			return err
		}
	}
	return nil
}

// view is how the objects of one collection are shown as a table: a heading,
// and the cells of one object. NAME comes before and REVISION after.
type view struct {
	heading []string
	cells   func(raw []byte) ([]string, error)
}

// viewOf decodes into the collection's own type; fields that a newer server
// adds are not shown.
func viewOf[T any](cells func(*T) []string, heading ...string) view {
	return view{heading: heading, cells: func(raw []byte) ([]string, error) {
		var object T
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, err
		}
		return cells(&object), nil
	}}
}

// nodeState is what most needs to be known of a node.
func nodeState(n *mesh.Node) string {
	switch {
	case n.Quarantine != nil && n.Quarantine.Active():
		return "QUARANTINED"
	case n.JoinAlarm != nil:
		return n.State + " (join alarm)"
	}
	return n.State
}

// viewFor returns the columns of a collection.
func viewFor(of mesh.Collection) view {
	switch of {
	case mesh.Services:
		return viewOf(func(s *mesh.Service) []string { return []string{or(s.Protocol, mesh.ProtocolHTTP), subsets(s)} }, "PROTOCOL", "SUBSETS")
	case mesh.Routes:
		return viewOf(func(r *mesh.Route) []string {
			return []string{strings.Join(r.Hostnames, ","), strings.Join(r.Targets, ","), backends(r)}
		}, "HOSTNAMES", "TARGETS", "BACKENDS")
	case mesh.Policies:
		return viewOf(func(p *mesh.Policy) []string {
			return []string{p.Action, policyTarget(p.Target), strconv.Itoa(len(p.Rules))}
		}, "ACTION", "TARGET", "RULES")
	case mesh.Authenticators:
		return viewOf(func(a *mesh.Authenticator) []string { return []string{authenticatorBy(a), authenticatorTargets(a)} }, "BY", "TARGETS")
	case mesh.TopicRules:
		return viewOf(func(t *mesh.TopicRule) []string { return []string{t.Filter, topicTo(t.To)} }, "FILTER", "TO")
	case mesh.Nodes:
		return viewOf(func(n *mesh.Node) []string {
			return []string{strings.Join(n.Roles, ","), strings.Join(append(slices.Clone(n.Services), n.Gateways...), ","), n.Locality, nodeState(n)}
		}, "ROLES", "RUNS", "LOCALITY", "STATE")
	case mesh.Tokens:
		return viewOf(func(t *mesh.Token) []string { return []string{t.Role, scopes(t), expiry(t)} }, "ROLE", "SCOPES", "EXPIRES")
	case mesh.Quarantines:
		return viewOf(func(q *mesh.Quarantine) []string {
			since := ""
			if q.Time != nil {
				since = q.Time.Format(time.RFC3339)
			}
			return []string{q.State, since, q.By, q.Reason}
		}, "STATE", "SINCE", "BY", "REASON")
	case mesh.Instances:
		return viewOf(func(i *mesh.Instance) []string {
			return []string{i.Service, i.Node, i.Address, i.Health, labels(i.Labels)}
		}, "SERVICE", "NODE", "ADDRESS", "HEALTH", "LABELS")
	default:
		return viewOf(func(d *mesh.Defaults) []string {
			return []string{or(d.Authorization, mesh.Deny), strings.Join(d.DialCidrs, ",")}
		}, "AUTHORIZATION", "DIALCIDRS")
	}
}

// printObjects prints objects as a table.
func (a *app) printObjects(collection mesh.Collection, items []json.RawMessage) error {
	v := viewFor(collection)
	stored := collection != mesh.Instances // an instance has no revision
	heading := append([]string{"NAME"}, v.heading...)
	if stored {
		heading = append(heading, "REVISION")
	}
	t := newTable(heading...)
	for _, raw := range items {
		var meta mesh.Meta
		if err := json.Unmarshal(raw, &meta); err != nil {
			return fmt.Errorf("the answer is not as documented: %w", err)
		}
		cells, err := v.cells(raw)
		if err != nil {
			return fmt.Errorf("the answer is not as documented: %w", err)
		}
		row := append([]string{meta.Name}, cells...)
		if stored {
			row = append(row, strconv.FormatUint(uint64(meta.Revision), 10))
		}
		t.row(row...)
	}
	return t.print(a.stdout)
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func labels(m map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return strings.Join(pairs, ",")
}

func subsets(s *mesh.Service) string {
	var names []string
	for _, sub := range s.Subsets {
		names = append(names, sub.Name)
	}
	return strings.Join(names, ",")
}

// backends lists where a route's rules send, with the share of each that has
// one: "orders/v1:90,orders/v2:10 telemetry".
func backends(r *mesh.Route) string {
	var rules []string
	for _, rule := range r.Rules {
		var shares []string
		for _, b := range rule.Backends {
			share := b.Service
			if b.Subset != "" {
				share += "/" + b.Subset
			}
			if b.Weight != nil && len(rule.Backends) > 1 {
				share += ":" + strconv.FormatUint(uint64(*b.Weight), 10)
			}
			shares = append(shares, share)
		}
		rules = append(rules, or(strings.Join(shares, ","), "-"))
	}
	return strings.Join(rules, " ")
}

func policyTarget(t *mesh.PolicyTarget) string {
	switch {
	case t == nil:
		return ""
	case t.Service != "":
		return "service " + t.Service
	case t.Route != "":
		return "route " + t.Route
	case t.Gateway != "":
		return "gateway " + t.Gateway
	default:
		return ""
	}
}

// authenticatorBy says how callers prove who they are.
func authenticatorBy(a *mesh.Authenticator) string {
	switch {
	case a.JWT != nil:
		return "jwt " + a.JWT.Issuer
	case a.APIKey != nil:
		return strconv.Itoa(len(a.APIKey.Keys)) + " API keys"
	case a.ForwardAuth != nil:
		return "asks " + a.ForwardAuth.Service
	}
	return ""
}

func authenticatorTargets(a *mesh.Authenticator) string {
	var out []string
	for _, t := range a.Targets {
		target := mesh.PolicyTarget(t)
		out = append(out, policyTarget(&target))
	}
	return strings.Join(out, ", ")
}

func topicTo(to *mesh.TopicTo) string {
	if to == nil {
		return ""
	}
	return strings.Join([]string{or(to.Method, "POST"), to.Service, to.Path}, " ")
}
