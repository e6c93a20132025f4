package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settings is what the command line says. Each bench has its own defaults; what
// is zero or nil there is no flag of it.
type settings struct {
	duration    time.Duration // see bench.pauses
	repeat      int           // rounds
	connections numbers       // each is a point
	methods     words         // each is a point
	only        words         // programs that are measured
	rate        int           // requests a second of the open loop
	size        int64         // bytes of a long body
	endpoints   int           // of one service
	routes      numbers       // each is a point
	binaries    string        // the directory with our programs
	markdown    string        // the file that gets the tables; none if empty
	profiles    string        // the directory that gets CPU profiles; none if empty
}

// parse reads the command line: the name of a bench, and its flags.
func parse(all []bench, args []string) (bench, settings, error) {
	var names []string
	for _, b := range all {
		names = append(names, b.name)
		if len(args) > 0 && args[0] == b.name {
			s, err := parseFlags(b, args[1:])
			return b, s, err
		}
	}
	return bench{}, settings{}, fmt.Errorf("usage: bench %s [flags]", strings.Join(names, " | "))
}

func parseFlags(b bench, args []string) (settings, error) {
	s := b.full
	flags, short := s.flags(b)
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if *short {
		// Once more over the other defaults. It cannot fail any more.
		s = b.brief
		flags, _ = s.flags(b)
		if err := flags.Parse(args); err != nil {
			return s, err
		}
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("%q is not a flag", flags.Arg(0))
	}
	return s, s.check(b.name)
}

// flags returns the flags that change s.
func (s *settings) flags(b bench) (flags *flag.FlagSet, short *bool) {
	flags = flag.NewFlagSet("bench "+b.name, flag.ContinueOnError)
	short = flags.Bool("short", false, "a short run with defaults of its own: shows that it works, not how fast")
	flags.DurationVar(&s.duration, "duration", s.duration, b.pauses)
	flags.IntVar(&s.repeat, "repeat", s.repeat, "rounds")
	flags.Var(&s.only, "only", "comma-separated programs to measure; hedgerow is always one")
	flags.StringVar(&s.binaries, "binaries", "bin", "directory with hedgerow and hedgerow-edge")
	flags.StringVar(&s.markdown, "markdown", "", "file to write the tables into, between its marks for this bench; made if absent")
	if s.routes != nil {
		flags.Var(&s.routes, "routes", "comma-separated numbers of routes, the least first")
	}
	if s.connections != nil {
		flags.Var(&s.connections, "connections", "comma-separated numbers of connections")
	}
	if s.methods != nil {
		flags.Var(&s.methods, "methods", "comma-separated methods: GET, POST")
		flags.StringVar(&s.profiles, "pprof", "", "directory to write CPU profiles of our processes into, of the first round")
	}
	if s.rate > 0 {
		flags.IntVar(&s.rate, "rate", s.rate, "requests a second of the open loop; 0 leaves it out")
	}
	if s.size > 0 {
		flags.Int64Var(&s.size, "size", s.size, "bytes of a body")
	}
	if s.endpoints > 0 {
		flags.IntVar(&s.endpoints, "endpoints", s.endpoints, "instances of one service")
	}
	return flags, short
}

// check reports everything that is wrong, and makes paths absolute: processes
// run in directories of their own.
func (s *settings) check(name string) error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(s.duration < 100*time.Millisecond || s.duration > time.Hour, "-duration %v: it is 100ms to 1h", s.duration)
	wrong(s.repeat < 1 || s.repeat > 100, "-repeat %d: it is 1 to 100", s.repeat)
	wrong(s.rate < 0 || s.rate > 100_000, "-rate %d: it is 0 to 100000", s.rate)
	wrong(s.size < 0 || s.size > 1<<40, "-size %d: it is 1 byte to 1 TiB", s.size)
	wrong(s.endpoints < 0 || s.endpoints > 60_000, "-endpoints %d: it is 1 to 60000", s.endpoints)
	for _, n := range s.connections {
		wrong(n < 1 || n > 2000, "-connections %d: each is 1 to 2000", n)
	}
	for _, method := range s.methods {
		if name == grpcName {
			wrong(method != methodUnary, "-methods %q: it is %s", method, methodUnary)
		} else {
			wrong(method != get.Method && method != post.Method, "-methods %q: each is GET or POST", method)
		}
	}
	wrong(!slices.Contains(s.only, "hedgerow"), "-only %s: hedgerow is not among them", &s.only)
	for _, program := range s.only {
		wrong(!slices.Contains(programs, program), "-only %q: each is one of %v", program, programs)
	}
	for _, program := range []string{"hedgerow", "hedgerow-edge"} {
		if _, err := exec.LookPath(filepath.Join(s.binaries, program)); err != nil {
			errs = append(errs, fmt.Errorf("%w: run `make build`", err))
		}
	}
	var err error
	if s.binaries, err = filepath.Abs(s.binaries); err != nil {
		errs = append(errs, err)
	}
	if s.markdown != "" {
		errs = append(errs, checkMarkdown(s.markdown, name))
	}
	if s.profiles != "" {
		errs = append(errs, os.MkdirAll(s.profiles, 0o755))
	}
	return errors.Join(errs...)
}

// words is a flag: words with commas between them.
type words []string

func (w *words) String() string { return strings.Join(*w, ",") }

// Set implements flag.Value.
func (w *words) Set(list string) error {
	*w = strings.Split(list, ",")
	return nil
}

// numbers is a flag: whole numbers with commas between them.
type numbers []int

func (n *numbers) String() string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint([]int(*n)), " ", ","), "[]")
}

// Set implements flag.Value.
func (n *numbers) Set(list string) error {
	var all numbers
	for text := range strings.SplitSeq(list, ",") {
		number, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		all = append(all, number)
	}
	*n = all
	return nil
}
