package demo

import (
	_ "embed" // for the objects
	"encoding/json"
	"fmt"
)

//go:embed base.json
var base []byte

//go:embed objects.json
var objects []byte

// Objects returns what a new mesh begins with under `hedgerow up`, as the body
// of an apply request: the mesh's defaults, its gateway and its bridge and,
// with the demo, its services, nodes, route, policies and topic rule.
func Objects(withDemo bool) ([]byte, error) {
	sources := [][]byte{base}
	if withDemo {
		sources = append(sources, objects)
	}
	var all struct {
		Objects []json.RawMessage `json:"objects"`
	}
	for _, source := range sources {
		var list []json.RawMessage
		if err := json.Unmarshal(source, &list); err != nil {
			return nil, fmt.Errorf("the demo's objects: %w", err)
		}
		all.Objects = append(all.Objects, list...)
	}
	return json.Marshal(all)
}

//go:embed canary.json
var canary []byte

// Canary returns the demo route with all orders traffic sent to subset v2,
// for `curl -X PUT`.
func Canary() []byte { return canary }

//go:embed allow.json
var allow []byte

// Allow returns a policy that lets the telemetry workload call orders.
func Allow() []byte { return allow }
