package link

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// TestOrderOfStreams opens and resets many streams at once: ids and HPACK's state
// leave in order, and RST_STREAM never before HEADERS.
func TestOrderOfStreams(t *testing.T) {
	t.Parallel()
	p, c := rawServer(t, Config{})
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10_000})
	p.flush()
	eventually(t, "the limit", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.peerStreams == 10_000
	})
	const each, routines = 50, 32
	var wg sync.WaitGroup
	for i := range routines {
		wg.Go(func() {
			for j := range each {
				h := get(fmt.Sprintf("/%d", j%7))
				h.Fields = header.List{{Name: "X-Item", Value: fmt.Sprint(j % 5)}, {Name: "Authorization", Value: fmt.Sprint(i)}}
				s, err := c.Open(h, nil, j%2 == 0)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				s.Reset(http2.ErrCodeCancel)
				s.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all resets", func() bool { return p.count("RST ") == each*routines || p.has("END") })
	next := 1
	for _, line := range p.drainLines() {
		var id int
		switch kind, rest, _ := strings.Cut(line, " "); kind {
		case "HEADERS":
			_, _ = fmt.Sscan(rest, &id)
			if id != next || !strings.Contains(line, "x-item=") {
				t.Fatalf("got %q, want stream %d", line, next)
			}
			next += 2
		case "RST":
			_, _ = fmt.Sscan(rest, &id)
			if id >= next {
				t.Fatalf("%q before its HEADERS", line)
			}
		case "BAD", "END":
			t.Fatalf("the peer is at odds: %s", line)
		}
	}
}

// TestDiscardedBlocksAreDecoded has blocks that are not kept add to HPACK's table,
// which a later request then refers to.
func TestDiscardedBlocksAreDecoded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p, s := rawClient(t, Config{MaxStreams: 1, HeaderBytes: 4 << 10, HeaderFields: 20, Handle: func(s *Stream) {
		if s.Request().Path == "/stay" {
			<-release
		}
		list := ""
		for _, name := range []string{"A", "B", "C", "D"} {
			v, _ := s.Request().Fields.Get(name)
			list += v
		}
		ok(s, list)
	}})
	p.request(1, false, "POST", "/stay")
	p.request(3, true, "GET", "/refused", "a", "1")
	p.flush()
	p.await("RST 3 REFUSED_STREAM")
	close(release)
	p.await("HEADERS 1 :status=200 END")
	eventually(t, "the slot", func() bool { return s.streams.len() == 0 })
	p.headers(1, true, "b", "22") // trailers on a closed stream
	p.request(5, true, "GET", "/large", "large", strings.Repeat("x", 5<<10), "c", "333")
	p.request(7, true, "GET", "no path", "d", "4444")
	p.flush()
	p.await("HEADERS 5 :status=431 END")
	p.await("RST 7 PROTOCOL_ERROR")
	p.request(9, true, "GET", "/", "a", "1", "b", "22", "c", "333", "d", "4444")
	p.flush()
	p.await("DATA 9 10 END")
}

// TestRefuse has streams refused whose header is only decoded for HPACK's table, and
// what comes after it ignored.
func TestRefuse(t *testing.T) {
	t.Parallel()
	var shed atomic.Bool
	p, s := rawClient(t, Config{
		Handle: func(s *Stream) {
			v, _ := s.Request().Fields.Get("A")
			ok(s, v)
		},
		Refuse: func() *Head {
			if shed.Load() {
				return &Head{Status: 503, Fields: header.List{{Name: "Retry-After", Value: "1"}}}
			}
			return nil
		},
	})
	p.request(1, true, "GET", "/")
	p.flush()
	p.await("HEADERS 1 :status=200 END")
	eventually(t, "the slot", func() bool { return s.streams.len() == 0 })
	shed.Store(true)
	p.request(3, true, "GET", "/", "a", "remembered")
	p.request(5, false, "POST", "/", "b", strings.Repeat("x", 10<<10))
	_ = p.WriteData(5, false, make([]byte, 1000))
	_ = p.WriteData(5, true, nil)
	p.flush()
	p.await("HEADERS 3 :status=503 retry-after=1 END")
	p.await("HEADERS 5 :status=503 retry-after=1 END")
	p.await("RST 5 NO_ERROR")
	if n := s.streams.len(); n != 0 {
		t.Errorf("%d streams", n)
	}
	shed.Store(false)
	p.request(7, true, "GET", "/", "a", "remembered")
	p.flush()
	p.await("DATA 7 10 END")
}

// TestDataOfRefusedStreams has a client send bodies that nobody wants: frames with
// content are not what costs more here than there.
func TestDataOfRefusedStreams(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: func(s *Stream) { ok(s, "") }, Refuse: func() *Head { return &Head{Status: 503} }})
	p.request(1, false, "POST", "/")
	for range 3 * maxUseless {
		_ = p.WriteData(1, false, make([]byte, smallCredit))
	}
	p.request(3, true, "GET", "/")
	p.flush()
	p.await("HEADERS 3 :status=503 END")
}

