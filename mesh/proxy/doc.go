// Package proxy is the L7 engine that the gateway, the sidecar and the MQTT
// bridge share. It has two sides. The decision side is pure functions: Compile
// turns a mesh.Config into an immutable Table, and Decide, given a Table, a
// Request, the caller's identity and one random number, says which rule wins,
// which backend takes the request and which policy allowed or denied it; Pick
// then chooses an endpoint. The forwarding side carries decisions out.
//
// The package knows neither Redis nor Vault, opens no listener and holds no
// configuration beyond the Table that it was given.
//
// The invariant: one canonical path (CanonicalPath) and one canonical host
// (CanonicalHost) are used for matching, for authorization and for forwarding.
// What has no single reading is refused before it is looked at.
package proxy
