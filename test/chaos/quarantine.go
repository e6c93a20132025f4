package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const (
	// containedWithin is the bound of a quarantine for everything that is connected.
	containedWithin = 5 * time.Second
	// watchFor is how long is looked for traffic after the call.
	watchFor = containedWithin + 2*time.Second
	// unchecked, below the binaries, are programs without the check; see
	// test/chaos/unchecked.
	unchecked = "unchecked"
)

// callees returns the services that the node calls, each on a node of its name.
func callees() []string { return []string{"shop", "ledger", "telemetry"} }

// playQuarantine shuts nodes out, one after the other, each while it does all that it can.
func playQuarantine(t *stage.T, r *row, s settings) {
	times := pick(s, 20, 2)
	q := newQuarantines(t, times, s.binaries, "")
	var last, told, answered []time.Duration
	for i := range times {
		o := q.play(i)
		last, told, answered = append(last, o.last), append(told, o.told), append(answered, o.answered)
		r.blame(fmt.Sprintf("run %d", i+1), o.wrong...)
	}
	r.atLeast("runs", times, times)
	r.atMost("last_traffic_p99", slices.Max(last), containedWithin)
	r.note("last_traffic_median", short(median(last)))
	r.atMost("receipt_p99", slices.Max(told), containedWithin)
	r.note("answer_p99", short(slices.Max(answered)))
}

