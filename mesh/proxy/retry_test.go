package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// retryOn sets one retry.
func retryOn(on ...string) func(*mesh.RouteRule) {
	return func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 1, On: on, Backoff: &mesh.Backoff{Base: mesh.Seconds(0.001), Max: mesh.Seconds(0.002)}}
	}
}

func TestRetryHidesADeadEndpoint(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.register("orders", "n2", deadAddr(t), nil)
		w.config.Services["orders"].OutlierDetection = &mesh.OutlierDetection{ConsecutiveConnectFailures: 1000}
		w.route("orders", func(r *mesh.RouteRule) {
			retryOn(mesh.OnConnectFailure)(r)
			r.Retry.BudgetPercent = 100
		})
		en := w.gateway(m)
		w.publish()
		for i := range 100 {
			method, body := http.MethodGet, io.Reader(nil)
			if i%2 == 1 {
				method, body = http.MethodPost, strings.NewReader("payload")
			}
			a := en.do(t, en.request(t, method, "/", body))
			if a.StatusCode != 200 {
				t.Fatalf("request %d got %d %s", i, a.StatusCode, a.body)
			}
			if i%2 == 1 && last.Load().body != "payload" {
				t.Fatalf("request %d arrived with body %q", i, last.Load().body)
			}
		}
		retries := counted(t, en.registry, "hedgerow_retries_total", map[string]string{"service": "orders", "reason": "connect"})
		if retries < 10 || retries > 90 {
			t.Errorf("%v retries for 100 requests to two endpoints of which one is dead", retries)
		}
	})
}

func TestRetryConditions(t *testing.T) {
	const unavailable, reset = 503, 0
	small, large := "small", strings.Repeat("x", 200<<10)
	for _, tt := range []struct {
		name   string
		on     []string
		first  int // what the failing workload answers; 0: it breaks off
		method string
		key    bool
		body   string
		retry  bool
	}{
		{"GET after 503", []string{mesh.OnGatewayError}, unavailable, "GET", false, "", true},
		{"GET after 503 that is not asked for", []string{mesh.OnConnectFailure, mesh.OnReset}, unavailable, "GET", false, "", false},
		{"POST after 503", []string{mesh.OnGatewayError}, unavailable, "POST", false, small, false},
		{"POST with Idempotency-Key after 503", []string{mesh.OnGatewayError}, unavailable, "POST", true, small, true},
		{"PUT with a small body after 503", []string{mesh.OnGatewayError}, unavailable, "PUT", false, small, true},
		{"PUT with a large body after 503", []string{mesh.OnGatewayError}, unavailable, "PUT", false, large, false},
		{"GET after a workload's reset, which its sidecar makes 502", []string{mesh.OnGatewayError}, reset, "GET", false, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var hits atomic.Int32
			var met atomic.Int32
			w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
				met.Add(1)
				if _, err := io.Copy(io.Discard, r.Body); err != nil || tt.first == reset {
					panic(http.ErrAbortHandler)
				}
				rw.WriteHeader(tt.first)
			}), nil)
			w.sidecar("orders", "n2", w.workload(func(_ http.ResponseWriter, r *http.Request) {
				hits.Add(1)
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != tt.body {
					t.Errorf("body of %d bytes, %v; want %d", len(body), err, len(tt.body))
				}
			}), nil)
			w.route("orders", retryOn(tt.on...))
			en := w.gateway(overH1)
			w.publish()
			failed := 0
			for range 30 {
				r := en.request(t, tt.method, "/", strings.NewReader(tt.body))
				if tt.key {
					r.Header.Set("Idempotency-Key", "k1")
				}
				if a := en.do(t, r); a.StatusCode >= 500 {
					failed++
				}
			}
			if (failed == 0) != tt.retry {
				t.Errorf("%d of 30 failed, retried: %v", failed, tt.retry)
			}
			if met.Load() == 0 || hits.Load() == 0 {
				t.Error("the requests did not meet both endpoints")
			}
		})
	}
}

