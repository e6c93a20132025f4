package demo

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// TestObjectsFitTogether holds the demo's objects to the mesh's own checks, so
// that a changed rule shows here and not when somebody tries the demo.
func TestObjectsFitTogether(t *testing.T) {
	body, err := Objects(true)
	if err != nil {
		t.Fatal(err)
	}
	var apply struct{ Objects []json.RawMessage }
	if err := json.Unmarshal(body, &apply); err != nil {
		t.Fatal(err)
	}
	c := mesh.NewConfig()
	put := func(name string, raw []byte) {
		t.Helper()
		o, err := mesh.DecodeObject(name, raw)
		if err != nil {
			t.Fatal(err)
		}
		mesh.Normalize(o)
		if err := mesh.Validate(o); err != nil {
			t.Error(err)
		}
		c.Put(o)
	}
	for _, raw := range apply.Objects {
		var named struct{ Name string }
		if err := json.Unmarshal(raw, &named); err != nil {
			t.Fatal(err)
		}
		put(named.Name, raw)
	}
	put("routes/demo", Canary())
	put("policies/orders-from-telemetry", Allow())
	if broken := c.CheckAll(); len(broken) != 0 {
		t.Errorf("broken references: %v", broken)
	}
}

func TestWorkloadsSayWhoCalled(t *testing.T) {
	for name, tt := range map[string]struct{ xfcc, want string }{
		"one element":      {"By=spiffe://td/svc/orders/n/a;Hash=00;URI=spiffe://td/gateway/demo", "spiffe://td/gateway/demo"},
		"the last element": {"By=a;URI=spiffe://td/svc/x/n/y,By=b;URI=spiffe://td/svc/z/n/y", "spiffe://td/svc/z/n/y"},
		"none":             {"", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/orders/7", nil)
		r.Header.Set("X-Forwarded-Client-Cert", tt.xfcc)
		w := httptest.NewRecorder()
		Orders("v1").ServeHTTP(w, r)
		want := `{"service":"orders","version":"v1","id":"7","caller":"` + tt.want + `"}`
		if got := strings.TrimSpace(w.Body.String()); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestTelemetryStoresOnceAndLists(t *testing.T) {
	srv := httptest.NewServer(Telemetry())
	defer srv.Close()
	url := srv.URL + "/v1/devices/d1/telemetry"
	post := func(id, body string, want int) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Hedgerow-Message-Id", id)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("POST %s = %d, want %d", body, resp.StatusCode, want)
		}
	}
	post("m1", `{"t":21.5}`, http.StatusCreated)
	post("m1", `{"t":21.5}`, http.StatusOK) // the same message again
	post("m2", `{"t":22}`, http.StatusCreated)
	post("m3", `t=21`, http.StatusBadRequest)
	post("m4", `"`+strings.Repeat("x", maxBody)+`"`, http.StatusBadRequest)
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var got struct{ Messages []message }
	if err := json.Unmarshal(body, &got); err != nil || len(got.Messages) != 2 || string(got.Messages[0].Payload) != `{"t":21.5}` {
		t.Errorf("GET = %s, %v; want the two messages", body, err)
	}
}
