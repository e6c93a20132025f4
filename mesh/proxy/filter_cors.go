package proxy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// defaultCORSAge is how long a browser may keep an answer if the filter does not say:
// the Fetch standard's own default.
const defaultCORSAge = 5 * time.Second

// cors is a compiled mesh.CORS: its lists as they stand in headers.
type cors struct {
	origins     []string
	anyOrigin   bool
	credentials bool
	methods     string // "" is what was asked for
	headers     string
	anyHeader   bool
	exposed     string
	maxAge      string
}

func compileCORS(c *mesh.CORS) *cors {
	out := &cors{
		origins: c.AllowOrigins, anyOrigin: slices.Contains(c.AllowOrigins, "*"), credentials: c.AllowCredentials,
		methods: strings.Join(c.AllowMethods, ", "), headers: strings.Join(c.AllowHeaders, ", "),
		anyHeader: slices.Contains(c.AllowHeaders, "*"), exposed: strings.Join(c.ExposeHeaders, ", "),
		maxAge: strconv.Itoa(int(c.MaxAge.Or(defaultCORSAge) / time.Second)),
	}
	switch {
	case len(c.AllowMethods) == 0:
		out.methods = "GET, HEAD, POST"
	case slices.Contains(c.AllowMethods, "*"):
		out.methods = ""
	}
	return out
}

// allows reports whether scripts of origin may read responses.
func (c *cors) allows(origin string) bool {
	if c.anyOrigin {
		return origin != ""
	}
	return slices.ContainsFunc(c.origins, func(pattern string) bool {
		scheme, domain, ok := strings.Cut(pattern, "://*.")
		if !ok {
			return origin == pattern
		}
		host, ok := strings.CutPrefix(origin, scheme+"://")
		if !ok {
			return false
		}
		labels, ok := strings.CutSuffix(host, "."+domain)
		return ok && labels != "" && labels[0] != '.' && strings.Trim(labels, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
	})
}

// grant appends what lets scripts of origin read the response. What the workload said
// about that is not there any more.
func (c *cors) grant(l header.List, origin string) header.List {
	if c.anyOrigin && !c.credentials {
		return l.Add("Access-Control-Allow-Origin", "*")
	}
	l = l.Add("Access-Control-Allow-Origin", origin)
	if c.credentials {
		l = l.Add("Access-Control-Allow-Credentials", "true")
	}
	return l
}

// varies says that the answer depends on the origin that asks.
func (c *cors) varies(l header.List) header.List {
	if c.anyOrigin && !c.credentials {
		return l
	}
	return l.Add("Vary", "Origin")
}

// answerPreflight returns the fields that answer a preflight request. An origin that
// may not ask learns nothing, by which its browser knows.
func (c *cors) answerPreflight(r *Request, method string) header.List {
	l := c.varies(nil)
	origin, _ := r.Fields.Get("Origin")
	if !c.allows(origin) {
		return l
	}
	l = c.grant(l, origin)
	if c.methods != "" {
		method = c.methods
	}
	l = l.Add("Access-Control-Allow-Methods", method)
	headers := c.headers
	if c.anyHeader { // which with credentials would be the name of a header
		headers, _ = r.Fields.Get("Access-Control-Request-Headers")
	}
	if headers != "" {
		l = l.Add("Access-Control-Allow-Headers", headers)
	}
	return l.Add("Access-Control-Max-Age", c.maxAge)
}

// apply changes the fields of a response to r.
func (c *cors) apply(l header.List, r *Request) header.List {
	for _, name := range [...]string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"} {
		l = l.Del(name)
	}
	l = c.varies(l)
	origin, ok := r.Fields.Get("Origin")
	if !ok || !c.allows(origin) {
		return l
	}
	l = c.grant(l, origin)
	if c.exposed != "" {
		l = l.Add("Access-Control-Expose-Headers", c.exposed)
	}
	return l
}
