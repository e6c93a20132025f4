package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

func sourceOf(body string, limit int) *bodySource {
	return newBodySource(strings.NewReader(body), -1, limit, 0, nil)
}

func mustOpen(t *testing.T, b *bodySource) io.ReadCloser {
	t.Helper()
	r, ok := b.open()
	if !ok {
		t.Fatal("the body cannot be read from its start")
	}
	return r
}

func TestBodyIsReadAgain(t *testing.T) {
	b := sourceOf("hello world", 64)
	first := mustOpen(t, b)
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("a closed try reads on: %v", err)
	}
	for range 2 {
		if got, err := io.ReadAll(mustOpen(t, b)); err != nil || string(got) != "hello world" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestLongBodyIsReadOnce(t *testing.T) {
	b := sourceOf(strings.Repeat("x", 100), 64)
	if !b.replayable() {
		t.Error("nothing was read and it is not replayable")
	}
	r := mustOpen(t, iotestOneByte(b))
	if got, err := io.ReadAll(r); err != nil || len(got) != 100 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if _, ok := b.open(); ok || b.replayable() {
		t.Error("what was forgotten can be read again")
	}
}

// What is kept of a body takes no more than the body, or the limit.
func TestKeptBodyIsNoLargerThanItIs(t *testing.T) {
	for _, tt := range []struct {
		length int64
		bytes  int
		most   int
	}{{-1, 40 << 10, 64 << 10}, {40 << 10, 40 << 10, 40 << 10}, {-1, 64 << 10, 64 << 10}, {-1, 10, 1 << 10}} {
		b := newBodySource(strings.NewReader(strings.Repeat("x", tt.bytes)), tt.length, 64<<10, 0, nil)
		r := mustOpen(t, b)
		for buf := make([]byte, 1000); ; {
			if _, err := r.Read(buf); err != nil {
				break
			}
		}
		if got, err := io.ReadAll(mustOpen(t, b)); err != nil || len(got) != tt.bytes || cap(b.kept) > tt.most {
			t.Errorf("of %d bytes, told %d: %d again, in %d, %v", tt.bytes, tt.length, len(got), cap(b.kept), err)
		}
	}
}

// iotestOneByte makes the client of b send single bytes.
func iotestOneByte(b *bodySource) *bodySource {
	b.client = iotest.OneByteReader(b.client)
	return b
}

func TestKnownLongBodyIsNotKept(t *testing.T) {
	b := newBodySource(strings.NewReader("0123456789"), 10, 4, 0, nil)
	if _, err := io.ReadFull(mustOpen(t, b), make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if b.replayable() {
		t.Error("two bytes are kept of a body that is known to be too long")
	}
}

func TestBodyRemembersTheClientsError(t *testing.T) {
	broken := errors.New("malformed chunk")
	b := newBodySource(io.MultiReader(strings.NewReader("a"), iotest.ErrReader(broken)), -1, 64, 0, nil)
	if _, err := io.ReadAll(mustOpen(t, b)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := b.clientError(); !errors.Is(err, broken) {
		t.Errorf("clientError is %v", err)
	}
	whole := sourceOf("a", 64)
	if _, err := io.ReadAll(mustOpen(t, whole)); err != nil || whole.clientError() != nil {
		t.Errorf("a whole body has the error %v, %v", err, whole.clientError())
	}
}

func TestNextTryGetsWhatAnAbandonedOneWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		b := newBodySource(pr, -1, 64, 0, nil)
		abandoned := mustOpen(t, b)
		go func() { _, _ = abandoned.Read(make([]byte, 16)) }()
		synctest.Wait()
		if !b.reading.Load() || !b.replayable() || b.clientError() != nil {
			t.Error("a read under way blocks questions")
		}
		r := mustOpen(t, b)
		got := make(chan string)
		go func() { // waits for the same bytes
			all, _ := io.ReadAll(r)
			got <- string(all)
		}()
		_, _ = io.WriteString(pw, "payload")
		_ = pw.Close()
		if s := <-got; s != "payload" {
			t.Errorf("the next try got %q", s)
		}
		synctest.Wait()
	})
}

func TestBodyThatIsTooLong(t *testing.T) {
	b := newBodySource(strings.NewReader("0123456789"), -1, 64, 9, nil)
	if _, err := io.ReadAll(mustOpen(t, b)); !errors.Is(err, errBodyTooLong) || !errors.Is(b.clientError(), errBodyTooLong) {
		t.Errorf("got %v, clientError %v", err, b.clientError())
	}
	b = newBodySource(strings.NewReader("0123456789"), -1, 64, 10, nil)
	if got, err := io.ReadAll(mustOpen(t, b)); err != nil || len(got) != 10 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestNoBody(t *testing.T) {
	var b *bodySource
	r, ok := b.open()
	if r != nil || !ok || !b.replayable() || b.clientError() != nil || b.close() {
		t.Error("a request without a body has one")
	}
}
