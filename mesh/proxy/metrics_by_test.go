package proxy

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// However many callers there are, so many series are kept; the others share one.
func TestPeersAreBounded(t *testing.T) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "n"}, []string{"service", "peer", "code_class"})
	s := newSeriesBy(vec, "orders", mostPeers)
	for i := range 3 * mostPeers {
		s.of(fmt.Sprintf("/svc/s%d", i)).count(200)
	}
	if got, want := testutil.CollectAndCount(vec), len(byClass{})*(mostPeers+1); got != want {
		t.Errorf("%d series, want %d", got, want)
	}
	if got := testutil.ToFloat64(vec.WithLabelValues("orders", "other", "2xx")); got != 2*mostPeers {
		t.Errorf("%v are counted as others, want %d", got, 2*mostPeers)
	}
}
