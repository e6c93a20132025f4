package link

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// What RFC 9113 fixes, and what this package does not negotiate.
const (
	frameHeaderBytes = 9
	resetBytes       = frameHeaderBytes + 4
	maxFrameBytes    = 16 << 10  // SETTINGS_MAX_FRAME_SIZE stays at its default both ways
	maxWindow        = 1<<31 - 1 // section 6.9.1
	initialWindow    = 65535     // section 6.9.2
	tableBytes       = 4 << 10   // HPACK table, both ways; RFC 7541's default

	// settingReverse offers reverse streams. Identifiers from 0xf000 on are
	// reserved for experiments.
	settingReverse http2.SettingID = 0xf7e1
)

// frameHeader is the head of a frame (RFC 9113 section 4.1).
type frameHeader struct {
	length int
	kind   http2.FrameType
	flags  http2.Flags
	id     uint32
}

// parseFrameHeader reads the first 9 bytes of b.
func parseFrameHeader(b []byte) frameHeader {
	_ = b[frameHeaderBytes-1]
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   http2.FrameType(b[3]),
		flags:  http2.Flags(b[4]),
		id:     binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

// putFrameHeader writes h into the first 9 bytes of b.
func putFrameHeader(b []byte, h frameHeader) {
	_ = b[frameHeaderBytes-1]
	b[0], b[1], b[2] = byte(h.length>>16), byte(h.length>>8), byte(h.length)
	b[3], b[4] = byte(h.kind), byte(h.flags)
	binary.BigEndian.PutUint32(b[5:], h.id)
}

func appendFrameHeader(b []byte, h frameHeader) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	putFrameHeader(b[len(b)-frameHeaderBytes:], h)
	return b
}

// appendData appends one DATA frame. p has at most maxFrameBytes.
func appendData(b []byte, id uint32, p []byte, end bool) []byte {
	h := frameHeader{length: len(p), kind: http2.FrameData, id: id}
	if end {
		h.flags = http2.FlagDataEndStream
	}
	return append(appendFrameHeader(b, h), p...)
}

func appendReset(b []byte, id uint32, code http2.ErrCode) []byte {
	b = appendFrameHeader(b, frameHeader{length: 4, kind: http2.FrameRSTStream, id: id})
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, id uint32, n int) []byte {
	b = appendFrameHeader(b, frameHeader{length: 4, kind: http2.FrameWindowUpdate, id: id})
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendPing(b []byte, flags http2.Flags, payload uint64) []byte {
	b = appendFrameHeader(b, frameHeader{length: 8, kind: http2.FramePing, flags: flags})
	return binary.BigEndian.AppendUint64(b, payload)
}

// goAway returns one GOAWAY frame.
func goAway(last uint32, code http2.ErrCode) []byte {
	b := appendFrameHeader(nil, frameHeader{length: 8, kind: http2.FrameGoAway})
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendSettings(b []byte, settings ...http2.Setting) []byte {
	b = appendFrameHeader(b, frameHeader{length: 6 * len(settings), kind: http2.FrameSettings})
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}

func appendSettingsAck(b []byte) []byte {
	return appendFrameHeader(b, frameHeader{kind: http2.FrameSettings, flags: http2.FlagSettingsAck})
}

// closeHeaders completes the header block of b that begins with 9 free bytes at
// start: it becomes a HEADERS frame, and CONTINUATION frames if it is too long for
// one.
func closeHeaders(b []byte, start int, id uint32, end bool) []byte {
	h := frameHeader{kind: http2.FrameHeaders, id: id, flags: http2.FlagHeadersEndHeaders}
	if end {
		h.flags |= http2.FlagHeadersEndStream
	}
	h.length = len(b) - start - frameHeaderBytes
	if h.length <= maxFrameBytes {
		putFrameHeader(b[start:], h)
		return b
	}
	rest := append([]byte(nil), b[start+frameHeaderBytes+maxFrameBytes:]...)
	b = b[:start+frameHeaderBytes+maxFrameBytes]
	h.length = maxFrameBytes
	h.flags &^= http2.FlagHeadersEndHeaders
	putFrameHeader(b[start:], h)
	for len(rest) > 0 {
		h = frameHeader{length: min(len(rest), maxFrameBytes), kind: http2.FrameContinuation, id: id}
		if h.length == len(rest) {
			h.flags = http2.FlagContinuationEndHeaders
		}
		b = append(appendFrameHeader(b, h), rest[:h.length]...)
		rest = rest[h.length:]
	}
	return b
}
