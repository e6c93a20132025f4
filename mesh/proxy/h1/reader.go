package h1

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// bufferBytes is the size of a pooled buffer: for a usual head and the beginning
// of its body.
const bufferBytes = 8 << 10

// buffers has the buffers of Readers and Writers that have nothing in them.
var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }} //nolint:gochecknoglobals // a cache without meaning

// Reader reads messages from one connection. It is not for concurrent use.
type Reader struct {
	src    io.Reader
	limits Limits

	buf    []byte // what was read is buf[at:end]
	pooled *[bufferBytes]byte
	at     int
	end    int
	kept   int // buf[:kept] is a head that views point into

	body     bodyState
	left     int64 // bytes left of the body or of the chunk
	streamed int64 // bytes of the body that were returned
	bulk     *[bulkBytes]byte
	trailers header.List
}

// bodyState is where in a message's body a Reader is.
type bodyState uint8

const (
	bodyEnded   bodyState = iota
	bodyLength            // left bytes
	bodyClose             // until the connection ends
	bodySize              // before a chunk's size line
	bodyChunk             // left bytes of a chunk
	bodyCRLF              // behind a chunk
	bodyTrailer           // behind the last chunk
	bodyBroken            // malformed, or ended too early
)

// NewReader returns a Reader of src. It takes no buffer before it needs one.
func NewReader(src io.Reader, l Limits) *Reader { return &Reader{src: src, limits: l} }

// Buffered returns the number of bytes that were read from the connection and
// belong to nothing that was returned yet.
func (r *Reader) Buffered() int { return r.end - r.at }

// Ended reports whether the last message was read to its end.
func (r *Reader) Ended() bool { return r.body == bodyEnded }

// Trailers returns the trailers of a chunked body that was read to its end.
func (r *Reader) Trailers() header.List { return r.trailers }

// Tunnel takes everything that is unread out of the buffer: after a 101 it
// belongs to another protocol.
func (r *Reader) Tunnel() []byte {
	out := bytes.Clone(r.buf[r.at:r.end])
	r.at = r.end
	return out
}

// Release gives the buffer back if nothing in it is unread. Views into it end.
func (r *Reader) Release() {
	r.dropBulk()
	if r.at < r.end {
		return
	}
	if r.pooled != nil {
		buffers.Put(r.pooled)
	}
	r.pooled, r.buf, r.at, r.end, r.kept = nil, nil, 0, 0, 0
}

// Fill waits until something is unread in the buffer. It consumes nothing.
func (r *Reader) Fill() error {
	if r.at < r.end {
		return nil
	}
	return r.more()
}

// Begins waits until enough is unread to say whether it begins so. It consumes nothing.
func (r *Reader) Begins(with string) (bool, error) {
	for {
		n := min(r.end-r.at, len(with))
		if string(r.buf[r.at:r.at+n]) != with[:n] {
			return false, nil
		}
		if n == len(with) {
			return true, nil
		}
		if err := r.more(); err != nil {
			return false, err
		}
	}
}

