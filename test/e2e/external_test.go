package e2e

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const outsideObjects = `
name: defaults/mesh
dialCidrs: ["127.0.0.0/8"]
---
name: services/bank
external:
  address: localhost
  port: %s
  tls:
    serverName: example.com
    caPem: |
%s
---
name: nodes/edge
roles: [GATEWAY]
gateways: [edge]
---
name: routes/bank
targets: [GATEWAY]
hostnames: [bank.test]
rules: [{backends: [{service: bank}]}]
---
name: policies/bank
target: {service: bank}
action: ALLOW
rules: [{from: [{identities: [/gateway/edge]}], to: [{methods: [GET]}]}]
`

// A gateway brings what a policy allows, and nothing else, to a server outside of the
// mesh, over TLS that it begins.
func TestServiceOutsideTheMesh(t *testing.T) {
	bank := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, strings.Split(r.Host, ":")[0], r.URL.Path)
	}))
	defer bank.Close()
	_, port, err := net.SplitHostPort(bank.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bank.Certificate().Raw}))
	ca = "      " + strings.ReplaceAll(strings.TrimSpace(ca), "\n", "\n      ")
	m := rig.New(t, rig.Options{
		Binaries: binaries, Objects: fmt.Sprintf(outsideObjects, port, ca),
		Nodes: []servers.PKINode{rig.GatewayNode("edge", "edge")},
	})
	edge := m.Gateway(rig.Gateway{Node: "edge", ID: "edge"})
	ask := func(ctx context.Context, method string) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+edge.Public+"/balance", nil)
		if err != nil {
			return 0, "", err
		}
		req.Host = "bank.test"
		c := &http.Client{Timeout: 5 * time.Second}
		defer c.CloseIdleConnections()
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	edge.Until(30*time.Second, "reaches the bank", func(ctx context.Context) error {
		status, body, err := ask(ctx, http.MethodGet)
		if err == nil && body != "GET example.com /balance" {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	if status, body, err := ask(t.Context(), http.MethodDelete); err != nil || status != http.StatusForbidden {
		t.Errorf("a DELETE that nobody allowed: %d %s %v", status, body, err)
	}
}
