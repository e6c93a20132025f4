package mqttbridge

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Headers that the bridge sets on every request. The mesh removes Hedgerow-*
// from everybody else, so a service can trust Hedgerow-Device of a caller that
// is /svc/mqtt-bridge.
const (
	HeaderMessageID = "Hedgerow-Message-Id"
	HeaderDevice    = "Hedgerow-Device"
	headerKey       = "Idempotency-Key" // the same value: it lets the mesh try again
)

// request builds the request of one attempt. The host is the service of the
// rule and the path is the rule's template, so nothing from the topic can
// become a host, a query or a second segment.
func (r *rule) request(ctx context.Context, it *item) (*http.Request, error) {
	if r.err != nil {
		return nil, r.err
	}
	plain, escaped := buildPath(r.path, it.captures)
	u := &url.URL{Scheme: "http", Host: r.source.To.Service + ".mesh", Path: plain, RawPath: escaped}
	if u.EscapedPath() != escaped { // net/url would send another path than ours
		return nil, fmt.Errorf("%s: path %q is not a valid encoding", r.name, escaped)
	}
	method := r.source.To.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(it.message.Payload))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", "hedgerow-mqtt-bridge")
	for name, value := range r.source.To.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set(HeaderMessageID, it.id)
	req.Header.Set(headerKey, it.id)
	if r.device != "" {
		req.Header.Set(HeaderDevice, it.captures[r.device])
	}
	return req, nil
}

// buildPath fills the template: each capture becomes one segment,
// percent-encoded (RFC 3986, 3.3). It returns the path decoded and encoded.
func buildPath(t mesh.PathTemplate, captures map[string]string) (plain, escaped string) {
	if len(t.Segments) == 0 {
		return "/", "/"
	}
	var p, e strings.Builder
	for _, s := range t.Segments {
		segment := s.Literal
		if s.Capture != "" {
			segment = captures[s.Capture]
		}
		p.WriteByte('/')
		p.WriteString(segment)
		e.WriteByte('/')
		e.WriteString(url.PathEscape(segment))
	}
	return p.String(), e.String()
}
