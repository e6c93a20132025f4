package main

import (
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// gatewayBench: client, TLS, gateway, mutual TLS, sidecar, workload.
func gatewayBench() bench {
	return bench{
		name:   "gateway",
		pauses: ofMeasurement,
		full:   settings{duration: 4 * time.Second, repeat: 5, connections: numbers{1, 8, 32, 128}, methods: words{"GET"}, only: programs},
		brief:  settings{duration: time.Second, repeat: 1, connections: numbers{32}, methods: words{"GET"}, only: programs},
		play:   playGateway,
	}
}

func playGateway(w *world) (*report, error) {
	w.open()
	workload := w.workload()
	systems := w.edges(workload)
	closed, found, err := w.closedLoops(systems,
		column{name: "edge µs/request", key: "cpu", of: sample.first}, column{name: "all µs/request", key: "cpu_all", of: sample.micros})
	if closed == nil {
		return nil, err
	}
	return &report{
		tables: []table{*closed},
		notes: []string{
			"The client speaks HTTPS with HTTP/1.1 on kept connections. Hedgerow's edge is its gateway, and all is gateway and sidecar.",
			"haproxy and nginx do the same in two processes: an edge that goes on by mutual TLS, and a hop beside the workload.",
			"haproxy-plain and nginx-plain are one process that ends TLS and goes on to the workload in clear text: less than a gateway of a mesh does.",
			"`ours/its` is the median over the rounds of the CPU of Hedgerow's edge by that of the peer's in the same round.",
		},
		lines: append(found.lines(get), found.lines(post)...),
		last:  found.last(),
	}, err
}

// edges returns the ways from a client over TLS to the workload.
func (w *world) edges(workload string) []*system {
	w.t.Helper()
	callee := w.mesh.Sidecar(rig.Sidecar{Node: "callee", Service: "shop", Workload: workload})
	edge := w.mesh.Gateway(rig.Gateway{Node: "edge", ID: "edge", TLS: w.tls})
	systems := []*system{ours(load.Target{Address: edge.Public, Host: host, TLS: w.publicTLS()}, edge, callee)}
	for _, program := range w.peers() {
		systems = append(systems,
			w.peer(program, program, w.twoHops(workload, true)),
			w.peer(program, program+"-plain", w.oneHop(true, false, workload)))
	}
	return systems
}
