package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// Limits bounds what one listener, and the connections opened on its behalf,
// may cost. Every zero field means the default of the preset it came from is
// gone: start from EdgeLimits or MeshLimits and change single fields.
//
// Lower values protect memory and file descriptors; higher ones admit slower
// clients and larger requests. The numbers follow Envoy's recommendations for
// edge proxies unless the field says otherwise.
type Limits struct {
	// Connections is how many connections one listener has open at once. More
	// wait in the kernel's queue, not in this process.
	Connections int `yaml:"connections" help:"open connections of one listener"`
	// HeaderTimeout is how long a client may take to send a request's header over
	// HTTP/1.1. Over HTTP/2 one that has begun does not hold up others, and is not
	// counted as a request: IdleTimeout ends a connection that has nothing else.
	HeaderTimeout time.Duration `yaml:"headerTimeout" help:"time for an HTTP/1.1 request header"`
	// HeaderBytes bounds the header, request line included, over HTTP/1 and
	// the decoded header list over HTTP/2. Beyond it: 431, or a reset stream.
	HeaderBytes int `yaml:"headerBytes" help:"size of a request header; beyond it 431"`
	// HeaderCount bounds the number of header fields. Beyond it: 431.
	HeaderCount int `yaml:"headerCount" help:"fields of a request header; beyond it 431"`
	// TargetBytes bounds the request target (RFC 9110 section 4.1 asks for at
	// least 8000). Beyond it: 414.
	TargetBytes int `yaml:"targetBytes" help:"size of a request target; beyond it 414"`
	// BodyBytes bounds a request's body. Beyond it: 413. 0 is no bound.
	BodyBytes int64 `yaml:"bodyBytes" help:"size of a request body; beyond it 413; 0 is no bound"`
	// Streams is the number of concurrent HTTP/2 streams of one connection.
	Streams int `yaml:"streams" help:"concurrent streams of an HTTP/2 connection"`
	// StreamWindow is the most of a body that is held for who reads it slowly. A
	// stream starts with 24 KiB of it, and gets the rest when its reader keeps up. A
	// connection of clients or proxies has room for the windows of all its streams,
	// so that no stream waits for another's reader.
	StreamWindow int `yaml:"streamWindow" help:"HTTP/2 receive window of a stream, bytes; 24 KiB of it until its reader has kept up"`
	// ConnWindow is the receive window of a connection to a workload that speaks
	// HTTP/2.
	ConnWindow int `yaml:"connWindow" help:"HTTP/2 receive window of a connection to an HTTP/2 workload, bytes"`
	// IdleTimeout closes a client's connection that carries no request.
	IdleTimeout time.Duration `yaml:"idleTimeout" help:"closes a connection without requests"`
	// StreamIdle ends an exchange without a route timeout in which nothing
	// moved for so long.
	StreamIdle time.Duration `yaml:"streamIdle" help:"ends an exchange without timeout in which nothing moves"`
	// TunnelIdle ends a WebSocket in which nothing moved for so long.
	TunnelIdle time.Duration `yaml:"tunnelIdle" help:"ends a WebSocket in which nothing moves"`
	// WriteTimeout is how long a client may take to read an answer whose route
	// has no say: one given before any route was chosen.
	WriteTimeout time.Duration `yaml:"writeTimeout" help:"time to take an answer of the proxy itself"`

	// ConnectTimeout and HandshakeTimeout bound the making of a connection to
	// an endpoint.
	ConnectTimeout   time.Duration `yaml:"connectTimeout" help:"time to connect to an endpoint"`
	HandshakeTimeout time.Duration `yaml:"handshakeTimeout" help:"time for a TLS handshake"`
	// UpstreamIdle closes a pooled connection to an endpoint. It is shorter
	// than the endpoint's own IdleTimeout, so that a request seldom meets a
	// connection that is being closed.
	UpstreamIdle time.Duration `yaml:"upstreamIdle" help:"closes an unused connection to an endpoint; shorter than the endpoint's own"`
	// UpstreamConns is the number of pooled idle HTTP/1.1 connections to one
	// endpoint.
	UpstreamConns int `yaml:"upstreamConns" help:"unused connections that are kept for one endpoint"`
	// PooledRequests is up to how many requests under way to one endpoint go
	// over pooled HTTP/1.1 connections. Where there are more, they go as
	// streams of a mesh link, whose writes are batched. A link saves nothing
	// where there is nothing to batch: few requests cost less without. 0 is
	// always a link, a large number never.
	PooledRequests int `yaml:"pooledRequests" help:"requests under way to an endpoint that go by pooled HTTP/1.1; where there are more, they share a link"`
	// ReplayBytes is how much of a request body is kept for a second try. A
	// longer body is sent once.
	ReplayBytes int `yaml:"replayBytes" help:"size of a request body that is kept for a second try"`
	// FirstUse is how long the first request to a service waits for its
	// endpoints to be read from the registry. Later ones never wait.
	FirstUse time.Duration `yaml:"firstUse" help:"wait of the first request to a service for its endpoints"`
}

