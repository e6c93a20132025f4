package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// profile has each of our processes of a system write its CPU profile of the
// measurement that begins after warm, and returns what waits for that. Only the
// first measurement of a label has one: later rounds go without what it costs.
func (w *world) profile(s *system, label string, warm time.Duration) (wait func() error) {
	if w.profiles == "" || w.profiled[label] || len(s.planes) == 0 {
		return func() error { return nil }
	}
	if w.profiled == nil {
		w.profiled = map[string]bool{}
	}
	w.profiled[label] = true
	var running sync.WaitGroup
	errs := make([]error, len(s.planes))
	for i, p := range s.planes {
		running.Go(func() {
			select {
			case <-time.After(warm):
				path := filepath.Join(w.profiles, fmt.Sprintf("%s-%s.pprof", label, p.Name))
				errs[i] = writeProfile(w.t.Context(), p, path, w.duration)
			case <-w.t.Context().Done():
			}
		})
	}
	return func() error {
		running.Wait()
		return errors.Join(errs...)
	}
}

// writeProfile asks the admin port for a profile of about d.
func writeProfile(ctx context.Context, p *rig.Plane, path string, d time.Duration) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.Admin.Address, max(1, int(d/time.Second)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Timeout: d + 10*time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return os.WriteFile(path, text, 0o644)
}
