package servers

import (
	"slices"
	"testing"
)

// FreePorts returns n different loopback ports that nobody listens on now, for
// programs under test that must be told their ports. They are the test's until it ends.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for len(ports) < n {
		port, err := freePort(t)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}
