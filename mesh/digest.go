package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// Leaves is what the digest of records is made of: their names and SHA-256, sorted by
// name. It never changes; nil is that of no records. A writer or reader of one revision
// after another keeps it, so that a change costs by what it changes.
type Leaves []leaf

type leaf struct {
	name string
	sum  [sha256.Size]byte
}

func leafOf(name string, record []byte) leaf { return leaf{name, sha256.Sum256(record)} }

// Leaves returns those of r.
func (r Records) Leaves() Leaves {
	out := make(Leaves, 0, len(r))
	for _, name := range slices.Sorted(maps.Keys(r)) {
		out = append(out, leafOf(name, r[name]))
	}
	return out
}

// Next returns the leaves after c: what Records.Apply then Leaves would return. A name
// that c both deletes and puts is put.
func (l Leaves) Next(c Change) Leaves {
	changed := make(Leaves, 0, len(c.Puts)+len(c.Deletes))
	for name, record := range c.Puts {
		changed = append(changed, leafOf(name, record))
	}
	for _, name := range c.Deletes {
		if _, put := c.Puts[name]; !put {
			changed = append(changed, leaf{name: name})
		}
	}
	slices.SortFunc(changed, func(a, b leaf) int { return strings.Compare(a.name, b.name) })
	out := make(Leaves, 0, len(l)+len(c.Puts))
	for _, next := range changed {
		at, found := slices.BinarySearchFunc(l, next.name, func(a leaf, name string) int { return cmp.Compare(a.name, name) })
		out = append(out, l[:at]...)
		if _, put := c.Puts[next.name]; put {
			out = append(out, next)
		}
		if l = l[at:]; found {
			l = l[1:]
		}
	}
	return append(out, l...)
}

// Digest returns the hex SHA-256 over every record, sorted by key:
// key NUL sha256(record). A key with a NUL in it could stand for several records, so
// that there is no digest then: it is "", which no head has.
func (l Leaves) Digest() string {
	h := sha256.New()
	var buf []byte
	for i := range l {
		if strings.IndexByte(l[i].name, 0) >= 0 {
			return ""
		}
		buf = append(append(append(buf, l[i].name...), 0), l[i].sum[:]...)
		if len(buf) >= 4<<10 || i == len(l)-1 {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Digest returns that of the leaves of r.
func (r Records) Digest() string { return r.Leaves().Digest() }
