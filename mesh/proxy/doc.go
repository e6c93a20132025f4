// Package proxy is the L7 engine that the gateway, the sidecar and the MQTT
// bridge share. It has two sides. The decision side is pure functions: Compile
// turns a mesh.Config into an immutable Table, and Decide, given a Table, a
// Request, the caller's identity and one random number, says which rule wins,
// which backend takes the request and which policy allowed or denied it; Pick
// then chooses an endpoint. The forwarding side carries decisions out.
//
// The forwarding side has one path: a client asks, a server decides, a forwarder
// brings an answer over a transport, the client gets it. Clients and transports
// speak HTTP/1.1 by the codec in h1, or HTTP/2 by net/http; neither knows what
// the other speaks.
//
// The package knows neither Redis nor Vault, and holds no configuration beyond
// the Table that it was given. It serves listeners that others bound.
//
// The invariant: one canonical path (CanonicalPath) and one canonical host
// (CanonicalHost) are used for matching, for authorization and for forwarding.
// What has no single reading is refused before it is looked at.
package proxy
