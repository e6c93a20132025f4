package loop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server of net/http that h answers for.
func serve(t *testing.T, secure bool, h http.HandlerFunc) load.Target {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	target := load.Target{Address: s.Listener.Addr().String(), Host: "shop.mesh"}
	if secure {
		target.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		target.TLS.ServerName = "example.com"
	}
	return target
}

// echo answers with what arrived.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %s at %s: %s %v", r.Method, r.URL, r.Host, body, err) // a client that left has no test
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name    string
		secure  bool
		rate    int
		request Request
	}{
		{"closed GET", false, 0, Request{Method: "GET", Path: "/a?b", Want: []byte("GET /a?b at shop.mesh:  <nil>")}},
		{"closed POST", false, 0, Request{Method: "POST", Path: "/", Body: []byte("body"), Want: []byte("POST / at shop.mesh: body <nil>")}},
		{"closed GET over TLS", true, 0, Request{Method: "GET", Path: "/", Want: []byte("GET / at shop.mesh:  <nil>")}},
		{"open GET", false, 1000, Request{Method: "GET", Path: "/", Want: []byte("GET / at shop.mesh:  <nil>")}},
		{"a long answer", false, 0, Request{Method: "POST", Path: "/", Body: []byte(strings.Repeat("x", 5000)), Want: []byte("POST / at shop.mesh: " + strings.Repeat("x", 5000) + " <nil>")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conns, requests atomic.Int64
			target := serve(t, tt.secure, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				w.Header().Set("Content-Length", fmt.Sprint(len(tt.request.Want)))
				echo(w, r)
			})
			cost := time.Duration(0)
			report, err := Run(t.Context(), Plan{
				Target: target, Request: tt.request, Connections: 3, Rate: tt.rate, Warm: 50 * time.Millisecond, Length: 200 * time.Millisecond,
				Cost: func() (time.Duration, error) { conns.Add(1); cost += time.Second; return cost, nil },
			})
			if err != nil || report.Failed > 0 || report.Requests == 0 {
				t.Fatalf("got %+v, %v", report, err)
			}
			if sent := requests.Load(); int64(report.Requests) >= sent {
				t.Errorf("%d requests are reported of %d: warming is not to count", report.Requests, sent)
			}
			if tt.rate > 0 && (report.Requests < 195 || report.Requests > 205 || report.Late > report.P99) {
				t.Errorf("got %+v, want 200 requests in 200 ms", report)
			}
			if report.Cost != time.Second || conns.Load() != 2 || report.CostEach() != time.Second/time.Duration(report.Requests) {
				t.Errorf("cost %v after %d looks, %v each", report.Cost, conns.Load(), report.CostEach())
			}
			if report.P50 <= 0 || report.P99 < report.P50 || report.Elapsed < 200*time.Millisecond || report.PerSecond() <= 0 {
				t.Errorf("got %+v", report)
			}
		})
	}
}

