package link

import "sync"

// buffer is a slice of a pool. Its bytes are b, its capacity is what the pool had.
type buffer struct{ b []byte }

// Sizes of the pools. A read buffer takes a whole frame and the begin of another, a
// large one the largest batch of DATA.
const (
	smallBytes = 4 << 10
	halfBytes  = 8 << 10
	batchBytes = 16 << 10
	readBytes  = 32 << 10
	largeBytes = batchLimit + 8<<10
)

// The pools are caches without meaning: what is in them is anybody's.
var (
	smallBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, smallBytes)} }}
	halfBuffers  = sync.Pool{New: func() any { return &buffer{make([]byte, 0, halfBytes)} }}
	batchBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, batchBytes)} }}
	readBuffers  = sync.Pool{New: func() any { return &buffer{make([]byte, 0, readBytes)} }}
	largeBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, largeBytes)} }}
)

// getBuffer returns an empty buffer for n bytes.
func getBuffer(n int) *buffer {
	pool := &largeBuffers
	switch {
	case n <= smallBytes:
		pool = &smallBuffers
	case n <= halfBytes:
		pool = &halfBuffers
	case n <= batchBytes:
		pool = &batchBuffers
	case n <= readBytes:
		pool = &readBuffers
	case n > largeBytes:
		return &buffer{make([]byte, 0, n)}
	}
	return pool.Get().(*buffer)
}

// putBuffer gives b back. It may be nil. One that grew to a size between is left to the
// garbage collector: whoever held it next would hold more than it is accounted for.
func putBuffer(b *buffer) {
	if b == nil {
		return
	}
	b.b = b.b[:0]
	switch n := cap(b.b); {
	case n > 4*largeBytes: // an exception that should not become the rule
	case n >= largeBytes:
		largeBuffers.Put(b)
	case n == readBytes:
		readBuffers.Put(b)
	case n == batchBytes:
		batchBuffers.Put(b)
	case n == halfBytes:
		halfBuffers.Put(b)
	case n == smallBytes:
		smallBuffers.Put(b)
	}
}
