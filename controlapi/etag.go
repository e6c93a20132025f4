package controlapi

import "strings"

// matches reports whether the value of an If-Match header (RFC 9110, 13.1.1)
// names etag. Weak ones never match. An etag without quotes is taken too:
// people write them by hand.
func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimSpace(part)
		if part == "*" || strings.Trim(part, `"`) == etag && !strings.HasPrefix(part, "W/") {
			return true
		}
	}
	return false
}

// quoted returns etag as the ETag header has it.
func quoted(etag string) string { return `"` + etag + `"` }
