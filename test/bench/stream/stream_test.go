package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

func TestTransfers(t *testing.T) {
	srv := httptest.NewServer(handler())
	t.Cleanup(srv.Close)
	target := load.Target{Address: srv.Listener.Addr().String(), Host: "shop.mesh"}
	for _, n := range []int64{0, 1, blockBytes - 1, blockBytes, 10*blockBytes + 3} {
		if err := errors.Join(Down(t.Context(), target, n), Up(t.Context(), target, n)); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := Down(t.Context(), target, -1); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("a size below 0: %v", err)
	}
}

// TestDamage: a body that was changed on the way is noticed, in either direction.
func TestDamage(t *testing.T) {
	const n = 3 * blockBytes
	whole, err := io.ReadAll(newBody(n))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[n/2] ^= 1
	swapped := bytes.Join([][]byte{whole[:blockBytes], whole[2*blockBytes:], whole[blockBytes : 2*blockBytes]}, nil)
	for name, damaged := range map[string][]byte{
		"a byte":          flipped,
		"blocks swapped":  swapped,
		"a block twice":   bytes.Join([][]byte{whole[:blockBytes], whole[:blockBytes], whole[2*blockBytes:]}, nil),
		"shorter":         whole[:n-1],
		"longer":          append(bytes.Clone(whole), 0),
		"nothing at all":  nil,
		"the very same":   whole,
		"zeros in length": make([]byte, n),
	} {
		t.Run(name, func(t *testing.T) {
			// A proxy that puts the damaged body in place of any other.
			inner := handler()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_, _ = w.Write(damaged) // the client that left notices itself
					return
				}
				_, _ = io.Copy(io.Discard, r.Body) // likewise
				r.Body = io.NopCloser(bytes.NewReader(damaged))
				inner.ServeHTTP(w, r)
			}))
			t.Cleanup(srv.Close)
			target := load.Target{Address: srv.Listener.Addr().String()}
			for way, err := range map[string]error{"down": Down(t.Context(), target, n), "up": Up(t.Context(), target, n)} {
				if same := bytes.Equal(damaged, whole); same != (err == nil) {
					t.Errorf("%s: got %v", way, err)
				}
			}
		})
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, address) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		if err = Down(t.Context(), load.Target{Address: address}, 5); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Error(err)
	}
	if err := Serve(t.Context(), address); err == nil {
		t.Error("two serve at one address")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
