package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// written notes what each call of Write got.
type written struct {
	net.Conn
	calls [][]byte
	err   error
}

func (w *written) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.calls = append(w.calls, bytes.Clone(p))
	return len(p), nil
}

func TestGatheredWritesLeaveTogether(t *testing.T) {
	w := &written{}
	g := &gathered{Conn: w}
	put := func(s string) {
		t.Helper()
		if n, err := g.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	expect := func(calls ...string) {
		t.Helper()
		var got []string
		for _, c := range w.calls {
			got = append(got, string(c))
		}
		if len(got) != len(calls) {
			t.Fatalf("written: %q, want %q", got, calls)
		}
		for i := range calls {
			if got[i] != calls[i] {
				t.Errorf("written: %q, want %q", got[i], calls[i])
			}
		}
		w.calls = nil
	}
	flush := func() {
		t.Helper()
		if err := g.flush(); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	expect("a")
	g.hold()
	put("b")
	put("c")
	expect()
	flush()
	expect("bc")
	flush()
	expect()
	put("d")
	if err := g.release(); err != nil {
		t.Fatal(err)
	}
	expect("d")
	put("e")
	expect("e")
	g.hold()
	long := string(make([]byte, gatheredBytes-1))
	put(long)
	expect()
	put("f")
	expect(long + "f")
	if g.buf != nil {
		t.Error("a buffer is held for nothing")
	}
}

func TestGatheredErrorsAreTold(t *testing.T) {
	broken := errors.New("broken")
	w := &written{err: broken}
	g := &gathered{Conn: w}
	g.hold()
	if _, err := g.Write([]byte("a")); err != nil {
		t.Fatalf("before it was tried: %v", err)
	}
	if err := g.flush(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := g.Write(make([]byte, gatheredBytes)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := g.release(); err != nil {
		t.Errorf("what failed is tried again: %v", err)
	}
}

// secured are the two ends of a TLS connection over TCP; the second is a meshConn.
func secured(t *testing.T) (client *tls.Conn, server *meshConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := l.Accept()
		accepted <- conn
	}()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS()
	defer srv.Close()
	shaken := make(chan error, 1)
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	go func() { shaken <- client.Handshake() }()
	server = newMeshConn(<-accepted)
	server.Conn = tls.Server(server.under, &tls.Config{Certificates: srv.TLS.Certificates})
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

// A connection that gathers sends with Flush, and all of it before its end.
func TestMeshConnGathersUntilItsEnd(t *testing.T) {
	client, server := secured(t)
	server.gather()
	if _, err := server.Write([]byte("one ")); err != nil {
		t.Fatal(err)
	}
	if err := client.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); err == nil {
		t.Fatalf("%d bytes came before Flush", n)
	}
	if err := client.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := server.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "one two" {
		t.Errorf("got %q, %v", got, err)
	}
}

// What is long goes as records that leave together, also where nobody flushes.
func TestMeshConnSendsLongWritesAtOnce(t *testing.T) {
	client, server := secured(t)
	long := bytes.Repeat([]byte("x"), 5*recordBytes/2)
	go func() {
		_, _ = server.Write(long)
		_, _ = server.Write([]byte("end"))
	}()
	got := make([]byte, len(long)+len("end"))
	if n, err := io.ReadFull(client, got); err != nil || string(got) != string(long)+"end" {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// Wait returns when there is something to read, at a deadline, and when it is closed.
func TestMeshConnWaits(t *testing.T) {
	client, server := secured(t)
	waited := make(chan error, 1)
	wait := func() { waited <- server.Wait() }
	go wait()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("with something to read: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	go wait()
	if err := <-waited; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at a deadline: %v", err)
	}
	if err := server.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go wait()
	_ = server.Close()
	if err := <-waited; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Close does not wait for a peer that does not read.
func TestLinkedMeshConnClosesAtOnce(t *testing.T) {
	_, server := secured(t)
	server.gather()
	wrote, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := server.Write(make([]byte, recordBytes)); err != nil {
				return
			}
			if server.Flush() != nil {
				return
			}
			select {
			case wrote <- struct{}{}:
			default:
			}
		}
	}()
	for stuck := false; !stuck; {
		select {
		case <-wrote:
		case <-time.After(300 * time.Millisecond):
			stuck = true
		}
	}
	begin := time.Now()
	_ = server.Close()
	<-ended
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