// EdgeLimits is for listeners that strangers reach.
func EdgeLimits() Limits {
	return Limits{
		Connections:      10_000,
		HeaderTimeout:    5 * time.Second,
		HeaderBytes:      32 << 10,
		HeaderCount:      100,
		TargetBytes:      8 << 10,
		BodyBytes:        16 << 20,
		Streams:          100,
		StreamWindow:     64 << 10,
		ConnWindow:       1 << 20,
		IdleTimeout:      60 * time.Second,
		StreamIdle:       5 * time.Minute,
		TunnelIdle:       time.Hour,
		WriteTimeout:     30 * time.Second,
		ConnectTimeout:   time.Second,
		HandshakeTimeout: 5 * time.Second,
		UpstreamIdle:     55 * time.Second,
		UpstreamConns:    128,
		PooledRequests:   2,
		ReplayBytes:      64 << 10,
		FirstUse:         time.Second,
	}
}

// MeshLimits is for listeners that only the local workload and verified mesh
// peers reach: more patience, longer-lived connections, more streams. What an
// edge lets in must pass here: its header has grown by what the gateway adds,
// by HPACK's 32 bytes a field (RFC 7541 section 4.1), and by a path whose bytes
// were escaped. One connection to a workload carries the streams of many clients, so
// that its window is that of all of them: a few slow readers may not stop the others.
func MeshLimits() Limits {
	l := EdgeLimits()
	l.HeaderTimeout = 10 * time.Second
	l.IdleTimeout = time.Hour
	l.Streams = 1000
	l.BodyBytes = 0 // the edge has bounded what came from outside
	l.HeaderBytes = 64 << 10
	l.HeaderCount = 128
	l.TargetBytes = 24 << 10
	l.ConnWindow = l.Streams * l.StreamWindow
	return l
}

// Validate reports every limit that would stop all traffic. Its errors name the
// keys of the configuration.
func (l *Limits) Validate() error {
	var errs []error
	atLeast := func(key string, value, least int64) {
		if value < least {
			errs = append(errs, fmt.Errorf("limits.%s: %d is below %d", key, value, least))
		}
	}
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("limits.%s: %v is not a time to wait", key, d))
		}
	}
	atLeast("connections", int64(l.Connections), 1)
	atLeast("headerBytes", int64(l.HeaderBytes), 1<<10)
	atLeast("headerCount", int64(l.HeaderCount), 8)
	atLeast("targetBytes", int64(l.TargetBytes), 256)
	atLeast("bodyBytes", l.BodyBytes, 0)
	atLeast("streams", int64(l.Streams), 1)
	atLeast("streamWindow", int64(l.StreamWindow), 16<<10)
	atLeast("connWindow", int64(l.ConnWindow), int64(l.StreamWindow))
	atLeast("upstreamConns", int64(l.UpstreamConns), 0)
	atLeast("pooledRequests", int64(l.PooledRequests), 0)
	atLeast("replayBytes", int64(l.ReplayBytes), 0)
	positive("headerTimeout", l.HeaderTimeout)
	positive("idleTimeout", l.IdleTimeout)
	positive("streamIdle", l.StreamIdle)
	positive("tunnelIdle", l.TunnelIdle)
	positive("writeTimeout", l.WriteTimeout)
	positive("connectTimeout", l.ConnectTimeout)
	positive("handshakeTimeout", l.HandshakeTimeout)
	positive("upstreamIdle", l.UpstreamIdle)
	if l.FirstUse < 0 {
		errs = append(errs, fmt.Errorf("limits.firstUse: %v is negative", l.FirstUse))
	}
	return errors.Join(errs...)
}

// Server returns an HTTP server under these limits. It speaks HTTP/1.1, and
// HTTP/2 where tlsConfig is not nil and offers it by ALPN; never HTTP/2 in
// clear text. What the server itself complains about goes to errorLog.
func (l Limits) Server(h http.Handler, tlsConfig *tls.Config, errorLog *log.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(tlsConfig != nil)
	return &http.Server{
		Handler:           h,
		TLSConfig:         tlsConfig,
		Protocols:         &protocols,
		ReadHeaderTimeout: l.HeaderTimeout,
		WriteTimeout:      l.WriteTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    l.HeaderBytes,
		HTTP2:             l.http2(),
		ErrorLog:          errorLog,
		// "OPTIONS *" is not for this proxy to answer: it is refused as every
		// other target without a path.
		DisableGeneralOptionsHandler: true,
	}
}

// link returns the bounds of a mesh link that closes after idle without streams.
func (l Limits) link(idle time.Duration) link.Config {
	return link.Config{
		MaxStreams: l.Streams, StreamWindow: l.StreamWindow, HeaderBytes: l.HeaderBytes, HeaderFields: l.HeaderCount,
		IdleTimeout: idle, SettingsTimeout: l.HandshakeTimeout,
	}
}

// http2 returns the settings of both sides of an HTTP/2 connection.
func (l Limits) http2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          l.Streams,
		MaxReadFrameSize:              16 << 10,
		MaxReceiveBufferPerStream:     l.StreamWindow,
		MaxReceiveBufferPerConnection: l.ConnWindow,
		SendPingTimeout:               5 * time.Second,
		PingTimeout:                   10 * time.Second,
		WriteByteTimeout:              10 * time.Second,
	}
}
