// Package otlp sends the spans of a proxy to a collector by OTLP over HTTP, as JSON
// (OpenTelemetry Protocol 1.x, "OTLP/HTTP", JSON Protobuf Encoding). The library that
// OpenTelemetry has for this would bring gRPC and its gateway into the smallest program.
//
// It samples nothing, keeps nothing on disk, and sends no metrics or logs. What a
// collector does not take in time is dropped and counted: no request waits for it.
package otlp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// Bounds of an Exporter.
const (
	mostQueued  = 4096
	mostBatch   = 512
	batchEvery  = time.Second
	sendTimeout = 10 * time.Second
	lastSend    = time.Second // for what is left at the end
	mostAnswer  = 64 << 10
)

// Config says where spans go.
type Config struct {
	Endpoint string // of the collector: "http://127.0.0.1:4318"; /v1/traces is added
	Name     string // service.name of this process
	Node     string // host.name
}

// Exporter sends spans in batches. Its Export is an Options.Observe.Tracing.Export.
type Exporter struct {
	url     string
	cfg     Config
	client  *http.Client
	log     zerolog.Logger
	queue   chan *proxy.Span
	sent    prometheus.Counter
	dropped *prometheus.CounterVec
}

// New returns an exporter, which sends once Run is called. An error is of kind Invalid.
func New(cfg Config, log zerolog.Logger, reg prometheus.Registerer) (*Exporter, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, mesh.Errorf("otlp.New", cfg.Endpoint, mesh.Invalid, "%q is not the URL of a collector", cfg.Endpoint).WithHint("e.g. http://127.0.0.1:4318")
	}
	e := &Exporter{
		url: strings.TrimSuffix(cfg.Endpoint, "/") + "/v1/traces", cfg: cfg, log: log,
		client:  &http.Client{Timeout: sendTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute}},
		queue:   make(chan *proxy.Span, mostQueued),
		sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_spans_sent_total", Help: "Spans that the collector took."}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hedgerow_spans_dropped_total", Help: "Spans that were not sent, by why: the queue was full, or the collector failed."}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{e.sent, e.dropped} {
		if err := reg.Register(c); err != nil {
			return nil, mesh.Errorf("otlp.New", "metrics", mesh.Internal, "%w", err)
		}
	}
	return e, nil
}

// Export takes a span, or drops it if the collector does not keep up.
func (e *Exporter) Export(s *proxy.Span) {
	select {
	case e.queue <- s:
	default:
		e.dropped.WithLabelValues("queue").Inc()
	}
}

// Run sends until ctx ends, and then what is left, for which a collector that hangs gets lastSend.
func (e *Exporter) Run(ctx context.Context) error {
	defer e.client.CloseIdleConnections()
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastSend, cancel) })()
	tick := time.NewTicker(batchEvery)
	defer tick.Stop()
	var batch []*proxy.Span
	flush := func() {
		if len(batch) > 0 {
			e.send(sending, batch)
			batch = nil
		}
	}
	for {
		select {
		case s := <-e.queue:
			if batch = append(batch, s); len(batch) >= mostBatch {
				flush()
			}
		case <-tick.C:
			flush()
		case <-ctx.Done():
			for {
				select {
				case s := <-e.queue:
					batch = append(batch, s)
					continue
				default:
				}
				flush()
				return nil
			}
		}
	}
}

// send sends one batch.
func (e *Exporter) send(ctx context.Context, batch []*proxy.Span) {
	if err := e.post(ctx, batch); err != nil {
		e.dropped.WithLabelValues("collector").Add(float64(len(batch)))
		e.log.Warn().Err(err).Int("spans", len(batch)).Msg("spans were not sent")
		return
	}
	e.sent.Add(float64(len(batch)))
}

func (e *Exporter) post(ctx context.Context, batch []*proxy.Span) error {
	body, err := json.Marshal(e.request(batch))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // how closing went cannot matter any more
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, mostAnswer))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector at %s answered %s", r.URL.Redacted(), resp.Status)
	}
	return nil
}

// The JSON shape of an ExportTraceServiceRequest. Ids are hex, and 64-bit numbers
// strings.
type (
	exportRequest struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name string `json:"name"`
	}
	span struct {
		TraceID    string      `json:"traceId"`
		SpanID     string      `json:"spanId"`
		ParentID   string      `json:"parentSpanId,omitempty"`
		TraceState string      `json:"traceState,omitempty"`
		Name       string      `json:"name"`
		Kind       int         `json:"kind"`
		Start      string      `json:"startTimeUnixNano"`
		End        string      `json:"endTimeUnixNano"`
		Attributes []attribute `json:"attributes"`
		Status     *status     `json:"status,omitempty"`
	}
	status struct {
		Code    int    `json:"code"`
		Message string `json:"message,omitempty"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String *string `json:"stringValue,omitempty"`
		Int    *string `json:"intValue,omitempty"`
	}
)

// Values of the enums.
const (
	kindServer  = 2
	statusError = 2
)

func text(key, s string) attribute { return attribute{key, value{String: &s}} }

func number(key string, n int) attribute {
	s := strconv.Itoa(n)
	return attribute{key, value{Int: &s}}
}

// request returns batch as it is sent. Attributes are those of OpenTelemetry's
// semantic conventions for HTTP where there is one.
func (e *Exporter) request(batch []*proxy.Span) exportRequest {
	spans := make([]span, len(batch))
	for i, s := range batch {
		out := span{
			TraceID: s.Trace.String(), SpanID: s.ID.String(), TraceState: s.State, Name: s.Method + " " + s.Service, Kind: kindServer,
			Start: strconv.FormatInt(s.Start.UnixNano(), 10), End: strconv.FormatInt(s.End.UnixNano(), 10),
			Attributes: []attribute{
				text("http.request.method", s.Method), text("server.address", s.Host), text("url.path", s.Path),
				text("hedgerow.face", s.Face), text("hedgerow.service", s.Service),
			},
		}
		if s.Parent != (proxy.SpanID{}) {
			out.ParentID = s.Parent.String()
		}
		if s.Route != "" {
			out.Attributes = append(out.Attributes, text("http.route", s.Route))
		}
		if s.Status > 0 {
			out.Attributes = append(out.Attributes, number("http.response.status_code", s.Status))
		}
		if s.Tries > 1 {
			out.Attributes = append(out.Attributes, number("http.request.resend_count", s.Tries-1))
		}
		if s.Status == 0 || s.Status >= 500 {
			out.Status = &status{Code: statusError, Message: s.Code}
		}
		spans[i] = out
	}
	return exportRequest{[]resourceSpans{{
		Resource:   resource{[]attribute{text("service.name", e.cfg.Name), text("host.name", e.cfg.Node)}},
		ScopeSpans: []scopeSpans{{Scope: scope{"hedgerow"}, Spans: spans}},
	}}}
}
