package proxy

import (
	"net/http"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/h1"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// trust says which identity headers of a request are believed.
type trust struct {
	forwarded bool // X-Forwarded-For, -Proto and -Host, and -Method and -Uri of what it asks about, from a gateway
	own       bool // Hedgerow-*, from our own code: the bridge
}

// fieldClass is what a proxy must know of a field's name.
type fieldClass uint8

const (
	ordinary   fieldClass = iota
	connection            // concerns one connection only (RFC 9110 section 7.6.1 and its predecessors)
	identifies            // says who a caller is or where a request came from: only the mesh may set it
	overrides             // makes some frameworks run another method than the one that was authorized
	ambiguous             // folds to a name that frames the message: one of two parsers would believe it
	isHost                // travels as the authority
)

// classify sorts a field name as CGI and its descendants see it: in lower case
// and with '-' for '_'. Two names that fold alike are one name to some workload.
func classify(name string) fieldClass {
	if name == "" {
		return ordinary
	}
	switch foldByte(name[0]) {
	case 'c':
		switch {
		case folds(name, "connection"):
			return connection
		case folds(name, "content-length"):
			return exactly(name, "content-length", ordinary)
		}
	case 'f':
		if folds(name, "forwarded") {
			return identifies
		}
	case 'h':
		switch {
		case folds(name, "host"):
			return isHost
		case foldsPrefix(name, "hedgerow-"):
			return identifies
		case folds(name, "http2-settings"):
			return connection
		}
	case 'k':
		if folds(name, "keep-alive") {
			return connection
		}
	case 'p':
		if folds(name, "proxy-connection") || folds(name, "proxy-authenticate") || folds(name, "proxy-authorization") {
			return connection
		}
	case 't':
		switch {
		case folds(name, "te"), folds(name, "trailer"):
			return connection
		case folds(name, "transfer-encoding"):
			return exactly(name, "transfer-encoding", connection)
		}
	case 'u':
		if folds(name, "upgrade") {
			return connection
		}
	case 'x':
		switch {
		case folds(name, "x-real-ip"), foldsPrefix(name, "x-forwarded-"):
			return identifies
		case folds(name, "x-http-method-override"), folds(name, "x-http-method"), folds(name, "x-method-override"):
			return overrides
		}
	}
	return ordinary
}

// exactly returns class for name if it is spelled as want but for case, and
// ambiguous for a spelling that only folds to it.
func exactly(name, want string, class fieldClass) fieldClass {
	if header.Equal(name, want) {
		return class
	}
	return ambiguous
}

// foldByte is the lower case of c, and '-' for what CGI makes of it: '_', and
// '.', which several frameworks replace too.
func foldByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_' || c == '.':
		return '-'
	}
	return c
}

func folds(name, to string) bool { return len(name) == len(to) && foldsPrefix(name, to) }

func foldsPrefix(name, to string) bool {
	if len(name) < len(to) {
		return false
	}
	for i := range len(to) {
		if foldByte(name[i]) != to[i] {
			return false
		}
	}
	return true
}

// trusted reports whether t lets the identity header pass as it is.
func (t trust) trusted(name string) bool {
	if t.forwarded && (header.Equal(name, forwardedFor) || header.Equal(name, forwardedProto) || header.Equal(name, forwardedHost) ||
		header.Equal(name, forwardedMethod) || header.Equal(name, forwardedURI)) {
		return true
	}
	const own = "Hedgerow-"
	return t.own && len(name) > len(own) && header.Equal(name[:len(own)], own)
}

// cleanRequest appends to dst the fields of src that are the caller's to say.
// Left out are fields of the connection and those the Connection field names,
// the length, which travels apart, identity headers that t does not cover, in
// every spelling, and method overrides. It refuses names that fold to a field
// which frames the message.
func cleanRequest(dst, src header.List, t trust) (header.List, *Refusal) {
	var room [4]string
	named := namedByConnection(room[:0], src)
	for _, f := range src {
		switch classify(f.Name) {
		case ordinary:
			if header.Equal(f.Name, "Content-Length") || namedIn(named, f.Name) {
				continue
			}
		case identifies:
			if !t.trusted(f.Name) || src.Count(f.Name) != 1 {
				continue
			}
		case ambiguous:
			return nil, &Refusal{Status: http.StatusBadRequest, Code: CodeBadRequest, Detail: "a header name is misspelled"}
		default:
			continue
		}
		dst = append(dst, f)
	}
	return dst, nil
}

// cleanResponse appends to dst the fields of src but those of the connection and
// the length, which travels apart, and, from a workload, what only the mesh may
// say.
func cleanResponse(dst, src header.List, fromWorkload bool) header.List {
	var room [4]string
	named := namedByConnection(room[:0], src)
	for _, f := range src {
		switch classify(f.Name) {
		case connection, ambiguous:
			continue
		default:
			if header.Equal(f.Name, "Content-Length") || namedIn(named, f.Name) || fromWorkload && foldsPrefix(f.Name, "hedgerow-") {
				continue
			}
		}
		dst = append(dst, f)
	}
	return dst
}

// cleanTrailer appends to dst the fields of src that a header may be changed to
// afterwards. What h1 refuses in a trailer may have come over HTTP/2.
func cleanTrailer(dst, src header.List) header.List {
	for _, f := range src {
		if classify(f.Name) == ordinary && !mesh.ReservedHeader(f.Name) && !folds(f.Name, "authorization") && !h1.ForbiddenTrailer(f.Name) {
			dst = append(dst, f)
		}
	}
	return dst
}

// namedByConnection appends to dst the values of Connection fields that name
// more than the state of the connection.
func namedByConnection(dst []string, l header.List) []string {
	for _, f := range l {
		if header.Equal(f.Name, "Connection") && !header.Equal(f.Value, "keep-alive") && !header.Equal(f.Value, "close") {
			dst = append(dst, f.Value)
		}
	}
	return dst
}

// namedIn reports whether one of the comma-separated lists names name.
func namedIn(lists []string, name string) bool {
	for _, list := range lists {
		if header.HasToken(list, name) {
			return true
		}
	}
	return false
}

// applyHeaderOps runs the filters of a rule over l, in their order.
func applyHeaderOps(l header.List, filters []mesh.HeaderOps) header.List {
	for i := range filters {
		for name, value := range filters[i].Set {
			l = l.Set(name, value)
		}
		for name, value := range filters[i].Add {
			l = l.Add(name, value)
		}
		for _, name := range filters[i].Remove {
			l = l.Del(name)
		}
	}
	return l
}
