package mesh

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Bounds of what a filter may ask for.
const (
	maxFaultDelay   = 5 * time.Minute
	maxRespondBytes = 64 << 10
)

// Values of RateLimit.Scope.
const (
	ScopeLocal = "LOCAL"
	ScopeMesh  = "MESH"
)

// Values of Compress.Algorithms.
const (
	CompressGzip   = "gzip"
	CompressBrotli = "br"
	CompressZstd   = "zstd"
)

// validateFilters checks the filters of a rule, one by one and together.
func (r *RouteRule) validateFilters(field string, v *Violations) {
	count := map[string]int{}
	for i := range r.Filters {
		f := at(field+".filters", i)
		names := r.Filters[i].validate(f, v)
		if len(names) != 1 {
			v.Add(f, "e.g. {\"requestHeaders\": {\"set\": {\"x-a\": \"1\"}}}", "a filter has exactly one field")
		}
		for _, name := range names {
			if count[name]++; count[name] == 2 && name != "requestHeaders" && name != "responseHeaders" && name != "mirror" {
				v.Add(f+"."+name, "", "a rule has at most one %s", name)
			}
		}
	}
	answers := count["redirect"] + count["respond"]
	switch {
	case answers > 1:
		v.Add(field+".filters", "leave one out", "a rule cannot both redirect and respond")
	case answers == 1 && len(r.Backends) > 0:
		v.Add(field+".backends", "leave it out", "a rule that redirects or responds sends nothing to a backend")
	case answers == 0 && len(r.Backends) == 0:
		v.Add(field+".backends", "e.g. [{\"service\": \"orders\"}]", "a rule needs a backend, or a filter that redirects or responds")
	}
	if count["redirect"] > 0 && count["rewrite"] > 0 {
		v.Add(field+".filters", "redirect can change the path itself", "a rule cannot both redirect and rewrite")
	}
	if r.replacesPrefix() && !r.matchesPrefixes() {
		v.Add(field+".filters", "match by {\"path\": {\"prefix\": ...}}", "replacePathPrefix needs every match of the rule to be of a prefix")
	}
}

// replacesPrefix reports whether a filter replaces the prefix that matched.
func (r *RouteRule) replacesPrefix() bool {
	return slices.ContainsFunc(r.Filters, func(f Filter) bool {
		return f.Rewrite != nil && f.Rewrite.ReplacePathPrefix != "" || f.Redirect != nil && f.Redirect.ReplacePathPrefix != ""
	})
}

// matchesPrefixes reports whether every match is of a prefix; "/" if it is of none.
func (r *RouteRule) matchesPrefixes() bool {
	return !slices.ContainsFunc(r.Matches, func(m RouteMatch) bool { return m.Path != nil && m.Path.Prefix == "" })
}

// validate returns the names of the fields that are set.
func (f *Filter) validate(field string, v *Violations) (names []string) {
	check := func(name string, set bool, validate func(string, *Violations)) {
		if set {
			names = append(names, name)
			validate(field+"."+name, v)
		}
	}
	check("requestHeaders", f.RequestHeaders != nil, f.RequestHeaders.validate)
	check("responseHeaders", f.ResponseHeaders != nil, f.ResponseHeaders.validate)
	check("rewrite", f.Rewrite != nil, f.Rewrite.validate)
	check("redirect", f.Redirect != nil, f.Redirect.validate)
	check("mirror", f.Mirror != nil, f.Mirror.validate)
	check("fault", f.Fault != nil, f.Fault.validate)
	check("rateLimit", f.RateLimit != nil, f.RateLimit.validate)
	check("cors", f.CORS != nil, f.CORS.validate)
	check("respond", f.Respond != nil, f.Respond.validate)
	check("compress", f.Compress != nil, f.Compress.validate)
	return names
}

// checkReplacement checks the parts that a rewrite and a redirect share.
func checkReplacement(field, hostname, path, prefix string, v *Violations) {
	if hostname != "" {
		if strings.HasPrefix(hostname, "*") {
			v.Add(field+".hostname", "", "%q: one hostname is needed, without a wildcard", hostname)
		} else {
			checkHostname(field+".hostname", hostname, v)
		}
	}
	if path != "" && prefix != "" {
		v.Add(field, "", "at most one of replacePath and replacePathPrefix is allowed")
	}
	if path != "" {
		checkPlainPath(field+".replacePath", path, v)
	}
	if prefix != "" {
		checkPlainPath(field+".replacePathPrefix", prefix, v)
	}
}

