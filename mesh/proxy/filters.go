package proxy

import (
	"math"
	"math/bits"
	"net/http"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// filters are what a rule does to its requests and their responses, but for
// authorization and where they go. They take effect in this order, however the rule
// lists them: a preflight request is answered; then, if the policies allow the
// request, faults, the rate limit, a redirect or response of its own, the rewrite
// and request headers, the mirrors; of the response: headers, then those of CORS,
// then compression.
type filters struct {
	requestHeaders  []mesh.HeaderOps // in the order of the rule
	responseHeaders []mesh.HeaderOps
	mirrors         []mirror
	fault           *fault
	limit           *rateLimit
	rewrite         *mesh.Rewrite
	compress        *compression
	cors            *cors
	redirect        *mesh.Redirect
	respond         *mesh.Respond
}

// compileFilters compiles filters that have been validated. rule names the rule that
// they are of.
func compileFilters(rule string, list []mesh.Filter) filters {
	var out filters
	for i := range list {
		f := &list[i]
		switch {
		case f.RequestHeaders != nil:
			out.requestHeaders = append(out.requestHeaders, *f.RequestHeaders)
		case f.ResponseHeaders != nil:
			out.responseHeaders = append(out.responseHeaders, *f.ResponseHeaders)
		case f.CORS != nil:
			out.cors = compileCORS(f.CORS)
		case f.Fault != nil:
			out.fault = compileFault(f.Fault)
		case f.RateLimit != nil:
			out.limit = compileRateLimit(rule, f.RateLimit)
		case f.Redirect != nil:
			out.redirect = f.Redirect
		case f.Respond != nil:
			out.respond = f.Respond
		case f.Rewrite != nil:
			out.rewrite = f.Rewrite
		case f.Mirror != nil:
			out.mirrors = append(out.mirrors, mirror{f.Mirror.Service, percent(f.Mirror.Percent)})
		case f.Compress != nil:
			out.compress = compileCompression(f.Compress)
		}
	}
	return out
}

// answers reports whether the rule sends nothing to a backend.
func (f *filters) answers() bool { return f.redirect != nil || f.respond != nil }

// percent returns a share of the requests as a number in [0,1]; 0 percent, which is
// how an absent one reads, is all.
func percent(p uint32) float64 {
	if p == 0 {
		return 1
	}
	return float64(p) / 100
}

// What one draw of a request decides about besides its backend, so that these do not
// depend on each other.
const (
	drawFault uint64 = iota + 1
	drawMirror
)

// another derives from a draw in [0,1) an independent one for a purpose.
func another(draw float64, purpose uint64) float64 {
	random := mix(math.Float64bits(draw) ^ bits.RotateLeft64(purpose, 56))
	return float64(random>>11) / (1 << 53)
}

// replacePath returns the canonical path that a rewrite or redirect makes of path,
// of which the rule matched the first prefix bytes. A prefix is replaced by whole
// segments, as the Gateway API's ReplacePrefixMatch is.
func replacePath(path string, prefix int, whole, instead string) string {
	switch {
	case whole != "":
		return whole
	case instead == "":
		return path
	}
	instead = strings.TrimSuffix(instead, "/")
	rest := path[min(prefix, len(path)):]
	if instead == "" && rest == "" {
		return "/"
	}
	return instead + rest
}

// filterRequest does to x what its rule asks before it goes anywhere.
func (f *filters) filterRequest(x *exchange) *failure {
	if x.decision.preflight != "" {
		return nil
	}
	if failed := f.fault.inject(x); failed != nil {
		return failed
	}
	return f.limit.admit(x)
}

// given returns status, or otherwise if it is 0.
func given(status uint32, otherwise int) int {
	if status == 0 {
		return otherwise
	}
	return int(status)
}

// preflight returns the method that a CORS preflight request asks about (Fetch
// standard, section 3.2.2).
func preflight(r *Request) (method string, ok bool) {
	if r.Method != http.MethodOptions {
		return "", false
	}
	if _, ok = r.Fields.Get("Origin"); !ok {
		return "", false
	}
	return r.Fields.Get("Access-Control-Request-Method")
}
