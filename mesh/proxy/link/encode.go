package link

import (
	"hash/maphash"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// encoder writes header blocks (RFC 7541). It never keeps a string that it is
// given: a field enters the table only when it comes for the second time, and then
// as a copy. All else is a literal, which costs both sides least.
//
// It uses no Huffman code. The zero value is ready. It belongs to one lock.
type encoder struct {
	names   names
	entries []entry // the table, oldest first
	first   uint32  // number of entries[0]; entries are numbered as they come
	size    int
	limit   int  // the table's size; the peer may have lowered it
	set     bool // limit was set
	resize  bool // the next block must begin with a size update

	byPair map[uint64]uint32 // hash of name and value: its entry
	byName map[*name]uint32  // names that HPACK's static table lacks: their newest entry
	seen   *[doorBits]uint32 // what came once, as the low half of its hash
	seed   maphash.Seed

	blocks, evicted uint32 // number of this block; of the last one that evicted
}

// entry is a field of the table.
type entry struct {
	name  *name
	value string
	hash  uint64
}

func (e *entry) size() int { return len(e.name.lower) + len(e.value) + 32 }

const (
	doorBits = 256
	// maxEntry is the size of a value that may enter the table.
	maxEntry = 512
	// evictEvery is how many blocks an eviction buys. Where more different fields
	// repeat than fit, a table that turns over costs more than it saves.
	evictEvery = 16
	// firstDynamic is the index of the newest entry.
	firstDynamic = 62
)

// Representations of a field (RFC 7541 section 6): leading bits, and the bits of
// the first byte that are left for the index.
const (
	indexed, indexedBits   = 0x80, 7
	entering, enteringBits = 0x40, 6
	literal, literalBits   = 0x00, 4
	never, neverBits       = 0x10, 4
	resizing, resizingBits = 0x20, 5
)

// setLimit follows SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setLimit(n uint32) {
	limit := int(min(n, tableBytes))
	if limit == e.max() {
		return
	}
	e.limit, e.set = limit, true
	e.forget()
	e.resize = true
}

func (e *encoder) max() int {
	if !e.set {
		return tableBytes
	}
	return e.limit
}

// forget empties the table and gives its memory back; the peer learns with the
// next block.
func (e *encoder) forget() {
	if len(e.entries) > 0 {
		e.resize = true
	}
	e.entries, e.size = nil, 0
	e.byPair, e.byName, e.seen = nil, nil, nil
	e.names = names{}
}

// begin starts a header block.
func (e *encoder) begin(b []byte) []byte {
	e.blocks++
	if e.resize {
		// By way of 0, so that both tables are empty whatever they held.
		e.resize = false
		b = appendInt(b, resizing, resizingBits, 0)
		if n := e.max(); n > 0 {
			b = appendInt(b, resizing, resizingBits, uint64(n))
		}
	}
	return b
}

// request appends the block of a request.
func (e *encoder) request(b []byte, h *Head) []byte {
	b = e.begin(b)
	switch h.Method {
	case "GET":
		b = append(b, indexed|2)
	case "POST":
		b = append(b, indexed|3)
	default:
		b = appendString(append(b, 2), h.Method)
	}
	switch h.Scheme {
	case "http":
		b = append(b, indexed|6)
	case "https":
		b = append(b, indexed|7)
	default:
		b = appendString(append(b, 6), h.Scheme)
	}
	b = e.field(b, &authorityName, h.Authority)
	switch {
	case h.Path == "/":
		b = append(b, indexed|4)
	case strings.IndexByte(h.Path, '?') >= 0: // queries repeat seldom, and hold secrets
		b = appendString(append(b, 4), h.Path)
	default:
		b = e.field(b, &pathName, h.Path)
	}
	return e.fields(b, h.Fields)
}

// Pseudo names that may enter the table. They are read-only.
var (
	authorityName = name{lower: ":authority", index: 1, hash: 1}
	pathName      = name{lower: ":path", index: 4, hash: 2}
	statusName    = name{lower: ":status", index: 8, hash: 3}
)

// response appends the block of a response.
func (e *encoder) response(b []byte, h *Head) []byte {
	b = e.begin(b)
	switch h.Status {
	case 200:
		b = append(b, indexed|8)
	case 204:
		b = append(b, indexed|9)
	case 206:
		b = append(b, indexed|10)
	case 304:
		b = append(b, indexed|11)
	case 400:
		b = append(b, indexed|12)
	case 404:
		b = append(b, indexed|13)
	case 500:
		b = append(b, indexed|14)
	default:
		digits := [3]byte{byte('0' + h.Status/100%10), byte('0' + h.Status/10%10), byte('0' + h.Status%10)}
		b = e.field(b, &statusName, string(digits[:]))
	}
	return e.fields(b, h.Fields)
}

