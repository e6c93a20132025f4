package loop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

// answerMost bounds an answer, in bytes.
const answerMost = 64 << 10

// Conn is one connection and the one request that it sends. It is for one
// goroutine.
type Conn struct {
	net     net.Conn
	request []byte // as it goes out
	want    []byte // the answer's body
	in      []byte // what has come in
	size    int    // of what is in it
}

// Dial connects, handshake included. The caller closes the Conn.
func Dial(ctx context.Context, target load.Target, request Request) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMost)
	defer cancel()
	c := &Conn{request: encode(target.Host, request), want: request.Want, in: make([]byte, answerMost)}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Address)
	if err != nil {
		return nil, err
	}
	c.net = raw
	if target.TLS != nil {
		secure := tls.Client(raw, target.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		c.net = secure
	}
	return c, nil
}

// encode returns the request as it goes out (RFC 9112 section 3), with the
// fields that any client sends.
func encode(host string, r Request) []byte {
	out := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: hedgerow-bench\r\nAccept: */*\r\n", r.Method, r.Path, host)
	if r.Body != nil {
		out = fmt.Appendf(out, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", len(r.Body))
	}
	return append(append(out, "\r\n"...), r.Body...)
}

// Close closes the connection.
func (c *Conn) Close() { c.net.Close() }

// SetDeadline sets when an exchange fails for taking too long.
func (c *Conn) SetDeadline(t time.Time) error { return c.net.SetDeadline(t) }

// Exchange sends the request and verifies the answer. After an error the
// connection is of no use.
func (c *Conn) Exchange() error {
	if _, err := c.net.Write(c.request); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	c.size = 0
	end := -1 // of the header, its last CRLF excluded
	for end < 0 {
		if err := c.read(); err != nil {
			return err
		}
		end = bytes.Index(c.in[:c.size], []byte("\r\n\r\n"))
	}
	length, err := c.check(c.in[:end+2])
	if err != nil {
		return err
	}
	begin := end + 4
	if begin+length > len(c.in) {
		return fmt.Errorf("an answer of %d bytes is longer than any that is expected", length)
	}
	for c.size < begin+length {
		if err := c.read(); err != nil {
			return err
		}
	}
	switch body := c.in[begin : begin+length]; {
	case c.size > begin+length:
		return fmt.Errorf("%d bytes follow the answer", c.size-begin-length)
	case !bytes.Equal(body, c.want):
		return fmt.Errorf("the body is %.60q, want %.60q", body, c.want)
	}
	return nil
}

// read reads what is there, at least a byte.
func (c *Conn) read() error {
	if c.size == len(c.in) {
		return errors.New("the header of the answer does not end")
	}
	n, err := c.net.Read(c.in[c.size:])
	c.size += n
	if n == 0 && err != nil {
		return fmt.Errorf("read an answer after %d bytes of it: %w", c.size, err)
	}
	return nil
}

// check checks a header, each of whose lines ends with CRLF, and returns the
// length of the body.
func (c *Conn) check(header []byte) (int, error) {
	status, fields, _ := bytes.Cut(header, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("the answer begins %.60q", status)
	}
	length := -1
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseUint(string(value), 10, 31)
			if err != nil {
				return 0, fmt.Errorf("Content-Length %.60q of the answer: %w", value, err)
			}
			length = int(n)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return 0, fmt.Errorf("the answer has Transfer-Encoding %.60q, want a Content-Length", value)
		case bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")):
			return 0, errors.New("the answer closes the connection")
		}
	}
	if length < 0 {
		return 0, errors.New("the answer has no Content-Length")
	}
	return length, nil
}
