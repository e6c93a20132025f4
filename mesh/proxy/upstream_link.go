package proxy

import (
	"errors"
	"io"
	"strconv"
	"sync"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

var _ transport = (*links)(nil)

// send implements transport. fresh means nothing to it: a link that has ended
// takes no stream.
func (l *links) send(x *exchange, _ bool) (answer, error) {
	conn, err := l.get(x)
	if err != nil {
		return nil, err
	}
	fields := x.out.fields
	if length := x.out.length; length > 0 || length == 0 && sendsLength(x.out.method) {
		fields = fields.Add("Content-Length", header.View(strconv.AppendInt(x.digits[:0], length, 10)))
	}
	a := &x.overLink
	a.sent = link.Head{Method: x.out.method, Scheme: l.scheme, Authority: x.out.host, Path: x.out.target, Fields: fields}
	a.up = nil
	if a.stream, err = conn.Open(&a.sent, x.whole, x.isWhole); err != nil {
		return nil, &staleError{true, err} // nothing was sent
	}
	if !x.isWhole {
		a.up = &linkUpload{stream: a.stream}
		if err := x.upload(a.up); err != nil {
			a.close()
			return nil, err
		}
	}
	return a, nil
}

// linkAnswer is the response on a stream of a link. An exchange has one at a time.
type linkAnswer struct {
	stream *link.Stream
	up     *linkUpload // nil if the request went at once
	sent   link.Head   // of the request: here, so that it costs no allocation
}

var _ answer = (*linkAnswer)(nil)

// head implements answer.
func (a *linkAnswer) head(out *responseHead) error {
	h, err := a.stream.Response()
	if err != nil {
		var failed *link.StreamError
		if errors.As(err, &failed) && failed.Replayable() {
			return &staleError{true, err}
		}
		return err
	}
	*out = responseHead{status: h.Status, fields: h.Fields, length: a.stream.Length()}
	return nil
}

func (a *linkAnswer) next() ([]byte, error)    { return a.stream.Next() }
func (a *linkAnswer) complete() ([]byte, bool) { return a.stream.Complete() }
func (a *linkAnswer) trailers() header.List    { return a.stream.Trailers() }

// body implements answer.
func (a *linkAnswer) body() answerBody { return a }

// interrupt implements answer.
func (a *linkAnswer) interrupt() { a.stream.Reset(http2.ErrCodeCancel) }

// tunnel implements answer: a link carries no WebSockets.
func (a *linkAnswer) tunnel() (halfCloser, []byte, error) { return nil, nil, io.ErrUnexpectedEOF }

// close implements answer.
func (a *linkAnswer) close() {
	if a.up != nil {
		a.up.close()
	}
	a.stream.Close()
}

// linkUpload is where a request's body goes. The goroutine that copies it may
// outlive the stream, which is used again then.
type linkUpload struct {
	// mu guards what follows. Write blocks under it; Reset, which needs no
	// lock, ends that.
	mu     sync.Mutex
	stream *link.Stream
	over   bool
}

var _ sink = (*linkUpload)(nil)

// write implements sink.
func (u *linkUpload) write(p []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return errDone
	}
	_, err := u.stream.Write(p)
	return err
}

// end implements sink.
func (u *linkUpload) end(trailers header.List) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return errDone
	}
	u.over = true
	return u.stream.End(trailers)
}

// breakOff implements sink.
func (u *linkUpload) breakOff() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.over {
		u.over = true
		u.stream.Reset(http2.ErrCodeCancel)
	}
}

// close waits until nobody uses the stream any more. A body that is still being
// sent is broken off.
func (u *linkUpload) close() {
	if u.mu.TryLock() {
		over := u.over
		u.over = true
		u.mu.Unlock()
		if !over {
			u.stream.Reset(http2.ErrCodeCancel)
		}
		return
	}
	u.stream.Reset(http2.ErrCodeCancel)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = true
}