func TestResetIsNotRetriedForPost(t *testing.T) {
	for _, tt := range []struct {
		method string
		want   int
	}{{"GET", 200}, {"POST", 502}} {
		t.Run(tt.method, func(t *testing.T) {
			w := newWorld(t)
			// A sidecar that breaks the connection off after the handshake.
			src := w.source("/svc/orders/n/n1")
			e, reg := w.engine(proxy.MeshLimits())
			_, config, err := e.Inbound(proxy.Workload{Service: "orders", Node: "n1", Address: "127.0.0.1:1", Source: src})
			if err != nil {
				t.Fatal(err)
			}
			broken := w.runSite(e, reg, proxy.Site{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), TLS: config}, time.Second)
			w.register("orders", "n1", broken.addr, nil)
			var last atomic.Pointer[seen]
			w.sidecar("orders", "n2", w.workload(echo(&last)), nil)
			w.route("orders", retryOn(mesh.OnReset))
			en := w.gateway(overH1)
			w.publish()
			worst := 200
			for range 30 {
				if a := en.do(t, en.request(t, tt.method, "/", nil)); a.StatusCode > worst {
					worst = a.StatusCode
					wantProblem(t, a, 502, "endpoint_reset")
				}
			}
			if worst != tt.want {
				t.Errorf("the worst answer is %d, want %d", worst, tt.want)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	modes(t, func(t *testing.T, m mode) {
		t.Run("the route's timeout", func(t *testing.T) {
			w := newWorld(t)
			w.sidecar("orders", "n1", w.workload(hang), nil)
			w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.1) })
			en := w.gateway(m)
			w.publish()
			wantProblem(t, en.get(t, "/"), 504, "timeout")
			wantProblem(t, en.do(t, en.request(t, "POST", "/", strings.NewReader("x"))), 504, "timeout")
		})
		t.Run("per try, then another endpoint", func(t *testing.T) {
			w := newWorld(t)
			var last atomic.Pointer[seen]
			w.sidecar("orders", "n1", w.workload(hang), nil)
			w.sidecar("orders", "n2", w.workload(echo(&last)), nil)
			w.route("orders", func(r *mesh.RouteRule) {
				retryOn(mesh.OnGatewayError)(r)
				r.Retry.PerTryTimeout = mesh.Seconds(0.1)
			})
			en := w.gateway(m)
			w.publish()
			for range 10 {
				if a := en.get(t, "/"); a.StatusCode != 200 {
					t.Fatalf("got %d %s", a.StatusCode, a.body)
				}
			}
		})
		t.Run("in the middle of a body, which then looks cut", func(t *testing.T) {
			w := newWorld(t)
			w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(rw, "half")
				_ = http.NewResponseController(rw).Flush()
				<-r.Context().Done()
			}), nil)
			w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.2) })
			en := w.gateway(m)
			w.publish()
			resp, err := en.client.Do(en.request(t, "GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "half" {
				t.Errorf("got %q and %v", body, err)
			}
		})
		t.Run("a client that sends too slowly", func(t *testing.T) {
			w := newWorld(t)
			w.sidecar("orders", "n1", w.workload(hang), nil)
			w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.2) })
			en := w.gateway(m)
			w.publish()
			pr, pw := io.Pipe()
			defer pw.Close()
			go func() { _, _ = io.WriteString(pw, "x") }()
			wantProblem(t, en.do(t, en.request(t, "POST", "/", pr)), 408, "client_timeout")
			if n := counted(t, en.registry, "hedgerow_upstream_failures_total", nil); n != 0 {
				t.Errorf("%v failures are counted against the upstream", n)
			}
		})
	})
}

func TestSilenceEndsAnExchangeWithoutTimeout(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), nil)
		w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0) })
		l := proxy.EdgeLimits()
		l.StreamIdle = 100 * time.Millisecond
		en := w.gatewayWith(m, l, time.Second)
		w.publish()
		wantProblem(t, en.get(t, "/"), 504, "timeout")
	})
}

