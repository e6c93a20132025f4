// Package stream sends one long body through proxies, down or up, and verifies
// every byte at the other end: its length and a CRC-32C. Serve is the workload,
// Down and Up are its clients.
//
// The body costs neither disk nor memory: it is made as it goes. Its blocks are
// numbered, so that one that is lost, repeated or moved changes the sum.
package stream

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
)

const (
	blockBytes = 64 << 10
	// most bounds a transfer: what hangs must fail.
	most = 5 * time.Minute
)

// body is the first n bytes of the body that everybody knows.
type body struct {
	left  int64
	count uint64 // of blocks so far
	block [blockBytes]byte
	at    int // what of block has been read
}

// newBody returns a reader of n bytes.
func newBody(n int64) *body {
	b := &body{left: n, at: blockBytes}
	source := rand.NewPCG(1, 2)
	for i := 0; i < blockBytes; i += 8 {
		binary.LittleEndian.PutUint64(b.block[i:], source.Uint64())
	}
	return b
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.at == blockBytes {
		binary.LittleEndian.PutUint64(b.block[:], b.count)
		b.count, b.at = b.count+1, 0
	}
	n := copy(p[:min(int64(len(p)), b.left)], b.block[b.at:])
	b.at += n
	b.left -= int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo, a block at a time.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{b}, make([]byte, blockBytes))
}

// receipt is what arrived of a body.
type receipt struct {
	Bytes int64  `json:"bytes"`
	Sum   uint32 `json:"crc32c"`
}

// receive reads r to its end.
func receive(r io.Reader) (receipt, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{r}, make([]byte, 4*blockBytes))
	return receipt{n, sum.Sum32()}, err
}

// check reports what differs from the n bytes that were sent.
func (got receipt) check(n int64) error {
	want, err := receive(newBody(n))
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%d bytes with the sum %08x arrived, want %d with %08x", got.Bytes, got.Sum, want.Bytes, want.Sum)
	}
	return nil
}

// Serve serves at address until ctx ends: GET /stream/down?n=N answers with N
// bytes, POST /stream/up reads its body and answers with its receipt.
func Serve(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler(), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // what is under way is cut
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream/down", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "n is no size", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		// A client that left notices itself.
		_, _ = newBody(n).WriteTo(struct{ io.Writer }{w})
	})
	mux.HandleFunc("POST /stream/up", func(w http.ResponseWriter, r *http.Request) {
		got, err := receive(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(got) // as above
	})
	return mux
}

// Down asks target for n bytes and verifies them.
func Down(ctx context.Context, target load.Target, n int64) error {
	return exchange(ctx, target, http.MethodGet, fmt.Sprintf("/stream/down?n=%d", n), nil, 0, func(r io.Reader) error {
		got, err := receive(r)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", got.Bytes, n, err)
		}
		return got.check(n)
	})
}

// Up sends target n bytes and verifies that they arrived.
func Up(ctx context.Context, target load.Target, n int64) error {
	return exchange(ctx, target, http.MethodPost, "/stream/up", newBody(n), n, func(r io.Reader) error {
		var got receipt
		if err := json.NewDecoder(r).Decode(&got); err != nil {
			return fmt.Errorf("read the receipt: %w", err)
		}
		return got.check(n)
	})
}

// exchange sends one request on a connection of its own.
func exchange(ctx context.Context, target load.Target, method, path string, send io.Reader, length int64, read func(io.Reader) error) error {
	client := target.Client(most, 0)
	req, err := target.Request(ctx, method, path, send)
	if err != nil {
		return err
	}
	req.ContentLength = length
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // the status is the failure
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
