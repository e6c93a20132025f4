package demo

import (
	_ "embed"
)

//go:embed objects.json
var objects []byte

// Objects returns the body of the apply request that creates the demo's
// services, nodes, route, policies and topic rule.
func Objects() []byte { return objects }

//go:embed canary.json
var canary []byte

// Canary returns the demo route with all orders traffic sent to subset v2,
// for `curl -X PUT`.
func Canary() []byte { return canary }

//go:embed allow.json
var allow []byte

// Allow returns a policy that lets the telemetry workload call orders.
func Allow() []byte { return allow }
