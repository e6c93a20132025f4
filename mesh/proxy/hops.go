package proxy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// MostHops is the largest Hops.Count.
const MostHops = 16

// Hops says what a gateway believes of what proxies in front of it tell about a
// client. The zero value believes nothing.
//
// Count is Envoy's xff_num_trusted_hops with use_remote_address: so many proxies
// stand in front, the last of which is the TCP peer. Each appends to
// X-Forwarded-For whom it was reached by, so that the entry Count from the right is
// the client, and everything left of it is what the client claims.
type Hops struct {
	Count   int
	Proxies []netip.Prefix // only peers in these are believed; any if empty
}

// believe reports whether what the peer tells is believed.
func (h *Hops) believe(peer string) bool {
	if h.Count == 0 {
		return false
	}
	if len(h.Proxies) == 0 {
		return true
	}
	return among(h.Proxies, peer)
}

// path returns X-Forwarded-For as services get it: the client, the trusted proxies
// that follow it, and the peer. It is not ok if the received entries are too few, or
// one of those that count is no address: it did not come the way it should have.
func (h *Hops) path(fields header.List, peer string) (path string, ok bool) {
	var hops [MostHops]netip.Addr // from the right
	n := 0
	for _, f := range slices.Backward(fields) {
		if !header.Equal(f.Name, forwardedFor) {
			continue
		}
		for rest, more := f.Value, true; more && n < h.Count; n++ {
			at := strings.LastIndexByte(rest, ',')
			addr, ok := parseHop(strings.Trim(rest[at+1:], " \t"))
			if !ok {
				return "", false
			}
			hops[n] = addr
			if more = at >= 0; more {
				rest = rest[:at]
			}
		}
	}
	if n < h.Count {
		return "", false
	}
	var b strings.Builder
	for _, addr := range slices.Backward(hops[:n]) {
		b.WriteString(addr.String())
		b.WriteString(", ")
	}
	b.WriteString(peer)
	return b.String(), true
}

// parseHop returns the address of an entry, which may have a port, and brackets if
// it is one of IPv6 (RFC 7239 section 6).
func parseHop(entry string) (netip.Addr, bool) {
	if len(entry) > len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535") {
		return netip.Addr{}, false
	}
	bare := entry
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		bare, ok = strings.CutSuffix(inner, "]")
		if !ok {
			bare = "" // a port follows, or it is nothing
		}
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil {
		with, err := netip.ParseAddrPort(entry)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = with.Addr()
	}
	return addr.Unmap(), addr.Zone() == ""
}

const (
	forwardedFor   = "X-Forwarded-For"
	forwardedProto = "X-Forwarded-Proto"
	forwardedHost  = "X-Forwarded-Host"
)

// setForwarded says where a request reached the mesh, and returns the address of its client
// too.
func (h *Hops) setForwarded(l header.List, in *incoming) (fields header.List, client string) {
	from, proto, host := in.remote, "http", in.host
	if in.secure {
		proto = "https"
	}
	path, ok := "", false
	if h.believe(in.remote) {
		path, ok = h.path(in.fields, in.remote)
	}
	client = in.remote
	if ok {
		from = path
		client, _, _ = strings.Cut(path, ",")
		switch told := only(in.fields, forwardedProto); {
		case strings.EqualFold(told, "http"):
			proto = "http"
		case strings.EqualFold(told, "https"):
			proto = "https"
		}
		told := only(in.fields, forwardedHost)
		if _, err := CanonicalHost(told); err == nil {
			host = told
		}
	}
	if from != "" {
		l = l.Add(forwardedFor, from)
	}
	return l.Add(forwardedProto, proto).Add(forwardedHost, host), client
}

// only returns the value of the one field called name; "" if there are others.
func only(fields header.List, name string) string {
	if fields.Count(name) != 1 {
		return ""
	}
	value, _ := fields.Get(name)
	return value
}
