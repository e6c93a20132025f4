//go:build race

package proxy_test

// Bounds of what is allocated for a request and its response where the race
// detector makes every pool forget a part of what it is given. `make allocs`
// counts without it.
const (
	tlsAllocs  = 8
	linkAllocs = 24
)
