package h1

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func TestResponses(t *testing.T) {
	for _, tt := range []struct {
		name, method, in string
		status           int // 0 is malformed
		body             string
		framing          Framing
		keep             bool
	}{
		{"a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", Length, true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", Chunked, true},
		{"until it closes", "GET", "HTTP/1.1 200 OK\r\n\r\nok", 200, "ok", UntilClose, false},
		{"to a HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/", 200, "", NoBody, true},
		{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nHTTP/", 204, "", NoBody, true},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nHTTP/", 304, "", NoBody, true},
		{"an informational one with a length", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/", 103, "", NoBody, true},
		{"an informational one", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 103, "", NoBody, true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", Length, true},
		{"an empty reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 200, "", Length, true},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200, "", Length, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", Length, false},
		{"length and coding", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, "", 0, false},
		{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, "", 0, false},
		{"an unknown coding", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, "", 0, false},
		{"chunks in HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, "", 0, false},
		{"no number", "GET", "HTTP/1.1 2x0 OK\r\n\r\n", 0, "", 0, false},
		{"a number of four digits", "GET", "HTTP/1.1 2000 OK\r\n\r\n", 0, "", 0, false},
		{"a number with a colon", "GET", "HTTP/1.1 1:0 OK\r\n\r\n", 0, "", 0, false},
		{"only a version", "GET", "HTTP/1.1\r\n\r\n", 0, "", 0, false},
		{"a number of two digits", "GET", "HTTP/1.1 20\r\n\r\n", 0, "", 0, false},
		{"no space before the number", "GET", "HTTP/1.1_200 OK\r\n\r\n", 0, "", 0, false},
		{"status 099", "GET", "HTTP/1.1 099 OK\r\n\r\n", 0, "", 0, false},
		{"status 600", "GET", "HTTP/1.1 600 OK\r\n\r\n", 0, "", 0, false},
		{"HTTP/2", "GET", "HTTP/2.0 200 OK\r\n\r\n", 0, "", 0, false},
		{"a bare LF", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 0, "", 0, false},
		{"a control character in the reason", "GET", "HTTP/1.1 200 O\x01K\r\n\r\n", 0, "", 0, false},
		{"something else", "GET", "SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, "", 0, false},
	} {
		for way, arrive := range ways {
			t.Run(tt.name+" "+way, func(t *testing.T) {
				r := NewReader(arrive(tt.in), edge)
				var resp Response
				err := r.ReadResponse(&resp, tt.method)
				if tt.status == 0 {
					var malformed *Error
					if !errors.As(err, &malformed) {
						t.Fatalf("got %+v, %v", resp, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(r)
				if err != nil || string(body) != tt.body || resp.Status != tt.status || resp.Framing != tt.framing || resp.KeepAlive != tt.keep || !r.Ended() {
					t.Errorf("got %+v, body %q, %v", resp, body, err)
				}
			})
		}
	}
}

func TestBrokenBodiesLookBroken(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
	} {
		for way, arrive := range ways {
			r := NewReader(arrive(in), edge)
			var resp Response
			if err := r.ReadResponse(&resp, "GET"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || r.Ended() {
				t.Errorf("%q %s: %v, ended: %v", in, way, err, r.Ended())
			}
		}
	}
}

func TestWriter(t *testing.T) {
	trailers := header.List{{Name: "X-Sum", Value: "1"}}
	for _, tt := range []struct {
		name   string
		write  func(w *Writer) error
		want   string
		failed error
	}{
		{"a request", func(w *Writer) error {
			w.StartRequest("GET", "/a?b", "example.com")
			w.Field("x-Case", "Kept")
			w.EndHead(NoBody, 0)
			return w.End(nil)
		}, "GET /a?b HTTP/1.1\r\nHost: example.com\r\nx-Case: Kept\r\n\r\n", nil},
		{"a response with a length", func(w *Writer) error {
			w.StartResponse(404, "")
			w.EndHead(Length, 2)
			_, _ = w.Write([]byte("no"))
			return w.End(nil)
		}, "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", nil},
		{"chunks and trailers", func(w *Writer) error {
			w.StartResponse(200, "Fine")
			w.EndHead(Chunked, -1)
			_, _ = w.Write([]byte("hello world, and more"))
			_, _ = w.Write(nil) // not the last chunk
			return w.End(trailers)
		}, "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n15\r\nhello world, and more\r\n0\r\nX-Sum: 1\r\n\r\n", nil},
		{"too much", func(w *Writer) error {
			w.StartResponse(200, "")
			w.EndHead(Length, 2)
			_, err := w.Write([]byte("yes"))
			return err
		}, "", errLong},
		{"too little", func(w *Writer) error {
			w.StartResponse(200, "")
			w.EndHead(Length, 4)
			_, _ = w.Write([]byte("yes"))
			return w.End(nil)
		}, "", errShort},
		{"a body where there is none", func(w *Writer) error {
			w.StartResponse(204, "")
			w.EndHead(NoBody, 0)
			_, err := w.Write([]byte("x"))
			return err
		}, "", errLong},
		{"a line break in a value", func(w *Writer) error {
			w.StartResponse(200, "")
			w.Field("X", "a\r\nY: b")
			return w.End(nil)
		}, "", errField},
		{"a CR in a value", func(w *Writer) error {
			w.StartResponse(200, "")
			w.Field("X", "a\rb")
			return w.End(nil)
		}, "", errField},
		{"a LF in a value", func(w *Writer) error {
			w.StartResponse(200, "")
			w.Field("X", "a\nb")
			return w.End(nil)
		}, "", errField},
		{"a NUL in a value", func(w *Writer) error {
			w.StartResponse(200, "")
			w.Field("X", "a\x00b")
			return w.End(nil)
		}, "", errField},
		{"a line break in a trailer", func(w *Writer) error {
			w.StartResponse(200, "")
			w.EndHead(Chunked, -1)
			return w.End(header.List{{Name: "X-Sum", Value: "1\r\nX: 2"}})
		}, "", errField},
		{"a name that is no token", func(w *Writer) error {
			w.StartResponse(200, "")
			w.Field("X: a\r\nY", "b")
			return w.End(nil)
		}, "", errField},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			w := NewWriter(&out)
			if err := tt.write(w); !errors.Is(err, tt.failed) {
				t.Fatalf("got %v, want %v", err, tt.failed)
			}
			if err := w.Flush(); !errors.Is(err, tt.failed) {
				t.Fatalf("Flush: %v, want %v", err, tt.failed)
			}
			if out.String() != tt.want {
				t.Errorf("wrote %q, want %q", out.String(), tt.want)
			}
		})
	}
}

// endless gives the same bytes again and again.
type endless struct {
	data string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.at:])
	e.at = (e.at + n) % len(e.data)
	return n, nil
}

func TestNothingIsAllocated(t *testing.T) {
	requests := NewReader(&endless{data: "POST /orders/7?a=b HTTP/1.1\r\nHost: orders.mesh\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nhello"}, edge)
	responses := NewReader(&endless{data: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"}, edge)
	chunks := NewReader(&endless{data: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"}, edge)
	w := NewWriter(io.Discard)
	var req Request
	var resp Response
	turn := func() {
		if err := requests.ReadRequest(&req); err != nil {
			t.Fatal(err)
		}
		for !requests.Ended() {
			if _, ok := requests.Complete(); !ok {
				if _, err := requests.Next(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, r := range []*Reader{responses, chunks} {
			if err := r.ReadResponse(&resp, "GET"); err != nil {
				t.Fatal(err)
			}
			for !r.Ended() {
				if _, err := r.Next(); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
		}
		w.StartRequest(req.Method, req.Target, req.Host)
		for _, f := range req.Fields {
			if !header.Equal(f.Name, "Content-Length") {
				w.Field(f.Name, f.Value)
			}
		}
		w.EndHead(NoBody, 0)
		if err := errors.Join(w.End(nil), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	turn()
	if n := testing.AllocsPerRun(1000, turn); n > 0 {
		t.Errorf("%v allocations for two messages in and one out", n)
	}
}
