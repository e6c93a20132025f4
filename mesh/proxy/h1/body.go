package h1

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"
)

// Complete returns the whole body if it is in the buffer already, and takes it. It is
// valid until the next message. The body of a chunked message is never contiguous.
func (r *Reader) Complete() ([]byte, bool) {
	switch {
	case r.body == bodyEnded:
		return nil, true
	case r.body == bodyLength && int64(r.end-r.at) >= r.left:
		p := r.buf[r.at : r.at+int(r.left)]
		r.at += len(p)
		r.kept = r.at // what is read ahead must not lie over it
		r.left, r.body = 0, bodyEnded
		return p, true
	}
	return nil, false
}

// Next returns more of the body, valid until the next call. The error is io.EOF
// at its end, io.ErrUnexpectedEOF if it breaks off, an *Error if its chunks are
// malformed, or the connection's.
func (r *Reader) Next() ([]byte, error) {
	n, err := r.ready()
	if err != nil {
		return nil, err
	}
	if r.at == r.end {
		if r.streamed >= bulkAfter && n >= bulkBytes {
			return r.nextBulk()
		}
		if err := r.more(); err != nil {
			return nil, r.broken(err)
		}
	}
	p := r.buf[r.at:min(int64(r.end), int64(r.at)+n)]
	r.take(len(p))
	r.at += len(p)
	return p, nil
}

// bulkBytes is how much of a long body is read at a time, bulkAfter how much of it
// must have been taken before: who takes a body slowly from its start costs a small
// buffer.
const (
	bulkBytes = 32 << 10
	bulkAfter = 256 << 10
)

// bulks has the buffers that no Reader uses.
var bulks = sync.Pool{New: func() any { return new([bulkBytes]byte) }} //nolint:gochecknoglobals // a cache without meaning

// nextBulk is Next of a long body.
func (r *Reader) nextBulk() ([]byte, error) {
	if r.bulk == nil {
		r.bulk, _ = bulks.Get().(*[bulkBytes]byte)
	}
	n, err := r.src.Read(r.bulk[:])
	if n == 0 && err != nil {
		return nil, r.broken(err)
	}
	r.take(n)
	return r.bulk[:n], nil
}

// dropBulk gives the buffer of a long body back.
func (r *Reader) dropBulk() {
	if r.bulk != nil {
		bulks.Put(r.bulk)
		r.bulk = nil
	}
}

// Read is Next into p. If nothing is buffered it reads into p itself.
func (r *Reader) Read(p []byte) (int, error) {
	left, err := r.ready()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	var n int
	if r.at < r.end {
		n = copy(p, r.buf[r.at:r.end])
		r.at += n
	} else if n, err = r.src.Read(p); n == 0 && err != nil {
		return 0, r.broken(err)
	}
	r.take(n)
	return n, nil
}

// ready reads framing up to body bytes and returns how many may come now.
func (r *Reader) ready() (int64, error) {
	for {
		switch r.body {
		case bodyEnded:
			return 0, io.EOF
		case bodyLength, bodyChunk:
			return r.left, nil
		case bodyClose:
			return math.MaxInt64 / 2, nil
		case bodyBroken:
			return 0, io.ErrUnexpectedEOF
		}
		if err := r.frame(); err != nil {
			r.body = bodyBroken
			return 0, err
		}
	}
}

// take says that n bytes of the body were returned.
func (r *Reader) take(n int) {
	r.streamed += int64(n)
	if r.body == bodyClose {
		return
	}
	if r.left -= int64(n); r.left > 0 {
		return
	}
	if r.body == bodyLength {
		r.body = bodyEnded
	} else {
		r.body = bodyCRLF
	}
}

// broken is the error of a body after err of the connection.
func (r *Reader) broken(err error) error {
	if errors.Is(err, io.EOF) && r.body == bodyClose {
		r.body = bodyEnded
		return io.EOF
	}
	return unexpected(err) // a deadline is no end: it may be asked again
}

// frame reads what stands between the chunks (RFC 9112 section 7.1).
func (r *Reader) frame() error {
	switch r.body {
	case bodyCRLF:
		line, err := r.line(2)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return bad("a chunk is longer than its size")
		}
		r.body = bodySize
		return nil
	case bodySize:
		line, err := r.line(chunkLineBytes)
		if err != nil {
			return err
		}
		size, err := chunkSize(line)
		if err != nil {
			return err
		}
		r.left, r.body = size, bodyChunk
		if size == 0 {
			r.body = bodyTrailer
		}
		return nil
	default:
		return r.readTrailers()
	}
}

// line returns the next line without its end, and takes it. It is at most most
// bytes with the end.
func (r *Reader) line(most int) ([]byte, error) {
	searched := 0
	for {
		data := r.buf[r.at:r.end]
		if i := bytes.IndexByte(data[searched:], '\n'); i >= 0 {
			end := searched + i
			switch {
			case end+1 > most:
				return nil, bad("a chunk's line is too long")
			case end == 0 || data[end-1] != '\r':
				return nil, bad("a chunk's line ends without CR LF")
			}
			r.at += end + 1
			return data[:end-1], nil
		}
		if searched = len(data); searched >= most {
			return nil, bad("a chunk's line is too long")
		}
		if err := r.more(); err != nil {
			return nil, unexpected(err)
		}
	}
}

// chunkSize parses a chunk's size line. Extensions are allowed and mean nothing.
func chunkSize(line []byte) (int64, error) {
	var size int64
	n := 0
	for n < len(line) {
		digit, ok := hex(line[n])
		if !ok {
			break
		}
		if n++; n > 15 { // so that it fits an int64
			return 0, bad("a chunk's size is too large")
		}
		size = size<<4 | int64(digit)
	}
	rest := line[n:]
	switch {
	case n == 0:
		return 0, bad("a chunk has no size")
	case len(rest) > 0 && rest[0] != ';':
		return 0, bad("a chunk's size is followed by something else than an extension")
	case !all(rest, isValueByte):
		return 0, bad("a chunk's extension has a control character")
	}
	return size, nil
}

func hex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// readTrailers reads the trailer section. Fields that may not stand in one are
// dropped (RFC 9110 section 6.5.1): they would change a message whose head was
// acted upon already.
func (r *Reader) readTrailers() error {
	section, err := r.section(0)
	if err != nil {
		return unexpected(err)
	}
	// The views of the trailers are kept like those of the head, behind it.
	r.kept = r.at
	var f framing
	r.trailers, err = parseFields(r.trailers[:0], section, &f)
	if err != nil {
		return err
	}
	kept := r.trailers[:0]
	for _, t := range r.trailers {
		if !ForbiddenTrailer(t.Name) {
			kept = append(kept, t)
		}
	}
	r.trailers = kept
	r.body = bodyEnded
	return nil
}
