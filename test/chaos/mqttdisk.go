package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/devices"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// diskBack is how soon a bridge must acknowledge again once its disk works.
const diskBack = 5 * time.Second

// quotaExceeded is what MQTT 5 calls a message that there is no room for.
const quotaExceeded = 0x97

// playFull fills the disk of a bridge, whose service is away meanwhile, and makes room again.
func playFull(t *stage.T, r *row, s settings) {
	f := newFields(t, s)
	dir := smallDisk(t, 8<<20)
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge", DataDir: dir})
	var refused, otherwise atomic.Int64
	stop := f.begin(f.bridge.MQTT, 1)
	told, err := devices.Mosquitto(t.Context(), f.fleet(f.bridge.MQTT, 1000, 2), func(code int) {
		if code == quotaExceeded {
			refused.Add(1)
		} else {
			otherwise.Add(1)
		}
	})
	if err != nil {
		t.Fatalf("devices: %v", err)
	}
	t.Cleanup(func() { _ = told() })
	f.until(time.Minute, "acknowledges", func() bool { return f.deposits.total() > 200 })
	var longest time.Duration
	times, delivered := pick(s, 5, 2), 0
	for range times {
		f.to.away.Store(true)
		filler := fill(t, dir)
		before := refused.Load()
		f.until(time.Minute, "refuses what it has no room for", func() bool { return refused.Load() > before+20 })
		t.Pause(pick(s, 5*time.Second, 2*time.Second))
		f.to.away.Store(false)
		got, _, _ := f.to.counts()
		t.Pause(pick(s, 5*time.Second, 2*time.Second))
		now, _, _ := f.to.counts()
		delivered += now - got
		if err := os.Remove(filler); err != nil {
			t.Fatalf("%v", err)
		}
		acked := f.deposits.total()
		longest = max(longest, f.until(time.Minute, "acknowledges again", func() bool { return f.deposits.total() > acked+50 }))
	}
	stop()
	if err := told(); err != nil {
		t.Errorf("devices: %v", err)
	}
	r.note("times_full", times)
	r.atLeast("delivered_while_full", delivered, times)
	r.atLeast("refused_0x97", int(refused.Load()), 20*times)
	r.zero("refused_otherwise", int(otherwise.Load()))
	r.atMost("acknowledges_after", longest, diskBack)
	f.settle(r)
}

// smallDisk mounts a file system of size bytes in memory until the row ends. It needs root.
func smallDisk(t *stage.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		t.Fatalf("mount a file system of %d bytes, which needs root: %v", size, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all the room that is left in dir, and returns the file that has it.
func fill(t *stage.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "filler")
	file, err := os.Create(name)
	if err != nil {
		t.Fatalf("%v", err)
	}
	zeros := make([]byte, 4096)
	for err == nil {
		_, err = file.Write(zeros)
	}
	if closed := file.Close(); !errors.Is(err, syscall.ENOSPC) || closed != nil {
		t.Fatalf("fill %s: %v, %v", dir, err, closed)
	}
	return name
}

// playFailingDisk has some of the syncs of a bridge's file fail, by strace.
func playFailingDisk(t *stage.T, r *row, s settings) {
	f := newFields(t, s)
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge", DataDir: filepath.Join(dir, "data"), Under: []string{
		// -D makes the bridge the process that was started.
		"strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", trace, "-P", filepath.Join(dir, "data", "spool", "spool.db"),
		"-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=60+60",
	}})
	stop := f.begin(f.bridge.MQTT, 4)
	f.until(time.Minute, "acknowledges", func() bool { return f.deposits.total() > 50 })
	f.deposits.watch()
	wanted := pick(s, 30, 5)
	f.until(10*time.Minute, "has syncs that fail", func() bool { return failures(t, trace) >= wanted })
	acked := f.deposits.total()
	f.until(time.Minute, "acknowledges again", func() bool { return f.deposits.total() > acked+50 })
	r.atMost("longest_without_acknowledgement", f.deposits.gap(), diskBack)
	stop()
	r.atLeast("failed_syncs", failures(t, trace), wanted)
	f.settle(r)
}

// failures returns how many calls strace has made fail.
func failures(t *stage.T, trace string) int {
	t.Helper()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return bytes.Count(text, []byte("(INJECTED)"))
}
