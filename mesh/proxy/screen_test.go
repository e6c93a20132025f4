package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// edgeServer is a gateway that routes shop.test and hands to forwarder.
func edgeServer(t *testing.T, f forwarder) *server {
	t.Helper()
	e, err := New(Options{Limits: EdgeLimits(), Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(), TrustDomain: testTrustDomain})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	cfg := configOf(routeOf("shop", "shop.test"))
	e.Update(&mesh.Snapshot{Config: cfg})
	return &server{
		e: e, face: Face{Kind: Gateway, Gateway: "g"}, forwarder: f, counters: e.metrics.at(Face{Kind: Gateway}),
		caller: func() (*identity.Source, *Refusal) { return nil, nil },
	}
}

// What enters over HTTP/2 was not read by our own codec: everything is looked at
// once more.
func TestScreen(t *testing.T) {
	long := strings.Repeat("a", 8<<10)
	for _, tt := range []struct {
		name   string
		change func(*incoming)
		status int
	}{
		{"a GET", func(*incoming) {}, 200},
		{"CONNECT", func(in *incoming) { in.method = http.MethodConnect }, 405},
		{"TRACE", func(in *incoming) { in.method = http.MethodTrace }, 405},
		{"a target as long as may be", func(in *incoming) { in.target = "/" + long[1:] }, 200},
		{"a target that is too long", func(in *incoming) { in.target = "/" + long }, 414},
		{"as many fields as may be", func(in *incoming) { in.fields = make(header.List, 100) }, 200},
		{"too many fields", func(in *incoming) { in.fields = make(header.List, 101) }, 431},
		{"a body as long as may be", func(in *incoming) { in.length = 16 << 20 }, 200},
		{"a body that is too long", func(in *incoming) { in.length = 16<<20 + 1 }, 413},
		{"user information in the target", func(in *incoming) { in.target = "http://a:b@shop.test/x" }, 400},
		{"a fragment in the target", func(in *incoming) { in.target = "/x#y" }, 400},
		{"an asterisk", func(in *incoming) { in.target = "*" }, 400},
		{"an empty target", func(in *incoming) { in.target = "" }, 400},
		{"no host", func(in *incoming) { in.host = "" }, 400},
		{"an empty label in the host", func(in *incoming) { in.host = "shop..test" }, 400},
		{"an escape in the host", func(in *incoming) { in.host = "shop%2etest" }, 400},
		{"a port that is none", func(in *incoming) { in.host = "shop.test:65536" }, 400},
		{"a path with two readings", func(in *incoming) { in.target = "/x/..%2fadmin" }, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := &exchange{}
			x.in = incoming{method: http.MethodGet, target: "/x", host: "shop.test"}
			tt.change(&x.in)
			status := http.StatusOK
			if refusal := edgeServer(t, nil).prepare(x); refusal != nil {
				status = refusal.Status
			}
			if status != tt.status {
				t.Errorf("got %d, want %d", status, tt.status)
			}
		})
	}
}

// What is sent is what was decided about.
func TestTargetIsTheOneThatWasDecidedAbout(t *testing.T) {
	s := edgeServer(t, nil)
	for in, want := range map[string]string{
		"/a?b":               "/a?b",
		"/x/../a":            "/a",
		"//a/./b/?c=/../d":   "/a/b/?c=/../d",
		"/%61?%61":           "/a?%61",
		"/a?\xc3\xa9":        "/a?%C3%A9",
		"/\xc3\xa9":          "/%C3%A9",
		"http://evil/x/../a": "/a",
	} {
		x := &exchange{}
		x.in = incoming{method: http.MethodGet, target: in, host: "shop.test"}
		if refusal := s.prepare(x); refusal != nil || x.out.target != want {
			t.Errorf("%q is sent as %q, %v; want %q", in, x.out.target, refusal, want)
		}
		if path, _, _ := strings.Cut(want, "?"); x.request.Path != path {
			t.Errorf("%q is decided about as %q, and sent as %q", in, x.request.Path, want)
		}
	}
}

