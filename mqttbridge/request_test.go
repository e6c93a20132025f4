package mqttbridge

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestRequest(t *testing.T) {
	for _, test := range []struct {
		name, topic, url string
	}{
		{"plain", "devices/d1/telemetry", "http://telemetry.mesh/v1/devices/d1/telemetry"},
		{"a query stays in its segment", "devices/?x=1/telemetry", "http://telemetry.mesh/v1/devices/%3Fx=1/telemetry"},
		{"a host stays in its segment", "devices/@evil/telemetry", "http://telemetry.mesh/v1/devices/@evil/telemetry"},
		{"a percent sign is escaped", "devices/50%/telemetry", "http://telemetry.mesh/v1/devices/50%25/telemetry"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, captures, err := tableOf(t, telemetry()).match(test.topic)
			if err != nil {
				t.Fatal(err)
			}
			it := &item{message: Message{Topic: test.topic, Payload: []byte(`{"t":21.5}`)}, id: "edge7/00/1", captures: captures}
			req, err := r.request(context.Background(), it)
			if err != nil {
				t.Fatal(err)
			}
			if req.URL.String() != test.url || req.Method != "POST" || req.ContentLength != 10 {
				t.Errorf("%s %s, %d bytes, want POST %s, 10 bytes", req.Method, req.URL, req.ContentLength, test.url)
			}
			want := http.Header{
				"Content-Type": {"application/json"}, "User-Agent": {"hedgerow-mqtt-bridge"},
				HeaderMessageID: {"edge7/00/1"}, "Idempotency-Key": {"edge7/00/1"}, HeaderDevice: {captures["device"]},
			}
			for name := range want {
				if req.Header.Get(name) != want.Get(name) {
					t.Errorf("%s: %q, want %q", name, req.Header.Get(name), want.Get(name))
				}
			}
			if len(req.Header) != len(want) {
				t.Errorf("headers %v", req.Header)
			}
		})
	}
}

func TestRequestDefaults(t *testing.T) {
	r, captures, err := tableOf(t, telemetry(func(r *mesh.TopicRule) {
		r.To = &mesh.TopicTo{Service: "s", Path: "/", Method: "PUT"}
		r.Device = ""
	})).match("devices/d1/telemetry")
	if err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	req, err := r.request(context.Background(), &item{captures: captures})
	if err != nil {
		t.Fatal(err)
	}
	if req.URL.String() != "http://s.mesh/" || req.Method != "PUT" {
		t.Errorf("%s %s", req.Method, req.URL)
	}
	if ct, device := req.Header.Get("Content-Type"), req.Header.Values(HeaderDevice); ct != "application/octet-stream" || device != nil {
		t.Errorf("Content-Type %q, device %q", ct, device)
	}
}

// Whatever a topic holds, it stays one segment of the path, and the service
// reads it back unchanged.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"d1", "..%2f..", "?x=", "#", "\r\nX: y", "@host", "a;b", "%", "\\", "é", ""} {
		f.Add(s)
	}
	table := tableOf(f, telemetry(func(r *mesh.TopicRule) { r.Device = "" }))
	f.Fuzz(func(t *testing.T, level string) {
		if strings.Contains(level, "/") {
			return // two levels
		}
		r, captures, err := table.match("devices/" + level + "/telemetry")
		if r == nil {
			t.Fatal("no rule")
		}
		if err != nil {
			return
		}
		req, err := r.request(context.Background(), &item{captures: captures})
		if err != nil {
			t.Fatalf("captured %q: %v", level, err)
		}
		u, err := url.Parse(req.URL.String())
		if err != nil {
			t.Fatal(err)
		}
		segments := strings.Split(u.EscapedPath(), "/")
		if len(segments) != 5 || u.Host != "telemetry.mesh" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q became %q", level, req.URL)
		}
		if back, err := url.PathUnescape(segments[3]); err != nil || back != level {
			t.Errorf("%q reads back as %q, %v", level, back, err)
		}
	})
}
