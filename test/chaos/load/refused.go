package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/rpc"
)

// Refused sends n requests, one after the other, that are all to be answered with status
// and, unless it is "", a problem of that code: in turn GETs, calls of gRPC, whose answer
// is UNAVAILABLE, and handshakes of WebSockets. It returns the 99th percentile of their
// times, and what was wrong with the first few that were answered otherwise.
func Refused(ctx context.Context, target Target, n, status int, code string) (p99 time.Duration, wrong []string) {
	client := target.Client(10*time.Second, 1)
	defer client.CloseIdleConnections()
	c := calls{target: target}
	defer c.close()
	var took []time.Duration
	for i := range n {
		began := time.Now()
		var err error
		switch i % 3 {
		case 0:
			err = refusedOnce(ctx, client, target, status, code)
		case 1:
			err = refusedCall(ctx, &c)
		case 2:
			err = refusedHandshake(ctx, target, status)
		}
		took = append(took, time.Since(began))
		if err != nil && len(wrong) < 5 {
			wrong = append(wrong, err.Error())
		}
	}
	slices.Sort(took)
	return percentile(took, 99), wrong
}

func refusedOnce(ctx context.Context, client *http.Client, target Target, status int, code string) error {
	req, err := target.Request(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var problem struct{ Code string }
	err = json.NewDecoder(resp.Body).Decode(&problem)
	if resp.StatusCode != status || code != "" && (err != nil || problem.Code != code) {
		return fmt.Errorf("%s %q, want %d %q", resp.Status, problem.Code, status, code)
	}
	return nil
}

func refusedCall(ctx context.Context, c *calls) error {
	conn, err := c.connection(false)
	if err != nil {
		return err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "idempotency-key", "refused")
	var none, got []byte
	if err := conn.Invoke(ctx, rpc.Fail, &none, &got); grpcstatus.Code(err) != codes.Unavailable {
		return fmt.Errorf("a call: %w, want UNAVAILABLE", err)
	}
	return nil
}

func refusedHandshake(ctx context.Context, target Target, status int) error {
	conn, err := dialSocket(ctx, target, "/status")
	var refused *refusedSocket
	switch {
	case err == nil:
		_ = conn.Close() // it should not be there
		return errors.New("a WebSocket connected")
	case !errors.As(err, &refused) || refused.status != status:
		return fmt.Errorf("a WebSocket: %w, want %d", err, status)
	}
	return nil
}
