package servers

import "testing"

// FreePort returns a loopback port that nobody listens on now, for a program
// under test that must be told its port.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
