package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// The digest is that of its definition, and after any changes what it would be anew.
func TestLeavesFollowChanges(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	records, leaves := Records{}, Leaves(nil)
	var all Change
	for range 300 {
		c := Change{Puts: Records{}}
		for range rnd.IntN(4) {
			c.Puts[fmt.Sprintf("routes/%d", rnd.IntN(30))] = fmt.Appendf(nil, "record %d", rnd.IntN(5))
		}
		for range rnd.IntN(4) {
			c.Deletes = append(c.Deletes, fmt.Sprintf("routes/%d", rnd.IntN(40)))
		}
		before, kept := leaves.Digest(), slices.Clone(leaves)
		next := leaves.Next(c)
		if !slices.Equal(leaves, kept) || leaves.Digest() != before {
			t.Fatal("the leaves before a change are changed by it")
		}
		leaves = next
		records.Apply(c)
		all.Add(c)
		if together := Leaves(nil).Next(all); !slices.Equal(together, leaves) {
			t.Fatalf("all changes at once lead to %v, want %v", together, leaves)
		}
		h := sha256.New()
		for _, name := range slices.Sorted(maps.Keys(records)) {
			sum := sha256.Sum256(records[name])
			h.Write(append(append([]byte(name), 0), sum[:]...))
		}
		want := hex.EncodeToString(h.Sum(nil))
		if got := leaves.Digest(); got != want || records.Digest() != want {
			t.Fatalf("after %+v the digest is %s and anew %s, want %s", c, got, records.Digest(), want)
		}
	}
}

// Data planes digest what they are given: a private record that somebody slips into the
// registry is one too many.
func TestPublishedRecords(t *testing.T) {
	all := Records{"services/a": []byte("1"), "tokens/ci": []byte("2"), "tokensx/a": []byte("3")}
	public := all.Published()
	if len(public) != 2 || public["tokens/ci"] != nil || all.Digest() == public.Digest() {
		t.Errorf("%v", public)
	}
	if len(all) != 3 {
		t.Error("it took from the records")
	}
	c := Change{Puts: all, Deletes: []string{"tokens/b", "routes/b"}}
	if p := c.Published(); len(p.Puts) != 2 || len(p.Deletes) != 1 || p.Deletes[0] != "routes/b" || c.Deletes[0] != "tokens/b" {
		t.Errorf("%v of %v", p, c)
	}
}
