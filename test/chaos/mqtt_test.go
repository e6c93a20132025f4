package main

import (
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/devices"
)

func TestWhatIsMissingIsSeen(t *testing.T) {
	to, d := &receiver{got: map[int][]uint64{}, high: map[int]int{}}, newDeposits()
	for n := range 4 {
		d.add(1, n)
	}
	d.add(1, 3) // twice is once
	d.add(2, 0)
	if d.total() != 5 {
		t.Errorf("%d are acknowledged", d.total())
	}
	to.take(devices.Text(1, 0), 10)
	to.take(devices.Text(1, 3)+" xxx", 11)
	to.take(devices.Text(1, 3), 11) // again
	to.take(devices.Text(1, 3), 12) // sent twice
	to.take(devices.Text(1, 2), 13) // after 3
	to.take(devices.Text(7, 0), 14) // its acknowledgement was lost
	for _, text := range []string{"", "1", "1 2y", "1 -2", "1 99999999999"} {
		to.take(text, 15)
	}
	n, which := to.missing(d)
	if want := []string{"of device 1, of 4: [1]", "of device 2, of 1: [0]"}; n != 2 || !slices.Equal(slices.Sorted(slices.Values(which)), want) {
		t.Errorf("%d are missing: %q", n, which)
	}
	if distinct, again, resent := to.counts(); distinct != 4 || again != 1 || resent != 1 || to.unordered != 1 || to.nonsense != 5 {
		t.Errorf("%d came, %d again, %d were sent twice, %d are out of order, %d are nonsense", distinct, again, resent, to.unordered, to.nonsense)
	}
}
