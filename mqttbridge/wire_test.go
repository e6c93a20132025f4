package mqttbridge

import (
	"bufio"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// wire is a TCP proxy before a broker that counts the acknowledgements which
// clients send, and can cut the connections.
type wire struct {
	addr, target string
	pubacks      atomic.Int32
	connects     atomic.Int32

	mu    sync.Mutex
	conns []net.Conn
	ended bool
	wg    sync.WaitGroup
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), target: target}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) carry(client net.Conn) {
	broker, err := net.Dial("tcp", w.target)
	if err != nil {
		_ = client.Close()
		return
	}
	w.connects.Add(1)
	w.mu.Lock()
	w.conns = append(w.conns, client, broker)
	ended := w.ended
	w.mu.Unlock()
	if ended {
		w.cut()
	}
	w.wg.Go(func() {
		_, _ = io.Copy(client, broker)
		_, _ = client.Close(), broker.Close()
	})
	w.countAcks(broker, bufio.NewReader(client))
	// Closed with something unread it would be reset, and the broker might lose
	// what the client has sent last.
	if tcp, ok := broker.(*net.TCPConn); !ok || tcp.CloseWrite() != nil {
		_ = broker.Close()
	}
}

// countAcks copies packets and counts those of type PUBACK.
func (w *wire) countAcks(to io.Writer, from *bufio.Reader) {
	for {
		first, err := from.ReadByte()
		if err != nil {
			return
		}
		packet, length, shift := []byte{first}, 0, 0
		for {
			b, err := from.ReadByte()
			if err != nil {
				return
			}
			packet = append(packet, b)
			length |= int(b&0x7f) << shift
			if shift += 7; b < 0x80 {
				break
			}
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if _, err := to.Write(append(packet, body...)); err != nil {
			return
		}
		if first>>4 == 4 {
			w.pubacks.Add(1)
		}
	}
}

// cut ends all connections there are now.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}
