package workload

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// TestBreaks asks for every break without a proxy in between: what net/http
// takes for whole must be what is meant to be.
func TestBreaks(t *testing.T) {
	s, err := ServeBroken()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, b := range Breaks() {
		t.Run(b.Name, func(t *testing.T) {
			whole := false
			resp, err := client.Post("http://"+s.Addr+"/break/"+b.Name, "", nil)
			if err == nil {
				defer resp.Body.Close()
				_, err = io.Copy(io.Discard, resp.Body)
				whole = err == nil && resp.StatusCode == http.StatusOK
			}
			if whole != b.Whole {
				t.Errorf("whole is %t (%v), want %t", whole, err, b.Whole)
			}
			if n := s.Hits(b.Name); n != 1 {
				t.Errorf("%d hits, want 1", n)
			}
		})
	}
}
