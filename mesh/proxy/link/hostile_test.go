package link

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// hostileConfig is what hostile peers meet.
func hostileConfig(handle func(*Stream)) Config {
	return Config{MaxStreams: 4, StreamWindow: 32 << 10, HeaderBytes: 8 << 10, HeaderFields: 20, Handle: handle}
}

// hostile are byte streams that a server meets after the preface and SETTINGS of
// the peer, with what it does about them: a line that the peer then gets.
var hostile = []struct {
	name string
	send func(p *raw)
	want string
}{
	// Floods.
	{"CONTINUATION without end, empty", func(p *raw) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(":method", "GET")})
		for range 100 {
			_ = p.WriteContinuation(1, false, nil)
		}
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"CONTINUATION without end, full", func(p *raw) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(":method", "GET")})
		for range 10 {
			_ = p.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 16<<10)) // GET, again and again
		}
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"SETTINGS", repeat(30_000, func(p *raw) { _ = p.WriteSettings() }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"SETTINGS ACK", repeat(30_000, func(p *raw) { _ = p.WriteSettingsAck() }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"PING", repeat(30_000, func(p *raw) { _ = p.WritePing(false, [8]byte{}) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"PING ACK", repeat(30_000, func(p *raw) { _ = p.WritePing(true, [8]byte{}) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"PING ACK for Drain", repeat(30_000, func(p *raw) { _ = p.WritePing(true, [8]byte([]byte("hr-drain"))) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"GOAWAY", repeat(30_000, func(p *raw) { _ = p.WriteGoAway(0, http2.ErrCodeNo, nil) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"PRIORITY", repeat(30_000, func(p *raw) { _ = p.WritePriority(3, http2.PriorityParam{}) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"unknown frames", repeat(30_000, func(p *raw) { _ = p.WriteRawFrame(0xfa, 0, 3, nil) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"empty DATA", func(p *raw) {
		p.request(1, false, "POST", "/read")
		repeat(30_000, func(p *raw) { _ = p.WriteData(1, false, nil) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"DATA of padding only", func(p *raw) {
		p.request(1, false, "POST", "/read")
		repeat(30_000, func(p *raw) { _ = p.WriteDataPadded(1, false, nil, []byte{0}) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"DATA on a closed stream", func(p *raw) {
		p.request(1, true, "GET", "/")
		p.flush()
		p.await("DATA 1")
		_ = p.WriteData(1, false, nil)
	}, "RST 1 STREAM_CLOSED"},
	{"DATA on a stream that was closed before its end", func(p *raw) {
		p.request(1, false, "POST", "/")
		p.flush()
		p.await("RST 1 NO_ERROR")
		repeat(30_000, func(p *raw) { _ = p.WriteData(1, false, nil) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"HEADERS on a stream that was closed before its end", func(p *raw) {
		p.request(1, false, "POST", "/")
		p.flush()
		p.await("RST 1 NO_ERROR")
		repeat(30_000, func(p *raw) { p.headers(1, true, "x", "y") })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"a stream that a later one closed", func(p *raw) {
		p.request(5, true, "GET", "/")
		p.request(3, true, "GET", "/")
	}, "GOAWAY 5 PROTOCOL_ERROR"},
	{"a stream that depends on itself", func(p *raw) {
		_ = p.WritePriority(1, http2.PriorityParam{StreamDep: 1})
	}, "GOAWAY 0 PROTOCOL_ERROR"},
	{"a request that depends on itself", func(p *raw) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: []byte{0x82}, Priority: http2.PriorityParam{StreamDep: 1, Weight: 1}})
	}, "GOAWAY 0 PROTOCOL_ERROR"},
	{"RST_STREAM on a closed stream", func(p *raw) {
		p.request(1, true, "GET", "/")
		p.flush()
		p.await("DATA 1")
		repeat(30_000, func(p *raw) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"RST_STREAM on an open stream", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		repeat(30_000, func(p *raw) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"HEADERS on a stream that was reset", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteRSTStream(1, http2.ErrCodeCancel)
		p.headers(1, true, "x", "y")
	}, "RST 1 STREAM_CLOSED"},
	{"DATA on a stream that was reset", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = p.WriteData(1, true, nil)
	}, "RST 1 STREAM_CLOSED"},
	{"HEADERS on a closed stream", func(p *raw) {
		p.request(1, true, "GET", "/")
		p.flush()
		p.await("DATA 1")
		p.headers(1, true, "x", "y")
	}, "GOAWAY 1 STREAM_CLOSED"},
	{"WINDOW_UPDATE of the link", repeat(30_000, func(p *raw) { _ = p.WriteWindowUpdate(0, 1) }), "GOAWAY 0 ENHANCE_YOUR_CALM"},
	{"WINDOW_UPDATE of a stream", func(p *raw) {
		p.request(1, false, "POST", "/read")
		repeat(30_000, func(p *raw) { _ = p.WriteWindowUpdate(1, 1) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},
	{"WINDOW_UPDATE of a closed stream", func(p *raw) {
		p.request(1, true, "GET", "/")
		p.flush()
		p.await("DATA 1")
		repeat(30_000, func(p *raw) { _ = p.WriteWindowUpdate(1, 1000) })(p)
	}, "GOAWAY 1 ENHANCE_YOUR_CALM"},

	// Windows.
	{"increment 0 on the link", func(p *raw) { p.rawWindow(0, 0) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"increment 0 on a stream", func(p *raw) {
		p.request(1, false, "POST", "/read")
		p.rawWindow(1, 0)
	}, "RST 1 PROTOCOL_ERROR"},
	{"overflow of the link", func(p *raw) { _ = p.WriteWindowUpdate(0, maxWindow) }, "GOAWAY 0 FLOW_CONTROL_ERROR"},
	{"overflow of a stream", func(p *raw) {
		p.request(1, false, "POST", "/read")
		_ = p.WriteWindowUpdate(1, maxWindow)
	}, "RST 1 FLOW_CONTROL_ERROR"},
	{"overflow by SETTINGS", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteWindowUpdate(1, maxWindow-initialWindow)
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: initialWindow + 1})
	}, "GOAWAY 1 FLOW_CONTROL_ERROR"},
	{"SETTINGS_INITIAL_WINDOW_SIZE of 2^31", func(p *raw) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
	}, "GOAWAY 0 FLOW_CONTROL_ERROR"},
	{"DATA beyond a stream's window", func(p *raw) {
		p.settled()
		p.request(1, false, "POST", "/stay")
		for range 3 {
			_ = p.WriteData(1, false, make([]byte, 16<<10))
		}
	}, "RST 1 FLOW_CONTROL_ERROR"},
	{"DATA beyond a window that SETTINGS lowered", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteSettingsAck()
		for range 3 {
			_ = p.WriteData(1, false, make([]byte, 16<<10))
		}
	}, "RST 1 FLOW_CONTROL_ERROR"},
	{"padding beyond a stream's window", func(p *raw) {
		p.settled()
		p.request(1, false, "POST", "/stay")
		for range 140 {
			_ = p.WriteDataPadded(1, false, []byte{1}, make([]byte, 255))
		}
	}, "RST 1 FLOW_CONTROL_ERROR"},

	// Frames that are wrong by themselves.
	{"frame too long", func(p *raw) { _ = p.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16<<10+1)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"SETTINGS on a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"SETTINGS of 5 bytes", func(p *raw) { _ = p.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"SETTINGS ACK with content", func(p *raw) { _ = p.WriteRawFrame(http2.FrameSettings, 1, 0, make([]byte, 6)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"SETTINGS_ENABLE_PUSH of 2", func(p *raw) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2})
	}, "GOAWAY 0 PROTOCOL_ERROR"},
	{"SETTINGS_MAX_FRAME_SIZE too small", func(p *raw) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16<<10 - 1})
	}, "GOAWAY 0 PROTOCOL_ERROR"},
	{"SETTINGS_MAX_FRAME_SIZE too large", func(p *raw) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 24})
	}, "GOAWAY 0 PROTOCOL_ERROR"},
	{"PING on a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"PING of 7 bytes", func(p *raw) { _ = p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"GOAWAY on a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FrameGoAway, 0, 1, make([]byte, 8)) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"GOAWAY of 7 bytes", func(p *raw) { _ = p.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"WINDOW_UPDATE of 3 bytes", func(p *raw) { _ = p.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 3)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"RST_STREAM of 3 bytes", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteRawFrame(http2.FrameRSTStream, 0, 1, make([]byte, 3))
	}, "GOAWAY 1 FRAME_SIZE_ERROR"},
	{"RST_STREAM without a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FrameRSTStream, 0, 0, make([]byte, 4)) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"PRIORITY without a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FramePriority, 0, 0, make([]byte, 5)) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"PRIORITY of 4 bytes", func(p *raw) { _ = p.WriteRawFrame(http2.FramePriority, 0, 3, make([]byte, 4)) }, "GOAWAY 0 FRAME_SIZE_ERROR"},
	{"PUSH_PROMISE", func(p *raw) { _ = p.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4)) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"DATA without a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"DATA with too much padding", func(p *raw) {
		p.request(1, false, "POST", "/stay")
		_ = p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{2, 'x'})
	}, "GOAWAY 1 PROTOCOL_ERROR"},
	{"HEADERS without a stream", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4, 0, []byte{0x82}) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"HEADERS with too much padding", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4|8, 1, []byte{2, 0x82}) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"HEADERS with half a priority", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4|0x20, 1, []byte{0, 0}) }, "GOAWAY 0 FRAME_SIZE_ERROR"},

	// Frames out of place.
	{"DATA on an idle stream", func(p *raw) { _ = p.WriteData(1, true, nil) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"RST_STREAM on an idle stream", func(p *raw) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"WINDOW_UPDATE on an idle stream", func(p *raw) { _ = p.WriteWindowUpdate(1, 1) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"HEADERS on the server's stream", func(p *raw) { p.request(2, true, "GET", "/") }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"CONTINUATION by itself", func(p *raw) { _ = p.WriteContinuation(1, true, nil) }, "GOAWAY 0 PROTOCOL_ERROR"},
	{"header block interrupted by PING", func(p *raw) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(":method", "GET")})
		_ = p.WritePing(false, [8]byte{})
	}, "GOAWAY 1 PROTOCOL_ERROR"},
	{"header block continued on another stream", func(p *raw) {
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(":method", "GET")})
		_ = p.WriteContinuation(3, true, nil)
	}, "GOAWAY 1 PROTOCOL_ERROR"},
	{"DATA after END_STREAM", func(p *raw) {
		p.request(1, true, "GET", "/stay")
		_ = p.WriteData(1, false, []byte("x"))
	}, "RST 1 STREAM_CLOSED"},
	{"trailers after END_STREAM", func(p *raw) {
		p.request(1, true, "GET", "/stay")
		p.headers(1, true, "x", "y")
	}, "RST 1 STREAM_CLOSED"},
	{"trailers without END_STREAM", func(p *raw) {
		p.request(1, false, "POST", "/read")
		p.headers(1, false, "x", "y")
	}, "RST 1 PROTOCOL_ERROR"},
	{"trailers with a pseudo field", func(p *raw) {
		p.request(1, false, "POST", "/read")
		p.headers(1, true, ":path", "/y")
	}, "RST 1 PROTOCOL_ERROR"},
	{"trailers that are too large", func(p *raw) {
		p.request(1, false, "POST", "/read")
		p.headers(1, true, "x", strings.Repeat("y", 8<<10))
	}, "RST 1 ENHANCE_YOUR_CALM"},

	// HPACK.
	{"index 0", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4, 1, []byte{0x80}) }, "GOAWAY 1 COMPRESSION_ERROR"},
	{"index beyond the table", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4, 1, []byte{0xff, 0x10}) }, "GOAWAY 1 COMPRESSION_ERROR"},
	{"field cut short", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4, 1, []byte{0x40, 5, 'a'}) }, "GOAWAY 1 COMPRESSION_ERROR"},
	{"table larger than allowed", func(p *raw) { _ = p.WriteRawFrame(http2.FrameHeaders, 4, 1, []byte{0x3f, 0xff, 0x7f}) }, "GOAWAY 1 COMPRESSION_ERROR"},
	{"small block of large fields", func(p *raw) {
		p.request(1, true, "GET", "/", "x", strings.Repeat("y", 3000), "x", strings.Repeat("y", 3000), "x", strings.Repeat("y", 3000))
	}, "HEADERS 1 :status=431 END"},
	{"too many fields", func(p *raw) {
		p.request(1, true, "GET", "/", strings.Fields(strings.Repeat("x y ", 21))...)
	}, "HEADERS 1 :status=431 END"},
	{"too many cookies", func(p *raw) {
		p.request(1, true, "GET", "/", strings.Fields(strings.Repeat("cookie y ", 21))...)
	}, "HEADERS 1 :status=431 END"},
	{"too large, with a body to come", func(p *raw) {
		p.request(1, false, "POST", "/", "x", strings.Repeat("y", 8<<10))
	}, "RST 1 NO_ERROR"},

	// Content.
	{"more than Content-Length", func(p *raw) {
		p.request(1, false, "POST", "/read", "content-length", "3")
		_ = p.WriteData(1, true, []byte("four"))
	}, "RST 1 PROTOCOL_ERROR"},
	{"less than Content-Length", func(p *raw) {
		p.request(1, false, "POST", "/read", "content-length", "3")
		_ = p.WriteData(1, true, []byte("ab"))
	}, "RST 1 PROTOCOL_ERROR"},
	{"less than Content-Length, with trailers", func(p *raw) {
		p.request(1, false, "POST", "/read", "content-length", "3")
		_ = p.WriteData(1, false, []byte("ab"))
		p.headers(1, true, "x", "y")
	}, "RST 1 PROTOCOL_ERROR"},

	// What only looks hostile.
	{"1,000 PINGs", repeat(1000, func(p *raw) { _ = p.WritePing(false, [8]byte{}) }), "PONG"},
	{"100 SETTINGS", repeat(100, func(p *raw) { _ = p.WriteSettings() }), "SETTINGS ACK"},
	{"PRIORITY on an idle stream", func(p *raw) { _ = p.WritePriority(99, http2.PriorityParam{StreamDep: 3}) }, "SETTINGS ACK"},
	{"padded HEADERS with priority, CONTINUATION and padded DATA", func(p *raw) {
		b := p.encode(":method", "POST", ":scheme", "http", ":authority", "x.example", ":path", "/read", "content-length", "3")
		_ = p.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, BlockFragment: b[:3], PadLength: 9, Priority: http2.PriorityParam{Weight: 3},
		})
		for i := range b[3:] {
			_ = p.WriteContinuation(1, i == len(b)-4, b[3+i:4+i])
		}
		_ = p.WriteDataPadded(1, true, []byte("abc"), make([]byte, 200))
	}, "DATA 1 3 END"},
	{"empty DATA that ends a body in a negative window", func(p *raw) {
		p.request(1, false, "POST", "/later")
		for range 3 {
			_ = p.WriteData(1, false, make([]byte, 16<<10))
		}
		_ = p.WriteSettingsAck() // now the window is 32 KiB - 48 KiB
		_ = p.WriteData(1, true, nil)
	}, "DATA 1 49152 END"},
}

