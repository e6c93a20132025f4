package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// stdServer serves h over TLS with net/http, and returns our client's end of a link
// to it.
func stdServer(t *testing.T, cfg Config, h http.HandlerFunc) *Conn {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), conf)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	c := Client(conn, cfg)
	t.Cleanup(func() {
		_ = c.Close()
		<-c.read
	})
	return c
}

// stdClient returns the client of net/http joined to a Server of ours.
func stdClient(t *testing.T, cfg Config) *http.Client {
	t.Helper()
	a, b := tcpPair(t)
	s := Server(b, cfg)
	var dialed atomic.Bool
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if dialed.Swap(true) {
				return nil, errors.New("dial: a second time")
			}
			return a, nil
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		_ = s.Close()
		_ = a.Close()
		<-s.read
	})
	client := &http.Client{Transport: tr, Timeout: wait}
	resp, err := client.Get("http://x.example/") // now it knows that it may share the link
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	_ = resp.Body.Close()
	return client
}

// stdEcho answers with the request's body as it comes, and with its trailers.
func stdEcho(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "Sum")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	if _, err := io.Copy(w, r.Body); err != nil {
		return
	}
	w.Header().Set("Sum", r.Trailer.Get("Sum"))
}

func TestClientWithStandardServer(t *testing.T) {
	t.Parallel()
	big := pattern(1 << 20)
	t.Run("bodies and trailers", func(t *testing.T) {
		t.Parallel()
		c := stdServer(t, Config{}, stdEcho)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s, err := c.Open(post("/"), nil, false)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				defer s.Close()
				sent := make(chan error, 1)
				sum := fmt.Sprint(i)
				h := header.List{{Name: "sum", Value: sum}}
				go func() { sent <- sendAll(s, big, h) }()
				_, body, trailers, err := answer(s)
				if err := errors.Join(err, <-sent); err != nil {
					t.Errorf("got error %v", err)
				}
				mustEqual(t, "body", body, big)
				// net/http forgets request trailers that were not announced.
				if v, ok := trailers.Get("Sum"); !ok || v != "" {
					t.Errorf("got trailers %v", trailers)
				}
			})
		}
		wg.Wait()
	})
	t.Run("announced trailers", func(t *testing.T) {
		t.Parallel()
		c := stdServer(t, Config{}, stdEcho)
		h := post("/")
		h.Fields = header.List{{Name: "Trailer", Value: "Sum"}}
		s, err := c.Open(h, []byte("x"), false)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		if err := s.End(header.List{{Name: "Sum", Value: "7"}}); err != nil {
			t.Errorf("end: %v", err)
		}
		_, _, trailers, err := answer(s)
		if v, _ := trailers.Get("Sum"); err != nil || v != "7" {
			t.Errorf("got %v %v", trailers, err)
		}
	})
	t.Run("informational", func(t *testing.T) {
		t.Parallel()
		c := stdServer(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		})
		s, err := c.Open(get("/"), nil, true)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer s.Close()
		for _, want := range []int{103, 418} {
			if h, err := s.Response(); err != nil || h.Status != want {
				t.Errorf("got %v %v, want %d", h, err, want)
			}
		}
	})
	t.Run("many at once, and after silence", func(t *testing.T) {
		t.Parallel()
		// A short PingAfter makes the link quiet soon.
		c := stdServer(t, Config{PingAfter: 40 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.URL.Path)
		})
		for _, n := range []int{100, 200, 200} { // 100 are allowed before SETTINGS came
			many(t, c, n)
			eventually(t, "quiet", func() bool { return isQuiet(c) })
		}
	})
}

// many does n exchanges at once, whose answer is the path.
func many(t *testing.T, c *Conn, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			path := fmt.Sprintf("/items/%d", i)
			h := get(path)
			h.Fields = header.List{{Name: "User-Agent", Value: "t"}, {Name: "X-Item", Value: path}, {Name: "Cookie", Value: path}}
			_, body, _, err := exchange(c, h, nil)
			if err != nil || string(body) != path {
				t.Errorf("got %q %v", body, err)
			}
		})
	}
	wg.Wait()
}

// isQuiet reports whether the link holds no read buffer and its clock rests.
func isQuiet(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock.quiet && !c.clock.running
}

func TestServerWithStandardClient(t *testing.T) {
	t.Parallel()
	big := pattern(1 << 20)
	t.Run("bodies and trailers", func(t *testing.T) {
		t.Parallel()
		client := stdClient(t, Config{Handle: echo})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				req, err := http.NewRequest(http.MethodPost, "http://x.example/", io.NopCloser(bytes.NewReader(big)))
				if err != nil {
					t.Errorf("request: %v", err)
					return
				}
				req.Trailer = http.Header{"Sum": {fmt.Sprint(i)}}
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("do: %v", err)
					return
				}
				defer func() { _ = resp.Body.Close() }()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.Trailer.Get("Sum") != fmt.Sprint(i) {
					t.Errorf("got %v %v", resp.Trailer, err)
				}
				mustEqual(t, "body", body, big)
			})
		}
		wg.Wait()
	})
	t.Run("informational", func(t *testing.T) {
		t.Parallel()
		client := stdClient(t, Config{Handle: func(s *Stream) {
			_ = s.Respond(&Head{Status: 103, Fields: header.List{{Name: "Link", Value: "</x>"}}}, nil, false)
			ok(s, "")
		}})
		var got []int
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			got = append(got, code)
			return nil
		}}
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "http://x.example/", nil)
		resp, err := client.Do(req)
		if err != nil || resp.StatusCode != 200 || fmt.Sprint(got) != "[103]" {
			t.Fatalf("got %v %v %v", resp, got, err)
		}
		_ = resp.Body.Close()
	})
	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		client := stdClient(t, Config{Handle: func(s *Stream) {
			r := s.Request()
			h := &Head{Status: 200, Fields: header.List{{Name: "Set-Cookie", Value: r.Path}, {Name: "X-Path", Value: r.Path}}}
			_ = s.Respond(h, []byte(r.Path), true)
		}})
		for _, n := range []int{50, 200, 200} { // 100 are allowed before SETTINGS came
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					path := fmt.Sprintf("/items/%d%s", i, strings.Repeat("x", i))
					resp, err := client.Get("http://x.example" + path)
					if err != nil {
						t.Errorf("get: %v", err)
						return
					}
					defer func() { _ = resp.Body.Close() }()
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != path || resp.Header.Get("X-Path") != path {
						t.Errorf("got %q %v %v", body, resp.Header, err)
					}
				})
			}
			wg.Wait()
		}
	})
	t.Run("large header sections both ways", func(t *testing.T) {
		t.Parallel()
		large := strings.Repeat("v", 40<<10)
		client := stdClient(t, Config{Handle: func(s *Stream) {
			v, _ := s.Request().Fields.Get("X-Large")
			_ = s.Respond(&Head{Status: 200, Fields: header.List{{Name: "X-Large", Value: v}}}, nil, true)
		}})
		req, _ := http.NewRequest(http.MethodGet, "http://x.example/", nil)
		req.Header.Set("X-Large", large)
		resp, err := client.Do(req)
		if err != nil || resp.Header.Get("X-Large") != large {
			t.Fatalf("got %v", err)
		}
		_ = resp.Body.Close()
	})
}
