package powercut

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if code, writer := Child(); writer {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// images is how many are tried here; `make chaos-mqtt` tries many more.
const images = 100

// try makes images of a writer on a disk with a fault.
func try(t *testing.T, fault Fault, n int) (r Report, syncs, failed int) {
	t.Helper()
	trace, err := Record(t.Context(), t.TempDir(), n, fault)
	if err != nil {
		t.Fatal(err)
	}
	r, err = trace.Images(t.Context(), t.TempDir(), images, 1)
	if err != nil {
		t.Fatal(err)
	}
	syncs, failed = trace.Count()
	t.Logf("%d syncs, %d failed: %+v", syncs, failed, r)
	return r, syncs, failed
}

func TestWhatWasAcknowledgedOutlivesAPowerCut(t *testing.T) {
	r, syncs, _ := try(t, None, 360)
	if r.Lost+r.Garbage+r.Refused+r.Aside > 0 || r.Returned > maxReturned {
		t.Errorf("%+v", r)
	}
	if r.Images != images || r.Promised < images*20 || syncs < 50 {
		t.Errorf("void: %+v of %d syncs", r, syncs)
	}
}

func TestWhatWasAcknowledgedOutlivesAFailingDiskAndAPowerCut(t *testing.T) {
	r, _, failed := try(t, Failing, 120) // each failure takes a second
	if r.Lost+r.Garbage+r.Refused+r.Aside > 0 || r.Returned > maxReturned {
		t.Errorf("%+v", r)
	}
	if r.Images != images || r.Promised < images*10 || failed < 2 {
		t.Errorf("void: %+v, %d failed", r, failed)
	}
}

// What a failed sync may have left in memory alone is written once more before anything
// else: too few images show what comes of it otherwise.
func TestAFailedSyncIsMadeUpFor(t *testing.T) {
	trace, err := Record(t.Context(), t.TempDir(), 120, Failing)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	var next []event // what was done to the file after a failed sync
	for _, e := range append(trace.events, event{kind: unsynced}) {
		switch e.kind {
		case unsynced:
			if len(next) > 0 && (next[0].kind != written || next[0].at != 0 || len(next[0].data) < 2*os.Getpagesize() || len(next) > 1 && next[1].kind != synced) {
				t.Errorf("after failure %d: a %d of %d bytes at %d", failed, next[0].kind, len(next[0].data), next[0].at)
			}
			failed, next = failed+1, nil
		case written, resized, synced, entered:
			next = append(next, e)
		case remembered:
		}
	}
	if failed < 3 {
		t.Errorf("void: %d syncs failed", failed-1)
	}
}

// Where nothing is synced there is loss, and it is seen.
func TestWithoutSyncsThereIsLoss(t *testing.T) {
	r, syncs, _ := try(t, Skipped, 360)
	if syncs > 0 || r.Lost < images/4 {
		t.Errorf("%d syncs: %+v", syncs, r)
	}
}
