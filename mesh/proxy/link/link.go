// Package link is the mesh link: HTTP/2 (RFC 9113, HPACK as in RFC 7541) over one
// connection between two proxies, made for little work a request. Callers write
// for themselves and for each other in batches, bodies are handed over as views
// of the receive buffers, and in steady state a request allocates only the
// strings of its fields that were not seen before.
//
// It knows no TLS, no dialing, no pools of connections, no routes and no retries.
// It does no tunnels (CONNECT reaches Handle with an empty Path, to be refused), no
// server push, priorities or padding of its own, and it does not use Huffman codes
// when it sends: on a mesh link bytes are cheaper than the work to save them.
package link

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Config bounds one connection. The zero value of a field is its default.
type Config struct {
	// MaxStreams is how many streams of the peer are handled at once; 1000. A
	// stream beyond is refused with REFUSED_STREAM.
	MaxStreams int
	// StreamWindow is the receive window of a stream in bytes, and so the most of
	// a body that is buffered; 64 KiB. Until the peer acknowledged it, the window
	// is 65,535 bytes (RFC 9113 section 6.9.2).
	StreamWindow int
	// FirstWindow is what the window is until the owner has kept up with a body for
	// a second; 24 KiB, at most StreamWindow. Who reads slowly holds up no more.
	FirstWindow int
	// HeaderBytes bounds a decoded header or trailer section as RFC 7541 section
	// 4.1 counts; 64 KiB. A request beyond is answered with 431.
	HeaderBytes int
	// HeaderFields bounds the fields of such a section; 128.
	HeaderFields int

	// WriteTimeout bounds the write of one batch; 10 s. Then the link is closed.
	WriteTimeout time.Duration
	// PingAfter is the silence after which a link with open streams is probed;
	// 5 s. A link without streams is not.
	PingAfter time.Duration
	// PingTimeout is how long the answer may take; 10 s. Then the link is closed.
	PingTimeout time.Duration
	// IdleTimeout closes a link without streams; 0 never does.
	IdleTimeout time.Duration
	// SettingsTimeout is when the peer's preface must have come; 10 s.
	SettingsTimeout time.Duration

	// Handle is called for each stream that the peer opens, in a goroutine of its
	// own. The stream's place among MaxStreams is taken until Handle returns, even
	// if the peer resets it before. The stream must not be used after that. Nil
	// refuses every stream of the peer.
	Handle func(*Stream)
	// Refuse is asked by the reader before the header section of a new stream is
	// decoded. If it returns a head, the stream is answered with that and no body, and
	// nothing of it is kept: how to shed load. Until it has come whole, the decoder may
	// hold a field of it. It must not block. Nil takes every stream.
	Refuse func() *Head
	// Ended is called once, in a goroutine of its own, when the link has ended and
	// nothing of it runs any more, calls of Handle included. The peer has up to a
	// second after Done to read why. It may be nil.
	Ended func(*Conn)
	// ExtendedConnect, on a server, takes CONNECT requests that name a protocol (RFC
	// 8441), and says so. Nobody else's CONNECT may have a path.
	ExtendedConnect bool
	// Reverse, on a client, lets the server open streams. It is offered in a
	// SETTINGS parameter that servers other than this package's ignore.
	Reverse bool
}

// withDefaults returns cfg with every field set that must be.
func (cfg Config) withDefaults() Config {
	number := func(n *int, standard int) {
		if *n <= 0 {
			*n = standard
		}
	}
	duration := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	number(&cfg.MaxStreams, 1000)
	number(&cfg.StreamWindow, 64<<10)
	number(&cfg.HeaderBytes, 64<<10)
	number(&cfg.HeaderFields, 128)
	duration(&cfg.WriteTimeout, 10*time.Second)
	duration(&cfg.PingAfter, 5*time.Second)
	duration(&cfg.PingTimeout, 10*time.Second)
	duration(&cfg.SettingsTimeout, 10*time.Second)
	number(&cfg.FirstWindow, 24<<10)
	cfg.StreamWindow = min(cfg.StreamWindow, maxWindow)
	cfg.FirstWindow = min(cfg.FirstWindow, cfg.StreamWindow)
	return cfg
}

// Head is a request's or a response's header section.
//
// To send one, field names may be in any case. Nothing of it is kept after the
// call, so that its strings may be views of a buffer. Fields that HTTP/2 forbids
// (RFC 9113 section 8.2.2), and Host, which Authority replaces, are left out.
//
// A received one has names in canonical MIME case, cookies joined to one field, no
// Host, and was checked against RFC 9113 sections 8.2 and 8.3.
type Head struct {
	Method, Scheme, Authority, Path string // of requests
	Protocol                        string // of a CONNECT that names one (RFC 8441)
	Status                          int    // of responses
	Fields                          header.List
}

// ErrUnavailable says that the link takes no new stream at present or any more:
// it is draining, the peer's limit is reached, or the peer does not let this side
// open streams. Nothing was sent; another link may take the request.
var ErrUnavailable = errors.New("open stream: link takes no new streams")

// ErrClosed is why a link ended that was closed from this side in order.
var ErrClosed = errors.New("link closed")

// ConnError is a violation of the protocol that ended the link.
type ConnError struct {
	Code   http2.ErrCode
	Remote bool   // the peer said so
	Reason string // for logs; nothing of the peer's bytes
}

// Error implements error.
func (e *ConnError) Error() string {
	if e.Remote {
		return fmt.Sprintf("link closed by peer: %v", e.Code)
	}
	return fmt.Sprintf("link closed: %v: %s", e.Code, e.Reason)
}

// StreamError is why a stream ended before its messages did.
type StreamError struct {
	Code   http2.ErrCode
	Remote bool   // the peer reset it
	Reason string // if not Remote: what was wrong; may be empty

	unprocessed bool // above the last stream of the peer's GOAWAY
}

// Error implements error.
func (e *StreamError) Error() string {
	switch {
	case e.unprocessed:
		return "stream not processed: peer is going away"
	case e.Remote:
		return fmt.Sprintf("stream reset by peer: %v", e.Code)
	case e.Reason != "":
		return fmt.Sprintf("stream reset: %v: %s", e.Code, e.Reason)
	}
	return fmt.Sprintf("stream reset: %v", e.Code)
}

// Replayable reports that the peer did nothing with the request (RFC 9113 section
// 8.7), so that it may be sent again whatever its method.
func (e *StreamError) Replayable() bool {
	return e.Remote && (e.unprocessed || e.Code == http2.ErrCodeRefusedStream)
}
