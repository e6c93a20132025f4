package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what a bench has found.
type report struct {
	tables []table
	notes  []string // how to read the tables, a sentence each
	lines  []string // further figures, as "key=value key=value"
	last   string   // the figures that count, in the same form
	void   string   // why nothing of it counts; empty if it does
}

// table is a table. The first column is words, the others are figures.
type table struct {
	title string
	head  []string
	rows  [][]string
}

// text is all but the last line.
func (r *report) text() string {
	var b strings.Builder
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n%s\n", t.title)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{t.head}, t.rows...) {
			fmt.Fprintln(w, strings.Join(row, "\t")) //nolint:errcheck // a strings.Builder takes everything
		}
		w.Flush() //nolint:errcheck // as above
	}
	b.WriteString("\n")
	for _, line := range slices.Concat(r.notes, r.lines) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// lastLine is the line that programs read.
func (r *report) lastLine() string {
	if r.void != "" {
		return "void: " + r.void + "\n"
	}
	return r.last + "\n"
}

// markdown is all of it.
func (r *report) markdown() string {
	var b strings.Builder
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n%s:\n\n| %s |\n|%s\n", t.title, strings.Join(t.head, " | "), "---|"+strings.Repeat("---:|", len(t.head)-1))
		for _, row := range t.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	b.WriteString("\n")
	for _, note := range r.notes {
		b.WriteString(note + "\n")
	}
	b.WriteString("\n```\n" + strings.Join(append(slices.Clone(r.lines), r.last), "\n") + "\n```\n")
	return b.String()
}
