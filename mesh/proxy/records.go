package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// mostRecords is how many decision records one process keeps.
const mostRecords = 1024

// Record is why one request got what it got. Every answer of our own leaves one, and a
// sample of the others.
type Record struct {
	ID             string                `json:"id"`
	Time           time.Time             `json:"time"`
	At             string                `json:"at"` // "sidecar/orders-v1/inbound"
	Revision       uint32                `json:"revision"`
	TraceID        string                `json:"traceId,omitempty"`
	Method         string                `json:"method"`
	Host           string                `json:"host"`
	Path           string                `json:"path"`
	Caller         string                `json:"caller,omitempty"` // its identity; absent is anonymous
	Route          *RecordRoute          `json:"route,omitempty"`
	Draw           float64               `json:"draw,omitempty"`
	Backend        *RecordBackend        `json:"backend,omitempty"`
	Authentication *RecordAuthentication `json:"authentication,omitempty"`
	Authorization  *RecordAuthorization  `json:"authorization,omitempty"`
	Endpoints      []RecordEndpoint      `json:"endpoints,omitempty"`
	Tries          []string              `json:"tries,omitempty"` // instances, in order
	Status         int                   `json:"status"`          // 0: the client did not get all of the response
	Code           string                `json:"code,omitempty"`  // of an answer of our own
	Cause          string                `json:"cause,omitempty"`
	Duration       mesh.Duration         `json:"duration"`
}

// RecordRoute is the rule that took a request.
type RecordRoute struct {
	Name string `json:"name"`
	Rule string `json:"rule,omitempty"`
}

// RecordBackend is where it was sent.
type RecordBackend struct {
	Service string `json:"service"`
	Subset  string `json:"subset,omitempty"`
}

// RecordAuthentication is what the authenticators said of the caller's credential.
type RecordAuthentication struct {
	Authenticator string `json:"authenticator,omitempty"` // its id
	Subject       string `json:"subject,omitempty"`
	Reason        string `json:"reason,omitempty"` // why it was refused
	Detail        string `json:"detail,omitempty"`
}

// RecordAuthorization is what the policies said.
type RecordAuthorization struct {
	Decision   string           `json:"decision"`
	Policy     string           `json:"policy,omitempty"`
	Reason     string           `json:"reason"`
	NearMisses []RecordNearMiss `json:"nearMisses,omitempty"`
	// Would is what would be decided if the AUDIT policy Audited were an ALLOW policy.
	Would   string `json:"would,omitempty"`
	Audited string `json:"audited,omitempty"`
}

// RecordNearMiss is an ALLOW policy that would have matched but for one field.
type RecordNearMiss struct {
	Policy string `json:"policy"`
	Failed string `json:"failed"`
}

// RecordEndpoint is an endpoint that was considered.
type RecordEndpoint struct {
	Instance string `json:"instance"`
	Address  string `json:"address"`
	Eligible bool   `json:"eligible"`
	Reason   string `json:"reason,omitempty"` // why not: UNHEALTHY, EJECTED or SUBSET
}

// recordRing keeps the last decision records.
type recordRing struct {
	mu   sync.Mutex
	ring [mostRecords]*Record
	next int
}

func (r *recordRing) add(rec *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.next%mostRecords] = rec
	r.next++
}

// list returns the last records, the newest first, that are wanted, at most limit.
func (r *recordRing) list(limit int, wanted func(*Record) bool) []*Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []*Record{}
	for i := range mostRecords {
		rec := r.ring[(r.next+mostRecords-1-i)%mostRecords]
		if rec == nil || len(out) == limit {
			break
		}
		if wanted(rec) {
			out = append(out, rec)
		}
	}
	return out
}

