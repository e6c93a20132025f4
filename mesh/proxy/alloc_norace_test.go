//go:build !race

package proxy_test

// What is allocated for a request and its response: by crypto/tls, and over a link
// by HPACK too.
const (
	tlsAllocs  = 2
	linkAllocs = 3
)
