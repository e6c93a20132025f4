package main

import (
	"fmt"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/powercut"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// cutMessages is what the writer keeps whose power is cut.
const cutMessages = 600

// playImages cuts the power of a disk that keeps what it said that it has.
func playImages(t *stage.T, r *row, s settings) {
	report, syncs, _ := cut(t, r, pick(s, 2000, 100), powercut.None)
	r.atLeast("syncs", syncs, 100)
	sound(r, report)
}

// playFailedSyncs cuts the power of one whose syncs fail now and then.
func playFailedSyncs(t *stage.T, r *row, s settings) {
	report, _, failed := cut(t, r, pick(s, 2000, 100), powercut.Failing)
	r.atLeast("failed_syncs", failed, 2)
	sound(r, report)
}

// playUnsynced is the control: a disk that is not asked to keep anything.
func playUnsynced(t *stage.T, r *row, s settings) {
	report, syncs, _ := cut(t, r, pick(s, 200, 50), powercut.Skipped)
	r.zero("syncs", syncs)
	r.atLeast("images_with_loss", report.Lost, report.Images/4)
}

func cut(t *stage.T, r *row, images int, fault powercut.Fault) (report powercut.Report, syncs, failed int) {
	t.Helper()
	trace, err := powercut.Record(t.Context(), t.TempDir(), cutMessages, fault)
	if err != nil {
		t.Fatalf("record: %v", err)
	}
	report, err = trace.Images(t.Context(), t.TempDir(), images, 1)
	if err != nil {
		t.Fatalf("images: %v", err)
	}
	r.atLeast("images", report.Images, images)
	r.note("acknowledged_in_all", report.Promised)
	syncs, failed = trace.Count()
	return report, syncs, failed
}

func sound(r *row, report powercut.Report) {
	r.zero("images_with_loss", report.Lost)
	r.zero("with_garbage", report.Garbage)
	r.zero("refused_to_start", report.Refused)
	r.zero("taken_for_damaged", report.Aside)
	r.limit("delivered_again", fmt.Sprint(report.Returned), "<=1000", report.Returned <= 1000)
	r.blame("an image", report.Wrong...)
}
