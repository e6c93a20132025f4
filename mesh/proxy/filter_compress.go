package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Defaults of compression. The levels are those that cost little: a proxy compresses
// what is sent once.
const (
	compressMinBytes = 1024
	gzipLevel        = 4
	brotliLevel      = 4
	brotliWindow     = 17      // bits
	zstdWindow       = 1 << 17 // bytes
)

// compression is a compiled mesh.Compress.
type compression struct {
	algorithms []string
	types      []string // media types, or "text/" for all of text
	least      int64    // bytes
}

func compileCompression(c *mesh.Compress) *compression {
	out := &compression{algorithms: c.Algorithms, least: int64(c.MinBytes)}
	if len(out.algorithms) == 0 {
		out.algorithms = []string{mesh.CompressZstd, mesh.CompressBrotli, mesh.CompressGzip}
	}
	for _, t := range c.ContentTypes {
		out.types = append(out.types, strings.TrimSuffix(t, "*"))
	}
	if len(out.types) == 0 {
		out.types = []string{"text/", "application/json", "application/javascript", "application/xml", "application/problem+json", "image/svg+xml", "application/wasm"}
	}
	if c.MinBytes == 0 {
		out.least = compressMinBytes
	}
	return out
}

// encodingFor returns how the response in head is to be compressed for x; "" is not
// at all. What is compressed already, partial, or not to be changed (RFC 9110 section
// 7.7) stays as it is, and so do streams of events.
func (c *compression) encodingFor(x *exchange, head *responseHead) string {
	if c == nil || x.in.http1 && x.in.minor == 0 || head.length >= 0 && head.length < c.least ||
		head.status < 200 || head.status == http.StatusNoContent || head.status == http.StatusNotModified || head.status == http.StatusPartialContent {
		return ""
	}
	if _, encoded := head.fields.Get("Content-Encoding"); encoded {
		return ""
	}
	if control, _ := head.fields.Get("Cache-Control"); header.HasToken(control, "no-transform") {
		return ""
	}
	contentType, _ := head.fields.Get("Content-Type")
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.ToLower(header.Trim(mediaType))
	if !c.compresses(mediaType) {
		return ""
	}
	return accepted(x.out.fields, c.algorithms)
}

func (c *compression) compresses(mediaType string) bool {
	for _, t := range c.types {
		if t == mediaType || strings.HasSuffix(t, "/") && strings.HasPrefix(mediaType, t) && mediaType != "text/event-stream" {
			return true
		}
	}
	return false
}

// accepted returns the first of algorithms that the Accept-Encoding of a request
// allows (RFC 9110 section 12.5.3), or "".
func accepted(fields header.List, algorithms []string) string {
	for _, name := range algorithms {
		if accepts(fields, name) {
			return name
		}
	}
	return ""
}

// accepts reports whether Accept-Encoding has coding, or else "*", with a weight.
func accepts(fields header.List, coding string) bool {
	named, any := -1, -1 // weights in thousandths
	for _, f := range fields {
		if !header.Equal(f.Name, "Accept-Encoding") {
			continue
		}
		for rest := f.Value; rest != ""; {
			var part string
			part, rest, _ = strings.Cut(rest, ",")
			name, parameters, _ := strings.Cut(part, ";")
			switch name = header.Trim(name); {
			case header.Equal(name, coding):
				named = weight(parameters)
			case name == "*":
				any = weight(parameters)
			}
		}
	}
	if named >= 0 {
		return named > 0
	}
	return any > 0
}

// weight returns that of "q=0.5"; 1 if there is none.
func weight(parameters string) int {
	value, ok := strings.CutPrefix(strings.ToLower(header.Trim(parameters)), "q=")
	if !ok {
		return 1000
	}
	q, err := strconv.ParseFloat(value, 64)
	if err != nil || !(q >= 0) {
		return 0
	}
	return int(min(q, 1) * 1000)
}

// compressed says in head that its body is compressed by encoding.
func (h *responseHead) compressed(encoding string) {
	h.length = -1
	h.fields = h.fields.Del("Content-Length").Del("Accept-Ranges").Add("Content-Encoding", encoding)
	if tag, ok := h.fields.Get("ETag"); ok && !strings.HasPrefix(tag, "W/") {
		h.fields = h.fields.Set("ETag", "W/"+tag) // other bytes that mean the same (section 8.8.1)
	}
}

// compress returns the body that the client gets instead of body, and what is to be
// called when it has it; nil if it stays as it is.
func (x *exchange) compress(c *compression, body answerBody) (answerBody, func()) {
	x.sent.fields = x.sent.fields.Add("Vary", "Accept-Encoding")
	encoding := c.encodingFor(x, &x.sent)
	if encoding == "" {
		return body, nil
	}
	pool := &x.s.e.encoders
	w, err := pool.get(encoding)
	if err != nil {
		return body, nil // constant options do not fail
	}
	x.sent.compressed(encoding)
	return newCompressedBody(body, encoding, w), func() { pool.put(encoding, w) }
}

// encoder is a compressor of a library.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// encoders are compressors that wait for use, by encoding.
type encoders struct {
	gzip, brotli, zstd sync.Pool
}

func (e *encoders) pool(encoding string) *sync.Pool {
	switch encoding {
	case mesh.CompressGzip:
		return &e.gzip
	case mesh.CompressBrotli:
		return &e.brotli
	}
	return &e.zstd
}

func (e *encoders) get(encoding string) (encoder, error) {
	if w, ok := e.pool(encoding).Get().(encoder); ok {
		return w, nil
	}
	switch encoding {
	case mesh.CompressGzip:
		return gzip.NewWriterLevel(io.Discard, gzipLevel)
	case mesh.CompressBrotli:
		return brotli.NewWriterOptions(io.Discard, brotli.WriterOptions{Quality: brotliLevel, LGWin: brotliWindow}), nil
	}
	return zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
}

func (e *encoders) put(encoding string, w encoder) {
	w.Reset(io.Discard)
	e.pool(encoding).Put(w)
}

// compressedBody is an answer's body on its way through a compressor. What has come
// is passed on at once: somebody may be waiting for it.
type compressedBody struct {
	from     answerBody
	whole    bool // was asked for, and had come
	encoding string
	w        encoder
	out      bytes.Buffer
	over     bool
}

var _ answerBody = (*compressedBody)(nil)

func newCompressedBody(from answerBody, encoding string, w encoder) *compressedBody {
	b := &compressedBody{from: from, encoding: encoding, w: w}
	w.Reset(&b.out)
	return b
}

// next implements answerBody.
func (b *compressedBody) next() ([]byte, error) {
	for {
		if b.over {
			return nil, io.EOF
		}
		b.out.Reset()
		p, err := b.piece()
		if len(p) > 0 {
			if _, err := b.w.Write(p); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			b.over = true
			if err := b.w.Close(); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case len(p) > 0:
			if err := b.w.Flush(); err != nil {
				return nil, err
			}
		}
		if b.out.Len() > 0 {
			return b.out.Bytes(), nil
		}
	}
}

// piece returns more of what is to be compressed.
func (b *compressedBody) piece() ([]byte, error) {
	if whole, ok := b.from.complete(); ok && !b.whole {
		b.whole = true
		return whole, io.EOF
	}
	return b.from.next()
}

func (b *compressedBody) complete() ([]byte, bool) { return nil, false }
func (b *compressedBody) trailers() header.List    { return b.from.trailers() }
