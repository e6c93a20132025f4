package controlapi

import (
	"bytes"
	"context"
	"fmt"
	stdlog "log"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

type handlerOptions struct {
	service  *service
	grpc     *grpc.Server
	identify func(*http.Request) caller
	hosts    []string
	checks   []Check
	gatherer prometheus.Gatherer
	log      zerolog.Logger
	metrics  *metrics
}

// handler serves everything on the port. What it does to a request, in order:
// Host and Origin, then who sent it, then by content type gRPC, or by path the
// pages and REST, and for REST what the caller may, the query and the body.
type handler struct {
	handlerOptions
	hostNames   map[string]bool
	crossOrigin *http.CrossOriginProtection
	gateway     *runtime.ServeMux
	rpcs        map[string]string // by method and pattern
	router      http.Handler
}

func newHandler(opts handlerOptions) (http.Handler, error) {
	h := &handler{handlerOptions: opts, hostNames: map[string]bool{"localhost": true}, crossOrigin: http.NewCrossOriginProtection(), rpcs: restRPCs()}
	for _, name := range opts.hosts {
		h.hostNames[strings.ToLower(strings.TrimSuffix(name, "."))] = true
	}
	h.gateway = h.newGateway()
	if err := hedgerowv1.RegisterControlHandlerServer(context.Background(), h.gateway, opts.service); err != nil {
		return nil, fmt.Errorf("register the gateway: %w", err)
	}
	pages, err := newPages(opts)
	if err != nil {
		return nil, err
	}
	r := chi.NewRouter()
	pages.mount(r)
	if opts.gatherer != nil {
		r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(opts.gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	}
	r.HandleFunc("/v1/*", h.rest)
	r.HandleFunc("/v1:apply", h.rest)
	r.NotFound(notFound)
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { methodNotAllowed(w, r, "GET") })
	h.router = r
	return h, nil
}

// ServeHTTP serves one request of either face.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			h.metrics.panics.Inc()
			h.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("path", r.URL.Path).Msg("a request panicked")
			if rec.status != 0 {
				panic(http.ErrAbortHandler) // an answer has begun, and must not look whole
			}
			writeProblem(rec, r, mesh.Errorf("controlapi.http", r.URL.Path, mesh.Internal, "panic"))
		}
		if rec.status != 0 {
			h.metrics.requests.WithLabelValues("rest", strconv.Itoa(rec.status)).Inc()
		}
	}()
	if err := h.checkOrigin(r); err != nil {
		h.refuse(rec, r, err)
		return
	}
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		h.grpc.ServeHTTP(w, r.WithContext(withCaller(r.Context(), h.identify(r)))) // counts by itself
		return
	}
	if r.Method == http.MethodHead {
		// net/http leaves out the body, by the request that it has itself.
		r = r.Clone(r.Context())
		r.Method = http.MethodGet
	}
	h.router.ServeHTTP(rec, r)
}

// refuse answers r with err.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c := writeProblem(w, r, err)
	logInternal(h.log, c.code, r.Method+" "+r.URL.Path, err)
	h.service.writer.audit.refused(r.Context(), r.URL.Path, err)
}

// checkOrigin refuses requests that a web page elsewhere had a browser send: by
// a name of its own that it made resolve to this address (DNS rebinding), or
// from another origin.
func (h *handler) checkOrigin(r *http.Request) error {
	const op = "controlapi.http"
	if !h.ourHost(r) {
		return mesh.Errorf(op, "", mesh.Denied, "%.80q is not a name of this control plane", r.Host).
			WithHint("call it by its address, or add the name to the configured hosts")
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || !strings.EqualFold(u.Host, r.Host) {
			return mesh.Errorf(op, "", mesh.Denied, "requests of the origin %.80q are not accepted", origin)
		}
	}
	// Browsers that send no Origin say by Sec-Fetch-Site where they come from.
	if err := h.crossOrigin.Check(r); err != nil {
		return mesh.Errorf(op, "", mesh.Denied, "%w", err)
	}
	return nil
}

// ourHost reports whether Host is a loopback name, a configured name or the
// address that the connection came to. The port may differ: it may be forwarded.
func (h *handler) ourHost(r *http.Request) bool {
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.TrimSuffix(strings.ToLower(strings.Trim(name, "[]")), ".")
	if h.hostNames[name] {
		return true
	}
	ip := net.ParseIP(name)
	if ip == nil {
		return false
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	tcp, ok := local.(*net.TCPAddr)
	return ip.IsLoopback() || ok && tcp.IP.Equal(ip)
}

// rest serves /v1 through the gateway.
func (h *handler) rest(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	h.gateway.ServeHTTP(w, r.WithContext(withCaller(r.Context(), h.identify(r))))
}

// admitted lets those requests through to next whose caller may call the RPC, and that
// say nothing which it does not take.
func (h *handler) admitted(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		pattern, _ := runtime.HTTPPattern(r.Context())
		rpc := h.rpcs[r.Method+" "+pattern.String()]
		r = r.WithContext(withRPC(r.Context(), rpc))
		err := admit(r.Context(), rpc)
		if err == nil {
			err = checkContentType(r)
		}
		if err == nil {
			err = checkEncoding(r)
		}
		if err == nil {
			err = checkQuery(r)
		}
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		r.Body = &body{ReadCloser: http.MaxBytesReader(w, r.Body, maxBodyBytes)}
		// The generated code would parse a form's body into parameters.
		r.Header.Set("Content-Type", "application/json")
		next(w, r, params)
	}
}

