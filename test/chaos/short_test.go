package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestShortForms plays rows of each target about trust in their short forms: certificates are
// renewed and their CA changes, and no request and no stream notices; a node is shut out; who owns
// Redis is refused, and is not where the check is missing that stands against it.
func TestShortForms(t *testing.T) {
	binaries := t.TempDir()
	build := exec.Command("go", "build", "-pgo=off", "-o", binaries+"/", "../../cmd/hedgerow", "../../cmd/hedgerow-edge")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	if out, err := exec.Command("./unchecked", filepath.Join(binaries, unchecked)).CombinedOutput(); err != nil {
		t.Fatalf("build the program whose checks can be taken out: %v\n%s", err, out)
	}
	for _, name := range []string{"f16", "quarantine", "owner", "thief"} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(t.Context(), []string{"-short", "-rate", "50", "-binaries", binaries, name}, &out, &errs); code != 0 {
				t.Errorf("exit code %d:\n%s%s", code, out.String(), errs.String())
			}
			t.Log(out.String())
		})
	}
}