// playUnchecked is the control: callees whose check is taken out go on to serve the node.
func playUnchecked(t *stage.T, r *row, s settings) {
	q := newQuarantines(t, 1, s.binaries, filepath.Join(s.binaries, unchecked), "WITHOUT_CHECK=quarantine")
	o := q.play(0)
	r.limit("last_traffic", short(o.last), ">="+short(containedWithin), o.last >= containedWithin)
	r.limit("webSocket", fmt.Sprint(o.webSocket), "true", o.webSocket)
	r.limit("tcp", fmt.Sprint(o.tcp), "true", o.tcp)
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// quarantines is a mesh of callees and of nodes that will be shut out.
type quarantines struct {
	t      *stage.T
	rig    *rig.Mesh
	seen   *witness
	broker *servers.MosquittoServer
}

// newQuarantines starts the mesh but for the nodes that are shut out. from is where the
// program of the callees is, "" is where the others are, and env its environment.
func newQuarantines(t *stage.T, n int, binaries, from string, env ...string) *quarantines {
	t.Helper()
	q := &quarantines{t: t, seen: newWitness(t), broker: servers.Mosquitto(t)}
	objects := []string{
		`{name: defaults/mesh, authorization: ALLOW, dialCidrs: ["127.0.0.0/8"]}`,
		`{name: services/shop}`, `{name: services/ledger, protocol: TCP}`, `{name: services/telemetry}`, `{name: services/edge}`, `{name: services/mqtt-bridge}`,
		`{name: topicRules/telemetry, filter: "devices/{device}/telemetry", device: "{device}", ack: DELIVERED, to: {service: telemetry, path: "/v1/devices/{device}/telemetry"}}`,
		`{name: routes/shop, targets: [MESH], hostnames: [shop.mesh], rules: [{matches: [{path: {prefix: /ws}}], timeout: 0s, backends: [{service: shop}]}, {backends: [{service: shop}]}]}`,
	}
	var nodes []servers.PKINode
	for _, service := range callees() {
		objects = append(objects, fmt.Sprintf(`{name: nodes/%s, roles: [SIDECAR], services: [%s]}`, service, service))
		nodes = append(nodes, rig.SidecarNode(service, service))
	}
	for i := range n {
		objects = append(objects, fmt.Sprintf(`{name: nodes/%s, roles: [SIDECAR, BRIDGE], services: [edge, mqtt-bridge]}`, thief(i)))
		nodes = append(nodes, rig.SidecarNode(thief(i), "edge", "mqtt-bridge"))
	}
	q.rig = rig.New(t, rig.Options{Binaries: binaries, Objects: strings.Join(objects, "\n---\n") + "\n", Nodes: nodes})
	for service, address := range map[string]string{"shop": q.seen.http, "ledger": q.seen.tcp, "telemetry": q.seen.http} {
		q.rig.Sidecar(rig.Sidecar{Node: service, Service: service, Workload: address, Binaries: from, Env: env})
	}
	return q
}

// thief names the i-th node that is shut out.
func thief(i int) string { return fmt.Sprintf("edge-%d", i+1) }

// observed is what one quarantine did.
type observed struct {
	last     time.Duration // the last that a workload saw of the node, after the call
	told     time.Duration // the longest that the receipt says of a data plane
	answered time.Duration // how long the call took
	// webSocket and tcp are whether these stand.
	webSocket, tcp bool
	wrong          []string
}

// play starts a node, has it do all that it can, shuts it out, and looks what still comes.
func (q *quarantines) play(i int) observed {
	q.t.Helper()
	node := thief(i)
	ledger := q.rig.Address()
	edge := q.rig.Sidecar(rig.Sidecar{Node: node, Service: "edge", Workload: q.seen.http, Watch: callees(), TCP: map[string]string{"ledger": ledger}})
	wire := newForwarder(q.t, q.broker.Addr)
	bridge := q.rig.Bridge(rig.Bridge{Node: node, Broker: wire.addr})
	traffic := startTraffic(q.t, edge.Outbound, ledger, q.broker.Addr)
	q.seen.begin()
	edge.Until(time.Minute, "reaches everything", func(context.Context) error { return q.seen.complete() })
	q.t.Pause(time.Second)
	began := time.Now()
	receipt, err := q.quarantine(node)
	o := observed{answered: time.Since(began)}
	if err != nil {
		q.t.Fatalf("quarantine %s: %v", node, err)
	}
	q.t.Pause(watchFor - time.Since(began))
	o.webSocket, o.tcp = traffic.webSocket.Load(), traffic.tcp.Load()
	for what, at := range q.seen.all() {
		o.last = max(o.last, at.Sub(began))
		if at.Sub(began) > containedWithin {
			o.wrong = append(o.wrong, fmt.Sprintf("%s was reached %v after the call", what, at.Sub(began)))
		}
	}
	o.wrong = append(o.wrong, q.check(&o, receipt, began)...)
	if cut := wire.cutAt(); cut.IsZero() || cut.Sub(began) > containedWithin {
		o.wrong = append(o.wrong, fmt.Sprintf("the MQTT session stands, or stood for long: it ended at %v", cut))
	}
	if o.webSocket {
		o.wrong = append(o.wrong, "the WebSocket stands")
	}
	if o.tcp {
		o.wrong = append(o.wrong, "the TCP connection stands")
	}
	traffic.stop()
	if err := errors.Join(edge.Stop(), bridge.Stop()); err != nil {
		o.wrong = append(o.wrong, err.Error())
	}
	return o
}

// check holds the receipt against what was seen: each callee says that it has carried it
// out, and none was reached after it says so, but for what was under way.
func (q *quarantines) check(o *observed, receipt *mesh.Quarantine, began time.Time) (wrong []string) {
	const underWay = 500 * time.Millisecond
	said := map[string]mesh.Containment{}
	for _, c := range receipt.Contained {
		said[c.Where] = c
	}
	for _, service := range callees() {
		c := said["sidecar/"+service]
		if c.State != mesh.ContainmentDone || c.After == nil || c.Time == nil {
			wrong = append(wrong, fmt.Sprintf("the receipt says of %s: %+v", service, c))
			continue
		}
		o.told = max(o.told, time.Duration(*c.After))
		if last := q.seen.all()[service]; last.After(c.Time.Add(underWay)) {
			wrong = append(wrong, fmt.Sprintf("%s was reached %v after the call, and says that it was done after %v", service, last.Sub(began), time.Duration(*c.After)))
		}
	}
	if c := said["broker/"+receipt.ID()]; c.State != mesh.ContainmentNever {
		wrong = append(wrong, fmt.Sprintf("the receipt says of the external broker: %+v", c))
	}
	if receipt.State != mesh.AllContained {
		wrong = append(wrong, "the receipt sums up as "+receipt.State)
	}
	return wrong
}

// quarantine calls the API.
func (q *quarantines) quarantine(node string) (*mesh.Quarantine, error) {
	token, err := os.ReadFile(q.rig.TokenFile)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(q.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.rig.API+"/v1/nodes/"+node+":quarantine", bytes.NewReader([]byte(`{"reason":"test"}`)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%d %.300s, %w", resp.StatusCode, raw, err)
	}
	var out mesh.Quarantine
	return &out, json.Unmarshal(raw, &out)
}
