// Package thrift lets a process take no more of the machine than its load needs:
// one thread that runs Go code while that is enough, more as it is not; and no
// memory for what a burst needed, when it is over.
//
// Goroutines that hand work to each other across threads pay for it with system
// calls and idle spinning, which at low load is a large part of what a proxy
// costs. And what a burst left would stay: a collector that has nothing to collect
// does not run.
//
// It limits nothing and refuses nothing: no affinity, no priority, no memory limit.
// A GOMAXPROCS or GOGC that the environment sets stays.
package thrift

import (
	"context"
	"sync"
)

// Run does so until ctx ends.
func Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { threads(ctx) })
	both.Go(func() { memory(ctx) })
	both.Wait()
	return nil
}
