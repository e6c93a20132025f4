//go:build race

package link

// roundTripAllocs bounds what a round trip allocates where the race detector makes
// every pool forget a part of what it is given. `make allocs` counts without it.
const roundTripAllocs = 30