// checkContentType refuses what a form on a web page can send. A bearer token says that a
// program meant the request, so JSON needs no Content-Type then: curl --data sends that
// of a form.
func checkContentType(r *http.Request) error {
	if callerOf(r.Context()).bearer || r.Method == http.MethodGet || r.Method == http.MethodDelete {
		return nil
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return &refusal{codeMediaType, "Content-Type: application/json is needed from callers without a bearer token"}
	}
	return nil
}

func checkEncoding(r *http.Request) error {
	for _, e := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(e, "identity") {
			return &refusal{codeMediaType, fmt.Sprintf("Content-Encoding %.40q is not read", e)}
		}
	}
	return nil
}

// checkQuery refuses parameters that the request does not take: a dry run with
// a typing error must not store.
func checkQuery(r *http.Request) error {
	var known []string
	switch {
	case r.Method == http.MethodPost && r.URL.Path != "/v1:apply": // a verb of one object
	case r.Method == http.MethodPut, r.Method == http.MethodPost:
		known = []string{"validateOnly"}
	case r.Method == http.MethodDelete:
		known = []string{"validateOnly", "etag"}
	case strings.Count(r.URL.Path, "/") == 2: // a collection
		known = []string{"pageSize", "pageToken"}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return mesh.Errorf("controlapi.http", "", mesh.Malformed, "the query: %w", err)
	}
	var v mesh.Violations
	for name, values := range query {
		switch {
		case len(v) == maxFound:
		case !slices.Contains(known, name):
			hint := "this request takes no parameters"
			if len(known) > 0 {
				hint = "the parameters here are " + strings.Join(known, ", ")
			}
			v.Add(join("query", name), hint, "unknown parameter")
		case len(values) > 1:
			v.Add(join("query", name), "keep one of them", "the parameter is there %d times", len(values))
		}
	}
	if len(v) == 0 {
		return nil
	}
	slices.SortFunc(v, func(a, b mesh.Violation) int { return strings.Compare(a.Field, b.Field) })
	return &mesh.Error{Op: "controlapi.http", Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: v}}
}

func (h *handler) newGateway() *runtime.ServeMux {
	return runtime.NewServeMux(
		runtime.WithMiddlewares(h.admitted),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
		runtime.WithIncomingHeaderMatcher(func(key string) (string, bool) {
			name := strings.ToLower(key)
			return name, name == headerIfMatch || name == headerIfNoneMatch
		}),
		runtime.WithOutgoingHeaderMatcher(func(key string) (string, bool) {
			return "Hedgerow-Published", key == headerPublished
		}),
		runtime.WithForwardResponseOption(func(_ context.Context, w http.ResponseWriter, m proto.Message) error {
			if o, ok := m.(interface{ GetEtag() string }); ok && o.GetEtag() != "" {
				w.Header().Set("ETag", quoted(o.GetEtag()))
			}
			return nil
		}),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
			if b, ok := r.Body.(*body); ok && b.refused != nil {
				err = b.refused
			}
			h.refuse(w, r, err)
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int) {
			if c := callerOf(r.Context()); c.err != nil {
				h.refuse(w, r, c.err) // strangers do not learn what there is
				return
			}
			if status == http.StatusMethodNotAllowed {
				methodNotAllowed(w, r, allowed(r.URL.Path))
				return
			}
			notFound(w, r)
		}),
	)
}

// allowed returns the methods of a path of /v1 that exists.
func allowed(path string) string {
	switch {
	case path == "/v1:apply":
		return "POST"
	case path == "/v1/defaults/mesh":
		return "GET, HEAD, PUT"
	case strings.HasPrefix(path, "/v1/instances/"), strings.HasPrefix(path, "/v1/quarantines/"), strings.Count(path, "/") == 2:
		return "GET, HEAD"
	}
	return "GET, HEAD, PUT, DELETE"
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, r, mesh.Errorf("controlapi.http", "", mesh.NotFound, "there is no such path").WithHint("/docs lists them"))
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	writeProblem(w, r, &refusal{codeMethod, fmt.Sprintf("%.20s is not for this path; it takes %s", r.Method, allow)})
}

// recorder notes the status that was answered; 0 if none was.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write notes that the answer has begun.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// errorLog brings what net/http complains of, such as a failed handshake, to
// the log.
func errorLog(log zerolog.Logger) *stdlog.Logger {
	return stdlog.New(lineWriter{log}, "", 0)
}

type lineWriter struct{ log zerolog.Logger }

// Write logs one line.
func (l lineWriter) Write(line []byte) (int, error) {
	l.log.Debug().Bytes("message", bytes.TrimSpace(line)).Msg("http")
	return len(line), nil
}
