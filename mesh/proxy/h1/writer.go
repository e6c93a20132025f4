package h1

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Writer writes messages to one connection. Its errors stay: after one, nothing
// is written any more. It is not for concurrent use.
type Writer struct {
	dst     io.Writer
	buf     []byte
	pooled  *[bufferBytes]byte
	err     error
	framing Framing
	left    int64
}

// Errors of a Writer that is used wrongly. The connection must be closed: its
// message is incomplete.
var (
	errField = errors.New("h1: a field that cannot be written")
	errLong  = errors.New("h1: the body is longer than its length")
	errShort = errors.New("h1: the body is shorter than its length")
)

// NewWriter returns a Writer to dst. It takes no buffer before it needs one.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// Buffered returns the number of bytes that were not written to the connection.
func (w *Writer) Buffered() int { return len(w.buf) }

// Release gives the buffer back if it is empty. One that grew is left to the
// collector.
func (w *Writer) Release() {
	if len(w.buf) > 0 {
		return
	}
	if w.pooled != nil && cap(w.buf) == bufferBytes {
		buffers.Put(w.pooled)
	}
	w.buf, w.pooled = nil, nil
}

func (w *Writer) need() {
	if w.buf == nil {
		w.pooled, _ = buffers.Get().(*[bufferBytes]byte)
		w.buf = w.pooled[:0]
	}
}

// StartRequest writes the request line and the Host field. All three must be
// valid.
func (w *Writer) StartRequest(method, target, host string) {
	w.need()
	w.buf = append(w.buf, method...)
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, target...)
	w.buf = append(w.buf, " HTTP/1.1\r\nHost: "...)
	w.buf = append(w.buf, host...)
	w.buf = append(w.buf, '\r', '\n')
}

// StartResponse writes the status line. The reason is the standard phrase if it
// is empty.
func (w *Writer) StartResponse(status int, reason string) {
	w.need()
	if reason == "" {
		reason = http.StatusText(status)
	}
	w.buf = append(w.buf, "HTTP/1.1 "...)
	w.buf = strconv.AppendInt(w.buf, int64(status), 10)
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, reason...)
	w.buf = append(w.buf, '\r', '\n')
}

// Field writes a field as it is. It refuses what would end the line.
func (w *Writer) Field(name, value string) {
	for i := range len(value) {
		if c := value[i]; c == '\r' || c == '\n' || c == 0 {
			w.fail(errField)
			return
		}
	}
	if !ValidToken(name) {
		w.fail(errField)
		return
	}
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, ':', ' ')
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, '\r', '\n')
}

// EndHead ends the head of a message with a body in framing f, which it says in
// the head. Length is that of the body if f is Length.
func (w *Writer) EndHead(f Framing, length int64) {
	w.framing, w.left = f, length
	switch f {
	case Length:
		w.buf = append(w.buf, "Content-Length: "...)
		w.buf = strconv.AppendInt(w.buf, length, 10)
		w.buf = append(w.buf, '\r', '\n')
	case Chunked:
		w.buf = append(w.buf, "Transfer-Encoding: chunked\r\n"...)
	}
	w.buf = append(w.buf, '\r', '\n')
}

// Write writes more of the body, in its framing. A body that would become longer
// than its length is not written.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 || w.err != nil {
		return 0, w.err
	}
	w.need()
	switch w.framing {
	case NoBody:
		w.fail(errLong)
	case Length:
		if w.left -= int64(len(p)); w.left < 0 {
			w.fail(errLong)
			break
		}
		w.write(p)
	case Chunked:
		w.buf = strconv.AppendInt(w.buf, int64(len(p)), 16)
		w.buf = append(w.buf, '\r', '\n')
		w.write(p)
		w.need()
		w.buf = append(w.buf, '\r', '\n')
	case UntilClose:
		w.write(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// write buffers p, or writes it through if it is large.
func (w *Writer) write(p []byte) {
	if len(w.buf)+len(p) <= bufferBytes {
		w.buf = append(w.buf, p...)
		return
	}
	if w.Flush() != nil {
		return
	}
	if len(p) < bufferBytes/2 {
		w.need()
		w.buf = append(w.buf, p...)
		return
	}
	if _, err := w.dst.Write(p); err != nil {
		w.fail(err)
	}
}

// End ends the body. Trailers leave with a chunked one only.
func (w *Writer) End(trailers header.List) error {
	switch {
	case w.err != nil:
	case w.framing == Length && w.left > 0:
		w.fail(errShort)
	case w.framing == Chunked:
		w.need()
		w.buf = append(w.buf, '0', '\r', '\n')
		for i := range trailers {
			w.Field(trailers[i].Name, trailers[i].Value)
		}
		w.buf = append(w.buf, '\r', '\n')
	}
	w.framing = NoBody
	return w.err
}

// Flush writes what is buffered, and gives the buffer back: a connection whose
// other side reads slowly holds none.
func (w *Writer) Flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	if _, err := w.dst.Write(w.buf); err != nil {
		w.fail(err)
	}
	w.buf = w.buf[:0]
	w.Release()
	return w.err
}

func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}
