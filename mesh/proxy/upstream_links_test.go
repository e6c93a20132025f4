package proxy

import (
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// endpoint is what links are made to. Its methods are for one goroutine, but dial.
type endpoint struct {
	links  links
	handle func(*link.Stream) // by default streams last until the test ends
	held   chan struct{}

	// mu guards what follows.
	mu     sync.Mutex
	gate   chan struct{} // dials wait for it, if there is one
	fails  error
	ends   int  // so many links end before they are handed out
	late   bool // that a link has ended is told when the test does
	dials  int
	near   []*link.Conn
	far    []*link.Conn
	closed int
}

// withEndpoint runs test in a bubble, and sees that nothing of it is left.
func withEndpoint(t *testing.T, test func(t *testing.T, e *endpoint)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{held: make(chan struct{})}
		e.handle = func(*link.Stream) { <-e.held }
		e.links.dial = e.dial
		test(t, e)
		close(e.held)
		e.links.close()
		for _, c := range append(e.near, e.far...) {
			_ = c.Close()
		}
		synctest.Wait()
		if e.closed != len(e.near) {
			t.Errorf("%d of %d links have ended", e.closed, len(e.near))
		}
	})
}

func (e *endpoint) dial(forget func(*link.Conn)) (*link.Conn, error) {
	e.mu.Lock()
	e.dials++
	gate := e.gate
	e.mu.Unlock()
	if gate != nil {
		<-gate
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fails != nil {
		return nil, e.fails
	}
	late := e.late
	a, b := net.Pipe()
	e.far = append(e.far, link.Server(b, link.Config{Handle: e.handle}))
	c := link.Client(a, link.Config{Ended: func(c *link.Conn) {
		if late {
			<-e.held
		}
		forget(c)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.closed++
	}})
	e.near = append(e.near, c)
	if e.ends > 0 {
		e.ends--
		_ = c.Close()
		e.mu.Unlock()
		synctest.Wait() // forget has been called
		e.mu.Lock()
	}
	return c, nil
}

// get is links.get for a new exchange.
func (e *endpoint) get(t *testing.T) *link.Conn {
	t.Helper()
	c, err := e.links.get(&exchange{})
	if err != nil {
		t.Fatalf("no link: %v", err)
	}
	synctest.Wait() // SETTINGS are exchanged, and what else was begun
	return c
}

// open opens n streams that stay open.
func open(t *testing.T, c *link.Conn, n int) {
	t.Helper()
	for range n {
		if _, err := c.Open(&link.Head{Method: "GET", Scheme: "https", Authority: "a", Path: "/"}, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// waiting has n exchanges wait for a link and returns where their outcomes come.
func (e *endpoint) waiting(n int) (outcomes chan error, exchanges []*exchange) {
	outcomes = make(chan error, n)
	for range n {
		x := &exchange{}
		exchanges = append(exchanges, x)
		go func() {
			_, err := e.links.get(x)
			outcomes <- err
		}()
	}
	synctest.Wait()
	return outcomes, exchanges
}

func TestFirstRequestsShareADial(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.gate = make(chan struct{})
		outcomes, _ := e.waiting(50)
		close(e.gate)
		for range 50 {
			if err := <-outcomes; err != nil {
				t.Error(err)
			}
		}
		if e.dials != 1 {
			t.Errorf("%d dials", e.dials)
		}
	})
}

func TestBusyLinksGetCompany(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		first := e.get(t)
		open(t, first, busyLink-1)
		if got := e.get(t); got != first || e.dials != 1 {
			t.Fatalf("another link after %d streams", busyLink-1)
		}
		open(t, first, 1)
		if got := e.get(t); got != first || e.dials != 2 {
			t.Errorf("%d dials after %d streams, and who asked then waited: %v", e.dials, busyLink, got != first)
		}
		if got := e.get(t); got == first {
			t.Error("the emptier link is not used")
		}
		for range 4 * mostLinks {
			open(t, e.get(t), busyLink/2)
		}
		if e.dials != mostLinks {
			t.Errorf("%d dials, want %d", e.dials, mostLinks)
		}
	})
}

