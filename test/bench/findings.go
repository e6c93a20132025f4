package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
)

// measuredAlone is the last line of a run without a peer: there is no ratio.
const measuredAlone = "measured=hedgerow"

// finding is a ratio of ours by a peer's at one point.
type finding struct {
	method      string
	key         string // of what
	connections int
	peer        string
	value       float64
}

func (f finding) String() string {
	return fmt.Sprintf("ratio_%s_%d_vs_%s=%s", f.key, f.connections, f.peer, decimal(f.value, 2))
}

// findings are all ratios of a bench.
type findings struct {
	all []finding
}

func (f *findings) add(more finding) { f.all = append(f.all, more) }

// headline are the points by which the product is judged.
var headline = []finding{
	{method: "GET", key: "cpu", connections: 32, peer: "haproxy"},
	{method: "GET", key: "cpu", connections: 128, peer: "haproxy"},
	{method: "GET", key: "cpu", connections: 32, peer: "nginx"},
}

// last is the line of the headline, as far as it was measured; a run that was
// narrowed down to other points has all that it has instead.
func (f *findings) last() string {
	var words []string
	for _, want := range headline {
		for _, have := range f.all {
			want.value = have.value
			if have == want {
				words = append(words, have.String())
			}
		}
	}
	if len(words) == 0 {
		for _, have := range f.all {
			words = append(words, strings.ToLower(have.method)+"_"+have.String())
		}
	}
	if len(words) == 0 {
		return measuredAlone
	}
	return strings.Join(words, " ")
}

// lines is one line of all ratios of a request's method, or none.
func (f *findings) lines(r loop.Request) []string {
	var words []string
	for _, have := range f.all {
		if have.method == r.Method {
			words = append(words, strings.ToLower(have.method)+"_"+have.String())
		}
	}
	if len(words) == 0 {
		return nil
	}
	return []string{strings.Join(words, " ")}
}

// decimal writes a number with so many digits after the point.
func decimal(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
