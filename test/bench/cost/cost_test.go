package cost

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// used is what the kernel says of this process by another way.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// burn spends about d.
func burn(t *testing.T, d time.Duration) {
	t.Helper()
	var block [4096]byte
	for end := used(t) + d; used(t) < end; {
		block[0] = sha256.Sum256(block[:])[0]
	}
}

func TestCPU(t *testing.T) {
	burn(t, 50*time.Millisecond)
	low := used(t)
	got, err := CPU(os.Getpid())
	high := used(t)
	// rusage is up to a tick behind.
	const tick = 10 * time.Millisecond
	if err != nil || got < low-tick || got > high+tick {
		t.Errorf("got %v, %v, want %v to %v", got, err, low, high)
	}
	if twice, err := CPU(os.Getpid(), os.Getpid()); err != nil || twice < 2*got {
		t.Errorf("the sum of two is %v, %v, want 2 of %v", twice, err, got)
	}
}

func TestCPUOfNobody(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if got, err := CPU(ended.Process.Pid); err == nil {
		t.Errorf("a process that has ended cost %v", got)
	}
}

func TestMeter(t *testing.T) {
	idle := exec.Command("sleep", "60")
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = idle.Process.Kill() // an error means that it has ended
		_ = idle.Wait()         // it was killed
	})
	m := NewMeter(os.Getpid(), idle.Process.Pid)
	before, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	burn(t, 30*time.Millisecond)
	after, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	each := m.Each()
	if len(each) != 2 || each[0] < 20*time.Millisecond || each[1] > each[0]/2 || each[0]+each[1] != after-before {
		t.Errorf("each spent %v, together %v", each, after-before)
	}
}
