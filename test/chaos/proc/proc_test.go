package proc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

func TestOfThisProcess(t *testing.T) {
	rss, err := RSS(os.Getpid())
	if err != nil || rss < 1<<20 {
		t.Errorf("RSS %d, %v", rss, err)
	}
	files, err := Files(os.Getpid())
	if err != nil || files < 3 {
		t.Errorf("%d files, %v", files, err)
	}
	stop := PeakRSS(os.Getpid())
	peaks, err := stop()
	if err != nil || len(peaks) != 1 || peaks[0] < 1<<20 {
		t.Errorf("peaks %v, %v", peaks, err)
	}
}

func TestOfNoProcess(t *testing.T) {
	const none = 1 << 30 // over the kernel's highest id
	if _, err := RSS(none); err == nil {
		t.Error("RSS found it")
	}
	if _, err := PeakRSS(none)(); err == nil {
		t.Error("PeakRSS found it")
	}
}

func TestAdmin(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `# HELP a_total A.
# TYPE a_total counter
a_total{face="inbound",code="x"} 2
a_total{face="outbound",code="x"} 3
a_total_more 100
b 1e+06
`)
	})
	mux.HandleFunc("/certs", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"certs":[{"identity":"spiffe://a/b","serial":"ff"}]}`)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	a := Admin{Address: s.Listener.Addr().String()}

	for _, tt := range []struct {
		name   string
		metric string
		labels []string
		want   float64
	}{
		{"all series", "a_total", nil, 5},
		{"by a label", "a_total", []string{`face="outbound"`}, 3},
		{"by two labels", "a_total", []string{`face="inbound"`, `code="x"`}, 2},
		{"without labels", "b", nil, 1e6},
		{"a metric that is not there", "c", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := a.Sum(t.Context(), tt.metric, tt.labels...); err != nil || got != tt.want {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	if serials, err := a.Serials(t.Context()); err != nil || serials["spiffe://a/b"] != "ff" {
		t.Errorf("serials %v, %v", serials, err)
	}
	if err := a.Ready(t.Context()); err == nil {
		t.Error("a 404 is taken for ready")
	}
}
