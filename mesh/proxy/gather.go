package proxy

import (
	"math/bits"
	"sync"
)

// gatherBytes is up to which length a body is awaited before its request is
// forwarded. Most arrive a moment after their head; to send both together costs
// half, and an endpoint does not wait for who sends slowly.
const gatherBytes = 16 << 10

// shortBuffers are buffers for short bodies, by size: who sends one slowly holds no
// more than twice its length, or 1 KiB.
type shortBuffers [6]sync.Pool // of *[]byte: 1 KiB, 2 KiB, ... 32 KiB

// of returns the pool of the buffers that n bytes fit into, and their size.
func (s *shortBuffers) of(n int) (pool *sync.Pool, size int) {
	at := max(bits.Len(uint(n-1))-10, 0)
	return &s[at], 1 << (10 + at)
}

func (s *shortBuffers) get(n int) *[]byte {
	pool, size := s.of(n)
	if b, ok := pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

func (s *shortBuffers) put(b *[]byte) {
	pool, _ := s.of(len(*b))
	pool.Put(b)
}

// gather waits for the whole of a short body. Who asks whether to send it at all
// (RFC 9110 section 10.1.1) is told by the endpoint.
func (x *exchange) gather() error {
	if x.isWhole || x.in.length < 0 || x.in.length > gatherBytes {
		return nil
	}
	if _, asks := x.in.fields.Get("Expect"); asks {
		return nil
	}
	x.small = x.s.e.short.get(int(x.in.length) + 1)
	if err := x.body.gather(*x.small, x.in.length); err != nil {
		return err
	}
	if len(x.client.bodyTrailers()) == 0 {
		x.whole, x.isWhole = x.body.kept, true
		x.out.length = int64(len(x.whole))
	}
	return nil
}