func (r *Rewrite) validate(field string, v *Violations) {
	if r.Hostname == "" && r.ReplacePath == "" && r.ReplacePathPrefix == "" {
		v.Add(field, "", "one of hostname, replacePath and replacePathPrefix is needed")
	}
	checkReplacement(field, r.Hostname, r.ReplacePath, r.ReplacePathPrefix, v)
}

func (r *Redirect) validate(field string, v *Violations) {
	if r.Scheme == "" && r.Hostname == "" && r.Port == 0 && r.ReplacePath == "" && r.ReplacePathPrefix == "" {
		v.Add(field, "e.g. {\"scheme\": \"https\"}", "a redirect that changes nothing would never end")
	}
	if r.Scheme != "" {
		v.oneOf(field+".scheme", r.Scheme, []string{"http", "https"})
	}
	if r.Port > 65535 {
		v.Add(field+".port", "", "%d is over 65535", r.Port)
	}
	switch r.Status {
	case 0, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		v.Add(field+".status", "one of 301, 302, 303, 307, 308", "%d is no redirect", r.Status)
	}
	checkReplacement(field, r.Hostname, r.ReplacePath, r.ReplacePathPrefix, v)
}

func (m *Mirror) validate(field string, v *Violations) {
	if !ValidID(m.Service) {
		v.Add(field+".service", "", "%q is not a service id", m.Service)
	}
	checkPercent(field+".percent", m.Percent, v)
}

func (f *Fault) validate(field string, v *Violations) {
	if f.Delay == nil && f.Abort == 0 {
		v.Add(field, "e.g. {\"abort\": 503, \"percent\": 5}", "one of delay and abort is needed")
	}
	checkDuration(field+".delay", f.Delay, time.Millisecond, maxFaultDelay, v)
	if f.Abort != 0 && (f.Abort < 400 || f.Abort > 599) {
		v.Add(field+".abort", "", "%d is no status of an error, from 400 to 599", f.Abort)
	}
	checkPercent(field+".percent", f.Percent, v)
}

// checkPercent checks a share of the requests, of which 0 is all.
func checkPercent(field string, percent uint32, v *Violations) {
	if percent > 100 {
		v.Add(field, "", "%d is over 100", percent)
	}
}

// mostBurst bounds how far ahead of a rate its burst is.
const mostBurst = 365 * 24 * time.Hour

func (r *RateLimit) validate(field string, v *Violations) {
	if r.Requests == 0 {
		v.Add(field+".requests", "", "at least one request is needed")
	}
	if r.Per == nil {
		v.Add(field+".per", "e.g. \"1s\"", "the time in which so many requests are admitted is needed")
	}
	checkDuration(field+".per", r.Per, time.Millisecond, maxTimeout, v)
	if float64(r.Burst)*float64(r.Per.Or(0)) > float64(mostBurst)*float64(r.Requests) {
		v.Add(field+".burst", "", "%d is what the rate admits in more than a year", r.Burst)
	}
	if r.Scope != "" {
		v.oneOf(field+".scope", r.Scope, []string{ScopeLocal, ScopeMesh})
	}
	if r.Scope == ScopeMesh && r.Per.Or(time.Hour) < time.Duration(r.Requests)*time.Microsecond {
		v.Add(field+".requests", "", "a rate of scope MESH is at most a million requests a second")
	}
	if r.Key != nil {
		r.Key.validate(field+".key", v)
	}
}

func (k *HashKey) validate(field string, v *Violations) {
	set := 0
	for _, is := range []bool{k.Header != "", k.Cookie != "", k.Query != "", k.SourceIdentity, k.Device} {
		if is {
			set++
		}
	}
	if set != 1 {
		v.Add(field, "e.g. {\"header\": \"x-user\"}", "exactly one of header, cookie, query, sourceIdentity and device is needed")
	}
	if k.Header != "" && !token(k.Header) {
		v.Add(field+".header", "", "%q is not a header name", k.Header)
	}
	if k.Cookie != "" && !token(k.Cookie) {
		v.Add(field+".cookie", "", "%q is not the name of a cookie", k.Cookie)
	}
	if !printable(k.Query) {
		v.Add(field+".query", "", "%q is not a parameter name", k.Query)
	}
}

