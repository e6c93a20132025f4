package h1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// forwarded writes req as a proxy does and returns the bytes.
func forwarded(req *Request, body []byte, trailers header.List) (string, error) {
	var out bytes.Buffer
	w := NewWriter(&out)
	w.StartRequest(req.Method, req.Target, req.Host)
	for _, f := range req.Fields {
		switch {
		case header.Equal(f.Name, "Host"), header.Equal(f.Name, "Content-Length"), header.Equal(f.Name, "Transfer-Encoding"):
		default:
			w.Field(f.Name, f.Value)
		}
	}
	w.EndHead(req.Framing, req.Length)
	_, _ = w.Write(body)
	_ = w.End(trailers)
	err := w.Flush()
	return out.String(), err
}

// FuzzRequestAgainstNetHTTP reads what a proxy forwards of a request that it
// accepted with net/http, which must see the same one request.
func FuzzRequestAgainstNetHTTP(f *testing.F) {
	for _, tt := range hostileRequests() {
		if len(tt.in) < 4<<10 {
			f.Add([]byte(tt.in + second))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in), edge)
		var req Request
		if err := r.ReadRequest(&req); err != nil {
			return
		}
		body, err := io.ReadAll(r)
		if err != nil || req.Target[0] != '/' || strings.HasPrefix(req.Target, "//") || req.Host == "" || req.Method == "PRI" {
			return // not forwarded, or not in this form
		}
		for _, c := range []byte(req.Target) {
			if c >= 0x80 || c == '%' || c == '"' || c == '<' || c == '>' || c == '\\' || c == '^' || c == '`' || c == '{' || c == '|' || c == '}' {
				return // the router canonicalises or refuses these
			}
		}
		if strings.ContainsAny(req.Host, "%[]:") {
			return // likewise
		}
		trailers := r.Trailers().Clone()
		out, err := forwarded(&req, body, trailers)
		if err != nil {
			t.Fatalf("%q is accepted and cannot be written: %v", in, err)
		}
		br := bufio.NewReader(strings.NewReader(out + second))
		got, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", out, err)
		}
		gotBody, err := io.ReadAll(got.Body)
		if err != nil || got.Method != req.Method || got.RequestURI != req.Target || got.Host != req.Host || !bytes.Equal(gotBody, body) {
			t.Fatalf("net/http reads %q as %s %s %s with %q, %v", out, got.Method, got.RequestURI, got.Host, gotBody, err)
		}
		if next, err := http.ReadRequest(br); err != nil || next.RequestURI != "/second" {
			t.Fatalf("net/http ends %q elsewhere: %v", out, err)
		}
	})
}

// FuzzRequest holds that what is accepted, written again and read again is the
// same, and that reading in pieces makes no difference.
func FuzzRequest(f *testing.F) {
	for _, tt := range hostileRequests() {
		if len(tt.in) < 4<<10 {
			f.Add([]byte(tt.in))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var req, pieces Request
		r, r2 := NewReader(bytes.NewReader(in), edge), NewReader(oneByte{bytes.NewReader(in)}, edge)
		body, err := readWhole(r, &req)
		body2, err2 := readWhole(r2, &pieces)
		if statusOf(err) != statusOf(err2) || err == nil && (!bytes.Equal(body, body2) || req.Target != pieces.Target) {
			t.Fatalf("%q: %v at once, %v in pieces", in, err, err2)
		}
		if err != nil || req.Host == "" {
			return
		}
		out, err := forwarded(&req, body, r.Trailers())
		if err != nil {
			t.Fatalf("%q is accepted and cannot be written: %v", in, err)
		}
		var again Request
		r3 := NewReader(strings.NewReader(out), edge)
		body3, err := readWhole(r3, &again)
		if err != nil || again.Method != req.Method || again.Host != req.Host || again.Target != req.Target || !bytes.Equal(body3, body) || r3.Buffered() > 0 {
			t.Fatalf("%q became %q: %+v, %v", in, out, again, err)
		}
	})
}

// oneByte reads single bytes.
type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(1, len(p))]) }

// FuzzResponse holds that a response that is accepted ends where net/http ends it.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		r := NewReader(bytes.NewReader(in), edge)
		var resp Response
		if r.ReadResponse(&resp, method) != nil {
			return
		}
		body, err := io.ReadAll(r)
		if err != nil || resp.Status < 200 {
			return
		}
		got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", in, err)
		}
		gotBody, err := io.ReadAll(got.Body)
		if err != nil || got.StatusCode != resp.Status || !bytes.Equal(gotBody, body) {
			t.Fatalf("net/http reads %q as %d %q, %v; we as %d %q", in, got.StatusCode, gotBody, err, resp.Status, body)
		}
	})
}

// FuzzChunked holds that a chunked body that is accepted is what net/http reads.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"3\r\nabc\r\n0\r\n\r\n", "3;a=b\r\nabc\r\n0\r\nX: 1\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, chunks []byte) {
		in := append([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), chunks...)
		r := NewReader(bytes.NewReader(in), edge)
		var req Request
		body, err := readWhole(r, &req)
		if err != nil {
			return
		}
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		gotBody, err := io.ReadAll(got.Body)
		// A trailer that net/http does not parse is refused by it, not read otherwise.
		if !bytes.Equal(gotBody, body) || err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("net/http reads %q as %q, %v; we as %q", chunks, gotBody, err, body)
		}
	})
}
