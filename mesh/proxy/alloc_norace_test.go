//go:build !race

package proxy_test

// tlsAllocs is what crypto/tls allocates for a request and its response.
const tlsAllocs = 2
