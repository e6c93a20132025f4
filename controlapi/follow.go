package controlapi

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// A SharedLog is a Log that other control planes write too.
type SharedLog interface {
	Log
	// Newer reports whether a revision after that of head is stored.
	Newer(ctx context.Context, head mesh.Head) (bool, error)
}

const (
	// followEvery is how often it is looked whether another control plane has written.
	followEvery   = time.Second
	followTimeout = 10 * time.Second

	// maxRaces is how often a write that another control plane is ahead of is tried.
	maxRaces = 60
	// maxPause is how long a write waits after the first race that it lost, at most; it is
	// twice as long after the second. Two that always start together would always race.
	maxPause = 5 * time.Millisecond
)

// lostRace says that another control plane was first, and that what it has written is the
// state now.
type lostRace struct{ err error }

func (e *lostRace) Error() string { return e.err.Error() }
func (e *lostRace) Unwrap() error { return e.err }

// pause waits before the next try, and reports whether there is time for one.
func pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(rand.N(maxPause << min(try, 6)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RunFollowing takes what other control planes write, until ctx ends. It returns nil: what
// fails is counted, logged once, and tried again. With a log that nobody shares it does
// nothing.
func (s *Server) RunFollowing(ctx context.Context) error {
	shared, is := s.writer.logStore.(SharedLog)
	if !is {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.writer.follow(ctx, shared)
		if err != nil && ctx.Err() == nil {
			s.writer.metrics.unfollowed.Inc()
			if !failed {
				s.log.Error().Err(err).Str("hint", mesh.HintOf(err)).Msg("what other control planes write is not seen")
			}
		}
		failed = err != nil
	}
}

// follow loads what is newer than the state.
func (w *writer) follow(ctx context.Context, shared SharedLog) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	newer, err := shared.Newer(ctx, w.state.Load().head)
	if err != nil || !newer {
		return err
	}
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return w.load(ctx)
}
