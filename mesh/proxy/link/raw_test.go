package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a peer made of single frames, by the Framer of x/net. What it sends is
// gathered until flush; what it gets is noted as lines of text.
type raw struct {
	*http2.Framer // writes into out

	t     testing.TB
	conn  net.Conn
	out   bytes.Buffer
	block bytes.Buffer
	enc   *hpack.Encoder

	mu    sync.Mutex
	came  sync.Cond
	lines []string
	bytes map[uint32]int // of DATA, by stream
	ended bool
	read  chan struct{}
}

func newRaw(t testing.TB, conn net.Conn) *raw {
	t.Helper()
	p := &raw{t: t, conn: conn, bytes: map[uint32]int{}, read: make(chan struct{})}
	p.came.L = &p.mu
	p.Framer = http2.NewFramer(&p.out, nil)
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// rawClient joins a peer that plays the client to a Server of ours. It has sent the
// preface and SETTINGS, which are not acknowledged.
func rawClient(t testing.TB, cfg Config) (*raw, *Conn) {
	t.Helper()
	a, b := tcpPair(t)
	s := Server(b, cfg)
	p := newRaw(t, a)
	p.out.WriteString(http2.ClientPreface)
	_ = p.WriteSettings()
	p.listen()
	t.Cleanup(func() { p.close(s) })
	return p, s
}

// rawServer joins a peer that plays the server to a Client of ours.
func rawServer(t testing.TB, cfg Config) (*raw, *Conn) {
	t.Helper()
	a, b := tcpPair(t)
	c := Client(b, cfg)
	p := newRaw(t, a)
	_ = p.WriteSettings()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(a, preface); err != nil || string(preface) != http2.ClientPreface {
		t.Fatalf("got preface %q %v", preface, err)
	}
	p.listen()
	t.Cleanup(func() { p.close(c) })
	return p, c
}

func (p *raw) close(c *Conn) {
	_ = p.conn.Close()
	<-p.read
	_ = c.Close()
	<-c.read
}

// listen begins to note what comes.
func (p *raw) listen() {
	fr := http2.NewFramer(io.Discard, p.conn)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go func() {
		defer close(p.read)
		for {
			f, err := fr.ReadFrame()
			p.mu.Lock()
			if err != nil {
				var bad http2.StreamError
				if errors.As(err, &bad) {
					p.lines = append(p.lines, "BAD "+bad.Error())
				}
				p.lines = append(p.lines, "END")
				p.ended = true
			} else {
				p.lines = append(p.lines, p.line(f))
			}
			p.came.Broadcast()
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// line describes a frame.
func (p *raw) line(f http2.Frame) string {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode)
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST %d %v", id, f.ErrCode)
	case *http2.MetaHeadersFrame:
		s := fmt.Sprintf("HEADERS %d", id)
		for _, h := range f.Fields {
			s += " " + h.Name + "=" + h.Value
		}
		if f.StreamEnded() {
			s += " END"
		}
		return s
	case *http2.DataFrame:
		p.bytes[id] += len(f.Data())
		s := fmt.Sprintf("DATA %d %d", id, len(f.Data()))
		if f.StreamEnded() {
			s += " END"
		}
		return s
	case *http2.PingFrame:
		if f.IsAck() {
			return "PONG " + string(f.Data[:])
		}
		return "PING " + string(f.Data[:])
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ACK"
		}
		return "SETTINGS"
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", id, f.Increment)
	}
	return f.Header().Type.String()
}

// flush sends what was gathered. A peer that hung up is no error here.
func (p *raw) flush() {
	_ = p.conn.SetWriteDeadline(time.Now().Add(wait))
	_, _ = p.conn.Write(p.out.Bytes())
	p.out.Reset()
}

// await waits for a line with the prefix, and returns it. It fails if the peer
// hangs up before.
func (p *raw) await(prefix string) string {
	p.t.Helper()
	timer := time.AfterFunc(wait, func() {
		p.mu.Lock()
		p.ended = true
		p.came.Broadcast()
		p.mu.Unlock()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for _, line := range p.lines {
			if strings.HasPrefix(line, prefix) {
				return line
			}
		}
		if p.ended {
			p.t.Fatalf("no %q came, but %s", prefix, shorten(p.lines))
		}
		p.came.Wait()
	}
}

// drainLines returns what came so far, and forgets it.
func (p *raw) drainLines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := p.lines
	p.lines = nil
	return lines
}

// has reports whether a line with the prefix came.
func (p *raw) has(prefix string) bool { return p.count(prefix) > 0 }

func (p *raw) count(prefix string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, line := range p.lines {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (p *raw) dataBytes(id uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes[id]
}

func shorten(lines []string) string {
	lines = slices.Clone(lines)
	if len(lines) > 12 {
		lines = append(lines[:6], append([]string{"..."}, lines[len(lines)-6:]...)...)
	}
	return strings.Join(lines, "; ")
}

// encode returns the header block of name, value pairs.
func (p *raw) encode(pairs ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return slices.Clone(p.block.Bytes())
}

// headers sends a header block in one frame.
func (p *raw) headers(id uint32, end bool, pairs ...string) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: p.encode(pairs...), EndHeaders: true, EndStream: end,
	})
}

// request sends a request with further fields.
func (p *raw) request(id uint32, end bool, method, path string, pairs ...string) {
	p.headers(id, end, append([]string{":method", method, ":scheme", "http", ":authority", "x.example", ":path", path}, pairs...)...)
}

// settled has both sides acknowledge SETTINGS.
func (p *raw) settled() {
	p.t.Helper()
	_ = p.WriteSettingsAck()
	p.sync()
}

// sync waits until all that was sent is processed.
func (p *raw) sync() {
	p.t.Helper()
	before := p.count("PONG in order")
	_ = p.WritePing(false, [8]byte([]byte("in order")))
	p.flush()
	eventually(p.t, "PONG", func() bool {
		return p.count("PONG in order") > before || p.has("END")
	})
}