// TestCredit follows what a peer may send: on a stream as its body is taken, on
// the link as it comes, whatever becomes of it.
func TestCredit(t *testing.T) {
	t.Parallel()
	read := make(chan struct{})
	p, _ := rawClient(t, Config{MaxStreams: 2, StreamWindow: 64 << 10, FirstWindow: 64 << 10, Handle: func(s *Stream) {
		switch s.Request().Path {
		case "/take":
			<-read
			_, _ = io.Copy(io.Discard, s)
		case "/padding":
			_, _ = s.Next()
		}
		ok(s, "")
	}})
	p.settled()
	p.request(1, false, "POST", "/take")
	for range 3 {
		_ = p.WriteData(1, false, make([]byte, 16<<10))
	}
	p.sync()
	if p.has("WINDOW_UPDATE 1") {
		t.Error("credit for a body that nobody took")
	}
	close(read)
	p.await("WINDOW_UPDATE 1 32768")

	// 64 KiB, half of the link's window.
	p.drainLines()
	_ = p.WriteData(1, true, make([]byte, 16<<10))
	p.flush()
	p.await("WINDOW_UPDATE 0 65536")

	// Of a stream that was answered and closed before its end, and of padding.
	p.await("HEADERS 1 :status=200 END")
	p.request(3, false, "POST", "/")
	p.flush()
	p.await("RST 3 NO_ERROR")
	p.drainLines()
	for range 4 {
		_ = p.WriteData(3, false, make([]byte, 16<<10))
	}
	p.flush()
	p.await("WINDOW_UPDATE 0 65536")
	p.request(5, false, "POST", "/padding")
	for range 129 {
		_ = p.WriteDataPadded(5, false, nil, make([]byte, 255))
	}
	p.flush()
	p.await("WINDOW_UPDATE 5 32768")
	_ = p.WriteData(5, true, nil)
	p.flush()
	p.await("HEADERS 5")
}

// TestNegativeWindow lowers a window below what was sent already (RFC 9113 section
// 6.9.2).
func TestNegativeWindow(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: func(s *Stream) {
		_ = s.Respond(&Head{Status: 200}, pattern(100_000), true)
	}})
	_ = p.WriteWindowUpdate(0, 1<<20)
	p.request(1, true, "GET", "/")
	p.flush()
	eventually(t, "the first window", func() bool { return p.dataBytes(1) == initialWindow })
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	_ = p.WriteWindowUpdate(1, initialWindow-10)
	p.sync()
	if n := p.dataBytes(1); n != initialWindow {
		t.Errorf("got %d bytes at a window of 0", n)
	}
	_ = p.WriteWindowUpdate(1, 5)
	p.sync()
	eventually(t, "5 bytes more", func() bool { return p.dataBytes(1) == initialWindow+5 })
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 17})
	p.sync()
	eventually(t, "7 bytes more", func() bool { return p.dataBytes(1) == initialWindow+12 })
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	p.flush()
	eventually(t, "the rest", func() bool { return p.dataBytes(1) == 100_000 })
}

