package otlp

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

func start(t *testing.T, h http.HandlerFunc) (*Exporter, func()) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	e, err := New(Config{Endpoint: srv.URL + "/", Name: "sidecar/n1", Node: "n1"}, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = e.Run(ctx)
	}()
	return e, func() { cancel(); <-ended }
}

func TestSpansArriveAsOTLP(t *testing.T) {
	var path, kind string
	var got map[string]any
	e, stop := start(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		path, kind = r.URL.Path, r.Header.Get("Content-Type")
		_ = json.Unmarshal(body, &got)
	})
	began := time.Unix(1700000000, 5)
	e.Export(&proxy.Span{
		Trace: proxy.TraceID{0xab, 15: 1}, ID: proxy.SpanID{7: 2}, Parent: proxy.SpanID{7: 3}, Face: "inbound",
		Start: began, End: began.Add(time.Millisecond), Method: "GET", Host: "orders.mesh", Path: "/x", Service: "orders", Status: 503, Code: "timeout", Tries: 2,
	})
	stop() // which sends what is left
	if path != "/v1/traces" || kind != "application/json" {
		t.Errorf("sent to %s as %s", path, kind)
	}
	text, _ := json.Marshal(got)
	want := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"sidecar/n1"}},{"key":"host.name","value":{"stringValue":"n1"}}]},` +
		`"scopeSpans":[{"scope":{"name":"hedgerow"},"spans":[{"attributes":[` +
		`{"key":"http.request.method","value":{"stringValue":"GET"}},{"key":"server.address","value":{"stringValue":"orders.mesh"}},{"key":"url.path","value":{"stringValue":"/x"}},` +
		`{"key":"hedgerow.face","value":{"stringValue":"inbound"}},{"key":"hedgerow.service","value":{"stringValue":"orders"}},` +
		`{"key":"http.response.status_code","value":{"intValue":"503"}},{"key":"http.request.resend_count","value":{"intValue":"1"}}],` +
		`"endTimeUnixNano":"1700000000001000005","kind":2,"name":"GET orders","parentSpanId":"0000000000000003","spanId":"0000000000000002","startTimeUnixNano":"1700000000000000005",` +
		`"status":{"code":2,"message":"timeout"},"traceId":"ab000000000000000000000000000001"}]}]}]}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if n := testutil.ToFloat64(e.sent); n != 1 {
		t.Errorf("%v spans are counted as sent", n)
	}
}

func TestWhatIsNotTakenIsCounted(t *testing.T) {
	e, stop := start(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	e.Export(&proxy.Span{})
	stop()
	if n := testutil.ToFloat64(e.dropped.WithLabelValues("collector")); n != 1 {
		t.Errorf("%v spans are counted as refused by the collector", n)
	}
	for range mostQueued + 3 {
		e.Export(&proxy.Span{}) // and nobody sends
	}
	if n := testutil.ToFloat64(e.dropped.WithLabelValues("queue")); n != 3 {
		t.Errorf("%v spans are counted as too many", n)
	}
}

// A collector that hangs holds up no shutdown.
func TestTheEndWaitsForNoCollector(t *testing.T) {
	hang, asked := make(chan struct{}), make(chan struct{}, 10)
	e, stop := start(t, func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hang
	})
	defer close(hang)
	for range mostBatch + 1 { // one batch is being sent when the end comes, one is left
		e.Export(&proxy.Span{Method: "GET"})
	}
	<-asked
	began := time.Now()
	stop()
	if took := time.Since(began); took > lastSend+2*time.Second {
		t.Errorf("it ended after %v", took)
	}
	if got := testutil.ToFloat64(e.dropped.WithLabelValues("collector")); got != mostBatch+1 {
		t.Errorf("%v spans are counted as dropped", got)
	}
}

func TestEndpointIsAURL(t *testing.T) {
	for _, endpoint := range []string{"", "127.0.0.1:4318", "grpc://a:4317", "http://"} {
		if _, err := New(Config{Endpoint: endpoint}, zerolog.Nop(), prometheus.NewRegistry()); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
