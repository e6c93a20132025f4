package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// maxReturned is how many deliveries a crash may bring again.
const maxReturned = 1000

// promised is what the writer was told.
type promised struct {
	opened bool
	asked  map[int]bool   // messages
	kept   map[uint64]int // messages, by number in the spool
	// may and must say of numbers in the spool: that they may be gone, or dead letters; and
	// that they must be.
	mayGo, mayDie, mustDie, mayVanish, mustVanish map[uint64]bool
}

func newPromised() *promised {
	set := func() map[uint64]bool { return map[uint64]bool{} }
	return &promised{asked: map[int]bool{}, kept: map[uint64]int{}, mayGo: set(), mayDie: set(), mustDie: set(), mayVanish: set(), mustVanish: set()}
}

// hear takes what the writer says.
func (p *promised) hear(mark string) error {
	words := strings.Fields(mark)
	var numbers []int
	for _, w := range words[1:] {
		n, err := strconv.Atoi(w)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	switch words[0] {
	case opened:
		p.opened = true
		return nil
	case finished:
		return nil
	case asks:
		p.asked[numbers[0]] = true
		return nil
	case kept:
		p.kept[uint64(numbers[1])] = numbers[0]
		return nil
	}
	sets := map[string]map[uint64]bool{removes: p.mayGo, buries: p.mayDie, buried: p.mustDie, forgets: p.mayVanish, forgot: p.mustVanish}
	set := sets[words[0]]
	if set == nil {
		return fmt.Errorf("nobody thought of %q", mark)
	}
	set[uint64(numbers[0])] = true
	return nil
}

// verdict is what is wrong with how a spool opens on an image.
type verdict struct {
	refused  error // it does not open, or takes nothing
	aside    bool  // it was taken for damaged, though a disk was only cut off
	lost     []string
	garbage  []string
	returned int // deliveries that came again
}

func (v verdict) bad() bool {
	return v.refused != nil || v.aside || len(v.lost) > 0 || len(v.garbage) > 0 || v.returned > maxReturned
}

// String says what is wrong.
func (v verdict) String() string {
	few := func(all []string) []string { return all[:min(3, len(all))] }
	return fmt.Sprintf("refused %v, put aside %t, returned %d, lost %d %q, garbage %d %q", v.refused, v.aside, v.returned, len(v.lost), few(v.lost), len(v.garbage), few(v.garbage))
}

// found is what a spool holds.
type found struct {
	live, dead map[uint64]int // messages, by number in the spool
}

// judge opens a spool in dir and holds what it has against what was promised; then it has
// the spool keep one more, and looks again.
func judge(dir string, p *promised) verdict {
	var v verdict
	first := v.look(dir, p, true)
	if v.refused != nil {
		return v
	}
	again := v.look(dir, p, false)
	if !maps.Equal(first.dead, again.dead) {
		v.lost = append(v.lost, "dead letters, by opening it once more")
	}
	for seq, id := range first.live {
		if again.live[seq] != id {
			v.lost = append(v.lost, fmt.Sprintf("message %d, by opening it once more", id))
		}
	}
	return v
}

// look opens the spool, compares, and if that is asked for has it keep a message.
func (v *verdict) look(dir string, p *promised, more bool) found {
	f := found{map[uint64]int{}, map[uint64]int{}}
	var listed []spool.Kept
	s, err := spool.Open(spool.Options{Dir: dir, Log: zerolog.Nop()}, func(k spool.Kept) {
		if !k.Appended {
			listed = append(listed, k)
		}
	})
	if err != nil {
		v.refused = err
		return f
	}
	defer func() { v.refused = errors.Join(v.refused, s.Close()) }()
	for _, k := range listed {
		r, err := s.Load(k.Seq)
		f.live[k.Seq] = v.same(&r, err, p, k.Seq)
	}
	v.page(s, p, f)
	v.compare(s, p, f, listed)
	aside, err := filepath.Glob(filepath.Join(dir, "*.damaged-*"))
	v.aside = v.aside || err != nil || p.opened && len(aside) > 0
	if more {
		extra := message(extraID)
		seq, err := s.Append(context.Background(), extra)
		if err != nil {
			v.refused = fmt.Errorf("it takes nothing: %w", err)
		}
		f.live[seq] = extraID
	}
	return f
}

// extraID is the message that is kept after a cut.
const extraID = 1 << 40

// page reads the dead letters.
func (v *verdict) page(s *spool.Spool, p *promised, f found) {
	for after := uint64(0); ; {
		dead, err := s.Dead(after, 0)
		if err != nil {
			v.refused = err
			return
		}
		if len(dead) == 0 {
			return
		}
		for _, d := range dead {
			f.dead[d.ID], after = v.same(&d.Record, nil, p, d.ID), d.ID
		}
	}
}

// same returns which message r is, after it has looked whether it is that.
func (v *verdict) same(r *spool.Record, err error, p *promised, seq uint64) int {
	id, parseErr := strconv.Atoi(r.ID)
	if err = errors.Join(err, parseErr); err != nil {
		v.garbage = append(v.garbage, fmt.Sprintf("number %d: %v", seq, err))
		return -1
	}
	want := message(id)
	known, named := p.kept[seq]
	if id != extraID && !p.asked[id] || named && known != id || r.Topic != want.Topic || r.Rule != want.Rule || r.Client != want.Client || !r.Received.Equal(want.Received) || !bytes.Equal(r.Payload, want.Payload) {
		v.garbage = append(v.garbage, fmt.Sprintf("number %d is not message %d as it was", seq, id))
	}
	return id
}

// compare holds f against the promises.
func (v *verdict) compare(s *spool.Spool, p *promised, f found, listed []spool.Kept) {
	for seq, id := range p.kept {
		_, live := f.live[seq]
		_, dead := f.dead[seq]
		switch {
		case live && dead:
			v.garbage = append(v.garbage, fmt.Sprintf("message %d is both", id))
		case p.mustVanish[seq] && (live || dead), p.mustDie[seq] && live, dead && !p.mayDie[seq]:
			v.garbage = append(v.garbage, fmt.Sprintf("message %d came back, live %t, dead %t", id, live, dead))
		case p.mayGo[seq] && live:
			v.returned++
		case !live && !dead && !p.mayGo[seq] && !p.mayVanish[seq]:
			v.lost = append(v.lost, fmt.Sprintf("message %d, number %d", id, seq))
		}
	}
	last, at := map[string]int{}, uint64(0)
	for _, k := range listed {
		id := f.live[k.Seq]
		if k.Seq <= at || id <= last[k.Topic] && last[k.Topic] != 0 {
			v.garbage = append(v.garbage, fmt.Sprintf("message %d of %s comes after %d", id, k.Topic, last[k.Topic]))
		}
		last[k.Topic], at = id, k.Seq
	}
	if st := s.Stats(); st.Messages != len(f.live) || st.Dead != len(f.dead) || st.Damaged != 0 {
		v.garbage = append(v.garbage, fmt.Sprintf("it counts %+v, and has %d and %d", st, len(f.live), len(f.dead)))
	}
}

// place writes an image into a new directory below under.
func place(under string, image []byte) (string, error) {
	dir, err := os.MkdirTemp(under, "image")
	if err != nil || image == nil {
		return dir, err
	}
	return dir, os.WriteFile(filepath.Join(dir, fileName), image, 0o600)
}
