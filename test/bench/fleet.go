package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// fleetPerNode is how many instances a node of the fleet has.
const fleetPerNode = 10

// fleetService is the service with many endpoints, in mesh.yaml.
const fleetService = "fleet"

// fleetAddress is where instance n is said to be. Nobody listens there.
func fleetAddress(n int) string {
	return fmt.Sprintf("127.%d.%d.%d:15006", 1+n/65536, n/256%256, n%256)
}

// fleetNode is the name of the i-th node of the fleet.
func fleetNode(i int) string { return fmt.Sprintf("fleet-%d", i) }

// fleetNodes are the identities of the fleet's nodes.
func (w *world) fleetNodes() []mesh.ID {
	var ids []mesh.ID
	for i := range (w.endpoints + fleetPerNode - 1) / fleetPerNode {
		id, err := mesh.NodeID(rig.TrustDomain, fleetNode(i))
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// fleetLogin may be all nodes of the fleet, none of which runs.
func (w *world) fleetLogin() servers.PKINode {
	login := servers.PKINode{Name: fleetService}
	for _, id := range w.fleetNodes() {
		login.IDs = append(login.IDs, id.String())
	}
	return login
}

// registerFleet registers the endpoints, as the sidecars beside them would, and
// keeps them registered until the bench ends.
func (w *world) registerFleet() {
	w.t.Helper()
	nodes := map[string][]mesh.Instance{}
	var objects []string
	for n := range w.endpoints {
		node := fleetNode(n / fleetPerNode)
		if nodes[node] == nil {
			objects = append(objects, fmt.Sprintf("name: nodes/%s\nroles: [SIDECAR]\nservices: [%s]\n", node, fleetService))
		}
		nodes[node] = append(nodes[node], mesh.Instance{Service: fleetService, Address: fleetAddress(n)})
	}
	w.mesh.Apply(strings.Join(objects, "---\n"))
	client, err := registry.Open(registry.Config{Addresses: []string{w.mesh.Redis.Addr}, Mesh: rig.Name}, w.mesh.Verifier(), zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var running sync.WaitGroup
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := client.Close(); err != nil {
			w.t.Errorf("%v", err)
		}
	})
	for i, source := range w.mesh.Certify(fleetService, w.fleetNodes()...) {
		node := fleetNode(i)
		lease, err := registry.NewLease(client, node, mesh.RoleSidecar, source)
		if err == nil {
			err = lease.Update(nodes[node])
		}
		if err != nil {
			w.t.Fatal(err)
		}
		running.Go(func() { _ = lease.Run(ctx) }) // it never fails
	}
}

// manyEndpoints looks at the memory of processes that know many endpoints of one
// service, and returns the table and a line of its figures.
func (w *world) manyEndpoints(workload string) (table, string, error) {
	w.registerFleet()
	var servers []string
	for n := range w.endpoints {
		servers = append(servers, fleetAddress(n))
	}
	programs := append([]string{"hedgerow"}, w.peers()...)
	state := fmt.Sprintf("%d endpoints", w.endpoints)
	t := table{title: "Resident MiB of one process that knows many endpoints, medians of the rounds", head: append([]string{"state"}, programs...)}
	samples := make([][]int64, len(programs))
	for round := range w.repeat {
		w.say("%s: round %d of %d", state, round+1, w.repeat)
		processes := []*rig.Process{w.fleetSidecar(workload).Process}
		for _, program := range programs[1:] {
			processes = append(processes, w.peer(program, program, w.oneHop(false, false, servers...)).processes[0])
		}
		w.t.Pause(w.duration)
		for i, p := range processes {
			bytes, err := proc.RSS(p.Pid())
			if err != nil {
				return t, "", fmt.Errorf("%s: %w", programs[i], err)
			}
			samples[i] = append(samples[i], bytes)
			end := p.Kill
			if i == 0 {
				end = p.Stop
			}
			if err := end(); err != nil {
				return t, "", err
			}
		}
	}
	row, line := []string{state}, ""
	for i, program := range programs {
		value := decimal(middle(samples[i], mib), 1)
		row = append(row, value)
		line += fmt.Sprintf("endpoints%d_%s_mib=%s ", w.endpoints, program, value)
	}
	t.rows = append(t.rows, row)
	return t, strings.TrimSpace(line), nil
}

// fleetSidecar starts a sidecar and waits until it knows the fleet.
func (w *world) fleetSidecar(workload string) *rig.Plane {
	w.t.Helper()
	p := w.mesh.Sidecar(rig.Sidecar{Node: "caller", Service: "client", Workload: workload, Watch: []string{fleetService}})
	p.Until(answerMost, "knows the fleet", func(ctx context.Context) error {
		known, err := p.Admin.Sum(ctx, "hedgerow_registry_instances")
		if err == nil && int(known) < w.endpoints {
			err = fmt.Errorf("it knows %v of %d endpoints", known, w.endpoints)
		}
		return err
	})
	return p
}
