//go:build race

package proxy_test

// tlsAllocs is what crypto/tls allocates for a request and its response. The
// race detector makes its pools forget.
const tlsAllocs = 4
