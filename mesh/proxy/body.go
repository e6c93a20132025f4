package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// errNotReplayable ends a try whose body began to be forgotten.
var errNotReplayable = errors.New("the request body is too long to be sent again")

// errBodyTooLong ends a body that is longer than the limit.
var errBodyTooLong = errors.New("the request body is longer than the limit")

// bodySource is a client's request body that more than one try may read. What
// was read is kept, up to limit, so that a later try can begin at the start. It
// also remembers how reading from the client ended: a body that broke off is
// the client's fault, not the endpoint's.
type bodySource struct {
	closed  atomic.Bool
	reading atomic.Bool // a Read of client is under way

	// turn is held while client is read, because a try that was given up may
	// still be at it: the next one then waits for the same bytes. mu may be
	// taken under it.
	turn   sync.Mutex
	client io.Reader
	most   int64 // bytes in all; 0 is no bound

	// mu guards what follows. Nothing is called under it.
	mu    sync.Mutex
	kept  []byte
	limit int
	total int64 // bytes read from client
	end   error // how client ended: io.EOF or its error

	onBytes func()
}

// newBodySource returns the source of body. length is its Content-Length, -1 if
// unknown; limit is how much is kept, most how much it may be in all (0: no
// bound). onBytes runs after each piece; it may be nil.
func newBodySource(body io.Reader, length int64, limit int, most int64, onBytes func()) *bodySource {
	switch {
	case length > int64(limit):
		limit = 0
	case length >= 0:
		limit = int(length) // who sends more is not sent again
	}
	return &bodySource{client: body, limit: limit, most: most, onBytes: onBytes}
}

// open returns the body from its start, or false if that is gone. A nil source
// opens as no body.
func (b *bodySource) open() (io.ReadCloser, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total != int64(len(b.kept)) {
		return nil, false
	}
	return &bodyReader{source: b}, true
}

// gather reads the whole body, of length bytes, into buf, which has room for more. It
// is called before anybody else knows b.
func (b *bodySource) gather(buf []byte, length int64) error {
	b.kept, b.limit = buf[:0], len(buf)
	for b.total <= length {
		switch _, err := b.read(buf[len(b.kept):], b.total); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	b.end = errBodyTooLong // than its client says
	return b.end
}

// replayable reports whether open would succeed.
func (b *bodySource) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total == int64(len(b.kept))
}

// clientError returns the error with which the client's body ended, if it did.
func (b *bodySource) clientError() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.end, io.EOF) {
		return nil
	}
	return b.end
}

// ended reports whether the body was read to its end. A nil source has none.
func (b *bodySource) ended() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end != nil
}

// close makes further reads fail and reports whether one is under way, which
// only the client or a read deadline can end.
func (b *bodySource) close() (reading bool) {
	if b == nil {
		return false
	}
	b.closed.Store(true)
	return b.reading.Load()
}

// copy returns a copy of the whole body, if it was read to its end and kept. A nil
// source has none.
func (b *bodySource) copy() ([]byte, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !errors.Is(b.end, io.EOF) || b.total != int64(len(b.kept)) {
		return nil, false
	}
	return bytes.Clone(b.kept), true
}

// forget gives back what gather was given: after close nobody looks at it.
func (b *bodySource) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = nil
}

// read fills p with the bytes at offset.
func (b *bodySource) read(p []byte, offset int64) (int, error) {
	if n, ok, err := b.known(p, offset); ok {
		return n, err
	}
	b.turn.Lock()
	defer b.turn.Unlock()
	if n, ok, err := b.known(p, offset); ok { // somebody else's turn brought it
		return n, err
	}
	b.reading.Store(true) // before closed is asked, as close does it the other way round
	if b.closed.Load() {
		b.reading.Store(false)
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.client.Read(p)
	b.reading.Store(false)
	if n > 0 && b.onBytes != nil {
		b.onBytes()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most > 0 && b.total+int64(n) > b.most {
		n, err = 0, errBodyTooLong
	}
	b.keep(p[:n])
	b.total += int64(n)
	b.end = err
	return n, err
}

// keep remembers p for a later try, if all that came before is there and it fits. It
// grows by less than append would: many bodies are kept at a time. mu is held.
func (b *bodySource) keep(p []byte) {
	size := len(b.kept) + len(p)
	switch {
	case b.total != int64(len(b.kept)):
		return
	case size > b.limit:
		b.kept, b.limit = nil, 0
		return
	case size > cap(b.kept):
		larger := make([]byte, len(b.kept), min(max(size, 2*cap(b.kept)), b.limit))
		copy(larger, b.kept)
		b.kept = larger
	}
	b.kept = append(b.kept, p...)
}

// known reads what need not be asked of the client; ok is false if nothing is
// known of offset.
func (b *bodySource) known(p []byte, offset int64) (n int, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed.Load():
		return 0, true, http.ErrBodyReadAfterClose
	case offset < int64(len(b.kept)):
		return copy(p, b.kept[offset:]), true, nil
	case offset < b.total:
		return 0, true, errNotReplayable
	case b.end != nil:
		return 0, true, b.end
	}
	return 0, false, nil
}

// bodyReader is the body as one try reads it.
type bodyReader struct {
	source *bodySource
	offset int64
	closed atomic.Bool
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.source.read(p, r.offset)
	r.offset += int64(n)
	return n, err
}

// Close ends this try's use of the body, not the body.
func (r *bodyReader) Close() error {
	r.closed.Store(true)
	return nil
}