// record makes the record of x, whose client got status.
func (s *server) record(x *exchange, status int, duration time.Duration) *Record {
	d := &x.decision
	rec := &Record{
		ID: x.id(), Time: x.began.UTC(), At: s.e.opt.Name + "/" + faceName(s.face.Kind),
		Method: strings.Clone(x.request.Method), Host: strings.Clone(x.request.Host), Path: strings.Clone(x.request.Path),
		Draw: d.Draw, Status: status, Code: x.code, Cause: x.failedBy, Duration: mesh.Duration(duration),
	}
	if x.traced.trace != (TraceID{}) {
		rec.TraceID = x.traced.trace.String()
	}
	if x.request.Peer != (mesh.ID{}) {
		rec.Caller = x.request.Peer.String()
	}
	if d.Route != nil {
		rec.Route = &RecordRoute{Name: d.Route.Name}
	}
	if d.Rule != nil && rec.Route != nil {
		rec.Route.Rule = d.Rule.Name
	}
	if d.Service != "" {
		rec.Backend = &RecordBackend{d.Service, d.Subset}
	}
	if by, subject, reason, detail := d.authentication(); by+reason != "" {
		rec.Authentication = &RecordAuthentication{by, subject, reason, detail}
	}
	if a := &d.Authorization; a.Decision != "" {
		rec.Authorization = &RecordAuthorization{Decision: a.Decision, Policy: a.Policy, Reason: a.Reason, Would: a.Would}
		if a.audited != nil {
			rec.Authorization.Audited = a.audited.name
		}
		for _, m := range a.NearMisses {
			rec.Authorization.NearMisses = append(rec.Authorization.NearMisses, RecordNearMiss(m))
		}
	}
	for _, e := range x.tried {
		rec.Tries = append(rec.Tries, e.Instance)
	}
	if state := s.e.state.Load(); state != nil {
		rec.Revision = state.table.head.Revision
		if s.local == nil && d.Service != "" {
			rec.Endpoints = considered(state.endpoints.Of(d.Service), d.Subset)
		}
	}
	return rec
}

// mostConsidered bounds the endpoints in one record.
const mostConsidered = 32

// considered lists the endpoints of a service as they are for a subset now.
func considered(set *EndpointSet, subset string) []RecordEndpoint {
	var out []RecordEndpoint
	now := time.Now().UnixNano()
	p := set.pool(subset)
	for _, e := range set.All() {
		if len(out) == mostConsidered {
			break
		}
		rec := RecordEndpoint{Instance: e.Instance, Address: e.Address}
		switch {
		case subset != "" && (p == nil || !p.has(e)):
			rec.Reason = "SUBSET"
		case !e.Healthy:
			rec.Reason = "UNHEALTHY"
		case e.outlier.ejected(now):
			rec.Reason = "EJECTED"
		default:
			rec.Eligible = true
		}
		out = append(out, rec)
	}
	return out
}

// has reports whether e is in the pool.
func (p *pool) has(e *Endpoint) bool {
	for _, other := range p.all {
		if other == e {
			return true
		}
	}
	return false
}

// serveRecords answers /decisions: the last ones, with ?status=403, ?code=denied,
// ?service= and ?traceId= those that have these.
func (e *Engine) serveRecords(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	const most = 100
	list := e.records.list(most, func(rec *Record) bool {
		service := ""
		if rec.Backend != nil {
			service = rec.Backend.Service
		}
		for name, value := range map[string]string{"status": fmt.Sprint(rec.Status), "code": rec.Code, "service": service, "traceId": rec.TraceID} {
			if want := q.Get(name); want != "" && want != value {
				return false
			}
		}
		return true
	})
	writeJSON(w, http.StatusOK, map[string]any{"decisions": list})
}

// serveRecord answers /decisions/{id}.
func (e *Engine) serveRecord(w http.ResponseWriter, r *http.Request) {
	found := e.records.list(1, func(rec *Record) bool { return rec.ID == r.PathValue("id") })
	if len(found) == 0 {
		writeJSON(w, http.StatusNotFound, map[string]string{"code": "not_found", "detail": fmt.Sprintf("no record of that id is among the last %d", mostRecords)})
		return
	}
	writeJSON(w, http.StatusOK, found[0])
}