func TestTruncatedResponsesLookTruncated(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		for name, reply := range map[string]string{
			"with a length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
			"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				w.sidecar("orders", "n1", closing(t, reply), nil)
				w.route("orders", nil)
				en := w.gateway(m)
				w.publish()
				resp, err := en.client.Do(en.request(t, "GET", "/", nil))
				if err != nil {
					return // seen even earlier
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode == 200 {
					t.Errorf("got %q as if it were all", body)
				}
				eventually(t, "counted as no success", func() bool {
					return counted(t, en.registry, "hedgerow_requests_total", map[string]string{"code_class": "aborted"})+
						counted(t, en.registry, "hedgerow_requests_total", map[string]string{"code_class": "5xx"}) == 1
				})
			})
		}
	})
}

// closing is a workload that answers each connection with reply and closes it.
func closing(t *testing.T, reply string) string {
	t.Helper()
	return accepting(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, reply)
	})
}

func TestLargeBodiesBothWays(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex()
			_, _ = io.Copy(rw, r.Body)
		}), nil)
		w.route("orders", retryOn(mesh.OnConnectFailure))
		en := w.gateway(m)
		w.publish()
		want := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
		a := en.do(t, en.request(t, "POST", "/", bytes.NewReader(want)))
		if a.body != string(want) {
			t.Errorf("got %d bytes back, want %d", len(a.body), len(want))
		}
	})
}

func TestAnswerDoesNotWaitForTheRestOfTheRequest(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex()
			rw.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(rw, "enough")
		}), nil)
		w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(60) })
		en := w.gateway(m)
		w.publish()
		pr, pw := io.Pipe()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.WriteString(pw, "the beginning")
		}()
		r := en.request(t, "POST", "/", pr)
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if a := en.do(t, r.WithContext(ctx)); a.StatusCode != http.StatusTeapot || a.body != "enough" {
			t.Errorf("got %d %q", a.StatusCode, a.body)
		}
		_ = pw.Close()
		<-sent
	})
}

// Of an endpoint that leaves, connections that wait for a request are closed at once.
func TestEndpointThatLeavesWhileIdleIsDisconnected(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1, pooled)
	w.publish()
	if a := en.get(t, "/"); a.StatusCode != 200 {
		t.Fatalf("got %d", a.StatusCode)
	}
	connections := func() float64 { return counted(t, en.registry, "hedgerow_upstream_connections", nil) }
	if n := connections(); n != 1 {
		t.Fatalf("%v connections", n)
	}
	w.instances["orders"] = nil
	w.publish()
	eventually(t, "the connection is closed", func() bool { return connections() == 0 })
}

func TestEndpointThatLeavesIsDisconnected(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	hold := make(chan struct{})
	in := w.sidecar("orders", "n2", w.workload(func(http.ResponseWriter, *http.Request) { <-hold }), mesh.Labels{"slow": "1"})
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolHTTP, Subsets: []mesh.Subset{{Name: "slow", Labels: mesh.Labels{"slow": "1"}}}})
	w.route("orders", func(r *mesh.RouteRule) { r.Backends[0].Subset = "slow" })
	en := w.gateway(overH1)
	w.publish()
	got := make(chan answer, 1)
	go func() { got <- en.get(t, "/held") }()
	eventually(t, "the request is held", func() bool {
		return counted(t, in.registry, "hedgerow_requests_in_flight", map[string]string{"face": "inbound"}) == 1
	})
	w.instances["orders"] = w.instances["orders"][:1]
	w.publish()
	wantProblem(t, en.get(t, "/new"), 503, "no_healthy_endpoint")
	close(hold)
	if a := <-got; a.StatusCode != 200 {
		t.Errorf("the request under way got %d", a.StatusCode)
	}
	eventually(t, "its connections are closed", func() bool { return counted(t, en.registry, "hedgerow_upstream_connections", nil) == 0 })
}
