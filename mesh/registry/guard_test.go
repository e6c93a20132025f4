package registry

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestReplyGuard(t *testing.T) {
	cases := []struct {
		name, reply string
		refused     bool
	}{
		{"a status", "+OK\r\n", false},
		{"an error", "-ERR no $99999999999 here\r\n", false},
		{"a number of any size", ":99999999999999999999\r\n", false},
		{"a bulk string", "$5\r\nhello\r\n", false},
		{"a nil", "$-1\r\n*-1\r\n", false},
		{"lengths inside a bulk string are bytes", "$16\r\n$99999999999999\n\n\r\n+OK\r\n", false},
		{"an array of all kinds", "*3\r\n$1\r\na\r\n:1\r\n*1\r\n+b\r\n", false},
		{"the longest value", "$1049600\r\n", false},
		{"a longer value", "$1049601\r\n", true},
		{"a value of a terabyte", "$1099511627776\r\n", true},
		{"a length beyond any integer", "$" + strings.Repeat("9", 400) + "\r\n", true},
		{"leading zeros", "$000001099511627776\r\n", true},
		{"a plus sign", "$+1099511627776\r\n", true},
		{"the longest array", "*200000\r\n", false},
		{"a longer array", "*200001\r\n", true},
		{"arrays in arrays", strings.Repeat("*2\r\n", 100_001), true},
		{"a map counts pairs", "%100001\r\n", true},
		{"a blob error", "!1099511627776\r\n", true},
		{"a verbatim string", "=1099511627776\r\n", true},
		{"a push", ">200001\r\n", true},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var whole, bytewise replyGuard
			err := whole.scan([]byte(tc.reply))
			var errBytewise error
			for i := range len(tc.reply) {
				if errBytewise = bytewise.scan([]byte{tc.reply[i]}); errBytewise != nil {
					break
				}
			}
			if (err != nil) != tc.refused || (errBytewise != nil) != tc.refused {
				t.Errorf("whole: %v, byte by byte: %v; want refused %v", err, errBytewise, tc.refused)
			}
			if err != nil && !errors.Is(err, errReply) {
				t.Errorf("%v is no errReply", err)
			}
		})
	}
}

func TestReplyGuardBoundsTheWholeReply(t *testing.T) {
	var g replyGuard
	value := []byte("$1000000\r\n" + strings.Repeat("x", 1_000_000) + "\r\n")
	for range maxReplyBytes / len(value) {
		if err := g.scan(value); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.scan(value); err == nil {
		t.Error("a reply beyond the bound passed")
	}
}

func TestGuardedConnCountsEachReplyAnew(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		r := bufio.NewReader(far)
		for {
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
			if _, err := io.WriteString(far, "*150000\r\n"); err != nil {
				return
			}
		}
	}()
	conn := &guardedConn{Conn: near}
	for range 3 {
		if _, err := io.WriteString(conn, "PING\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, len("*150000\r\n"))); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzReplyGuard holds that how a reply is split into reads does not matter,
// and that what passes announces nothing beyond the bounds, by a second,
// simpler reading of the protocol.
func FuzzReplyGuard(f *testing.F) {
	for _, seed := range []string{"+OK\r\n", "$5\r\nhello\r\n", "*2\r\n$1\r\na\r\n$-1\r\n", "$9999999\r\n", "*-1\r\n:5\r\n", "$3\r\n*99\r\n", "\n\n", "$"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, reply []byte, split uint8) {
		var whole, parts replyGuard
		err := whole.scan(reply)
		var errParts error
		for chunk := range slices.Chunk(reply, int(split)+1) {
			if errParts = parts.scan(chunk); errParts != nil {
				break
			}
		}
		if (err == nil) != (errParts == nil) {
			t.Errorf("whole: %v, in parts: %v", err, errParts)
		}
		if err == nil && largest(reply) > maxReplyBulk {
			t.Errorf("a length of %d passed", largest(reply))
		}
	})
}

// largest returns the largest bulk length that a reader of the reply meets.
func largest(reply []byte) int {
	r, found := bufio.NewReader(bytes.NewReader(reply)), 0
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return found
		}
		if line[0] != '$' || len(line) < 3 {
			continue
		}
		n := 0
		for _, c := range bytes.TrimRight(line[1:], "\r\n") {
			if c < '0' || c > '9' || n > 1<<40 {
				n = 0
				break
			}
			n = n*10 + int(c-'0')
		}
		found = max(found, n)
		if _, err := r.Discard(n + 2); err != nil {
			return found
		}
	}
}
