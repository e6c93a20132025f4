package h1

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// A field that comes behind the body may not change what was acted upon.
func TestTrailersThatMayNotBe(t *testing.T) {
	forbidden := []string{
		"Transfer-Encoding", "Content-Length", "Host", "Connection", "Trailer", "TE", "Upgrade", "Expect", "Authorization", "Proxy-Authorization",
		"Cookie", "Set-Cookie", "Content-Type", "Content-Encoding", "Content-Range", "Keep-Alive", "Max-Forwards",
	}
	for _, name := range forbidden {
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			r := NewReader(strings.NewReader(chunked("0\r\nX-One: 1\r\n"+spelled+": 7\r\nX-Two: 2\r\n\r\n")+second), edge)
			var req Request
			if _, err := readWhole(r, &req); err != nil {
				t.Fatalf("%s: %v", spelled, err)
			}
			if got := r.Trailers(); len(got) != 2 || got[0].Name != "X-One" || got[1].Name != "X-Two" {
				t.Errorf("%s: the trailers are %v", spelled, got)
			}
			if err := r.ReadRequest(&req); err != nil || req.Target != "/second" || req.Host != "a" {
				t.Errorf("%s: the request behind it: %+v, %v", spelled, req, err)
			}
		}
	}
}

// Whoever reads on after an error gets no end, and nothing of what follows.
func TestMalformedBodyStaysMalformed(t *testing.T) {
	for _, body := range []string{"2;\x00\r\n5\r\nhello\r\n0\r\n\r\n", "2\nab\r\n0\r\n\r\n", "1\r\na\r\n-\r\n0\r\n\r\n"} {
		r := NewReader(strings.NewReader(chunked(body)+second), edge)
		var req Request
		var malformed *Error
		if _, err := readWhole(r, &req); !errors.As(err, &malformed) {
			t.Fatalf("%q: %v", body, err)
		}
		for range 3 {
			if p, err := r.Next(); len(p) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: Next gives %q, %v", body, p, err)
			}
			if got, err := io.ReadAll(r); len(got) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: Read gives %q, %v", body, got, err)
			}
			if _, whole := r.Complete(); whole || r.Ended() {
				t.Errorf("%q is whole", body)
			}
		}
	}
}

// An error that is no end of the connection is no end of the body, even of one
// that lasts until the connection ends.
func TestResetIsNoEnd(t *testing.T) {
	reset := errors.New("connection reset by peer")
	for _, head := range []string{"", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"} {
		r := NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n"+head+"\r\n"), iotest.ErrReader(reset)), edge)
		var resp Response
		if err := r.ReadResponse(&resp, "GET"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, reset) || r.Ended() {
			t.Errorf("%q: %v, ended: %v", head, err, r.Ended())
		}
	}
}

// A message that breaks off is told from a connection that ends between two.
func TestCutBehindAnEmptyLine(t *testing.T) {
	for in, want := range map[string]error{"": io.EOF, "\r": io.ErrUnexpectedEOF, "\r\nG": io.ErrUnexpectedEOF} {
		var req Request
		if err := NewReader(strings.NewReader(in), edge).ReadRequest(&req); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// The authority of a target in absolute form is the host, whatever Host says
// (RFC 9112 section 3.2.2).
func TestAbsoluteFormOverrulesHost(t *testing.T) {
	for target, want := range map[string]string{"http://b/x": "b", "HTTPS://b:8080?q": "b:8080", "http://b": "b", "/x": "a", "*": "a"} {
		var req Request
		if err := NewReader(strings.NewReader(line("GET "+target+" HTTP/1.1")), edge).ReadRequest(&req); err != nil || req.Host != want {
			t.Errorf("%s: host %q, %v; want %q", target, req.Host, err, want)
		}
	}
}

func TestReleaseKeepsWhatIsUnread(t *testing.T) {
	r := NewReader(strings.NewReader(get("")+second), edge)
	var req Request
	if err := r.ReadRequest(&req); err != nil {
		t.Fatal(err)
	}
	r.Release() // the second request is in the buffer
	if err := r.ReadRequest(&req); err != nil || req.Target != "/second" {
		t.Errorf("got %+v, %v", req, err)
	}
}

// failing is a connection whose first write fails and whose later ones would not.
type failing struct {
	err     error
	written strings.Builder
}

func (f *failing) Write(p []byte) (int, error) {
	if err := f.err; err != nil {
		f.err = nil
		return 0, err
	}
	return f.written.Write(p)
}

// A message with a hole in it is another message.
func TestWriterThatFailedStaysFailed(t *testing.T) {
	broken := errors.New("broken pipe")
	large := make([]byte, bufferBytes)
	for name, fill := range map[string]func(w *Writer) error{
		"flushing":        func(w *Writer) error { return w.Flush() },
		"a large piece":   func(w *Writer) error { _, err := w.Write(large); return err },
		"what is too big": func(w *Writer) error { _, err := w.Write(make([]byte, 4*bufferBytes)); return err },
	} {
		out := &failing{err: broken}
		w := NewWriter(out)
		w.StartResponse(200, "")
		w.EndHead(Chunked, -1)
		want := broken
		if err := fill(w); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		_, err := w.Write([]byte("rest"))
		for _, err := range []error{err, w.End(header.List{{Name: "X-Sum", Value: "1"}}), w.Flush()} {
			if !errors.Is(err, want) {
				t.Errorf("%s, and then: %v", name, err)
			}
		}
		if out.written.Len() > 0 {
			t.Errorf("%s: wrote %q", name, out.written.String())
		}
	}
}
