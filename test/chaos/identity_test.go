package main

import (
	"bytes"
	"os/exec"
	"testing"
)

// TestIdentity plays a row of `make e2e-identity` in its short form: certificates are
// renewed, and their CA changes, and no request and no stream notices.
func TestIdentity(t *testing.T) {
	binaries := t.TempDir()
	build := exec.Command("go", "build", "-pgo=off", "-o", binaries+"/", "../../cmd/hedgerow", "../../cmd/hedgerow-edge")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-short", "-rate", "50", "-binaries", binaries, "f16"}, &out, &errs); code != 0 {
		t.Errorf("exit code %d:\n%s%s", code, out.String(), errs.String())
	}
	t.Log(out.String())
}
