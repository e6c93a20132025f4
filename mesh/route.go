package mesh

// Route says which requests go to which services. Its matching follows the
// Gateway API's HTTPRoute, its precedence too.
type Route struct {
	Meta
	Targets   []string    `json:"targets,omitempty"`   // GATEWAY, MESH
	Gateways  []string    `json:"gateways,omitempty"`  // gateway ids; absent: all
	Hostnames []string    `json:"hostnames,omitempty"` // "shop.example", "*.example"
	Rules     []RouteRule `json:"rules,omitempty"`
}

// Values of Route.Targets.
const (
	TargetGateway = "GATEWAY"
	TargetMesh    = "MESH"
)

// Collection returns Routes.
func (*Route) Collection() Collection { return Routes }

// RouteRule sends what any of Matches matches to Backends, through Filters. A rule with
// KeepEncodedSlash takes paths with "%2F", which is then a part of its segment and no
// separator; without, such a path is refused.
type RouteRule struct {
	Name             string       `json:"name,omitempty"`
	Matches          []RouteMatch `json:"matches,omitempty"` // absent: everything
	Backends         []Backend    `json:"backends,omitempty"`
	Filters          []Filter     `json:"filters,omitempty"`
	KeepEncodedSlash bool         `json:"keepEncodedSlash,omitempty"`
	Timeout          *Duration    `json:"timeout,omitempty"` // 15s if absent, 0s is none
	IdleTimeout      *Duration    `json:"idleTimeout,omitempty"`
	Retry            *Retry       `json:"retry,omitempty"`
	Affinity         *HashKey     `json:"affinity,omitempty"`
}

// RouteMatch matches a request that all of its fields match.
type RouteMatch struct {
	Path        *PathMatch   `json:"path,omitempty"`
	Methods     []string     `json:"methods,omitempty"`
	Headers     []ValueMatch `json:"headers,omitempty"`
	QueryParams []ValueMatch `json:"queryParams,omitempty"`
}

// PathMatch matches the canonical path; exactly one field is set. Prefix
// matches whole segments: "/a" matches "/a" and "/a/b", not "/ab". Template is
// "/users/{id}/files/{rest=**}": "{x}" is one segment, "{x=**}" the rest.
type PathMatch struct {
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Template string `json:"template,omitempty"`
	Regex    string `json:"regex,omitempty"`
}

// ValueMatch matches a header or query parameter by name; at most one of the
// other fields is set, none means that it must be present.
type ValueMatch struct {
	Name   string `json:"name,omitempty"`
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Regex  string `json:"regex,omitempty"`
}

// Backend is one weighted destination of a rule. An absent Weight is stored
// as 1; 0 sends nothing.
type Backend struct {
	Service string  `json:"service,omitempty"`
	Subset  string  `json:"subset,omitempty"`
	Weight  *uint32 `json:"weight,omitempty"`
}

// Filter changes a request or its response; exactly one field is set.
type Filter struct {
	RequestHeaders  *HeaderOps `json:"requestHeaders,omitempty"`
	ResponseHeaders *HeaderOps `json:"responseHeaders,omitempty"`
	Rewrite         *Rewrite   `json:"rewrite,omitempty"`
	Redirect        *Redirect  `json:"redirect,omitempty"`
	Mirror          *Mirror    `json:"mirror,omitempty"`
	Fault           *Fault     `json:"fault,omitempty"`
	RateLimit       *RateLimit `json:"rateLimit,omitempty"`
	CORS            *CORS      `json:"cors,omitempty"`
	Respond         *Respond   `json:"respond,omitempty"`
	Compress        *Compress  `json:"compress,omitempty"`
}

