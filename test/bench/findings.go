package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
)

// measuredAlone is the last line of a run without a peer: there is no ratio.
const measuredAlone = "measured=hedgerow"

// finding is a ratio of ours by a peer's at one point.
type finding struct {
	method      string
	connections int
	peer        string
	value       float64
}

func (f finding) text(prefix string) string {
	return fmt.Sprintf("%sratio_cpu_%d_vs_%s=%s", prefix, f.connections, f.peer, decimal(f.value, 2))
}

// findings are all ratios of a bench.
type findings struct {
	all []finding
}

func (f *findings) add(r loop.Request, connections int, peer string, value float64) {
	f.all = append(f.all, finding{r.Method, connections, peer, value})
}

// headline are the points by which the product is judged.
var headline = []finding{
	{method: "GET", connections: 32, peer: "haproxy"},
	{method: "GET", connections: 128, peer: "haproxy"},
	{method: "GET", connections: 32, peer: "nginx"},
}

// last is the line of the headline, as far as it was measured; a run that was
// narrowed down to other points has all that it has instead.
func (f *findings) last() string {
	var words []string
	for _, h := range headline {
		i := slices.IndexFunc(f.all, func(have finding) bool {
			return have.method == h.method && have.connections == h.connections && have.peer == h.peer
		})
		if i >= 0 {
			words = append(words, f.all[i].text(""))
		}
	}
	if len(words) == 0 {
		for _, have := range f.all {
			words = append(words, have.text(strings.ToLower(have.method)+"_"))
		}
	}
	if len(words) == 0 {
		return measuredAlone
	}
	return strings.Join(words, " ")
}

// lines is one line of all ratios of a request's method, or none.
func (f *findings) lines(r loop.Request, prefix string) []string {
	var words []string
	for _, have := range f.all {
		if have.method == r.Method {
			words = append(words, have.text(prefix))
		}
	}
	if len(words) == 0 {
		return nil
	}
	return []string{strings.Join(words, " ")}
}

// decimal writes a number with so many digits after the point.
func decimal(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
