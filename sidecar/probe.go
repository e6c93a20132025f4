package sidecar

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// probeAnswer bounds what is read of the answer to a check.
const probeAnswer = 64 << 10

// probe checks a workload once: by a GET of the path of its rules, which has to answer
// 2xx or 3xx, or by connecting alone.
func probe(ctx context.Context, address string, rules *checkRules) error {
	ctx, cancel := context.WithTimeout(ctx, rules.timeout)
	defer cancel()
	if rules.path == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	// A connection of its own each time: that one can be made is a part of it.
	overHTTP2 := rules.protocol == mesh.ProtocolHTTP2 || rules.protocol == mesh.ProtocolGRPC
	var protocols http.Protocols
	if overHTTP2 {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
	}
	transport := &http.Transport{Protocols: &protocols, DisableKeepAlives: !overHTTP2}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+rules.path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "hedgerow-health")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // how closing went cannot matter any more
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, probeAnswer)); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %d", rules.path, resp.StatusCode)
	}
	return nil
}
