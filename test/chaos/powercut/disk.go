package powercut

import "math/rand/v2"

// sector is what a disk writes whole or not at all.
const sector = 512

// disk is what a power cut would leave of one file.
type disk struct {
	file    []byte
	named   bool    // its directory entry is on the disk
	pending []event // handed over since the last sync
	chance  *rand.Rand
}

// take has e happen.
func (d *disk) take(e event) {
	switch e.kind {
	case written, resized:
		d.pending = append(d.pending, e)
	case synced:
		for _, p := range d.pending {
			d.file = p.whole(d.file)
		}
		d.pending = nil
	case unsynced:
		// The kernel takes what it could not write for written: it does not try again, and
		// reads it from memory until it needs that.
		d.file, d.pending = d.some(d.chance.Float64()), nil
	case entered:
		d.named = true
	case remembered:
	}
}

// cut returns the file as the power fails now; nil is no file.
func (d *disk) cut() []byte {
	if !d.named && d.chance.IntN(2) == 0 {
		return nil
	}
	switch d.chance.IntN(4) {
	case 0: // nothing but what was synced
		return append([]byte{}, d.file...)
	case 1: // in the order in which it was handed over, the last torn
		return d.torn()
	default: // in whatever order
		return d.some(d.chance.Float64())
	}
}

// some returns the file with each sector of what is pending written with probability p.
func (d *disk) some(p float64) []byte {
	file := append([]byte{}, d.file...)
	for _, e := range d.pending {
		if e.kind == resized {
			if d.chance.Float64() < p {
				file = e.whole(file)
			}
			continue
		}
		for from := 0; from < len(e.data); from += sector {
			if d.chance.Float64() < p {
				file = e.part(file, from, min(from+sector, len(e.data)))
			}
		}
	}
	return file
}

func (d *disk) torn() []byte {
	file := append([]byte{}, d.file...)
	if len(d.pending) == 0 {
		return file
	}
	n := d.chance.IntN(len(d.pending) + 1)
	for _, e := range d.pending[:n] {
		file = e.whole(file)
	}
	if n < len(d.pending) && d.pending[n].kind == written {
		last := d.pending[n]
		file = last.part(file, 0, d.chance.IntN(len(last.data)/sector+1)*sector)
	}
	return file
}

// whole returns file after e.
func (e event) whole(file []byte) []byte {
	if e.kind == written {
		return e.part(file, 0, len(e.data))
	}
	if int(e.at) <= len(file) {
		return file[:e.at]
	}
	return append(file, make([]byte, int(e.at)-len(file))...)
}

// part returns file with the bytes of a write from one place in it to another.
func (e event) part(file []byte, from, to int) []byte {
	if end := int(e.at) + to; end > len(file) {
		file = append(file, make([]byte, end-len(file))...)
	}
	copy(file[int(e.at)+from:], e.data[from:to])
	return file
}
