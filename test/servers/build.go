package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	modulePath = "github.com/hedgerow-mesh/hedgerow"
	// buildTimeout is enough for a build with an empty cache on a slow
	// machine. The test binary's own -timeout may be shorter.
	buildTimeout = 30 * time.Minute
)

// buildModule builds packages of the module test/<name> into the user's cache and
// returns the folder of the binaries. The go command decides whether there is
// anything to do: with current binaries it takes under a second.
func buildModule(t testing.TB, name string, packages ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	dir, err := build(ctx, name, packages)
	if err != nil {
		t.Fatalf("build test/%s: %v: run `make deps`, which builds it without a test's deadline", name, err)
	}
	return dir
}

func build(ctx context.Context, name string, packages []string) (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, "hedgerow-test", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	// Without the commit stamped in, a new commit does not link it again.
	args := []string{"build", "-C", filepath.Join(root, "test", name), "-buildvcs=false", "-o", dir + string(filepath.Separator)}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	// The temporary directory is on the same file system as the binaries, so
	// that a new one is renamed over one that another test is running.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOTMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, bytes.TrimSpace(out))
	}
	return dir, nil
}

// lock takes the file lock that test binaries of other packages share, and
// returns what gives it back. The kernel gives it back if this process dies.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, ctx.Err()), file.Close())
		case <-tick.C:
		}
	}
}

// moduleRoot is the folder of the project's go.mod, found upwards from the
// folder of the package under test, where go test runs its binary.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod of %s above the working directory", modulePath)
		}
		dir = parent
	}
}
