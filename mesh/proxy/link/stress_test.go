package link

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// fickle is a handler that does what it likes.
func fickle(s *Stream) {
	switch rand.IntN(8) {
	case 0:
		s.Reset(http2.ErrCodeInternal)
	case 1: // nothing
	case 2:
		ok(s, "early")
	case 3:
		_, _ = s.Next()
	case 4:
		_ = s.Respond(&Head{Status: 200}, pattern(rand.IntN(200_000)), rand.IntN(2) == 0)
	default:
		echo(s)
	}
}

// fickleExchange is as fickle as a client. It reports whether the answer, if it is
// an echo, is right.
func fickleExchange(c *Conn, reverse bool) (right bool, err error) {
	body := pattern(rand.IntN(150_000))
	first := rand.IntN(len(body) + 1)
	s, err := c.Open(post("/"), body[:first], false)
	if err != nil {
		return true, err
	}
	defer s.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	switch rand.IntN(5) {
	case 0:
		return true, nil
	case 1:
		wg.Go(func() { s.Reset(http2.ErrCodeCancel) })
	case 2:
		s.OnAbort(func() {})
	case 3:
		wg.Go(s.StopReading)
	}
	wg.Go(func() { _ = sendAll(s, body[first:], nil) })
	if reverse {
		_, _, _, _ = answer(s)
		s.Reset(http2.ErrCodeCancel) // ends sendAll
		return true, nil
	}
	h, got, _, err := answer(s)
	if err != nil {
		s.Reset(http2.ErrCodeCancel)
		return true, nil //nolint:nilerr // only the link's errors matter
	}
	s.Reset(http2.ErrCodeCancel)
	return h.Status == 200 && (string(got) == "early" || bytes.HasPrefix(pattern(200_000), got)), nil
}

// TestFicklePeers has both ends do everything at once for a while, and looks then
// whether streams, slots or credit were lost.
func TestFicklePeers(t *testing.T) {
	t.Parallel()
	for _, tr := range transports {
		for name, window := range map[string]int{"small windows": 8 << 10, "default": 0} {
			t.Run(tr.name+" "+name, func(t *testing.T) {
				t.Parallel()
				c, s := links(t, tr.pair,
					Config{StreamWindow: window, Reverse: true, Handle: fickle, PingAfter: 20 * time.Millisecond},
					Config{StreamWindow: window, MaxStreams: 20, Handle: fickle, PingAfter: 20 * time.Millisecond})
				var wg sync.WaitGroup
				stop := time.Now().Add(700 * time.Millisecond)
				for i := range 16 {
					wg.Go(func() {
						end := c
						if i%4 == 3 {
							end = s
						}
						for time.Now().Before(stop) {
							right, err := fickleExchange(end, i%2 == 0)
							if !right || err != nil && !errors.Is(err, ErrUnavailable) {
								t.Errorf("right: %t, error: %v", right, err)
								return
							}
						}
					})
				}
				within(t, "all exchanges", wg.Wait)
				eventually(t, "no streams", func() bool {
					return c.streams.len() == 0 && s.streams.len() == 0 && c.Streams() == 0 && s.Streams() == 0
				})
				credit := func(c *Conn) int64 {
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.window
				}
				eventually(t, "credit", func() bool { return 2*credit(c) >= int64(s.rd.windowSize) && 2*credit(s) >= int64(c.rd.windowSize) })
				for _, end := range []*Conn{c, s} {
					end.streams.mu.Lock()
					if end.streams.slots != 0 || len(end.streams.jobs) != 0 {
						t.Errorf("%d slots are taken, %d jobs wait", end.streams.slots, len(end.streams.jobs))
					}
					end.streams.mu.Unlock()
				}
				eventually(t, "quiet", func() bool { return isQuiet(c) && isQuiet(s) })
			})
		}
	}
}
