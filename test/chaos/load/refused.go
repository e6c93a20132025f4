package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Refused sends n GETs, one after the other, that are all to be answered with status
// and, unless it is "", a problem of that code. It returns the 99th percentile of their
// times, and what was wrong with the first few that were answered otherwise.
func Refused(ctx context.Context, target Target, n, status int, code string) (p99 time.Duration, wrong []string) {
	client := target.Client(10*time.Second, 1)
	defer client.CloseIdleConnections()
	var took []time.Duration
	for range n {
		began := time.Now()
		err := refusedOnce(ctx, client, target, status, code)
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
