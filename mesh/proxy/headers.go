package proxy

import (
	"net/http"
	"net/textproto"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// hopByHop are the fields that concern one connection only (RFC 9110 section
// 7.6.1 and its predecessors). They are never forwarded; Upgrade is set anew
// for a WebSocket, and TE for trailers.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// methodOverrides make some frameworks run another method than the one that
// was authorized.
var methodOverrides = [...]string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// foldName returns a header name as CGI and its descendants see it: lower case
// and '-' for '_'. Two names that fold alike are one name to some workload.
func foldName(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}

// trust says which identity headers of a request are believed.
type trust struct {
	forwarded bool // X-Forwarded-For, -Proto and -Host, from a gateway
	own       bool // Hedgerow-*, from our own code: the bridge
}

// identityHeader reports whether the folded name says who a caller is or where
// a request came from, and so may only be set by the mesh.
func identityHeader(folded string) bool {
	return folded == "forwarded" || folded == "x-real-ip" ||
		strings.HasPrefix(folded, "x-forwarded-") || strings.HasPrefix(folded, "hedgerow-")
}

// trusted reports whether t lets the identity header pass as it is.
func (t trust) trusted(name string) bool {
	switch name {
	case "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host":
		return t.forwarded
	}
	return t.own && strings.HasPrefix(name, "Hedgerow-")
}

// cleanRequest removes from h what is not the caller's to say: fields of the
// connection and those the Connection field names, identity headers that t
// does not cover, in every spelling, and method overrides. It refuses names
// that fold to a field which frames the message: one of two parsers on the way
// would believe them.
func cleanRequest(h http.Header, t trust) *Refusal {
	removeConnectionFields(h)
	for name := range h {
		folded := foldName(name)
		switch {
		case identityHeader(folded):
			if !t.trusted(name) || len(h[name]) != 1 {
				delete(h, name)
			}
		case strings.Contains(name, "_") && mesh.ReservedHeader(name):
			return &Refusal{Status: http.StatusBadRequest, Code: CodeBadRequest, Detail: "a header name is misspelled"}
		}
	}
	for _, name := range methodOverrides {
		delete(h, name)
	}
	delete(h, "Host") // it is Request.Host; HTTP/2 clients may send it twice
	return nil
}

// cleanResponse removes the fields of the connection, and, from a workload,
// what only the mesh may say.
func cleanResponse(h http.Header, fromWorkload bool) {
	removeConnectionFields(h)
	if !fromWorkload {
		return
	}
	for name := range h {
		if strings.HasPrefix(foldName(name), "hedgerow-") {
			delete(h, name)
		}
	}
}

// cleanTrailer removes from t what a header may not be changed to afterwards.
func cleanTrailer(t http.Header) {
	for name := range t {
		folded := foldName(name)
		if identityHeader(folded) || mesh.ReservedHeader(folded) || folded == "authorization" {
			delete(t, name)
		}
	}
}

func removeConnectionFields(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// hasToken reports whether the comma-separated field values contain token.
func hasToken(values []string, token string) bool {
	for _, list := range values {
		for t := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// applyHeaderOps runs the filters of a rule over h, in their order.
func applyHeaderOps(h http.Header, filters []mesh.HeaderOps) {
	for i := range filters {
		for name, value := range filters[i].Set {
			h.Set(name, value)
		}
		for name, value := range filters[i].Add {
			h.Add(name, value)
		}
		for _, name := range filters[i].Remove {
			h.Del(name)
		}
	}
}

// countFields returns the number of field lines of h.
func countFields(h http.Header) int {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n
}
