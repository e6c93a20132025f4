package proxy

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// mostPeers bounds the callers of one workload that are counted apart; more are "other".
const mostPeers = 256

// byClass are counters by class of status; 0 is aborted.
type byClass [6]prometheus.Counter

// count counts a request that was answered with status; 0 is aborted.
func (c *byClass) count(status int) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	c[class].Inc()
}

// seriesBy counts requests by something that comes and goes. What was seen before is
// read without a lock.
type seriesBy struct {
	vec   *prometheus.CounterVec // its labels: first, key, class
	first string
	most  int        // keys; 0 is no bound
	mu    sync.Mutex // held to replace known
	known atomic.Pointer[map[string]*byClass]
}

func newSeriesBy(vec *prometheus.CounterVec, first string, most int) *seriesBy {
	s := &seriesBy{vec: vec, first: first, most: most}
	s.known.Store(&map[string]*byClass{})
	return s
}

// of returns the counters of key.
func (s *seriesBy) of(key string) *byClass {
	if c := (*s.known.Load())[key]; c != nil {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.known.Load()
	if s.most > 0 && len(old) >= s.most && old[key] == nil {
		key = "other"
	}
	if c := old[key]; c != nil {
		return c
	}
	key = strings.Clone(key)
	c := &byClass{}
	for class := range c {
		c[class] = s.vec.WithLabelValues(s.first, key, codeClass(class*100))
	}
	next := maps.Clone(old)
	next[key] = c
	s.known.Store(&next)
	return c
}

// keep forgets keys that are not wanted any more.
func (s *seriesBy) keep(wanted func(key string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next map[string]*byClass
	for key := range *s.known.Load() {
		if wanted(key) {
			continue
		}
		if next == nil {
			next = maps.Clone(*s.known.Load())
		}
		delete(next, key)
		for class := range len(byClass{}) {
			s.vec.DeleteLabelValues(s.first, key, codeClass(class*100))
		}
	}
	if next != nil {
		s.known.Store(&next)
	}
}

// peerLabel is the value of the label peer: an identity without its node.
func peerLabel(id mesh.ID) string {
	if id.IsZero() {
		return ""
	}
	path, _, _ := strings.Cut(id.Path(), "/n/")
	return path
}

// keep drops the series of routes, and of callers, that config does not have.
func (m *metrics) keep(config *mesh.Config) {
	m.mu.Lock()
	faces := m.faces
	m.mu.Unlock()
	for _, f := range faces {
		if f.routes != nil {
			f.routes.keep(func(name string) bool { return config.Routes[strings.TrimPrefix(name, "routes/")] != nil })
		}
		if f.peers != nil {
			f.peers.keep(func(peer string) bool {
				service, is := strings.CutPrefix(peer, "/svc/")
				return config.Services[f.peers.first] != nil && (!is || config.Services[service] != nil)
			})
		}
	}
}
