package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const sharedRate = `
name: nodes/edge-1
roles: [GATEWAY]
gateways: [edge-1]
---
name: nodes/edge-2
roles: [GATEWAY]
gateways: [edge-2]
---
name: routes/limited
targets: [GATEWAY]
hostnames: [limited.test]
rules:
  - filters:
      - rateLimit: {requests: 50, per: 1s, burst: 10, scope: MESH, key: {header: x-user}}
      - respond: {status: 200, body: "yes"}
`

// Two gateways admit together what one rate allows, whoever of them is asked, and go on
// when Redis is away.
func TestARateIsSharedByGateways(t *testing.T) {
	m := rig.New(t, rig.Options{
		Binaries: binaries, Objects: sharedRate,
		Users: true,
		Nodes: []servers.PKINode{rig.GatewayNode("edge-1", "edge-1"), rig.GatewayNode("edge-2", "edge-2")},
	})
	c := &http.Client{Timeout: 5 * time.Second}
	defer c.CloseIdleConnections()
	edges := []*rig.Plane{m.Gateway(rig.Gateway{Node: "edge-1", ID: "edge-1"}), m.Gateway(rig.Gateway{Node: "edge-2", ID: "edge-2"})}
	for _, e := range edges {
		e.Until(30*time.Second, "has the route", func(ctx context.Context) error { return asked(ctx, c, e, "probe") })
	}
	// admitted asks for as much as it can get in so many seconds.
	admitted := func(user string, seconds int, from ...*rig.Plane) (n int64, took time.Duration) {
		var yes atomic.Int64
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
		defer cancel()
		var clients sync.WaitGroup
		for _, e := range from {
			for range 2 {
				clients.Go(func() {
					for ctx.Err() == nil {
						if asked(ctx, c, e, user) == nil {
							yes.Add(1)
							continue
						}
						select { // as fast as it likes, and not faster than it can
						case <-ctx.Done():
						case <-time.After(2 * time.Millisecond):
						}
					}
				})
			}
		}
		clients.Wait()
		return yes.Load(), time.Since(began)
	}
	check := func(what string, n int64, took time.Duration, extra float64) {
		t.Helper()
		most, least := 50*took.Seconds()+10+extra, 0.8*50*took.Seconds()
		if float64(n) > most || float64(n) < least {
			t.Errorf("%s: %d were admitted in %v, want %.0f to %.0f", what, n, took, least, most)
		}
	}
	const each = 10.0 // the burst once more
	n, took := admitted("ann", 4, edges...)
	check("both gateways", n, took, each)
	n, took = admitted("bob", 4, edges[0])
	check("one gateway", n, took, each)
	m.Redis.Kill()
	if _, took = admitted("nobody", 1, edges...); took > 2*time.Second {
		t.Errorf("asking with Redis away took %v", took)
	}
	n, took = admitted("cleo", 4, edges...)
	check("both gateways without Redis", n, took, 10)
}

// asked returns an error unless the request of user is admitted.
func asked(ctx context.Context, c *http.Client, e *rig.Plane, user string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Public+"/", nil)
	if err != nil {
		return err
	}
	req.Host = "limited.test"
	req.Header.Set("X-User", user)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return err
}
