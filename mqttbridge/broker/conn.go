package broker

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// conn is a device's connection. While the device waits for its service nobody
// reads from it, so nobody would notice that it has gone; watch reads ahead to
// see that, as net/http does while a handler runs.
type conn struct {
	net.Conn
	// ahead and aheadErr are what was read while watching. Only the goroutine
	// that reads and watches uses them, and watch's own, never both at once.
	ahead    []byte
	aheadErr error
	// busy is set while a message of it is being delivered. Only the
	// goroutine that reads uses it.
	busy bool
	// condemned is set when the connection is closed because a message was
	// not delivered: what the device sent behind it must not overtake it.
	condemned atomic.Bool
	// renumbered is the packet that is being processed under another identifier than it came
	// with; came is 0 if none is. Only the goroutine that reads uses it, which also writes the
	// acknowledgement.
	renumbered struct{ came, goes uint16 }
}

// Read returns first what was read ahead.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil
		}
		return n, nil
	}
	if c.aheadErr != nil {
		return 0, c.aheadErr
	}
	return c.Conn.Read(p)
}

// watch calls gone, once, if the connection ends before stop is called. It
// reads at most readAhead bytes ahead; after that it is blind, and the device
// is held back by TCP. The caller must not read in between.
func (c *conn) watch(gone func()) (stop func()) {
	_ = c.SetReadDeadline(time.Time{}) // waiting is not silence
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for len(c.ahead) < readAhead && c.aheadErr == nil {
			n, err := c.Conn.Read(buf)
			c.ahead = append(c.ahead, buf[:n]...)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return // stop was called
			}
			if err != nil {
				c.aheadErr = err
				gone()
			}
		}
	}()
	return func() {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // ends a Read under way
		<-done
		// The reader of packets sets its deadline before it reads again. The
		// old one for writing may have passed meanwhile.
		_ = c.SetReadDeadline(time.Time{})
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
}

// condemn closes the connection for good.
func (c *conn) condemn() {
	c.condemned.Store(true)
	_ = c.Close()
}
