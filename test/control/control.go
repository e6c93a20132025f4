package main

import (
	"fmt"
	"slices"
	"strings"
)

// table is controls of one package.
type table struct {
	name     string
	dir      string // of the package, from the module's root
	controls []control
}

// control is a check that is taken out, and the tests that must miss it.
type control struct {
	promise string // what the check keeps
	file    string // from the table's folder
	tests   string // which must fail, as for go test -run
	edits   []edit
	hangs   bool // a test that does not end counts as one that fails
}

// edit is a text that occurs once in a file, and what stands there instead.
type edit struct{ old, instead string }

// without is the control of what tests keep by the text old in file.
func without(promise, file, old, instead, tests string) control {
	return control{promise: promise, file: file, tests: tests, edits: []edit{{old, instead}}}
}

// and takes out a second check, which does the same as the first: one alone
// would not be missed.
func (c control) and(old, instead string) control {
	c.edits = append(slices.Clone(c.edits), edit{old, instead})
	return c
}

// orHangs says that a test which does not end has failed: it waits for what the
// check would have brought about.
func (c control) orHangs() control {
	c.hangs = true
	return c
}

// apply returns source without the check. It is an error if a text to replace
// does not occur exactly once.
func (c control) apply(source string) (string, error) {
	for _, e := range c.edits {
		if n := strings.Count(source, e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, not once", c.file, e.old, n)
		}
		if e.old == e.instead {
			return "", fmt.Errorf("%s: %q is not changed", c.file, e.old)
		}
		source = strings.Replace(source, e.old, e.instead, 1)
	}
	return source, nil
}
