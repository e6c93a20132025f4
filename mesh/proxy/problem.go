package proxy

import (
	"encoding/json"
	"net/http"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Codes of the answers that the proxy gives itself while it forwards. Those of
// a decision (no_route, denied, no_healthy_endpoint, bad_request, ...) are with
// the decision functions.
const (
	// CodeUnreachable: no connection to any endpoint that was tried; nothing
	// was sent, so any request may be sent again. 503.
	CodeUnreachable = "endpoint_unreachable"
	// CodeIdentity: the endpoint did not prove the identity that the registry
	// names for it; nothing was sent. 503.
	CodeIdentity = "endpoint_identity"
	// CodeExpired: the caller's proxy showed a certificate that has expired, for something
	// that defaults.identityGrace does not list. 403.
	CodeExpired = "identity_expired"
	// CodeReset: the endpoint went away before it answered. 502.
	CodeReset = "endpoint_reset"
	// CodeNoCertificate: this proxy has no valid certificate to call with. 503.
	CodeNoCertificate = "no_certificate"
	// CodeAddress: the endpoint's address is not in the mesh's dialCidrs, or is
	// no address. Nothing was dialled. 503.
	CodeAddress = "endpoint_address"
	// CodeBadUpgrade: the endpoint switched protocols in a way that does not
	// answer the client's WebSocket handshake. 502.
	CodeBadUpgrade = "bad_upgrade"
	// CodeTimeout: the route's timeout passed before an answer. 504.
	CodeTimeout = "timeout"
	// CodeWorkloadUnreachable and CodeWorkloadReset are CodeUnreachable and
	// CodeReset between a sidecar and its own workload. 503 and 502.
	CodeWorkloadUnreachable = "workload_unreachable"
	CodeWorkloadReset       = "workload_reset"
	// CodeClientTimeout: the client sent its request body too slowly. 408.
	CodeClientTimeout = "client_timeout"
	// CodeMethod: CONNECT, which this proxy never tunnels. 405.
	CodeMethod = "method_not_allowed"
	// CodeTooLarge: the request target (414), the header (431) or the body (413)
	// is too large.
	CodeTooLarge = "too_large"
	// CodeAmbiguousCaller: several services share the listener. 403.
	CodeAmbiguousCaller = "ambiguous_caller"
	// CodeUnknownService: a mesh peer asked for a service that this sidecar
	// does not stand beside. 421.
	CodeUnknownService = "misdirected"
	// CodeUnsupported: the request uses what this proxy does not implement. 501
	// for a transfer coding, 505 for a version of HTTP.
	CodeUnsupported = "unsupported"
	// CodeOverloaded: the proxy is short of memory and sheds new requests. 503.
	CodeOverloaded = "overloaded"
	// CodeNotReady: no configuration has been loaded yet. 503.
	CodeNotReady = "not_ready"
)

// decisionHeader names the request in logs; it is on every answer of our own that has a body.
const decisionHeader = "Hedgerow-Decision"

// overloadHeader is on what a proxy refuses for want of room, its own or the workload's,
// with the code. Whoever called holds that against no instance. No workload can set it.
const overloadHeader = "Hedgerow-Overload"

// retryAfter is the Retry-After of a 503 or 429 that knows no better, in seconds.
const retryAfter = "1"

// problemDetails is RFC 9457 problem details. Title is the status phrase and Type is
// left to its default, about:blank. Nothing of the request is echoed.
type problemDetails struct {
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Code     string `json:"code"`
	Detail   string `json:"detail,omitempty"`
	Decision string `json:"decision"`
}

// problem returns the answer that says refusal to the caller.
func problem(refusal *Refusal, id string) (*responseHead, []byte) {
	body, err := json.Marshal(problemDetails{Title: http.StatusText(refusal.Status), Status: refusal.Status, Code: refusal.Code, Detail: refusal.Detail, Decision: id})
	if err != nil { // strings and an int always marshal
		body = []byte(`{"code":"internal"}`)
	}
	body = append(body, '\n')
	fields := header.List{
		{Name: "Content-Type", Value: "application/problem+json"},
		{Name: "Cache-Control", Value: "no-store"},
		{Name: decisionHeader, Value: id},
	}
	switch refusal.Status {
	case http.StatusMethodNotAllowed:
		fields = fields.Add("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		fields = fields.Add("Retry-After", retryAfter)
	}
	return &responseHead{status: refusal.Status, fields: fields, length: int64(len(body))}, body
}