// HeaderOps sets, adds and removes header fields, in that order.
type HeaderOps struct {
	Set    map[string]string `json:"set,omitempty"`
	Add    map[string]string `json:"add,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Rewrite changes where the request is sent: at most one of the paths is set.
type Rewrite struct {
	Hostname          string `json:"hostname,omitempty"`
	ReplacePath       string `json:"replacePath,omitempty"`
	ReplacePathPrefix string `json:"replacePathPrefix,omitempty"`
}

// Redirect answers with a Location; absent parts are the request's. Status is 302 if
// absent. A Scheme without a Port means the scheme's own.
type Redirect struct {
	Scheme            string `json:"scheme,omitempty"`
	Hostname          string `json:"hostname,omitempty"`
	Port              uint32 `json:"port,omitempty"`
	ReplacePath       string `json:"replacePath,omitempty"`
	ReplacePathPrefix string `json:"replacePathPrefix,omitempty"`
	Status            uint32 `json:"status,omitempty"`
}

// Mirror sends a copy of Percent of the requests, all if absent, to Service. Nobody
// waits for what becomes of it.
type Mirror struct {
	Service string `json:"service,omitempty"`
	Percent uint32 `json:"percent,omitempty"`
}

// Fault delays Percent of the requests, all if absent, answers them with the status
// Abort, or both.
type Fault struct {
	Delay   *Duration `json:"delay,omitempty"`
	Abort   uint32    `json:"abort,omitempty"` // status
	Percent uint32    `json:"percent,omitempty"`
}

// RateLimit admits Requests in each Per, evenly, and Burst at once (Requests if
// absent), for each value of Key; all share one limit if there is none. Scope LOCAL,
// the default, counts in each proxy by itself.
type RateLimit struct {
	Requests uint32    `json:"requests,omitempty"`
	Per      *Duration `json:"per,omitempty"`
	Burst    uint32    `json:"burst,omitempty"`
	Key      *HashKey  `json:"key,omitempty"`
	Scope    string    `json:"scope,omitempty"`
}

// CORS answers preflight requests and lets the other origins of AllowOrigins read
// responses (Fetch standard, section 3.2). An origin is "*", "https://shop.example"
// or "https://*.shop.example". AllowMethods is GET, HEAD and POST if absent; "*" in it
// or in AllowHeaders is whatever was asked for. MaxAge is 5 s if absent.
type CORS struct {
	AllowOrigins     []string  `json:"allowOrigins,omitempty"`
	AllowMethods     []string  `json:"allowMethods,omitempty"`
	AllowHeaders     []string  `json:"allowHeaders,omitempty"`
	ExposeHeaders    []string  `json:"exposeHeaders,omitempty"`
	AllowCredentials bool      `json:"allowCredentials,omitempty"`
	MaxAge           *Duration `json:"maxAge,omitempty"`
}

// Respond answers without an upstream, by text/plain unless the rule's
// responseHeaders set another Content-Type.
type Respond struct {
	Status uint32 `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
}

// Compress compresses responses by the first of Algorithms (zstd, br, gzip) that the
// client accepts, if their Content-Type is one of ContentTypes (text and the common
// formats of data; "text/*" is all of text) and they have MinBytes (1,024) or an
// unknown length.
type Compress struct {
	Algorithms   []string `json:"algorithms,omitempty"`
	ContentTypes []string `json:"contentTypes,omitempty"`
	MinBytes     uint32   `json:"minBytes,omitempty"`
}

// Retry tries another endpoint after a failure. Attempts counts tries after
// the first. All retries of a proxy to a service together are at most BudgetPercent
// (20 if absent) of its requests in the last ten seconds, or 3 a second. After HedgeAfter
// without an answer the first retry begins while the first try goes on; the first good
// answer counts.
type Retry struct {
	Attempts      uint32    `json:"attempts,omitempty"`
	On            []string  `json:"on,omitempty"`
	PerTryTimeout *Duration `json:"perTryTimeout,omitempty"`
	HedgeAfter    *Duration `json:"hedgeAfter,omitempty"`
	Backoff       *Backoff  `json:"backoff,omitempty"`
	BudgetPercent uint32    `json:"budgetPercent,omitempty"`
}

// Values of Retry.On.
const (
	OnConnectFailure  = "CONNECT_FAILURE"
	OnReset           = "RESET"
	OnGatewayError    = "GATEWAY_ERROR" // 502, 503, 504
	OnTooManyRequests = "TOO_MANY_REQUESTS"
)
