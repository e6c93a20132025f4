package controlapi

import (
	"path/filepath"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/controlapi/revlog"
)

var _ Log = (*revlog.Log)(nil)

// On the log that ships: what was answered is there after a restart, and the
// next revision follows.
func TestRevisionsSurviveARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log.db")
	open := func(t *testing.T) *revlog.Log {
		l, err := revlog.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	var stored string
	t.Run("first run", func(t *testing.T) {
		a := withDemo(t, func(o *Options) { o.Log = open(t) })
		a.must("DELETE", "/v1/routes/demo", "")
		stored = a.must("PUT", "/v1/routes/demo", demoRoute).body
	})
	t.Run("second run", func(t *testing.T) {
		a := newAPI(t, func(o *Options) { o.Log = open(t) })
		if got := a.must("GET", "/v1/routes/demo", "").body; got != stored {
			t.Errorf("%s became %s", stored, got)
		}
		if got := a.must("PUT", "/v1/services/other", "{}"); got.json["revision"] != 5.0 {
			t.Error(got.body)
		}
		head, records, err := a.server.Source(t.Context())
		if err != nil || head.Revision != 5 || records.Digest() != head.Digest {
			t.Errorf("%+v %v", head, err)
		}
	})
}
