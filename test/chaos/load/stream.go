package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// tickEvery is how often something must move on a stream.
	tickEvery = 100 * time.Millisecond
	// stalledAfter without anything counts as cut.
	stalledAfter = 5 * time.Second
)

// Streams are long-lived exchanges through one target: responses that tick, and
// WebSockets whose messages come back.
type Streams struct {
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu   sync.Mutex // guards cuts
	cuts []string
}

// OpenStreams opens n responses that tick and n WebSockets. Those that cannot
// be opened count as cut. The caller calls Close.
func OpenStreams(ctx context.Context, target Target, n int) *Streams {
	ctx, cancel := context.WithCancel(ctx)
	s := &Streams{cancel: cancel}
	for i := range n {
		s.all.Go(func() { s.ended(ctx, fmt.Sprintf("response %d", i), ticking(ctx, target)) })
		s.all.Go(func() { s.ended(ctx, fmt.Sprintf("WebSocket %d", i), talking(ctx, target)) })
	}
	return s
}

// Close ends the streams and says which were cut before.
func (s *Streams) Close() []string {
	s.cancel()
	s.all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cuts
}

func (s *Streams) ended(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = append(s.cuts, fmt.Sprintf("%s: %v", name, err))
}

// ticking reads an endless response until ctx ends or something is wrong.
func ticking(ctx context.Context, target Target) error {
	client := target.Client(0, 0)
	return readTicks(ctx, client, target, fmt.Sprintf("/ticks?every=%v", tickEvery), -1)
}

// readTicks gets path and checks every line; want is how many there are, -1
// for no end.
func readTicks(ctx context.Context, client *http.Client, target Target, path string, want int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stalledAfter, func() { cancel(fmt.Errorf("nothing came for %v", stalledAfter)) })
	defer stalled.Stop()
	req, err := target.Request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return cause(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	lines := bufio.NewReader(resp.Body)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if n == want && errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d lines: %w", n, cause(ctx, err))
		}
		if line != fmt.Sprintf("tick %d\n", n) {
			return fmt.Errorf("line %d is %q", n, line)
		}
		stalled.Reset(stalledAfter)
	}
}

// cause returns why ctx ended, if that is why err is.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// talking sends a message every tickEvery and waits for each to come back.
func talking(ctx context.Context, target Target) error {
	conn, err := dialSocket(ctx, target, "/ws")
	if err != nil {
		return err
	}
	defer conn.Close()                                                    //nolint:errcheck // torn down anyway
	defer context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })() // wakes the reader
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		want := fmt.Sprintf("message %d", n)
		if err := conn.WriteMessage(websocket.TextMessage, []byte(want)); err != nil {
			return fmt.Errorf("after %d messages: %w", n, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(stalledAfter)); err != nil {
			return err
		}
		_, got, err := conn.ReadMessage()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", n, err)
		}
		if string(got) != want {
			return fmt.Errorf("message %d came back as %.60q", n, got)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
