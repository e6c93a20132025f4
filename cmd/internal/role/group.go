package role

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Group runs the parts of a process and ends them one after the other, the
// last started first. Each part is a function that runs until its context
// ends; a part that returns early with an error ends the whole group.
type Group struct {
	log    zerolog.Logger
	mu     sync.Mutex // guards parts
	parts  []*part
	failed chan struct{}
	once   sync.Once // closes failed
}

// part is one running function.
type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid when done is closed
}

// NewGroup returns an empty group.
func NewGroup(log zerolog.Logger) *Group {
	return &Group{log: log, failed: make(chan struct{})}
}

// Go starts run under a context of its own, which Stop ends.
func (g *Group) Go(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	g.parts = append(g.parts, p)
	g.mu.Unlock()
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if p.err == nil || ctx.Err() != nil && errors.Is(p.err, context.Canceled) {
			p.err = nil
			return
		}
		p.err = fmt.Errorf("%s: %w", name, p.err)
		g.log.Error().Err(p.err).Msg("a part failed, stopping")
		g.once.Do(func() { close(g.failed) })
	}()
}

// Failed is closed when a part has ended by itself with an error. Stop returns
// the error.
func (g *Group) Failed() <-chan struct{} { return g.failed }

// Wait returns when ctx ends or a part fails.
func (g *Group) Wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-g.failed:
	}
}

// Stop ends the parts, the last started first, waiting for each before it ends
// the next, and returns their errors. It is idempotent. Parts bound their own
// ends; one that takes over a minute is reported and left.
func (g *Group) Stop() error {
	g.mu.Lock()
	parts := g.parts
	g.parts = nil
	g.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(parts) {
		p.cancel()
		select {
		case <-p.done:
			errs = append(errs, p.err)
		case <-time.After(time.Minute):
			errs = append(errs, fmt.Errorf("%s: did not end within a minute", p.name))
		}
	}
	return errors.Join(errs...)
}
