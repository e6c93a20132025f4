package proxy

import (
	"net/netip"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Limits of a domain name, RFC 1035 section 2.3.4.
const (
	maxHostBytes  = 253
	maxLabelBytes = 63
)

// CanonicalHost returns the one spelling of the host of a Host field or
// :authority: in lower case, without port and without the final dot. An IPv6
// address keeps its brackets and is in the form of RFC 5952.
//
// Refused are an empty host, user information, a port that is no number up to
// 65535, empty labels, and characters other than a-z 0-9 . - _ in any case
// (names beyond ASCII arrive in their "xn--" form). The error's kind is
// Malformed; callers answer 400. A host that needs no lower-casing is returned
// without allocating.
func CanonicalHost(hostport string) (string, error) {
	if strings.HasPrefix(hostport, "[") {
		return canonicalIPv6(hostport)
	}
	host := hostport
	if i := strings.IndexByte(hostport, ':'); i >= 0 {
		if !validPort(hostport[i+1:]) {
			return "", badHost(hostport, "has a bad port")
		}
		host = hostport[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > maxHostBytes {
		return "", badHost(hostport, "is empty or longer than 253 bytes")
	}
	label, upper := 0, false
	for i := range len(host) {
		switch c := host[i]; {
		case c == '.':
			if label == 0 {
				return "", badHost(hostport, "has an empty label")
			}
			label = -1 // the increment below begins the next label at 0
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return "", badHost(hostport, "has a character that no host name has")
		}
		if label++; label > maxLabelBytes {
			return "", badHost(hostport, "has a label longer than 63 bytes")
		}
	}
	if label == 0 {
		return "", badHost(hostport, "has an empty label")
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, nil
}

func canonicalIPv6(hostport string) (string, error) {
	inside, rest, ok := strings.Cut(hostport[1:], "]")
	addr, err := netip.ParseAddr(inside)
	if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", badHost(hostport, "is no IPv6 address in brackets")
	}
	if port, isPort := strings.CutPrefix(rest, ":"); rest != "" && (!isPort || !validPort(port)) {
		return "", badHost(hostport, "has a bad port")
	}
	return "[" + addr.String() + "]", nil
}

// validPort accepts digits up to 65535, and none (RFC 3986 section 3.2.3).
func validPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i > 4 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

func badHost(hostport, reason string) error {
	return mesh.Errorf("proxy.CanonicalHost", "", mesh.Malformed, "the host %.80q %s", hostport, reason)
}
