package proxy_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What is read slowly is held by who sends it, not by the kernel here.
func TestUnsentBytesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		for piece := make([]byte, 32<<10); ; {
			if _, err := rw.Write(piece); err != nil {
				return
			}
		}
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	conn := dial(t, en.addr)
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	say(t, conn, plainGet)
	var most int64
	for since := time.Now(); time.Since(since) < 300*time.Millisecond; { // nothing moves any more
		if n := unread(t, en.addr, conn.LocalAddr()); n > most {
			most, since = n, time.Now()
		}
	}
	if most == 0 || most > 512<<10 {
		t.Errorf("the kernel holds %d bytes of one answer", most)
	}
}

// unread returns how many bytes that were written to the client wait in the kernel.
func unread(t *testing.T, server string, client net.Addr) int64 {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	hex := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		_, _ = fmt.Sscan(port, &n)
		return fmt.Sprintf("0100007F:%04X", n)
	}
	row := " " + hex(server) + " " + hex(client.String()) + " "
	for line := range strings.Lines(string(table)) {
		if at := strings.Index(line, row); at >= 0 {
			var state, queue int64
			_, _ = fmt.Sscanf(line[at+len(row):], "%x %x:", &state, &queue)
			return queue
		}
	}
	return 0
}
