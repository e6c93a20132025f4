package controlapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// Sizes of a page.
const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// paging is what requests to list have in common.
type paging interface {
	GetPageSize() uint32
	GetPageToken() string
}

// newOf returns a new T. It is there to be passed.
func newOf[T any]() *T { return new(T) }

// list returns one page of the collection's objects that the caller may read, sorted by name, and the
// token of the next page. Pages are cut by name, so objects that come or go
// meanwhile make no other object appear twice or not at all.
func list[M proto.Message](ctx context.Context, s *service, of mesh.Collection, req paging, newM func() M) ([]M, string, error) {
	st, by := s.writer.state.Load(), callerOf(ctx)
	records := st.records
	var names []string
	for name := range records {
		if strings.HasPrefix(name, string(of)+"/") && (len(by.scopes) == 0 || by.mayHave(name, st.header(name).Labels)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names, next, err := cutPage(of, names, req)
	if err != nil {
		return nil, "", err
	}
	page := make([]M, 0, len(names))
	for _, name := range names {
		m, err := fromJSON(records[name], newM())
		if err != nil {
			return nil, "", err
		}
		page = append(page, m)
	}
	return page, next, nil
}

// cutPage returns the names of the page that req asks for.
func cutPage(of mesh.Collection, names []string, req paging) (page []string, next string, err error) {
	size := int(min(req.GetPageSize(), maxPageSize))
	if size == 0 {
		size = defaultPageSize
	}
	if token := req.GetPageToken(); token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || !strings.HasPrefix(string(last), string(of)+"/") {
			return nil, "", mesh.Errorf("controlapi.list", string(of), mesh.Malformed, "pageToken %.80q is none of this list's", token).
				WithHint("send the nextPageToken of the page before, or none for the first")
		}
		i, found := slices.BinarySearch(names, string(last))
		if found {
			i++
		}
		names = names[i:]
	}
	if len(names) <= size {
		return names, "", nil
	}
	return names[:size], base64.RawURLEncoding.EncodeToString([]byte(names[size-1])), nil
}

// instances returns what the data planes offer, by name.
func (s *service) instances() map[string]*mesh.Instance {
	out := map[string]*mesh.Instance{}
	if s.observed == nil {
		return out
	}
	for _, r := range s.observed.Reports() {
		for _, i := range r.Instances {
			out[i.Name] = i
		}
	}
	return out
}

func instanceMessage(i *mesh.Instance) (*hedgerowv1.Instance, error) {
	raw, err := json.Marshal(i)
	if err != nil {
		return nil, &mesh.Error{Op: "controlapi.instances", Name: i.Name, Kind: mesh.Internal, Err: err}
	}
	return fromJSON(raw, new(hedgerowv1.Instance))
}

// GetInstance returns an instance that is registered now.
func (s *service) GetInstance(ctx context.Context, r *hedgerowv1.GetInstanceRequest) (*hedgerowv1.Instance, error) {
	name := string(mesh.Instances) + "/" + r.GetId()
	i, ok := s.instances()[name]
	var labels mesh.Labels
	if ok {
		labels = i.Labels
	}
	if err := callerOf(ctx).reads(name, labels); err != nil {
		return nil, err
	}
	if !ok {
		return nil, mesh.Errorf("controlapi.get", name, mesh.NotFound, "no such instance is registered now")
	}
	return instanceMessage(i)
}

// ListInstances returns a page of the instances that are registered now.
func (s *service) ListInstances(ctx context.Context, r *hedgerowv1.ListInstancesRequest) (*hedgerowv1.ListInstancesResponse, error) {
	all, by := s.instances(), callerOf(ctx)
	names := make([]string, 0, len(all))
	for name, i := range all {
		if by.mayHave(name, i.Labels) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names, next, err := cutPage(mesh.Instances, names, r)
	if err != nil {
		return nil, err
	}
	out := &hedgerowv1.ListInstancesResponse{NextPageToken: next}
	for _, name := range names {
		m, err := instanceMessage(all[name])
		if err != nil {
			return nil, err
		}
		out.Instances = append(out.Instances, m)
	}
	return out, nil
}

// observe fills in what nodes reported: of several processes of a node the
// oldest revision and the newest sign of life.
func (s *service) observe(nodes ...*hedgerowv1.Node) {
	s.joined(nodes...)
	if s.observed == nil {
		return
	}
	type sign struct {
		revision uint32
		seen     time.Time
	}
	signs := map[string]sign{}
	for _, r := range s.observed.Reports() {
		have, ok := signs[r.Node]
		if !ok || r.AppliedRevision < have.revision {
			have.revision = r.AppliedRevision
		}
		if r.LastSeen.After(have.seen) {
			have.seen = r.LastSeen
		}
		signs[r.Node] = have
	}
	for _, n := range nodes {
		_, id, _ := strings.Cut(n.GetName(), "/")
		have, ok := signs[id]
		if !ok {
			if n.State == nil {
				n.State = hedgerowv1.Node_PENDING.Enum()
			}
			continue
		}
		n.State = hedgerowv1.Node_ENROLLED.Enum()
		n.AppliedRevision = have.revision
		if !have.seen.IsZero() {
			n.LastSeenTime = timestamppb.New(have.seen.UTC().Truncate(time.Second))
		}
	}
}
