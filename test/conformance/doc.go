// Package conformance lets programs that others wrote judge the data plane: gRPC's
// interoperability client, h2spec with HAProxy beside us, WebSocket clients in two
// languages, and clients of Redis and PostgreSQL through services of protocol TCP.
// Each goes through real processes: a gateway and a sidecar, or two sidecars.
//
// It has nothing but tests, and measures no speed.
package conformance
