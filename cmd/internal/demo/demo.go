// Package demo holds what `hedgerow up --demo` shows: two small workloads and
// the objects that put them into the mesh. The workloads are ordinary HTTP
// servers that know nothing of the mesh; they learn who calls from the
// X-Forwarded-Client-Cert header that their sidecar sets.
//
// It starts nothing and stores nothing by itself; cmd does.
package demo

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxBody     = 64 << 10 // of one telemetry message
	maxDevices  = 1000
	maxMessages = 100 // kept for each device, newest last
)

// Orders returns the handler of the orders service in one version:
// GET /orders/{id} answers {"service","version","id","caller"}.
func Orders(version string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, struct {
			Service string `json:"service"`
			Version string `json:"version"`
			ID      string `json:"id"`
			Caller  string `json:"caller"`
		}{"orders", version, r.PathValue("id"), caller(r)})
	})
	return mux
}

// message is one stored telemetry message.
type message struct {
	ID      string          `json:"id"`
	Time    time.Time       `json:"time"`
	Caller  string          `json:"caller"`
	Payload json.RawMessage `json:"payload"`
}

// telemetry keeps the last messages of each device in memory.
type telemetry struct {
	mu       sync.Mutex // guards messages
	messages map[string][]message
}

// Telemetry returns the handler of the telemetry service: POST
// /v1/devices/{device}/telemetry stores a JSON message, GET of the same path
// lists them. A message whose id was seen is stored once.
func Telemetry() http.Handler {
	t := &telemetry{messages: map[string][]message{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/devices/{device}/telemetry", t.store)
	mux.HandleFunc("GET /v1/devices/{device}/telemetry", t.list)
	return mux
}

func (t *telemetry) store(w http.ResponseWriter, r *http.Request) {
	device := r.PathValue("device")
	var payload json.RawMessage
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&payload); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "the body is not JSON of at most 64 KiB"})
		return
	}
	m := message{ID: r.Header.Get("Hedgerow-Message-Id"), Time: time.Now().UTC(), Caller: caller(r), Payload: payload}
	t.mu.Lock()
	defer t.mu.Unlock()
	stored := t.messages[device]
	for _, have := range stored {
		if m.ID != "" && have.ID == m.ID {
			writeJSON(w, http.StatusOK, have)
			return
		}
	}
	if stored == nil && len(t.messages) >= maxDevices {
		writeJSON(w, http.StatusInsufficientStorage, map[string]string{"error": "the demo keeps 1000 devices"})
		return
	}
	stored = append(stored, m)
	t.messages[device] = stored[max(0, len(stored)-maxMessages):]
	writeJSON(w, http.StatusCreated, m)
}

func (t *telemetry) list(w http.ResponseWriter, r *http.Request) {
	device := r.PathValue("device")
	t.mu.Lock()
	stored := append([]message{}, t.messages[device]...)
	t.mu.Unlock()
	writeJSON(w, http.StatusOK, struct {
		Device   string    `json:"device"`
		Messages []message `json:"messages"`
	}{device, stored})
}

// caller returns the URI of the last element of X-Forwarded-Client-Cert
// (Envoy's format): the SPIFFE ID of whoever called the sidecar.
func caller(r *http.Request) string {
	elements := strings.Split(r.Header.Get("X-Forwarded-Client-Cert"), ",")
	for field := range strings.SplitSeq(elements[len(elements)-1], ";") {
		if uri, ok := strings.CutPrefix(field, "URI="); ok {
			return uri
		}
	}
	return ""
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client is gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
