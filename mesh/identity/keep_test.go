package identity

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// keeping returns a source of orders that keeps what it gets in dir.
func keeping(t *testing.T, dir string) *Source {
	t.Helper()
	m, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := NewSource(mustID(t, ordersID), m)
	if err := s.KeepIn(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

// again is what a later run finds in dir.
func again(t *testing.T, dir, id string) (*Source, error) {
	t.Helper()
	m, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := NewSource(mustID(t, id), m)
	return s, s.KeepIn(dir)
}

func issue(t *testing.T, s *Source, root *pair, change func(*x509.Certificate)) {
	t.Helper()
	template := leafTemplate(t, s.ID().String())
	if change != nil {
		change(template)
	}
	leaf := root.sign(t, template)
	if err := s.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}); err != nil {
		t.Fatal(err)
	}
}

// A later run has the identity of the one before, and speaks with others by it.
func TestASourceIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	root := newRoot(t, "root")
	first := keeping(t, dir)
	if first.Current() != nil {
		t.Fatal("a new source has a certificate")
	}
	issue(t, first, root, nil)
	issue(t, first, root, nil)
	name := filepath.Join(dir, "svc_orders_n_edge7.json")
	for path, want := range map[string]fs.FileMode{name: 0o600, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	later, err := again(t, dir, ordersID)
	if err != nil {
		t.Fatal(err)
	}
	was, is := first.Current(), later.Current()
	if is == nil || !is.Certificate.Leaf.Equal(was.Certificate.Leaf) || !is.Received.Equal(was.Received) || len(is.Bundle.Roots()) != 1 {
		t.Fatalf("it has %+v", is)
	}
	caller := sourceOf(t, root, telemID)
	if server, client := handshake(t, serverFor(later), ClientConfig(caller, later.ID(), "orders.edge7.default")); server != nil || client != nil {
		t.Errorf("a handshake: %v, %v", server, client)
	}
	r := NewRotator(later, nil, zerolog.Nop())
	if _, until := r.of.Life(); until.IsZero() || r.Ready() != nil {
		t.Error("a Rotator does not begin with it")
	}
}

func TestWhatIsKeptAndRefused(t *testing.T) {
	root := newRoot(t, "root")
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, file string)
		id    string
		want  string
	}{
		"cut short": {func(t *testing.T, f string) { edit(t, f, func(b []byte) []byte { return b[:len(b)/2] }) }, ordersID, "JSON"},
		"empty":     {func(t *testing.T, f string) { edit(t, f, func([]byte) []byte { return nil }) }, ordersID, "JSON"},
		"too long":  {func(t *testing.T, f string) { edit(t, f, func([]byte) []byte { return make([]byte, maxKeptBytes+1) }) }, ordersID, "over"},
		"without a key": {func(t *testing.T, f string) {
			edit(t, f, func(b []byte) []byte { return bytes.Replace(b, []byte("PRIVATE"), []byte("PUBLIC"), 2) })
		}, ordersID, "key"},
		"readable by others": {func(t *testing.T, f string) { _ = os.Chmod(f, 0o644) }, ordersID, "0644"},
		"for somebody else": {func(t *testing.T, f string) {
			if err := os.Rename(f, filepath.Join(filepath.Dir(f), "svc_telemetry_n_edge8.json")); err != nil {
				t.Fatal(err)
			}
		}, telemID, "it is for"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			issue(t, keeping(t, dir), root, nil)
			tt.spoil(t, filepath.Join(dir, "svc_orders_n_edge7.json"))
			s, err := again(t, dir, tt.id)
			if mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), tt.want) || s.Current() != nil {
				t.Fatalf("%v, want %q; it has %v", err, tt.want, s.Current())
			}
			issue(t, s, root, nil) // and what comes is kept
			if s, err := again(t, dir, tt.id); err != nil || s.Current() == nil {
				t.Errorf("after the next one: %v", err)
			}
		})
	}
	t.Run("expired meanwhile", func(t *testing.T) {
		dir := t.TempDir()
		issue(t, keeping(t, dir), root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(1200 * time.Millisecond) })
		<-time.After(1500 * time.Millisecond)
		s, err := again(t, dir, ordersID)
		if err != nil || s.Current() == nil {
			t.Fatalf("%v; it has %v", err, s.Current())
		}
		if _, err := s.Certificate(); err == nil || !strings.Contains(err.Error(), "it expired at") {
			t.Errorf("it presents it: %v", err)
		}
	})
}

func edit(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A disk that takes nothing is told, and takes nothing away.
func TestWhatCannotBeKeptIsInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	root := newRoot(t, "root")
	s := keeping(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	issue(t, s, root, nil)
	if s.Current() == nil || s.Unkept() == nil || testutil.ToFloat64(s.metrics.unkept.WithLabelValues(ordersID)) != 1 {
		t.Errorf("current %v, unkept %v", s.Current(), s.Unkept())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	issue(t, s, root, nil)
	if err := s.Unkept(); err != nil {
		t.Errorf("and when there is room: %v", err)
	}
}
