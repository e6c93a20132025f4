package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fakePrograms makes a directory with something to run under our names.
func fakePrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"hedgerow", "hedgerow-edge"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDefaults(t *testing.T) {
	bin := fakePrograms(t)
	for _, b := range benches() {
		for _, args := range [][]string{{b.name, "-binaries", bin}, {b.name, "-binaries", bin, "-short"}} {
			want := b.full
			if len(args) == 4 {
				want = b.brief
			}
			want.binaries = bin
			_, got, err := parse(benches(), args)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: got %+v, %v, want %+v", args, got, err, want)
			}
		}
		if b.pauses == "" || b.brief.duration >= b.full.duration || b.brief.repeat >= b.full.repeat {
			t.Errorf("%s: a short run is not shorter than a full one", b.name)
		}
	}
}

func TestParse(t *testing.T) {
	bin := fakePrograms(t)
	profiles := filepath.Join(t.TempDir(), "new")
	_, got, err := parse(benches(), []string{
		"chain", "-connections", "32", "-repeat", "3", "-duration", "3s", "-only", "hedgerow,haproxy", "-methods", "GET",
		"-rate", "0", "-short", "-binaries", bin, "-pprof", profiles,
	})
	want := settings{
		duration: 3 * time.Second, repeat: 3, connections: numbers{32}, methods: words{"GET"}, only: words{"hedgerow", "haproxy"},
		binaries: bin, profiles: profiles,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if info, err := os.Stat(profiles); err != nil || !info.IsDir() {
		t.Errorf("the directory of profiles was not made: %v", err)
	}
	file := filepath.Join(t.TempDir(), "unmarked.md")
	if err := os.WriteFile(file, []byte("# Figures\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"", "usage: bench chain | gateway | stream | grpc | memory"},
		{"speed", "usage: bench"},
		{"chain -fast", "not defined: -fast"},
		{"chain fast", `"fast" is not a flag`},
		{"chain -duration 1ms", "-duration 1ms"},
		{"chain -duration 2h", "-duration 2h"},
		{"chain -repeat 0", "-repeat 0"},
		{"chain -repeat 101", "-repeat 101"},
		{"chain -rate -1", "-rate -1"},
		{"chain -connections 0", "-connections 0"},
		{"chain -connections 1,2001", "-connections 2001"},
		{"chain -connections a", `"a" is not a number`},
		{"chain -connections ", "is not a number"},
		{"chain -methods PUT", `-methods "PUT"`},
		{"chain -only haproxy", "hedgerow is not among them"},
		{"chain -only hedgerow,envoy", `-only "envoy"`},
		{"chain -size 5", "not defined: -size"},
		{"stream -size -5", "-size -5"},
		{"stream -connections 5", "not defined: -connections"},
		{"memory -endpoints 60001", "-endpoints 60001"},
		{"memory -markdown " + file, "there are no marks for bench memory"},
		{"memory -binaries /nowhere", "run `make build`"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Split(tt.args, " ")
			if len(args) > 1 && args[1] != "-binaries" {
				args = append([]string{args[0], "-binaries", bin}, args[1:]...)
			}
			if _, _, err := parse(benches(), args); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, _, err := parse(benches(), []string{"chain", "-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}
