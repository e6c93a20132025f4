package h1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// edge are limits as an edge has them.
var edge = Limits{HeadBytes: 32 << 10, TargetBytes: 8 << 10, Fields: 100}

// readWhole reads one request with its body.
func readWhole(r *Reader, req *Request) (body []byte, err error) {
	if err := r.ReadRequest(req); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// statusOf is the answer that an error of reading a request gets; 200 is none.
func statusOf(err error) int {
	var malformed *Error
	switch {
	case err == nil:
		return 200
	case errors.As(err, &malformed):
		return malformed.Status
	}
	return 0
}

// requestRow is a request with the status that a server answers.
type requestRow struct {
	name, in string
	status   int
}

func get(lines string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n" }

func post(lines, body string) string {
	return "POST / HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n" + body
}

func chunked(body string) string { return post("Transfer-Encoding: chunked\r\n", body) }

func line(l string) string { return l + "\r\nHost: a\r\n\r\n" }

// hostileRequests are all rows.
func hostileRequests() []requestRow {
	return slices.Concat(framingRows(), chunkRows(), lineRows(), targetRows())
}

// framingRows are good requests and ones whose end has two readings.
func framingRows() []requestRow {
	return []requestRow{
		{"a GET", get(""), 200},
		{"a POST with a length", post("Content-Length: 3\r\n", "abc"), 200},
		{"a length in lower case", post("content-length: 3\r\n", "abc"), 200},
		{"a length with white space around", post("Content-Length: \t3 \r\n", "abc"), 200},
		{"chunks", chunked("3\r\nabc\r\n0\r\n\r\n"), 200},
		{"chunks in other cases", post("TRANSFER-encoding: CHUNKED\r\n", "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), 200},
		{"chunks with extensions and trailers", chunked("3;a=b\r\nabc\r\n0;x\r\nX-Sum: 1\r\n\r\n"), 200},
		{"one empty line in front", "\r\n" + get(""), 200},
		{"HTTP/1.0 without a Host", "GET / HTTP/1.0\r\n\r\n", 200},

		// 1. Two lengths.
		{"length and coding", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
		{"length and coding in other cases", post("content-length: 3\r\nTRANSFER-ENCODING: chunked\r\n", "0\r\n\r\n"), 400},
		{"coding and length", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"), 400},
		// 2. Lengths that are not one number.
		{"two lengths that differ", post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"), 400},
		{"two lengths that agree", post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), 400},
		{"a list of lengths", post("Content-Length: 5, 6\r\n", "abcdef"), 400},
		{"a list of equal lengths", post("Content-Length: 5, 5\r\n", "abcde"), 400},
		{"a length with a sign", post("Content-Length: +5\r\n", "abcde"), 400},
		{"a negative length", post("Content-Length: -5\r\n", "abcde"), 400},
		{"a hexadecimal length", post("Content-Length: 0x5\r\n", "abcde"), 400},
		{"a length with a space inside", post("Content-Length: 1 2\r\n", "abcde"), 400},
		{"an empty length", post("Content-Length:\r\n", ""), 400},
		{"a length beyond int64", post("Content-Length: 9223372036854775808\r\n", ""), 400},
		{"a length beyond uint64", post("Content-Length: 18446744073709551617\r\n", "a"), 400},
		// 3. Codings.
		{"an unknown coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501},
		{"gzip", post("Transfer-Encoding: gzip\r\n", ""), 501},
		{"chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400},
		{"gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400},
		{"chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
		{"chunked and identity", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), 400},
		{"vertical tab before chunked", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400},
		{"folded coding", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), 400},
		{"an empty coding", post("Transfer-Encoding:\r\n", "0\r\n\r\n"), 501},
		{"a quoted coding", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), 501},
		// 4. Codings before HTTP/1.1.
		{"a coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	}
}

// chunkRows are malformed chunks.
func chunkRows() []requestRow {
	return []requestRow{
		// 5. Chunks.
		{"a negative size", chunked("-1\r\na\r\n0\r\n\r\n"), 400},
		{"a size with 0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), 400},
		{"a size with an underscore", chunked("1_0\r\nabc\r\n0\r\n\r\n"), 400},
		{"a space before a size", chunked(" 3\r\nabc\r\n0\r\n\r\n"), 400},
		{"a space behind a size", chunked("3 \r\nabc\r\n0\r\n\r\n"), 400},
		{"a size beyond 63 bits", chunked("10000000000000003\r\nabc\r\n0\r\n\r\n"), 400},
		{"no size", chunked("\r\nabc\r\n0\r\n\r\n"), 400},
		{"an empty line for the last chunk", chunked("\r\n\r\n"), 400},
		{"only an extension for the last chunk", chunked(";x\r\n\r\n"), 400},
		{"1 MiB of extensions", chunked("3;" + strings.Repeat("a", 1<<20) + "\r\nabc\r\n0\r\n\r\n"), 400},
		{"only an extension", chunked(";a\r\nabc\r\n0\r\n\r\n"), 400},
		{"a chunk longer than its size", chunked("3\r\nabcd\r\n0\r\n\r\n"), 400},
		{"LF behind a size", chunked("3\nabc\r\n0\r\n\r\n"), 400},
		{"another byte and LF behind a size", chunked("30\nabc\r\n0\r\n\r\n"), 400},
		{"LF behind an extension", chunked("3;a\nabc\r\n0\r\n\r\n"), 400},
		{"another byte and LF behind a chunk", chunked("3\r\nabcd\n0\r\n\r\n"), 400},
		{"LF behind a chunk", chunked("3\r\nabc\n0\r\n\r\n"), 400},
		{"LF behind the last chunk", chunked("0\n\r\n"), 400},
		{"LF as the end of the trailers", chunked("0\r\n\n"), 400},
		{"CR in an extension", chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"), 400},
		{"5 KiB of extensions", chunked("3;" + strings.Repeat("a", 5<<10) + "\r\nabc\r\n0\r\n\r\n"), 400},
		{"64 KiB of extensions", chunked("3;" + strings.Repeat("a", 64<<10) + "\r\nabc\r\n0\r\n\r\n"), 400},
		{"a trailer without a name", chunked("0\r\n: x\r\n\r\n"), 400},
		{"a trailer with LF", chunked("0\r\nX: 1\n\r\n"), 400},
	}
}

// lineRows are malformed lines and fields.
func lineRows() []requestRow {
	return []requestRow{
		// 6. Lines and fields.
		{"LF as a line's end", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"LF behind a field", "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400},
		{"LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"CR in a value", get("X: a\rb\r\n"), 400},
		{"NUL in a value", get("X: a\x00b\r\n"), 400},
		{"a control character in a value", get("X: a\x01b\r\n"), 400},
		{"DEL in a value", get("X: a\x7fb\r\n"), 400},
		{"a tab in a value", get("X: a\tb\r\n"), 200},
		{"bytes beyond ASCII in a value", get("X: \xc3\xa9\r\n"), 200},
		{"a space before the colon", get("X : 1\r\n"), 400},
		{"a tab before the colon", get("X\t: 1\r\n"), 400},
		{"no colon", get("X\r\n"), 400},
		{"no name", get(": 1\r\n"), 400},
		{"a name that is no token", get("X(: 1\r\n"), 400},
		{"a name beyond ASCII", get("X\xc3\xa9: 1\r\n"), 400},
		{"folding", get("X: 1\r\n 2\r\n"), 400},
		{"folding with a tab", get("X: 1\r\n\t2\r\n"), 400},
		{"a space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		{"two empty lines in front", "\r\n\r\n" + get(""), 400},
		{"a bare CR in front", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	}
}

// targetRows are malformed hosts, request lines and sizes.
func targetRows() []requestRow {
	return []requestRow{
		// 7. Hosts.
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
		{"two Hosts in other cases", "GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", 400},
		{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
		{"user information in Host", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
		{"a path in Host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		{"a space in Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"a list in Host", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400},
		{"absolute form", line("GET http://b/x HTTP/1.1"), 200},
		{"absolute form without Host", "GET http://b/x HTTP/1.1\r\n\r\n", 400},
		{"absolute form without a host", line("GET http:///x HTTP/1.1"), 400},
		{"absolute form with user information", line("GET http://u:p@b/x HTTP/1.1"), 400},
		{"absolute form of another scheme", line("GET ftp://b/x HTTP/1.1"), 400},
		{"a target that is no path", line("GET x HTTP/1.1"), 400},
		// 9. The request line.
		{"HTTP/1.2", line("GET / HTTP/1.2"), 505},
		{"HTTP/2.0", line("GET / HTTP/2.0"), 505},
		{"HTTP/0.9", line("GET / HTTP/0.9"), 505},
		{"http/1.1", line("GET / http/1.1"), 400},
		{"HTTP/1.10", line("GET / HTTP/1.10"), 400},
		{"HTTP/11", line("GET / HTTP/11"), 400},
		{"HTTP/1x1", line("GET / HTTP/1x1"), 400},
		{"HTTP/x.1", line("GET / HTTP/x.1"), 400},
		{"HTTP/1.-", line("GET / HTTP/1.-"), 400},
		{"another protocol", line("GET / HTTQ/1.1"), 400},
		{"no version", line("GET /"), 400},
		{"two spaces", line("GET  / HTTP/1.1"), 400},
		{"a space in the target", line("GET /a b HTTP/1.1"), 400},
		{"a tab for a space", line("GET\t/ HTTP/1.1"), 400},
		{"a space at the end", line("GET / HTTP/1.1 "), 400},
		{"a fragment", line("GET /a#b HTTP/1.1"), 400},
		{"a control character in the target", line("GET /a\x01 HTTP/1.1"), 400},
		{"DEL in the target", line("GET /a\x7f HTTP/1.1"), 400},
		{"a method that is no token", line("G(T / HTTP/1.1"), 400},
		{"no method", line(" / HTTP/1.1"), 400},
		{"an empty target", line("GET  HTTP/1.1"), 400},
		// 12. Sizes.
		{"a target of 100 KiB", line("GET /" + strings.Repeat("a", 100<<10) + " HTTP/1.1"), 414},
		{"a target one byte too long", line("GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1"), 414},
		{"a target as long as may be", line("GET /" + strings.Repeat("a", 8<<10-1) + " HTTP/1.1"), 200},
		{"a field of 100 KiB", get("X: " + strings.Repeat("a", 100<<10) + "\r\n"), 431},
		{"a name of 100 KiB", get(strings.Repeat("a", 100<<10) + ": 1\r\n"), 431},
		{"10,000 fields", get(strings.Repeat("X: 1\r\n", 10000)), 431},
		{"101 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", 100) + "\r\n", 431},
		{"100 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", 99) + "\r\n", 200},
		{"trailers without end", chunked("0\r\n" + strings.Repeat("X: 1\r\n", 10000) + "\r\n"), 431},
	}
}

const second = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n"

// ways are how the bytes of a connection may arrive.
var ways = map[string]func(string) io.Reader{
	"at once":      func(s string) io.Reader { return strings.NewReader(s) },
	"byte by byte": func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) },
	"in halves":    func(s string) io.Reader { return iotest.HalfReader(strings.NewReader(s)) },
}

func TestHostileRequests(t *testing.T) {
	for _, tt := range hostileRequests() {
		for way, arrive := range ways {
			t.Run(tt.name+" "+way, func(t *testing.T) {
				r := NewReader(arrive(tt.in+second), edge)
				var req Request
				_, err := readWhole(r, &req)
				if got := statusOf(err); got != tt.status {
					t.Fatalf("got %d (%v), want %d", got, err, tt.status)
				}
				if len(r.buf) > 4*edge.HeadBytes {
					t.Errorf("holds %d bytes", len(r.buf))
				}
				err = r.ReadRequest(&req)
				if tt.status == 200 && (err != nil || req.Target != "/second") {
					t.Errorf("the request behind it: %q, %v", req.Target, err)
				}
			})
		}
	}
}

func TestRequestIsSplitAnywhere(t *testing.T) {
	in := "POST /a?b HTTP/1.1\r\nHost: example.com:80\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\nHost: no\r\n\r\n"
	for i := range len(in) {
		r := NewReader(io.MultiReader(strings.NewReader(in[:i]), strings.NewReader(in[i:])), edge)
		var req Request
		body, err := readWhole(r, &req)
		if err != nil || string(body) != "hello world" || req.Method != "POST" || req.Target != "/a?b" || req.Host != "example.com:80" || len(req.Fields) != 3 {
			t.Fatalf("split at %d: %q, %+v, %v", i, body, req, err)
		}
		if got := r.Trailers(); len(got) != 1 || got[0].Value != "11" {
			t.Fatalf("split at %d: trailers %v", i, got)
		}
		r = NewReader(strings.NewReader(in[:i]), edge)
		want := io.ErrUnexpectedEOF
		if i == 0 {
			want = io.EOF
		}
		if _, err := readWhole(r, &req); !errors.Is(err, want) {
			t.Fatalf("cut at %d: %v, want %v", i, err, want)
		}
	}
}

func TestPersistence(t *testing.T) {
	for _, tt := range []struct {
		version, connection   string
		keep, upgrade, expect bool
	}{
		{"1.1", "", true, false, true},
		{"1.1", "close", false, false, true},
		{"1.1", "x, CLOSE", false, false, true},
		{"1.1", "close\r\nConnection: keep-alive", false, false, true},
		{"1.1", "keep-alive, Upgrade", true, true, true},
		{"1.1", "upgrade\r\nConnection: x", true, true, true},
		{"1.0", "", false, false, false},
		{"1.0", "Keep-Alive", true, false, false},
		{"1.0", "keep-alive\r\nConnection: close", false, false, false},
		{"1.0", "upgrade", false, false, false},
	} {
		r := NewReader(strings.NewReader("GET / HTTP/"+tt.version+"\r\nHost: a\r\nExpect: 100-continue\r\nConnection: "+tt.connection+"\r\n\r\n"), edge)
		var req Request
		if err := r.ReadRequest(&req); err != nil || req.KeepAlive != tt.keep || req.Upgrade != tt.upgrade || req.ExpectContinue != tt.expect {
			t.Errorf("%s %q: %v %v %v, %v", tt.version, tt.connection, req.KeepAlive, req.Upgrade, req.ExpectContinue, err)
		}
	}
}

func TestLargeHeadGivesItsBufferBack(t *testing.T) {
	large := "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 20<<10) + "\r\n\r\n"
	for name, src := range map[string]io.Reader{
		"with the next behind it": strings.NewReader(large + second),
		"alone":                   io.MultiReader(strings.NewReader(large), strings.NewReader(second)),
	} {
		r := NewReader(src, edge)
		var req Request
		for i := range 2 {
			if err := r.ReadRequest(&req); err != nil {
				t.Fatal(name, i, err)
			}
		}
		if req.Target != "/second" || len(r.buf) != bufferBytes {
			t.Errorf("%s: got %q in %d bytes", name, req.Target, len(r.buf))
		}
		r.Release()
		if r.buf != nil {
			t.Errorf("%s: an idle reader holds a buffer", name)
		}
	}
}

func TestViewsLastWhileTheBodyIsRead(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 8<<10) // much more than a buffer
	r := NewReader(iotest.HalfReader(strings.NewReader(fmt.Sprintf("POST /view HTTP/1.1\r\nHost: a\r\nX: kept\r\nContent-Length: %d\r\n\r\n%s", len(body), body))), edge)
	var req Request
	if err := r.ReadRequest(&req); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got.Write(p)
	}
	if got.String() != body || req.Target != "/view" || req.Fields[1].Value != "kept" || !r.Ended() {
		t.Errorf("%d bytes, %q, %v", got.Len(), req.Target, req.Fields)
	}
}

// A body that was there with its head stays as it was while more is read.
func TestCompleteBodyLasts(t *testing.T) {
	first := "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n{\"t\":1}"
	next := "GET /next HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 2*bufferBytes) + "\r\n\r\n"
	r := NewReader(io.MultiReader(strings.NewReader(first), iotest.OneByteReader(strings.NewReader(next))), Limits{HeadBytes: 64 << 10, TargetBytes: 8 << 10, Fields: 100})
	var req Request
	if err := r.ReadRequest(&req); err != nil {
		t.Fatal(err)
	}
	body, ok := r.Complete()
	if !ok {
		t.Fatal("the body is not complete")
	}
	if err := r.Fill(); err != nil { // as who looks whether the client is still there
		t.Fatal(err)
	}
	if string(body) != `{"t":1}` || req.Target != "/a" {
		t.Errorf("the body of %s is %q now", req.Target, body)
	}
	if err := r.ReadRequest(&req); err != nil || req.Target != "/next" {
		t.Errorf("then came %q, %v", req.Target, err)
	}
}