func (c *CORS) validate(field string, v *Violations) {
	if len(c.AllowOrigins) == 0 {
		v.Add(field+".allowOrigins", "e.g. [\"https://shop.example\"]", "an origin is needed")
	}
	for i, origin := range c.AllowOrigins {
		if !validOrigin(origin) {
			v.Add(at(field+".allowOrigins", i), "e.g. \"https://shop.example\", \"https://*.shop.example\" or \"*\"", "%q is not an origin", origin)
		}
	}
	if c.AllowCredentials && slices.Contains(c.AllowOrigins, "*") {
		v.Add(field+".allowOrigins", "name the origins, e.g. \"https://*.shop.example\"", "with allowCredentials, \"*\" would let every web site read what a user may")
	}
	if !slices.Contains(c.AllowMethods, "*") {
		checkMethods(field+".allowMethods", c.AllowMethods, v)
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"allowHeaders", c.AllowHeaders}, {"exposeHeaders", c.ExposeHeaders}} {
		for i, name := range list.values {
			if !token(name) { // "*" is one
				v.Add(at(field+"."+list.name, i), "", "%q is not a header name", name)
			}
		}
	}
	checkDuration(field+".maxAge", c.MaxAge, 0, maxTimeout, v)
}

// validOrigin reports whether origin is "*", or "scheme://host[:port]" in lower
// case whose host may begin with "*.".
func validOrigin(origin string) bool {
	if origin == "*" {
		return true
	}
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || scheme == "" || strings.ToLower(origin) != origin || !token(scheme) {
		return false
	}
	name, port, hasPort := strings.Cut(host, ":")
	if hasPort && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	name = strings.TrimPrefix(name, "*.")
	for label := range strings.SplitSeq(name, ".") {
		if !ValidID(label) {
			return false
		}
	}
	return true
}

func (r *Respond) validate(field string, v *Violations) {
	if r.Status < 200 || r.Status > 599 {
		v.Add(field+".status", "e.g. 404", "%d is no final status, from 200 to 599", r.Status)
	}
	if (r.Status == http.StatusNoContent || r.Status == http.StatusNotModified) && r.Body != "" {
		v.Add(field+".body", "leave it out", "a response with status %d has no body", r.Status)
	}
	if len(r.Body) > maxRespondBytes {
		v.Add(field+".body", "", "longer than %d bytes", maxRespondBytes)
	}
}

func (c *Compress) validate(field string, v *Violations) {
	for i, name := range c.Algorithms {
		v.oneOf(at(field+".algorithms", i), name, []string{CompressGzip, CompressBrotli, CompressZstd})
	}
	for i, t := range c.ContentTypes {
		kind, rest, ok := strings.Cut(t, "/")
		if !ok || !token(kind) || !token(rest) || t != strings.ToLower(t) {
			v.Add(at(field+".contentTypes", i), "e.g. \"application/json\" or \"text/*\"", "%q is not a media type in lower case", t)
		}
	}
}

// ReservedHeader reports whether only the mesh itself may set the header: it
// frames the message or says who the caller is.
func ReservedHeader(name string) bool {
	n := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	switch n {
	case "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive",
		"proxy-connection", "http2-settings", "forwarded", "x-real-ip":
		return true
	}
	return strings.HasPrefix(n, "x-forwarded-") || strings.HasPrefix(n, "hedgerow-")
}

func (o *HeaderOps) validate(field string, v *Violations) {
	if len(o.Set)+len(o.Add)+len(o.Remove) == 0 {
		v.Add(field, "", "one of set, add and remove is needed")
	}
	check := func(f, name, value string) {
		switch {
		case !token(name):
			v.Add(f, "", "%q is not a header name", name)
		case ReservedHeader(name):
			v.Add(f, "", "%q is set by the mesh alone", name)
		case !printable(strings.ReplaceAll(value, "\t", " ")):
			v.Add(f, "", "the value has characters other than printable ASCII")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Set)) {
		check(fmt.Sprintf("%s.set[%q]", field, name), name, o.Set[name])
	}
	for _, name := range slices.Sorted(maps.Keys(o.Add)) {
		check(fmt.Sprintf("%s.add[%q]", field, name), name, o.Add[name])
	}
	for i, name := range o.Remove {
		check(at(field+".remove", i), name, "")
	}
}