// trailers appends the block of a trailer section.
func (e *encoder) trailers(b []byte, list header.List) []byte {
	return e.fields(e.begin(b), list)
}

func (e *encoder) fields(b []byte, list header.List) []byte {
	for i := range list {
		f := &list[i]
		n := e.names.find(f.Name)
		switch n.kind {
		case forbidden, host, notAName, pseudoName:
			continue
		case te:
			if f.Value != "trailers" {
				continue
			}
		}
		b = e.field(b, n, f.Value)
	}
	return b
}

// field appends one field.
func (e *encoder) field(b []byte, n *name, value string) []byte {
	if n.kind == secret || n.kind == cookie {
		return e.literal(b, never, neverBits, n, value)
	}
	size := len(n.lower) + len(value) + 32
	if len(value) > maxEntry || size > e.max() {
		return e.literal(b, literal, literalBits, n, value)
	}
	if e.seen == nil {
		e.seed = maphash.MakeSeed()
		e.seen = new([doorBits]uint32)
		e.byPair, e.byName = map[uint64]uint32{}, map[*name]uint32{}
	}
	hash := maphash.String(e.seed, value) + n.hash
	if at, ok := e.byPair[hash]; ok {
		if f := &e.entries[at-e.first]; f.value == value && f.name.lower == n.lower {
			return appendInt(b, indexed, indexedBits, e.index(at))
		}
		return e.literal(b, literal, literalBits, n, value)
	}
	again := e.again(hash)
	if !again && n.index == 0 {
		// A name that is in no table is worth an entry even if its value changes.
		if _, ok := e.byName[n]; !ok {
			again = e.again(n.hash)
		}
	}
	if !again || !e.room(size) {
		return e.literal(b, literal, literalBits, n, value)
	}
	b = e.literal(b, entering, enteringBits, n, value)
	e.add(entry{n, strings.Clone(value), hash}, size)
	return b
}

// again reports whether hash came before, and remembers it.
func (e *encoder) again(hash uint64) bool {
	// Two places for each, or two fields that share one would keep each other out.
	at, half := hash>>32%doorBits&^1, uint32(hash)
	if e.seen[at] == half || e.seen[at+1] == half {
		return true
	}
	e.seen[at], e.seen[at+1] = half, e.seen[at]
	return false
}

// room reports whether an entry of that size may enter the table.
func (e *encoder) room(size int) bool {
	return e.size+size <= e.max() || e.blocks-e.evicted >= evictEvery
}

// add puts f into the table; the oldest ones make room (RFC 7541 section 4.4).
func (e *encoder) add(f entry, size int) {
	for e.size+size > e.max() {
		e.evicted = e.blocks
		old := &e.entries[0]
		e.size -= old.size()
		if e.byPair[old.hash] == e.first {
			delete(e.byPair, old.hash)
		}
		if at, ok := e.byName[old.name]; ok && at == e.first {
			delete(e.byName, old.name)
		}
		*old = entry{}
		e.entries = e.entries[1:]
		e.first++
	}
	at := e.first + uint32(len(e.entries))
	e.entries = append(e.entries, f)
	e.size += size
	e.byPair[f.hash] = at
	if f.name.index == 0 {
		e.byName[f.name] = at
	}
}

// index returns the index that stands for the entry of that number.
func (e *encoder) index(at uint32) uint64 {
	newest := e.first + uint32(len(e.entries)) - 1
	return firstDynamic + uint64(newest-at)
}

// literal appends a field in one of the literal representations.
func (e *encoder) literal(b []byte, representation byte, bits int, n *name, value string) []byte {
	if n.index != 0 {
		b = appendInt(b, representation, bits, uint64(n.index))
	} else if at, ok := e.byName[n]; ok {
		b = appendInt(b, representation, bits, e.index(at))
	} else {
		b = appendString(append(b, representation), n.lower)
	}
	return appendString(b, value)
}

// appendInt appends n after the leading bits of its first byte (RFC 7541 section
// 5.1).
func appendInt(b []byte, leading byte, bits int, n uint64) []byte {
	most := uint64(1)<<bits - 1
	if n < most {
		return append(b, leading|byte(n))
	}
	b = append(b, leading|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// appendString appends s as it is (RFC 7541 section 5.2).
func appendString(b []byte, s string) []byte {
	return append(appendInt(b, 0, 7, uint64(len(s))), s...)
}
