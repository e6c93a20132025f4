package proxy

import (
	"net/url"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// deviceHeader names the device whose message a request is. Only the bridge may say.
const deviceHeader = "Hedgerow-Device"

// hashValue returns the part of a request that k names, and whether it is there.
// An anonymous caller is known by its address.
func hashValue(k *mesh.HashKey, r *Request) (value string, ok bool) {
	switch {
	case k.Header != "":
		return r.Fields.Get(k.Header)
	case k.Cookie != "":
		return cookie(r.Fields, k.Cookie)
	case k.Query != "":
		return queryValue(r.RawQuery, k.Query)
	case k.Device:
		return r.Fields.Get(deviceHeader)
	case r.Peer != (mesh.ID{}):
		return r.Peer.String(), true
	}
	from, ok := r.Fields.Get(forwardedFor) // which the gateway has set
	from, _, _ = strings.Cut(from, ",")
	return from, ok
}

// cookie returns the value of the first cookie called name (RFC 6265 section 5.4).
func cookie(fields header.List, name string) (value string, ok bool) {
	for i := range fields {
		if !header.Equal(fields[i].Name, "Cookie") {
			continue
		}
		for rest := fields[i].Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			if key, value, ok := strings.Cut(header.Trim(pair), "="); ok && key == name {
				return value, true
			}
		}
	}
	return "", false
}

// queryValue returns the value of the first parameter called name, decoded.
func queryValue(query, name string) (value string, ok bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if !equalDecoded(key, name) {
			continue
		}
		if strings.ContainsAny(value, "%+") {
			var err error
			if value, err = url.QueryUnescape(value); err != nil {
				return "", false
			}
		}
		return value, true
	}
	return "", false
}

// hashOf is the hash of a key's value, the same in every proxy.
func hashOf(value string) uint64 { return mix(xxhash.Sum64String(value)) }

// drawOf returns a number in [0,1) that stays the same for a value, so that a share
// of a split that grows keeps whom it had.
func drawOf(value string) float64 { return float64(hashOf(value)>>11) / (1 << 53) }
