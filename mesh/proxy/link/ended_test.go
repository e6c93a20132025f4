package link

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// used is a connection that knows whether it is in use.
type used struct {
	net.Conn
	now atomic.Int64
}

func (u *used) Read(p []byte) (int, error) {
	u.now.Add(1)
	defer u.now.Add(-1)
	n, err := u.Conn.Read(p)
	if err != nil {
		<-time.After(20 * time.Millisecond) // as under a busy scheduler
	}
	return n, err
}

func (u *used) Write(p []byte) (int, error) {
	u.now.Add(1)
	defer u.now.Add(-1)
	return u.Conn.Write(p)
}

func (u *used) Close() error {
	u.now.Add(1)
	defer u.now.Add(-1)
	return u.Conn.Close()
}

// Who is told that the link has ended may count on nothing of it running: also when a
// peer was sent away that does not read.
func TestEndedIsTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Conn, net.Conn){
		"closed":         func(c *Conn, _ net.Conn) { _ = c.Close() },
		"drained":        func(c *Conn, _ net.Conn) { c.Drain() },
		"left":           func(_ *Conn, peer net.Conn) { _ = peer.Close() },
		"broken by peer": func(_ *Conn, peer net.Conn) { _, _ = peer.Write(make([]byte, 64)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, peer := tcpPair(t)
			conn := &used{Conn: ours}
			told := make(chan int64, 1)
			c := Client(conn, Config{Ended: func(c *Conn) {
				select {
				case <-c.read:
					told <- conn.now.Load()
				default:
					told <- -1
				}
			}})
			end(c, peer)
			within(t, "the end", func() {
				if n := <-told; n != 0 {
					t.Errorf("the connection is still in use: %d", n)
				}
			})
		})
	}
}

// Nor is a stream handled any more.
func TestEndedIsAfterTheHandlers(t *testing.T) {
	a, b := tcpPair(t)
	begun, release := make(chan struct{}), make(chan struct{})
	told := make(chan struct{})
	s := Server(a, Config{
		Handle: func(*Stream) {
			close(begun)
			<-release
		},
		Ended: func(*Conn) { close(told) },
	})
	c := Client(b, Config{})
	defer func() { _ = c.Close() }()
	if _, err := c.Open(get("/"), nil, true); err != nil {
		t.Fatal(err)
	}
	<-begun
	_ = s.Close()
	<-s.read
	select {
	case <-told:
		t.Error("it was told while a stream was handled")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	within(t, "the end", func() { <-told })
}
