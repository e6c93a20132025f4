package broker

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// validName reports whether a client identifier or username is harmless where
// such names end up: in topics, in file names and in logs.
func validName(s string) bool {
	if s == "" || len(s) > maxClientID || s[0] == '$' || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return strings.ContainsRune("/\\+#", c) || unicode.IsControl(c)
	}) && s != "." && s != ".."
}

// validTopic reports whether clients may publish to the topic: a name without
// wildcards, within the limits, not the broker's own.
func validTopic(topic string) bool {
	return topic != "" && topic[0] != '$' && len(topic) <= maxTopic && strings.Count(topic, "/") < maxLevels &&
		utf8.ValidString(topic) && strings.IndexByte(topic, 0) < 0 && !wildcard(topic)
}

// validFilter reports whether clients may subscribe to the filter, or receive
// from the topic. Clients are anonymous, so nobody has a tree of his own; what
// is refused is to read everything: a wildcard as first level, shared
// subscriptions, and the broker's own topics.
func validFilter(filter string) bool {
	if filter == "" || filter[0] == '$' || len(filter) > maxTopic || strings.Count(filter, "/") >= maxLevels ||
		!utf8.ValidString(filter) || strings.IndexByte(filter, 0) >= 0 {
		return false
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		switch {
		case l == "+" && i > 0, l == "#" && i > 0 && i == len(levels)-1:
		case wildcard(l):
			return false
		}
	}
	return true
}

func wildcard(s string) bool { return strings.ContainsAny(s, "+#") }
