package registry

import (
	"strings"
	"testing"
)

// A node's id goes into patterns of keys: what is a pattern itself would be others' keys.
func TestRulesAreOfANodeAlone(t *testing.T) {
	k, digest := keys{"{hedgerow:test}:"}, strings.Repeat("ab", 32)
	rules, err := k.userRules("edge7", digest)
	if err != nil || !strings.Contains(strings.Join(rules, " "), "~{hedgerow:test}:inst:edge7/*)") {
		t.Fatalf("%v, %v", rules, err)
	}
	for _, node := range []string{"", "*", "edge*", "edge?", "[a-z]", "edge7/*", "edge7 +@all", "edge\\7", "edge7)", "Edge7", "édge", "a\x00b", "~*", strings.Repeat("a", 64)} {
		if rules, err := k.userRules(node, digest); err == nil {
			t.Errorf("%q: %v", node, rules)
		}
	}
	for _, digest := range []string{"", "ab", strings.Repeat("ab", 31) + " n", strings.Repeat("AB", 32), strings.Repeat("xy", 32), "nopass"} {
		if rules, err := k.userRules("edge7", digest); err == nil {
			t.Errorf("the digest %q: %v", digest, rules)
		}
	}
}
