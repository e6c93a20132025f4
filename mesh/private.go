package mesh

import "slices"

// Private reports whether objects of the collection are for control planes alone: they
// are in the revision log and not published, and the digest of a revision, which data
// planes check, is over the others.
func (c Collection) Private() bool { return c == Tokens }

func private(name string) bool {
	of, _, _ := cutName(name)
	return of.Private()
}

// Published returns the records of r that data planes get: r itself, if that is all.
func (r Records) Published() Records {
	hidden := 0
	for name := range r {
		if private(name) {
			hidden++
		}
	}
	if hidden == 0 {
		return r
	}
	out := make(Records, len(r)-hidden)
	for name, record := range r {
		if !private(name) {
			out[name] = record
		}
	}
	return out
}

// Published returns what data planes get of c.
func (c Change) Published() Change {
	c.Puts = c.Puts.Published()
	if slices.ContainsFunc(c.Deletes, private) {
		c.Deletes = slices.DeleteFunc(slices.Clone(c.Deletes), private)
	}
	return c
}