// more reads once into the buffer, which it makes room in. What lies in front of
// kept stays where it is.
func (r *Reader) more() error {
	switch {
	case r.buf == nil:
		r.pooled, _ = buffers.Get().(*[bufferBytes]byte)
		r.buf = r.pooled[:]
	case r.at == r.end:
		r.at, r.end = r.kept, r.kept
	}
	if r.end == len(r.buf) && r.at > r.kept {
		n := copy(r.buf[r.kept:], r.buf[r.at:r.end])
		r.at, r.end = r.kept, r.kept+n
	}
	if r.end == len(r.buf) {
		r.grow()
	}
	for range 100 {
		n, err := r.src.Read(r.buf[r.end:])
		r.end += n
		switch {
		case n > 0:
			return nil // an error comes again
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// grow makes the buffer larger. Views stay valid: they keep the old one alive,
// which for that reason does not go back to the pool.
func (r *Reader) grow() {
	next := make([]byte, 2*len(r.buf))
	copy(next, r.buf[:r.end])
	r.buf, r.pooled = next, nil
}

// startMessage forgets the last message. Its views end here.
func (r *Reader) startMessage() {
	r.kept, r.streamed = 0, 0
	r.dropBulk()
	r.trailers = r.trailers[:0]
	if r.at == r.end {
		r.at, r.end = 0, 0
	} else if r.at > 0 && r.pooled == nil && r.end-r.at <= bufferBytes/2 {
		// A head that was too large is over: back to a pooled buffer.
		pooled, _ := buffers.Get().(*[bufferBytes]byte)
		n := copy(pooled[:], r.buf[r.at:r.end])
		r.buf, r.pooled, r.at, r.end = pooled[:], pooled, 0, n
	}
	if r.at == r.end && r.pooled == nil {
		r.buf = nil
	}
}

// section returns the bytes from r.at to the end of the empty line that ends a
// head or a trailer section, which it finds or reads. most bounds it; target
// bounds the first line, 0 does not.
func (r *Reader) section(target int) ([]byte, error) {
	searched := 0 // complete lines before this are not empty
	lines := 0
	for {
		data := r.buf[r.at:r.end]
		for {
			i := bytes.IndexByte(data[searched:], '\n')
			if i < 0 {
				break
			}
			line := data[searched : searched+i]
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, bad("a line ends without CR LF")
			}
			searched += i + 1
			if searched > r.limits.HeadBytes {
				return nil, r.tooLong(lines, searched, target)
			}
			if len(line) == 1 { // the empty line
				r.at += searched
				return data[:searched], nil
			}
			if lines++; lines > r.limits.Fields+1 {
				return nil, &Error{431, "too many fields"}
			}
			if lines == 1 && target > 0 && len(line) > target+64 {
				return nil, &Error{414, "the request target is too long"}
			}
		}
		if err := r.tooLong(lines, len(data), target); err != nil {
			return nil, err
		}
		if err := r.more(); err != nil {
			if errors.Is(err, io.EOF) && r.at < r.end {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// tooLong returns why a section of n bytes so far, in which lines lines are
// complete, is too long; a nil error if it is not.
func (r *Reader) tooLong(lines, n, target int) error {
	switch {
	case lines == 0 && target > 0 && n > target+64: // method, version, spaces
		return &Error{414, "the request target is too long"}
	case n > r.limits.HeadBytes:
		return &Error{431, "the header is too long"}
	}
	return nil
}

// ReadRequest reads the head of the next request. The error is io.EOF if the
// connection ended before it, io.ErrUnexpectedEOF if it ended within, an *Error,
// or the connection's. Nothing more may be read after an *Error.
func (r *Reader) ReadRequest(req *Request) error {
	r.startMessage()
	r.body = bodyBroken // until the head is understood
	*req = Request{Fields: req.Fields[:0]}
	if err := r.skipCRLF(); err != nil {
		return err
	}
	head, err := r.section(r.limits.TargetBytes)
	if err != nil {
		return err
	}
	r.kept = r.at
	line, fields := cutLine(head)
	if err := req.parseLine(line, r.limits.TargetBytes); err != nil {
		return err
	}
	var f framing
	if req.Fields, err = parseFields(req.Fields, fields, &f); err != nil {
		return err
	}
	if err := req.finish(&f); err != nil {
		return err
	}
	r.startBody(req.Framing, req.Length)
	return nil
}

// skipCRLF skips one empty line in front of a request (RFC 9112 section 2.2).
func (r *Reader) skipCRLF() error {
	if err := r.Fill(); err != nil {
		return err
	}
	if r.buf[r.at] != '\r' {
		return nil
	}
	for r.end-r.at < 2 {
		if err := r.more(); err != nil {
			return unexpected(err)
		}
	}
	if r.buf[r.at+1] != '\n' {
		return bad("a bare CR")
	}
	r.at += 2
	return r.Fill()
}

// ReadResponse reads the head of the next response to a request of method.
// Informational responses (1xx) come as responses of their own. Errors are as
// with ReadRequest.
func (r *Reader) ReadResponse(resp *Response, method string) error {
	r.startMessage()
	r.body = bodyBroken
	*resp = Response{Fields: resp.Fields[:0]}
	head, err := r.section(0)
	if err != nil {
		return err
	}
	r.kept = r.at
	line, fields := cutLine(head)
	if err := resp.parseLine(line); err != nil {
		return err
	}
	var f framing
	if resp.Fields, err = parseFields(resp.Fields, fields, &f); err != nil {
		return err
	}
	if err := resp.finish(&f, method); err != nil {
		return err
	}
	r.startBody(resp.Framing, resp.Length)
	return nil
}

// startBody begins the body of a message whose head was read.
func (r *Reader) startBody(f Framing, length int64) {
	r.left = 0
	switch {
	case f == Length && length > 0:
		r.body, r.left = bodyLength, length
	case f == Chunked:
		r.body = bodySize
	case f == UntilClose:
		r.body = bodyClose
	default:
		r.body = bodyEnded
	}
}

// unexpected is the error of a message that breaks off.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