func TestNothingIsForwardedWithoutADecision(t *testing.T) {
	s := edgeServer(t, nil)
	x := &exchange{}
	x.in = incoming{method: http.MethodGet, target: "/", host: "other.test"}
	if refusal := s.prepare(x); refusal == nil || refusal.Code != CodeNoRoute {
		t.Errorf("a host without a route: %v", refusal)
	}
	s.e.state.Store(nil)
	x.in = incoming{method: http.MethodGet, target: "/", host: "shop.test"}
	if refusal := s.prepare(x); refusal == nil || refusal.Code != CodeNotReady {
		t.Errorf("without a configuration: %v", refusal)
	}
}

func names(l header.List) string {
	var out []string
	for _, f := range l {
		out = append(out, f.Name)
	}
	return strings.Join(out, " ")
}

func TestLengthTravelsApart(t *testing.T) {
	l := header.List{{Name: "A", Value: "1"}, {Name: "Content-Length", Value: "5"}, {Name: "content-length", Value: "6"}}
	if got, refusal := cleanRequest(nil, l, trust{}); refusal != nil || names(got) != "A" {
		t.Errorf("of a request remains %q, %v", names(got), refusal)
	}
	if got := cleanResponse(nil, l, false); names(got) != "A" {
		t.Errorf("of a response remains %q", names(got))
	}
}

func TestCleanResponse(t *testing.T) {
	for _, tt := range []struct {
		name         string
		in           header.List
		fromWorkload bool
		want         string
	}{
		{"ordinary fields", header.List{{Name: "Set-Cookie"}, {Name: "X-A"}, {Name: "Set-Cookie"}}, true, "Set-Cookie X-A Set-Cookie"},
		{"fields of the connection", header.List{{Name: "Connection", Value: "close"}, {Name: "Keep-Alive"}, {Name: "Transfer-Encoding"}, {Name: "Upgrade"}, {Name: "Trailer"}, {Name: "TE"}}, false, ""},
		{"fields that Connection names", header.List{{Name: "Connection", Value: "x-a, X-B"}, {Name: "X-A"}, {Name: "X-B"}, {Name: "X-C"}}, false, "X-C"},
		{"spellings that frame the message", header.List{{Name: "Transfer_Encoding"}, {Name: "Content_Length"}, {Name: "Transfer.Encoding"}}, false, ""},
		{"ours, of a peer", header.List{{Name: "Hedgerow-Decision"}}, false, "Hedgerow-Decision"},
		{"ours, of a workload", header.List{{Name: "Hedgerow-Decision"}, {Name: "hedgerow_device"}}, true, ""},
	} {
		if got := names(cleanResponse(nil, tt.in, tt.fromWorkload)); got != tt.want {
			t.Errorf("%s: remains %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCleanTrailer(t *testing.T) {
	l := header.List{
		{Name: "X-Sum"}, {Name: "Connection"}, {Name: "Transfer-Encoding"}, {Name: "Transfer_Encoding"}, {Name: "X-Forwarded-For"}, {Name: "X_Real.IP"},
		{Name: "Hedgerow-Device"}, {Name: "X-HTTP-Method-Override"}, {Name: "Authorization"}, {Name: "authorization"}, {Name: "Host"}, {Name: "Grpc-Status"},
	}
	if got := names(cleanTrailer(header.List{{Name: "First"}}, l)); got != "First X-Sum Grpc-Status" {
		t.Errorf("remains %q", got)
	}
}

// A 204 tells no length (RFC 9110 section 8.6); a 304 and the answer to a HEAD
// may tell that of another.
func TestLengthOfAnAnswerWithoutABody(t *testing.T) {
	s := edgeServer(t, nil)
	for _, tt := range []struct {
		method string
		status int
		tells  bool
	}{{"HEAD", 200, true}, {"HEAD", 204, false}, {"HEAD", 304, true}, {"GET", 304, true}, {"GET", 204, false}} {
		x := &exchange{out: outgoing{method: tt.method}, resp: responseHead{status: tt.status, fields: header.List{{Name: "Content-Length", Value: "5"}}}}
		head := s.responseHead(x)
		if _, tells := head.fields.Get("Content-Length"); tells != tt.tells {
			t.Errorf("%s, %d: %v", tt.method, tt.status, head.fields)
		}
	}
}
