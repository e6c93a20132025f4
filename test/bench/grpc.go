package main

import (
	"os"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

const grpcName = "grpc"

// grpcBench: caller, sidecar, mutual TLS, sidecar, a server of gRPC; HTTP/2 all the way.
func grpcBench() bench {
	return bench{
		name:   grpcName,
		pauses: ofMeasurement,
		full:   settings{duration: 4 * time.Second, repeat: 5, connections: numbers{1, 8, 32, 128}, methods: words{methodUnary}, only: programs},
		brief:  settings{duration: time.Second, repeat: 1, connections: numbers{32}, methods: words{methodUnary}, only: programs},
		play:   playGRPC,
	}
}

func playGRPC(w *world) (*report, error) {
	w.open()
	workload := w.mesh.Address()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rig.Start(w.t, rig.Command{Name: "calls", Dir: w.mesh.Dir, Program: self, Args: []string{answerVerb, workload}})
	callee := w.mesh.Sidecar(rig.Sidecar{Node: "callee-3", Service: "calls", Workload: workload})
	caller := w.mesh.Sidecar(rig.Sidecar{Node: "caller", Service: "client", Workload: workload, Watch: []string{"calls"}})
	systems := []*system{ours(load.Target{Address: caller.Outbound, Host: callHost}, caller, callee)}
	for _, program := range w.peers() {
		hops := w.twoHops(workload, false)
		for i := range hops {
			hops[i].GRPC = true
		}
		systems = append(systems, w.peer(program, program, hops))
	}
	closed, found, err := w.closedLoops(systems, column{name: "CPU µs/call", key: "cpu", of: sample.micros})
	if closed == nil {
		return nil, err
	}
	return &report{
		tables: []table{*closed},
		notes: []string{
			"Unary calls of 128 bytes, and as many back. The load is calls under way, of which 8 share a connection of HTTP/2.",
			"CPU and RSS are those of both hops' processes together, two of each program. nginx goes on by a connection for each call under way.",
			"`ours/its` is the median over the rounds of Hedgerow's CPU by the peer's in the same round.",
		},
		last: found.last(),
	}, err
}
