package link

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// decoded is what the decoder of x/net makes of a block.
type oracle struct {
	*hpack.Decoder
	fields []hpack.HeaderField
}

func newOracle() *oracle {
	o := &oracle{}
	o.Decoder = hpack.NewDecoder(tableBytes, func(f hpack.HeaderField) { o.fields = append(o.fields, f) })
	return o
}

// decode returns the fields of a block.
func (o *oracle) decode(t testing.TB, block []byte) []hpack.HeaderField {
	t.Helper()
	o.fields = nil
	if _, err := o.Write(block); err != nil {
		t.Fatalf("decode: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatalf("decode: %v", err)
	}
	return o.fields
}

// view is a buffer that is used again: strings of it change later.
type view struct{ b []byte }

func (v *view) string(s string) string {
	if s == "" {
		return ""
	}
	start := len(v.b)
	if start+len(s) > cap(v.b) {
		v.b, start = make([]byte, 0, 64<<10), 0
	}
	v.b = append(v.b, s...)
	return unsafe.String(&v.b[start], len(s))
}

// scribble overwrites all that was given out.
func (v *view) scribble() {
	for i := range v.b {
		v.b[i] = '#'
	}
	v.b = v.b[:0]
}

// kept returns copies of all strings that the encoder has.
func (e *encoder) kept() []string {
	var all []string
	for i := range e.entries {
		all = append(all, strings.Clone(e.entries[i].name.lower), strings.Clone(e.entries[i].value))
	}
	for spelling, n := range e.names.more {
		all = append(all, strings.Clone(spelling), strings.Clone(n.lower), strings.Clone(n.canonical))
	}
	slices.Sort(all)
	return all
}

// list returns header.List of name, value pairs, as views.
func (v *view) list(fields header.List) header.List {
	var l header.List
	for _, f := range fields {
		l = append(l, header.Field{Name: v.string(f.Name), Value: v.string(f.Value)})
	}
	return l
}

// check encodes a request from views, and compares what an honest decoder gets.
func (o *oracle) check(t testing.TB, e *encoder, h Head) []hpack.HeaderField {
	t.Helper()
	var v view
	views := Head{Method: v.string(h.Method), Scheme: v.string(h.Scheme), Authority: v.string(h.Authority), Path: v.string(h.Path), Fields: v.list(h.Fields)}
	resize := e.resize
	block := e.request(nil, &views)
	if resize && block[0]&0xe0 != resizing {
		t.Fatal("the table has a new size that the peer does not know")
	}
	before := e.kept()
	v.scribble()
	if !slices.Equal(e.kept(), before) {
		t.Fatal("the encoder kept a view")
	}
	got := o.decode(t, block)
	want := []hpack.HeaderField{
		{Name: ":method", Value: h.Method}, {Name: ":scheme", Value: h.Scheme},
		{Name: ":authority", Value: h.Authority}, {Name: ":path", Value: h.Path},
	}
	for _, f := range h.Fields {
		lower := strings.ToLower(f.Name)
		if k := kindOf(lower); k == forbidden || k == host || k == notAName || k == pseudoName || k == te && f.Value != "trailers" {
			continue
		}
		want = append(want, hpack.HeaderField{Name: lower, Value: f.Value})
	}
	if len(got) != len(want) {
		t.Fatalf("got %d fields, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		k := kindOf(w.Name)
		if g.Name != w.Name || g.Value != w.Value {
			t.Fatalf("field %d: got %v, want %v", i, g, w)
		}
		if g.Sensitive != (k == secret || k == cookie) {
			t.Fatalf("field %d: %v is never indexed: %t", i, g, g.Sensitive)
		}
	}
	for i := range e.entries {
		if f := &e.entries[i]; f.name.kind == secret || f.name.kind == cookie {
			t.Fatalf("%s is in the table", f.name.lower)
		}
	}
	if e.size > e.max() || len(e.byPair) > len(e.entries) || len(e.byName) > len(e.entries) {
		t.Fatalf("table of %d bytes, %d entries, %d pairs, %d names", e.size, len(e.entries), len(e.byPair), len(e.byName))
	}
	return got
}

// TestEncoder runs random lists, whose fields repeat, through tables of all sizes.
func TestEncoder(t *testing.T) {
	t.Parallel()
	names := []string{"User-Agent", "x-own", "X-OWN", "Accept", "authorization", "Cookie", "Set-Cookie", "Proxy-Authorization", "X-Request-Id", "Connection", "TE", "host", "Content-Type", "bad name"}
	for i := range 100 {
		names = append(names, fmt.Sprintf("x-%d", i))
	}
	r := rand.New(rand.NewPCG(1, 2))
	var e encoder
	o := newOracle()
	hits := 0
	for range 2500 {
		h := Head{
			Method: []string{"GET", "POST", "PUT"}[r.IntN(3)], Scheme: []string{"http", "https", "x"}[r.IntN(3)],
			Authority: fmt.Sprintf("%d.example", r.IntN(3)), Path: []string{"/", "/a", "/b?x=1", fmt.Sprintf("/%d", r.Int())}[r.IntN(4)],
		}
		for range r.IntN(20) {
			n := names[min(r.IntN(len(names)), r.IntN(len(names)))]
			v := fmt.Sprint(r.IntN(4))
			switch r.IntN(20) {
			case 0:
				v = strings.Repeat("v", r.IntN(9000))
			case 1:
				v = fmt.Sprint(r.Int())
			case 2:
				v = ""
			}
			h.Fields = append(h.Fields, header.Field{Name: n, Value: v})
		}
		o.check(t, &e, h)
		hits += len(e.entries)
		switch r.IntN(200) {
		case 0:
			limit := []uint32{0, 50, 200, 1000, 4096, 1 << 20}[r.IntN(6)]
			o.SetAllowedMaxDynamicTableSize(min(limit, tableBytes))
			e.setLimit(limit)
		case 1:
			e.forget()
		}
	}
	if hits == 0 {
		t.Error("the table was never used")
	}
}

// TestEncoderIndexes has fields that repeat be a byte or two from the third time
// on, and those that do not never enter the table.
func TestEncoderIndexes(t *testing.T) {
	t.Parallel()
	var e encoder
	h := &Head{Method: "GET", Scheme: "http", Authority: "x.example", Path: "/", Fields: header.List{
		{Name: "User-Agent", Value: "test"}, {Name: "X-Own", Value: "1"},
	}}
	_, _ = e.request(nil, h), e.request(nil, h)
	if n := len(e.request(nil, h)); n != 6 {
		t.Errorf("the third time takes %d bytes", n)
	}
	before := len(e.entries)
	for i := range 1000 {
		h.Path = fmt.Sprintf("/%d", i)
		h.Fields[0].Value = h.Path
		e.request(nil, h)
	}
	if n := len(e.entries); n > before+5 {
		t.Errorf("%d entries that came once", n-before)
	}
	h.Path = "/a?secret"
	_, _ = e.request(nil, h), e.request(nil, h)
	if b := e.request(nil, h); !strings.Contains(string(b), "secret") {
		t.Error("a query is in the table")
	}
}

// TestEncoderCollision has two fields share a hash.
func TestEncoderCollision(t *testing.T) {
	t.Parallel()
	var e encoder
	o := newOracle()
	h := Head{Method: "GET", Scheme: "http", Authority: "x.example", Path: "/", Fields: header.List{{Name: "X-Own", Value: "1"}}}
	for range 3 {
		o.check(t, &e, h)
	}
	for i := range e.entries {
		if f := &e.entries[i]; f.name.lower == "x-own" {
			e.byPair[maphash.String(e.seed, "2")+f.name.hash] = e.first + uint32(i)
		}
	}
	block := e.request(nil, &Head{Method: "GET", Scheme: "http", Authority: "x.example", Path: "/", Fields: header.List{{Name: "X-Own", Value: "2"}}})
	if got := o.decode(t, block); got[4].Value != "2" {
		t.Errorf("got %v", got[4])
	}
}

// FuzzHPACK encodes what the input says, and has the decoder of x/net be the judge.
func FuzzHPACK(f *testing.F) {
	f.Add([]byte("x-own\x00value\x00x-own\x00value\x00x-own\x00value"), uint32(4096))
	f.Add([]byte("cookie\x00a\x00Authorization\x00b\x00te\x00trailers"), uint32(64))
	f.Fuzz(func(t *testing.T, data []byte, limit uint32) {
		var e encoder
		o := newOracle()
		parts := strings.Split(string(data), "\x00")
		for round := range 4 {
			h := Head{Method: "GET", Scheme: "http", Authority: "x.example", Path: "/" + parts[0]}
			for i := 0; i+1 < len(parts); i += 2 {
				h.Fields = append(h.Fields, header.Field{Name: parts[i], Value: parts[i+1]})
			}
			o.check(t, &e, h)
			if round == 1 {
				o.SetAllowedMaxDynamicTableSize(min(limit, tableBytes))
				e.setLimit(limit)
			}
		}
		if len(data) > 4<<20 {
			return
		}
		o = newOracle()
		got := o.decode(t, (&encoder{}).response(nil, &Head{Status: 100 + int(limit%900)}))
		if got[0].Value != fmt.Sprint(100+limit%900) {
			t.Fatalf("status %d: got %v", 100+limit%900, got)
		}
	})
}

// Fields that come in turn and are remembered at the same place enter the table.
func TestEncoderRemembersNeighbours(t *testing.T) {
	var e encoder
	_ = e.request(nil, &Head{Method: "GET", Scheme: "https", Authority: "a", Path: "/", Fields: header.List{{Name: "Accept", Value: "first"}}})
	place := func(value string) uint64 {
		return (maphash.String(e.seed, value) + e.names.find("Accept").hash) >> 32 % doorBits
	}
	one, other := "one", ""
	for i := 0; other == ""; i++ {
		if value := fmt.Sprint("other", i); place(value) == place(one) {
			other = value
		}
	}
	length := func(value string) int {
		h := Head{Method: "GET", Scheme: "https", Authority: "a", Path: "/", Fields: header.List{{Name: "Accept", Value: value}}}
		return len(e.request(nil, &h))
	}
	for range 3 {
		length(one)
		length(other)
	}
	empty := len(e.request(nil, &Head{Method: "GET", Scheme: "https", Authority: "a", Path: "/"}))
	for _, value := range []string{one, other} {
		if n := length(value); n != empty+1 {
			t.Errorf("%s takes %d bytes", value, n-empty)
		}
	}
}
