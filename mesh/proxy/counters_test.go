package proxy_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// misbehave answers in one of the ways in which workloads do.
func misbehave(rw http.ResponseWriter, r *http.Request) {
	flush := func() { _ = http.NewResponseController(rw).Flush() }
	switch rand.IntN(10) {
	case 0:
		rw.WriteHeader(http.StatusServiceUnavailable)
	case 1:
		panic(http.ErrAbortHandler)
	case 2:
		_, _ = io.WriteString(rw, "begun")
		flush()
		panic(http.ErrAbortHandler)
	case 3:
		_, _ = io.Copy(io.Discard, r.Body) // or net/http does not look whether anybody waits
		select {
		case <-r.Context().Done():
		case <-time.After(time.Second): // nobody gives a mirror's copy up for long
		}
	case 4:
		rw.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, strings.Repeat("x", 100_000))
	case 5:
		rw.WriteHeader(http.StatusTooManyRequests) // and the body is not read
	case 6:
		_, _ = io.Copy(io.Discard, r.Body)
		for range 5 {
			_, _ = io.WriteString(rw, "piece")
			flush()
			select {
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	default:
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, "good")
	}
}

// posts counts by their id how often requests came that must not come twice.
type posts struct {
	mu  sync.Mutex
	ids map[string]int
}

// counting is misbehave, of requests with an id once.
func (p *posts) counting(t *testing.T) http.HandlerFunc {
	p.ids = map[string]int{}
	return func(rw http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Id"); id != "" {
			p.mu.Lock()
			p.ids[id]++
			if p.ids[id] > 1 {
				t.Errorf("%s %s came %d times", r.Method, id, p.ids[id])
			}
			p.mu.Unlock()
		}
		misbehave(rw, r)
	}
}

// none reports whether no such request came.
func (p *posts) none() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids) == 0
}

// Whatever clients and workloads do, everything that was counted is given back, and
// nothing twice; and nothing is sent twice that must not be.
func TestCountersComeBackToZero(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		for _, way := range ways() {
			t.Run(way.name, func(t *testing.T) {
				w := newWorld(t)
				var once posts
				workload := once.counting(t)
				nodes := []*node{w.sidecar("copies", "n4", w.workload(misbehave), nil)}
				for i := range 3 {
					nodes = append(nodes, w.sidecar("orders", fmt.Sprintf("n%d", i+1), w.workload(workload), nil))
				}
				w.put(&mesh.Service{
					Meta: mesh.Meta{Name: "services/orders"}, AdaptiveConcurrency: &mesh.AdaptiveConcurrency{},
					CircuitBreaker:   &mesh.CircuitBreaker{MaxRequests: 24, MaxPending: 4, MaxRetries: 6},
					OutlierDetection: &mesh.OutlierDetection{BaseEjectionTime: mesh.Seconds(0.05)},
				})
				w.route("orders", func(r *mesh.RouteRule) {
					r.Timeout = mesh.Seconds(0.3)
					r.Retry = &mesh.Retry{
						Attempts: 2, On: []string{mesh.OnConnectFailure, mesh.OnReset, mesh.OnGatewayError, mesh.OnTooManyRequests},
						PerTryTimeout: mesh.Seconds(0.1), HedgeAfter: mesh.Seconds(0.01), BudgetPercent: 100,
					}
					r.Filters = []mesh.Filter{{Mirror: &mesh.Mirror{Service: "copies", Percent: 50}}}
				})
				en := w.gateway(m, way.options...)
				w.publish()
				engines := []*proxy.Engine{en.engine}
				for _, n := range nodes {
					engines = append(engines, n.engine)
				}
				under := func() (sum int64) {
					for _, e := range engines {
						for what, n := range e.Counted() {
							if n < 0 {
								t.Errorf("%s: %d", what, n)
							}
							sum += n
						}
					}
					return sum
				}
				storm(t, en, m)
				under()
				t.Cleanup(func() {
					for _, e := range engines {
						if t.Failed() {
							t.Log(e.Counted())
						}
					}
				})
				if once.none() {
					t.Error("nothing came that must not come twice")
				}
				eventually(t, "all is given back", func() bool { return under() == 0 && counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
			})
		}
	})
}

// storm has clients send requests of all kinds, and leave at any time.
func storm(t *testing.T, en *entry, m mode) {
	t.Helper()
	const clients, each = 24, 12
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range each {
				if m == overH1 && rand.IntN(2) == 0 {
					abrupt(en.addr)
					continue
				}
				ctx, leave := context.WithTimeout(t.Context(), time.Duration(rand.IntN(200)+1)*time.Millisecond)
				body := io.Reader(strings.NewReader(strings.Repeat("b", []int{1, 1000, 30_000, 200_000}[rand.IntN(4)])))
				if rand.IntN(2) == 0 {
					body = io.LimitReader(body, 1<<20) // of unknown length
				}
				method := []string{http.MethodGet, http.MethodPut, http.MethodPost}[rand.IntN(3)]
				if method == http.MethodGet {
					body = nil
				}
				r, err := http.NewRequestWithContext(ctx, method, en.url+"/a", body)
				if err != nil {
					t.Error(err)
					leave()
					return
				}
				r.Host = "shop.test"
				if method == http.MethodPost {
					r.Header.Set("X-Id", strconv.FormatUint(rand.Uint64(), 36))
				}
				if resp, err := en.client.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				leave()
			}
		})
	}
	all.Wait()
}

// abrupt sends a request, or a part of one, and resets the connection some time later.
func abrupt(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	request := "PUT /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 40000\r\n\r\n" + strings.Repeat("b", 40_000)
	if rand.IntN(2) == 0 {
		request = "GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	}
	_, _ = io.WriteString(conn, request[:len(request)-rand.IntN(2)*rand.IntN(len(request))])
	<-time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
	if tcp, ok := conn.(*net.TCPConn); ok && rand.IntN(2) == 0 {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
