package powercut

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// kind is what an event does.
type kind int

const (
	written    kind = iota // bytes were handed to the kernel
	resized                // so was a length
	synced                 // all of the file that was handed over is on the disk
	unsynced               // a sync failed: who knows what is on the disk
	entered                // the directory is on the disk
	remembered             // the writer says something
)

// event is one call of the writer, in their order.
type event struct {
	kind kind
	at   int64
	data []byte
	mark string
}

// call is a line of strace's output, put together again if it was broken off.
type call struct {
	name, args, result string
}

// read returns what the trace in r says of the file at path, and of the marks.
func read(r io.Reader, path string) ([]event, error) {
	lines := bufio.NewReaderSize(r, 1<<20)
	begun := map[string]string{} // calls that another interrupted, by thread
	var all []event
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF { //nolint:errorlint // it is never wrapped
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		thread, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rest = strings.TrimLeft(rest, " ")
		if first, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			begun[thread] = first
			continue
		}
		if _, after, ok := strings.Cut(rest, " resumed>"); ok && strings.HasPrefix(rest, "<... ") {
			rest = begun[thread] + after
			delete(begun, thread)
		}
		c, ok := parse(rest)
		if !ok {
			continue // of a signal, or the end of a thread
		}
		e, ok, err := c.event(path)
		if err != nil {
			return nil, fmt.Errorf("%.200s: %w", rest, err)
		}
		if ok {
			all = append(all, e)
		}
	}
}

// parse reads `name(arguments) = result`.
func parse(line string) (call, bool) {
	name, rest, ok := strings.Cut(line, "(")
	end := strings.Index(rest, ") ") // all texts before it are in hex
	if !ok || end < 0 || strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-") {
		return call{}, false
	}
	result, ok := strings.CutPrefix(strings.TrimLeft(rest[end+1:], " "), "= ")
	return call{name, rest[:end], result}, ok
}

// event returns what c does to the file at path or says; ok is false if it does neither.
func (c call) event(path string) (e event, ok bool, err error) {
	args := strings.Split(c.args, ", ") // no text of -xx has a comma
	number, where, _ := strings.Cut(args[0], "<")
	where = unquote(strings.TrimSuffix(where, ">"))
	failed := strings.HasPrefix(c.result, "-1 ")
	switch {
	case c.name == "write" && number == "1":
		return event{kind: remembered, mark: strings.TrimSpace(unquote(args[1]))}, true, nil
	case where == filepath.Dir(path) && c.name == "fsync":
		return event{kind: entered}, !failed && !taken(c.result), nil
	case where != path:
		return event{}, false, unexpected(c, path)
	}
	switch c.name {
	case "pwrite64":
		n, err := strconv.Atoi(firstWord(c.result))
		if err != nil || failed {
			return event{}, false, err // nothing was handed over
		}
		at, err := strconv.ParseInt(args[len(args)-1], 10, 64)
		data := []byte(unquote(args[1]))
		if err == nil && len(data) < n {
			err = fmt.Errorf("%d bytes of %d were recorded", len(data), n)
		}
		if err != nil {
			return event{}, false, err
		}
		return event{kind: written, at: at, data: data[:n]}, true, nil
	case "ftruncate":
		at, err := strconv.ParseInt(args[1], 10, 64)
		return event{kind: resized, at: at}, !failed, err
	case "fdatasync", "fsync":
		if failed {
			return event{kind: unsynced}, true, nil
		}
		return event{kind: synced}, !taken(c.result), nil // one that was taken out did nothing
	}
	return event{}, false, fmt.Errorf("nobody thought of %s", c.name)
}

// unexpected reports a call that changes names in the directory of path.
func unexpected(c call, path string) error {
	failed := strings.HasPrefix(c.result, "-1 ") // and changed nothing
	if !failed && (strings.HasPrefix(c.name, "rename") || strings.HasPrefix(c.name, "unlink")) {
		if strings.Contains(unquoteAll(c.args), filepath.Dir(path)+"/") {
			return fmt.Errorf("nobody thought of %s", c.name)
		}
	}
	return nil
}

// taken reports whether the call was not made: strace made up its result.
func taken(result string) bool { return strings.HasSuffix(result, "(INJECTED)") }

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

// unquote returns what -xx prints as `"\x61\x62"`, or without the quotes.
func unquote(s string) string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	raw, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	if err != nil {
		return s
	}
	return string(raw)
}

// unquoteAll unquotes each of the arguments.
func unquoteAll(args string) string {
	all := strings.Split(args, ", ")
	for i, a := range all {
		all[i] = unquote(a)
	}
	return strings.Join(all, ", ")
}