func TestLinkThatGoesAwayIsReplaced(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		answer := make(chan struct{})
		e.handle = func(s *link.Stream) {
			<-answer
			_ = s.Respond(&link.Head{Status: 204}, nil, true)
		}
		first := e.get(t)
		s, err := first.Open(&link.Head{Method: "GET", Scheme: "https", Authority: "a", Path: "/"}, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		e.far[0].Drain()
		synctest.Wait()
		if got := e.get(t); got == first || e.dials != 2 {
			t.Errorf("%d dials, the same link: %v", e.dials, got == first)
		}
		close(answer)
		if head, err := s.Response(); err != nil || head.Status != 204 {
			t.Errorf("what was under way got %+v, %v", head, err)
		}
		s.Close()
	})
}

func TestLinksThatEndedAreNotCounted(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.late = true // as of a peer that is given time to read why
		for range 4 * mostLinks {
			c := e.get(t)
			_ = c.Close()
			if c.Err() == nil {
				t.Fatal("a link is open that was closed")
			}
		}
	})
}

// A link that has ended before it is known is not kept, and who waited gets another.
func TestLinkThatEndsAtOnce(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.ends = 1
		e.get(t)
		if len(e.links.conns) != 1 || e.dials != 2 {
			t.Errorf("%d links of %d dials", len(e.links.conns), e.dials)
		}
	})
	withEndpoint(t, func(t *testing.T, e *endpoint) { // but not for ever
		e.ends = 100
		var unreachable *connectError
		if _, err := e.links.get(&exchange{}); !errors.As(err, &unreachable) || !errors.Is(err, errLinkEnds) || e.dials > mostStale+1 {
			t.Errorf("got %v after %d dials", err, e.dials)
		}
		e.ends = 0
	})
}

func TestLinksOnTheirWayOutAreBounded(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		for range 2 * mostLinks {
			open(t, e.get(t), 1)
			e.far[len(e.far)-1].Drain()
			synctest.Wait()
		}
		var full *connectError
		if _, err := e.links.get(&exchange{}); !errors.As(err, &full) || !errors.Is(err, errLinksFull) {
			t.Errorf("got %v", err)
		}
		if e.dials != 2*mostLinks {
			t.Errorf("%d dials", e.dials)
		}
	})
}

func TestDialThatFailsIsToldToAll(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.gate, e.fails = make(chan struct{}), errors.New("refused")
		outcomes, _ := e.waiting(5)
		close(e.gate)
		for range 5 {
			if err := <-outcomes; !errors.Is(err, e.fails) {
				t.Errorf("got %v", err)
			}
		}
		e.fails = nil
		e.get(t)
		if e.dials != 2 {
			t.Errorf("%d dials", e.dials)
		}
	})
}

func TestWhoLeavesDoesNotEndTheDial(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.gate = make(chan struct{})
		outcomes, exchanges := e.waiting(2)
		exchanges[0].abort(errClientGone)
		if err := <-outcomes; !errors.Is(err, errClientGone) {
			t.Errorf("who left got %v", err)
		}
		close(e.gate)
		if err := <-outcomes; err != nil {
			t.Errorf("who stayed got %v", err)
		}
		if e.dials != 1 {
			t.Errorf("%d dials", e.dials)
		}
	})
}

func TestLinksCloseWhileOneIsMade(t *testing.T) {
	withEndpoint(t, func(t *testing.T, e *endpoint) {
		e.gate = make(chan struct{})
		outcomes, _ := e.waiting(1)
		e.links.close()
		close(e.gate)
		if err := <-outcomes; !errors.Is(err, errProxyClosed) {
			t.Errorf("got %v", err)
		}
		if e.near[0].Err() == nil {
			t.Error("the link is open")
		}
		if _, err := e.links.get(&exchange{}); !errors.Is(err, errProxyClosed) || e.dials != 1 {
			t.Errorf("later: %v, %d dials", err, e.dials)
		}
	})
}

// Only what the peer did not look at is sent again.
func TestRefusedStreamsAreStale(t *testing.T) {
	for name, tt := range map[string]struct {
		handle func(*link.Stream)
		again  bool
	}{
		"refused":   {nil, true},
		"cancelled": {func(s *link.Stream) { s.Reset(http2.ErrCodeCancel) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			withEndpoint(t, func(t *testing.T, e *endpoint) {
				e.handle = tt.handle
				x := &exchange{isWhole: true, out: outgoing{method: "GET", host: "a", target: "/"}}
				a, err := e.links.send(x, false)
				if err != nil {
					t.Fatal(err)
				}
				var stale *staleError
				if err := a.head(&x.resp); err == nil || errors.As(err, &stale) != tt.again {
					t.Errorf("got %v", err)
				}
				a.close()
			})
		})
	}
}
