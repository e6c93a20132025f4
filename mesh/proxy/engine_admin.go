package proxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// AdminOptions is what the admin handler shows besides the engine.
type AdminOptions struct {
	Gatherer prometheus.Gatherer
	// Sources are the identities of this process. It is ready only while each
	// has a valid certificate.
	Sources []*identity.Source
	// Freshness returns how long ago the configuration was last known to be the
	// current one, and whether that is too long. If nil, it is always current.
	Freshness func() (age time.Duration, stale bool)
	// Degraded returns what is lacking without which the process is ready all the
	// same, as a certificate of one hostname of many. May be nil.
	Degraded func() []error
	// More are handlers of the process's own, by the pattern of http.ServeMux.
	More map[string]http.Handler
}

// Admin returns the handler of the admin port: /ready, /metrics, /config,
// /endpoints, /decisions, /certs and, to clients on this host, /debug/pprof/. These change
// nothing. It answers only requests whose Host is an address or localhost, so
// that no web page reaches it by rebinding a name.
func (e *Engine) Admin(opt AdminOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		r := e.readiness(opt)
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(opt.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		head, _ := e.Head()
		writeJSON(w, http.StatusOK, head)
	})
	mux.HandleFunc("GET /endpoints", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"endpoints": e.listEndpoints()})
	})
	mux.HandleFunc("GET /decisions", e.serveRecords)
	mux.HandleFunc("GET /decisions/{id}", e.serveRecord)
	mux.HandleFunc("GET /certs", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"certs": listCerts(opt.Sources)})
	})
	mux.Handle("/debug/pprof/", onLoopback(http.HandlerFunc(pprof.Index)))
	mux.Handle("/debug/pprof/cmdline", onLoopback(http.HandlerFunc(pprof.Cmdline)))
	mux.Handle("/debug/pprof/profile", onLoopback(http.HandlerFunc(pprof.Profile)))
	mux.Handle("/debug/pprof/symbol", onLoopback(http.HandlerFunc(pprof.Symbol)))
	mux.Handle("/debug/pprof/trace", onLoopback(http.HandlerFunc(pprof.Trace)))
	for pattern, handler := range opt.More {
		mux.Handle(pattern, handler)
	}
	return noRebinding(mux)
}

// readiness is the answer of /ready. Stale is no reason to be unready: the last
// good configuration serves on.
type readiness struct {
	Ready     bool    `json:"ready"`
	Revision  uint32  `json:"revision"`
	Stale     bool    `json:"stale,omitempty"`
	ConfigAge string  `json:"configAge,omitempty"` // while stale: "12s"
	Checks    []check `json:"checks,omitempty"`    // what is missing
	// Degraded is what is missing for a part only: the rest serves, so that nobody
	// should take the process out for it.
	Degraded []string `json:"degraded,omitempty"`
}

type check struct {
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

func (e *Engine) readiness(opt AdminOptions) readiness {
	var r readiness
	head, ok := e.Head()
	if !ok {
		r.Checks = append(r.Checks, check{"configuration", "none is loaded yet"})
	}
	r.Revision = head.Revision
	for _, src := range opt.Sources {
		if err := src.Ready(); err != nil {
			r.Checks = append(r.Checks, check{"certificate", err.Error()})
		}
		for _, err := range src.Degraded() {
			r.Degraded = append(r.Degraded, err.Error())
		}
	}
	if opt.Freshness != nil {
		if age, stale := opt.Freshness(); stale {
			r.Stale, r.ConfigAge = true, age.Truncate(time.Second).String()
		}
	}
	if opt.Degraded != nil {
		for _, err := range opt.Degraded() {
			r.Degraded = append(r.Degraded, err.Error())
		}
	}
	r.Ready = len(r.Checks) == 0
	return r
}

// Ready reports whether /ready would answer 200.
func (e *Engine) Ready(opt AdminOptions) bool { return e.readiness(opt).Ready }

type endpointInfo struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Node     string `json:"node"`
	Address  string `json:"address"`
	Weight   uint32 `json:"weight"`
	Healthy  bool   `json:"healthy"`
	Ejected  bool   `json:"ejected,omitempty"`
	InFlight int64  `json:"inFlight"`
}

func (e *Engine) listEndpoints() []endpointInfo {
	out := []endpointInfo{}
	s := e.state.Load()
	if s == nil {
		return out
	}
	for _, service := range slices.Sorted(maps.Keys(s.config.Services)) {
		for _, ep := range s.endpoints.Of(service).All() {
			out = append(out, endpointInfo{ep.Service, ep.Instance, ep.Node, ep.Address, ep.Weight, ep.Healthy, ep.outlier.ejected(time.Now().UnixNano()), ep.InFlight()})
		}
	}
	return out
}

type certInfo struct {
	Identity  string     `json:"identity"`
	Serial    string     `json:"serial,omitempty"` // hex
	NotBefore *time.Time `json:"notBefore,omitempty"`
	NotAfter  *time.Time `json:"notAfter,omitempty"`
	Issuer    string     `json:"issuer,omitempty"`
	Roots     []rootInfo `json:"roots,omitempty"` // that peers are verified by
	Problem   string     `json:"problem,omitempty"`
}

type rootInfo struct {
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256"` // of the certificate, hex
	NotAfter time.Time `json:"notAfter"`
}

func listCerts(sources []*identity.Source) []certInfo {
	out := make([]certInfo, 0, len(sources))
	for _, src := range sources {
		info := certInfo{Identity: src.ID().String()}
		if current := src.Current(); current != nil {
			leaf := current.Certificate.Leaf
			info.Serial, info.NotBefore, info.NotAfter = leaf.SerialNumber.Text(16), &leaf.NotBefore, &leaf.NotAfter
			info.Issuer = leaf.Issuer.String()
			for _, root := range current.Bundle.Roots() {
				sum := sha256.Sum256(root.Raw)
				info.Roots = append(info.Roots, rootInfo{root.Subject.String(), hex.EncodeToString(sum[:]), root.NotAfter})
			}
		}
		if _, err := src.Certificate(); err != nil {
			info.Problem = err.Error()
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b certInfo) int { return cmp.Compare(a.Identity, b.Identity) })
	return out
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The values always marshal; an error is a client that left.
	_ = json.NewEncoder(w).Encode(v)
}

// noRebinding refuses names other than localhost in Host.
func noRebinding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, err := CanonicalHost(r.Host)
		if _, bad := netip.ParseAddr(trimBrackets(host)); err != nil || bad != nil && host != "localhost" {
			http.Error(w, "ask by address or as localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func trimBrackets(host string) string {
	if len(host) > 2 && host[0] == '[' {
		return host[1 : len(host)-1]
	}
	return host
}

// onLoopback refuses clients of other hosts.
func onLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		addr, bad := netip.ParseAddr(host)
		if err != nil || bad != nil || !addr.Unmap().IsLoopback() {
			http.Error(w, "only from this host", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