// TestLinkWindow holds back DATA at the link's window though streams have theirs.
func TestLinkWindow(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: func(s *Stream) {
		_ = s.Respond(&Head{Status: 200}, pattern(50_000), true)
	}})
	p.request(1, true, "GET", "/")
	p.request(3, true, "GET", "/")
	p.flush()
	sum := func() int { return p.dataBytes(1) + p.dataBytes(3) }
	eventually(t, "the window", func() bool { return sum() == initialWindow })
	p.sync()
	if n := sum(); n != initialWindow {
		t.Errorf("got %d bytes beyond the link's window", n-initialWindow)
	}
	_ = p.WriteWindowUpdate(0, 1<<20)
	p.flush()
	eventually(t, "the rest", func() bool { return sum() == 100_000 })
}

// TestRapidReset opens and resets far more streams than there are slots, while
// nobody cares for the resets.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	const slots, n = 10, 10_000
	var handlers counter
	release := make(chan struct{})
	p, s := rawClient(t, Config{MaxStreams: slots, Handle: func(*Stream) {
		handlers.enter()
		defer handlers.leave()
		<-release
	}})
	for i := range n {
		id := uint32(2*i + 1)
		p.request(id, true, "GET", "/")
		_ = p.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	p.sync()
	if _, most, total := handlers.counts(); most > slots || total != slots {
		t.Errorf("%d handlers, %d at once, want %d", total, most, slots)
	}
	if n := p.count("RST "); n != 10_000-slots {
		t.Errorf("%d streams were refused", n)
	}
	close(release)
	eventually(t, "free slots", func() bool { return s.streams.len() == 0 })
	p.request(2*n+1, true, "GET", "/")
	p.flush()
	p.await(fmt.Sprintf("RST %d INTERNAL_ERROR", 2*n+1)) // the handler says nothing
	if p.has("GOAWAY") || p.has("END") {
		t.Error("the link ended")
	}
}

// TestManyAtOnce is a burst that is no flood.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: func(s *Stream) { ok(s, "x") }})
	for i := range 1000 {
		p.request(uint32(2*i+1), true, "GET", "/")
	}
	p.flush()
	eventually(t, "all answers", func() bool {
		return p.count("DATA ")+p.count("RST ") == 1000 || p.has("END")
	})
	if p.has("GOAWAY") || p.has("END") || p.has("RST") {
		t.Errorf("got %s", shorten(p.drainLines()))
	}
}

// TestWindowGrows gives a stream whose owner keeps up the larger window, and not
// one whose owner lets the body lie.
func TestWindowGrows(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		keepsUp bool
		pause   time.Duration
		grown   bool
	}{
		"keeps up":     {true, growAfter / 2, true},
		"lets it lie":  {false, growAfter / 2, false},
		"in bursts":    {true, growAfter, false},
		"after a rest": {true, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStream(&Conn{cfg: Config{FirstWindow: 32 << 10, StreamWindow: 64 << 10}})
			credit := func() int {
				s.credit += 16 << 10
				s.keptUp = tt.keepsUp
				return s.creditDue()
			}
			if n := credit(); n != 16<<10 || s.grown {
				t.Fatalf("the first credit is %d", n)
			}
			s.since, s.credited = s.since.Add(-growAfter), s.credited.Add(-tt.pause)
			if n, want := credit(), map[bool]int{true: 48 << 10, false: 16 << 10}[tt.grown]; n != want || s.grown != tt.grown {
				t.Errorf("a second later it is %d, want %d", n, want)
			}
		})
	}
}

// TestBuffersAreCloseToWhatIsHeld stores a body that nobody takes.
func TestBuffersAreCloseToWhatIsHeld(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{100, 1 << 10, 5 << 10, 16 << 10} {
		s := newStream(&Conn{})
		for n := 0; n+piece <= 32<<10; n += piece {
			s.store(make([]byte, piece))
		}
		held, size := 0, 0
		for _, b := range s.in {
			held, size = held+len(b.b), size+cap(b.b)
		}
		if size > held+batchBytes {
			t.Errorf("pieces of %d: %d bytes take %d", piece, held, size)
		}
	}
}
