package proxy

import (
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// told is a client that remembers the status it got.
type told struct {
	asker
	switcher
	status int
}

func (c *told) inform(*responseHead) error { return nil }
func (c *told) begin(head *responseHead, _ []byte, _ bool) error {
	c.status = head.status
	return nil
}
func (c *told) write([]byte) error    { return nil }
func (c *told) end(header.List) error { return nil }
func (c *told) interruptWrite()       {}

// answered is a response without a body.
type answered struct{ answer }

func (answered) body() answerBody         { return nobody{} }
func (answered) head(*responseHead) error { return nil }

type nobody struct{ answerBody }

func (nobody) complete() ([]byte, bool) { return nil, true }

// The endpoint saw the beginning of a body that the client broke off, and may
// have made an answer of it. The client's fault stays the client's fault.
func TestAnAnswerToABrokenBodyIsNotHandedOn(t *testing.T) {
	e, err := New(Options{Limits: EdgeLimits(), Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{e: e, face: Face{Kind: Gateway}, counters: e.metrics.at(Face{Kind: Gateway})}
	for broken, want := range map[error]int{errors.New("a malformed chunk"): 400, errBodyTooLong: 413, io.EOF: 200} {
		x, c := &exchange{}, &told{}
		x.reset(s, client{c.asker, c, c.switcher})
		x.body = newBodySource(iotest.ErrReader(broken), -1, 64, 0, nil)
		_, _ = io.ReadAll(mustOpen(t, x.body))
		x.watch.start(x, 0, EdgeLimits().StreamIdle, nil)
		x.resp = responseHead{status: 200}
		if got := s.respond(x, answered{}); got != want || c.status != want {
			t.Errorf("after %v the client got %d, %d is counted; want %d", broken, c.status, got, want)
		}
		x.finish()
		x.watch.release()
	}
}