// TestAnswers has a server of bytes answer wrongly.
func TestAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	for _, tt := range []struct {
		name, answer, want string // want: part of the failure; empty for none
	}{
		{"as it should be", ok, ""},
		{"another status", strings.Replace(ok, "200 OK", "503 No", 1), `the answer begins "HTTP/1.1 503 No"`},
		{"another version", strings.Replace(ok, "1.1", "1.0", 1), "the answer begins"},
		{"another body", strings.Replace(ok, "\r\n\r\nok", "\r\n\r\nno", 1), `the body is "no", want "ok"`},
		{"a longer body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok!", `the body is "ok!"`},
		{"a shorter body", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\no", `the body is "o"`},
		{"more than the body", ok + "!", "1 bytes follow"},
		{"a body that is cut off", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "after 39 bytes of it: EOF"},
		{"a header that is cut off", "HTTP/1.1 200 OK\r\nContent-Le", "EOF"},
		{"no answer", "", "after 0 bytes of it: EOF"},
		{"no length", "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nok", "no Content-Length"},
		{"a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", `Content-Length "-2"`},
		{"a length without end", "HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\nok", "longer than any"},
		{"a header without end", "HTTP/1.1 200 OK\r\nServer: " + strings.Repeat("x", answerMost), "the header of the answer does not end"},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "want a Content-Length"},
		{"the last answer", strings.Replace(ok, "content", "connection: Close\r\ncontent", 1), "closes the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := net.Pipe()
			defer here.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer there.Close()
				if _, err := bufio.NewReader(there).ReadString('\n'); err == nil {
					_, _ = io.WriteString(there, tt.answer) // the client may have enough before its end
				}
			}()
			c := &Conn{net: here, request: []byte("GET / HTTP/1.1\r\n"), want: []byte("ok"), in: make([]byte, answerMost)}
			err := c.Exchange()
			here.Close()
			<-done
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRunTellsFailures(t *testing.T) {
	target := serve(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, rate := range []int{0, 1000} {
		report, err := Run(t.Context(), Plan{Target: target, Request: Request{Method: "GET", Path: "/"}, Connections: 2, Rate: rate, Length: 50 * time.Millisecond})
		if err != nil || report.Failed < 2 || report.Requests != 0 || len(report.Errors) == 0 || !strings.Contains(report.Errors[0], "418") {
			t.Errorf("rate %d: got %+v, %v", rate, report, err)
		}
	}
}

// TestOpenLoopHasABacklog: what nobody can send is a failure, not forgotten.
func TestOpenLoopHasABacklog(t *testing.T) {
	stuck := make(chan struct{})
	target := serve(t, false, func(http.ResponseWriter, *http.Request) { <-stuck })
	defer close(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	report, err := Run(ctx, Plan{Target: target, Request: Request{Method: "GET", Path: "/"}, Connections: 1, Rate: 20, Length: time.Minute})
	if !errors.Is(err, context.DeadlineExceeded) || report.Failed != 1 || report.Requests != 0 {
		t.Errorf("an open loop that was given up: %+v, %v", report, err)
	}
	r := &run{}
	slots := make(chan slot, 1)
	r.hand(slots, time.Now())
	r.hand(slots, time.Now())
	if !slices.Equal(r.report.Errors, []string{errBacklog.Error()}) || r.report.Failed != 1 {
		t.Errorf("got %+v", r.report)
	}
}

func TestRunEnds(t *testing.T) {
	t.Run("when nobody listens", func(t *testing.T) {
		if _, err := Run(t.Context(), Plan{Target: load.Target{Address: "127.0.0.1:1"}, Connections: 1, Length: time.Minute}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("with its context", func(t *testing.T) {
		target := serve(t, false, func(http.ResponseWriter, *http.Request) {})
		ctx, cancel := context.WithCancel(t.Context())
		cost := func() (time.Duration, error) { cancel(); return 0, nil } // once it measures
		if _, err := Run(ctx, Plan{Target: target, Request: Request{Method: "GET", Path: "/"}, Connections: 1, Length: time.Minute, Cost: cost}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("without a cost", func(t *testing.T) {
		target, away := serve(t, false, func(http.ResponseWriter, *http.Request) {}), errors.New("the process is away")
		if _, err := Run(t.Context(), Plan{Target: target, Request: Request{Method: "GET", Path: "/"}, Connections: 1, Length: time.Minute, Cost: func() (time.Duration, error) { return 0, away }}); !errors.Is(err, away) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPercentile(t *testing.T) {
	for _, tt := range []struct {
		n, p, want int
	}{{0, 50, 0}, {1, 50, 1}, {1, 99, 1}, {2, 50, 1}, {100, 99, 99}, {101, 99, 100}, {100, 50, 50}} {
		var all []time.Duration
		for i := range tt.n {
			all = append(all, time.Duration(i+1))
		}
		if got := percentile(all, tt.p); got != time.Duration(tt.want) {
			t.Errorf("percentile %d of 1 to %d is %d, want %d", tt.p, tt.n, got, tt.want)
		}
	}
}
