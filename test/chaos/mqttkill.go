package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// crashWindow is how many deliveries a crash of a bridge may bring again.
const crashWindow = 1000

// hasty, below the binaries, is a bridge that acknowledges before the disk has it; see
// test/chaos/hasty.
const hasty = "hasty"

// playBridgeKill kills a bridge with a broker of its own over and over, while devices of all
// libraries publish.
func playBridgeKill(t *stage.T, r *row, s settings) {
	f := newFields(t, s)
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge"})
	kills, most := f.killed(r, pick(s, 50, 5), pick(s, 100_000, 3000))
	r.note("kills", kills)
	f.settle(r)
	r.atLeast("of_them", f.deposits.total(), pick(s, 100_000, 3000))
	r.limit("most_again_after_a_kill", fmt.Sprint(most), fmt.Sprintf("<=%d", crashWindow), most <= crashWindow)
}

// playHasty is the control: what was acknowledged before it was on the disk is lost.
func playHasty(t *stage.T, r *row, s settings) {
	f := newFields(t, s)
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge", Binaries: filepath.Join(s.binaries, hasty)})
	kills, _ := f.killed(r, pick(s, 10, 5), 0)
	r.note("kills", kills)
	f.until(settleMost, "has delivered everything", func() bool { _, waits, err := f.sum(t.Context()); return err == nil && waits == 0 })
	lost, _ := f.to.missing(f.deposits)
	r.atLeast("lost", lost, 1)
}

// killed kills the bridge so many times, and until so many messages are acknowledged. It
// returns how often, and the most deliveries that came again between two kills.
func (f *fields) killed(r *row, times, least int) (kills, most int) {
	f.t.Helper()
	stop := f.begin(f.bridge.MQTT, 8)
	off, was := 0, 0
	again := func() {
		_, now, _ := f.to.counts()
		most, was = max(most, now-was), now
	}
	for kills = 0; kills < times || f.deposits.total() < least; kills++ {
		before := f.deposits.total()
		f.until(time.Minute, "acknowledges again", func() bool { return f.deposits.total() > before })
		f.t.Pause(500*time.Millisecond + rand.N(1500*time.Millisecond))
		off += max(f.off(), -f.off())
		again()
		if err := f.bridge.Kill(); err != nil {
			f.t.Fatalf("%v", err)
		}
		f.bridge.Again()
	}
	stop()
	again()
	r.zero("account_off_before_kills", off)
	return kills, most
}