// rawWindow sends a WINDOW_UPDATE that the Framer would not.
func (p *raw) rawWindow(id uint32, n byte) {
	_ = p.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, n})
}

// repeat returns a flood.
func repeat(n int, f func(p *raw)) func(*raw) {
	return func(p *raw) {
		for range n {
			f(p)
		}
	}
}

func TestHostileClients(t *testing.T) {
	t.Parallel()
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stop := make(chan struct{})
			clean := make(chan error, 100)
			var p *raw
			var later = make(chan struct{})
			p, s := rawClient(t, hostileConfig(func(s *Stream) {
				switch s.Request().Path {
				case "/stay":
					<-stop
				case "/later":
					<-later
					fallthrough
				case "/read":
					b, err := io.ReadAll(s)
					clean <- err
					if err == nil && len(b) > 1000 {
						_ = s.Respond(&Head{Status: 200}, make([]byte, len(b)), true)
					} else if err == nil {
						_ = s.Respond(&Head{Status: 200}, b, true)
					}
				default:
					ok(s, "ok")
				}
			}))
			defer close(stop)
			test.send(p)
			p.flush()
			if strings.Contains(test.name, "negative window") {
				p.sync()
				_ = p.WriteWindowUpdate(1, 1<<20)
				p.flush()
				close(later)
				eventually(t, "the body", func() bool { return p.dataBytes(1) == 48<<10 })
				test.want = "DATA 1"
			}
			p.await(test.want)
			if code, isGoAway := strings.CutPrefix(test.want, "GOAWAY "); isGoAway {
				var e *ConnError
				if err := closed(t, s); !errors.As(err, &e) || e.Remote || !strings.HasSuffix(code, e.Code.String()) {
					t.Errorf("the link ended with %v", err)
				}
				return
			}
			if strings.HasPrefix(test.want, "RST") {
				select {
				case err := <-clean:
					if err == nil {
						t.Error("the body ended cleanly")
					}
				default:
				}
			}
			p.request(101, true, "GET", "/")
			p.flush()
			p.await("DATA 101 2 END")
			if p.has("GOAWAY") {
				t.Error("the link was to live on")
			}
		})
	}
}
