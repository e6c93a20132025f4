package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// tableBench: what a decision costs among few routes and among many, and what
// compiling them costs. It runs in this process: nothing is sent.
func tableBench() bench {
	return bench{
		name:   "table",
		pauses: "of one measurement",
		full:   settings{duration: 2 * time.Second, repeat: 5, routes: numbers{10, 1000, 10_000}, only: words{"hedgerow"}},
		brief:  settings{duration: 100 * time.Millisecond, repeat: 1, routes: numbers{10, 1000}, only: words{"hedgerow"}},
		play:   playTable,
	}
}

// rulesPerHost is how many routes share a hostname.
const rulesPerHost = 10

// routesOf returns a configuration of n routes of every kind, a service for each ten,
// and requests that each takes one of them.
func routesOf(n int) (*mesh.Config, []*proxy.Request) {
	config := mesh.NewConfig()
	var requests []*proxy.Request
	for i := range n {
		host := fmt.Sprintf("site-%d.example", i/rulesPerHost)
		service := fmt.Sprintf("service-%d", i/rulesPerHost)
		config.Put(&mesh.Service{Meta: mesh.Meta{Name: "services/" + service}, Protocol: mesh.ProtocolHTTP})
		path := fmt.Sprintf("/area-%d", i%rulesPerHost)
		match, fields := mesh.RouteMatch{Path: &mesh.PathMatch{Prefix: path}}, header.List{{Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "bench"}}
		asked := path + "/items/7"
		switch i % 5 {
		case 1:
			match.Path, asked = &mesh.PathMatch{Exact: path + "/exact"}, path+"/exact"
		case 2:
			match.Path = &mesh.PathMatch{Template: path + "/items/{id}"}
		case 3:
			match.Headers, fields = []mesh.ValueMatch{{Name: "x-canary", Exact: "1"}}, fields.Add("X-Canary", "1")
		case 4:
			match.Methods = []string{"GET", "POST"}
		}
		route := &mesh.Route{
			Meta: mesh.Meta{Name: fmt.Sprintf("routes/route-%d", i)}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{host},
			Rules: []mesh.RouteRule{{Matches: []mesh.RouteMatch{match}, Backends: []mesh.Backend{{Service: service}}}},
		}
		mesh.Normalize(route)
		config.Put(route)
		requests = append(requests, &proxy.Request{Method: "GET", Host: host, Path: asked, Fields: fields})
	}
	return config, requests
}

func playTable(w *world) (*report, error) {
	t := table{title: "One decision and one compilation, medians of the rounds", head: []string{"routes", "compile ms", "lookup ns", "of 10 routes'"}}
	lookups := make([][]float64, len(w.routes))
	compiles := make([][]float64, len(w.routes))
	for round := range w.repeat {
		w.say("round %d of %d", round+1, w.repeat)
		for i, n := range w.routes {
			compile, lookup, err := w.decide(n)
			if err != nil {
				return nil, err
			}
			compiles[i], lookups[i] = append(compiles[i], compile), append(lookups[i], lookup)
		}
	}
	ratio, slowest := 0.0, 0.0
	for i, n := range w.routes {
		ratios := make([]float64, w.repeat)
		for round := range ratios {
			ratios[round] = lookups[i][round] / lookups[0][round]
		}
		ratio, slowest = middleOf(ratios), middleOf(compiles[i])
		t.rows = append(t.rows, []string{fmt.Sprint(n), decimal(slowest, 1), decimal(middleOf(lookups[i]), 0), decimal(ratio, 2)})
	}
	most := w.routes[len(w.routes)-1]
	return &report{
		tables: []table{t},
		notes:  []string{"Ten routes share a hostname; they match by prefix, exact path, template, header and method. Requests are of all of them, at random."},
		last:   fmt.Sprintf("ratio_lookup_%d_vs_%d=%s compile_%d_ms=%s", most, w.routes[0], decimal(ratio, 2), most, decimal(slowest, 1)),
	}, nil
}

// decide compiles n routes and decides about requests for the duration. It returns
// milliseconds and nanoseconds.
func (w *world) decide(n int) (compile, lookup float64, err error) {
	config, requests := routesOf(n)
	began := time.Now()
	compiled, errs := proxy.Compile(config, "hedgerow.local")
	compile = float64(time.Since(began)) / float64(time.Millisecond)
	if len(errs) > 0 {
		return 0, 0, errs[0]
	}
	const batch = 1024
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	var picks [batch]*proxy.Request
	for i := range picks { // copies, so that as much memory is read for few routes as for many
		r := *requests[rnd.IntN(len(requests))]
		r.Host, r.Path, r.Fields = strings.Clone(r.Host), strings.Clone(r.Path), r.Fields.Clone()
		picks[i] = &r
	}
	face := proxy.Face{Kind: proxy.Gateway, Gateway: "edge"}
	for _, r := range picks {
		if d := proxy.Decide(compiled, face, r, 0); d.Refusal != nil {
			return 0, 0, fmt.Errorf("%s%s: %s", r.Host, r.Path, d.Refusal.Code)
		}
	}
	done, start := 0, time.Now()
	for time.Since(start) < w.duration {
		for _, r := range picks {
			proxy.Decide(compiled, face, r, 0)
		}
		done += batch
	}
	return compile, float64(time.Since(start)) / float64(done), nil
}

// middleOf returns the median.
func middleOf(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
