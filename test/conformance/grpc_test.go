package conformance

import (
	"path/filepath"
	"testing"
	"time"
)

// grpcCases are all of the command interop.
var grpcCases = []string{ //nolint:gochecknoglobals // a table
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "custom_metadata",
	"status_code_and_message", "special_status_message", "unknown_service", "unknown_method",
}

func TestGRPCInterop(t *testing.T) {
	interop := filepath.Join(t.TempDir(), "interop")
	command(t, 10*time.Minute, "", "go", "build", "-o", interop, "./interop")
	workload, _ := address(t)
	serve(t, workload, "grpc-server", interop, "serve", workload)
	s := newSite(t, "echo", "GRPC", workload, "")
	for _, way := range []struct{ name, address, authority, ca string }{
		{"through a gateway and a sidecar", s.gateway.Public, "localhost", s.tls.CAFile},
		{"through two sidecars", s.caller.Outbound, "echo.mesh", ""},
	} {
		t.Run(way.name, func(t *testing.T) {
			passed := 0
			for _, name := range grpcCases {
				if out, err := try(t, time.Minute, "", interop, "call", way.address, way.authority, way.ca, name); err != nil {
					t.Errorf("%s: %v\n%s", name, err, out)
					continue
				}
				passed++
			}
			t.Logf("grpc interop %s: %d of %d", way.name, passed, len(grpcCases))
		})
	}
}
