package role

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestGroupStopsTheLastStartedFirst(t *testing.T) {
	g := NewGroup(zerolog.Nop())
	var ended []string
	for _, name := range []string{"certificates", "listeners", "lease"} {
		g.Go(name, func(ctx context.Context) error {
			<-ctx.Done()
			ended = append(ended, name) // ordered by Stop, which waits for each
			return ctx.Err()
		})
	}
	if err := g.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil: they were told to end", err)
	}
	if want := []string{"lease", "listeners", "certificates"}; !slices.Equal(ended, want) {
		t.Errorf("ended in the order %v, want %v", ended, want)
	}
	if err := g.Stop(); err != nil {
		t.Errorf("a second Stop = %v", err)
	}
}

func TestGroupEndsWhenAPartFails(t *testing.T) {
	g := NewGroup(zerolog.Nop())
	boom := errors.New("address in use")
	g.Go("quiet", func(ctx context.Context) error { <-ctx.Done(); return nil })
	g.Go("listener", func(context.Context) error { return boom })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	g.Wait(ctx)
	if ctx.Err() != nil {
		t.Fatal("Wait did not notice the failure")
	}
	if err := g.Stop(); !errors.Is(err, boom) || err.Error() != "listener: address in use" {
		t.Errorf("Stop = %v, want the listener's error", err)
	}
}
