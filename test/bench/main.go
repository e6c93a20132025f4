// Command bench measures what our proxies cost, with HAProxy and nginx beside
// them in the same run:
//
//	bench chain [flags]    CPU, throughput and latency of two sidecars
//	bench gateway [flags]  the same of a gateway that terminates TLS
//	bench stream [flags]   long bodies through two sidecars, and their memory
//	bench grpc [flags]     calls of gRPC through two sidecars
//	bench memory [flags]   memory of a sidecar that idles, holds connections, knows many endpoints
//	bench table [flags]    a decision among few routes and among many, and compiling them
//
// Ours are real processes on a real Redis and Vault, configured as an operator
// would; the peers are the distribution's, configured by the files in peers/.
// Each round measures everybody in turn, and a ratio is the median of the
// ratios of each round: what the machine did meanwhile, it did to all of them.
//
// A run in which a request failed, or a body was wrong, or HAProxy's own cost
// swung too far between rounds, calls itself void: its last line says why, and
// the exit code is 1. Otherwise the last line has the figures. It builds and
// installs nothing: `make bench-chain` and test/bench/deps do. It ends every
// process that it started, also on Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/hedgerow-mesh/hedgerow/test/bench/call"
	"github.com/hedgerow-mesh/hedgerow/test/bench/stream"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // from now on a signal has its default effect
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// bench is one subcommand.
type bench struct {
	name   string
	pauses string   // what the duration is for
	full   settings // unless flags say otherwise
	brief  settings // with -short
	// play measures. Its error says why the run does not count; the report, if
	// there is one, is shown even so.
	play func(*world) (*report, error)
}

func benches() []bench {
	return []bench{
		chainBench(),
		gatewayBench(),
		streamBench(),
		grpcBench(),
		memoryBench(),
		tableBench(),
	}
}

// serveVerb and answerVerb make this program the workload of the stream and the grpc
// bench, at the address that follows.
const (
	serveVerb  = "serve"
	answerVerb = "answer"
)

// run runs one bench and returns the exit code: 1 if it is void or could not be
// run, 2 if the command line is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 2 && (args[0] == serveVerb || args[0] == answerVerb) {
		serve := stream.Serve
		if args[0] == answerVerb {
			serve = call.Serve
		}
		if err := serve(ctx, args[1]); err != nil {
			return complain(stderr, 1, err)
		}
		return 0
	}
	b, s, err := parse(benches(), args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return complain(stderr, 2, err)
	}
	about, err := describe(ctx, s.binaries)
	if err != nil {
		return complain(stderr, 1, err)
	}
	about.run = fmt.Sprintf("bench %s: rounds %d, -duration %v", b.name, s.repeat, s.duration)
	// A second thread of ours would only take the other core from the proxies.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	return perform(ctx, b, s, about, stdout, stderr)
}

// perform plays a bench, prints what it found and returns the exit code.
func perform(ctx context.Context, b bench, s settings, about machine, stdout, stderr io.Writer) int {
	out := &printer{w: stdout}
	out.print(about.text())
	r, err := playOn(ctx, b, s, stderr)
	if r == nil {
		r = &report{}
	}
	if err != nil {
		_ = complain(stderr, 1, err) // in full; the last line has it in brief
		r.void, _, _ = strings.Cut(err.Error(), "\n")
	} else if s.markdown != "" {
		out.err = writeMarkdown(s.markdown, b.name, about.markdown()+r.markdown())
	}
	out.print(r.text())
	out.print(r.lastLine())
	if out.err != nil || err != nil {
		return complain(stderr, 1, out.err)
	}
	return 0
}

// playOn plays a bench. When it returns, all that was started has ended.
func playOn(ctx context.Context, b bench, s settings, progress io.Writer) (r *report, err error) {
	var why error
	err = stage.Run(ctx, b.name, func(t *stage.T) {
		r, why = b.play(&world{t: t, settings: s, progress: progress})
	})
	if ctx.Err() != nil {
		return r, errors.New("interrupted")
	}
	return r, errors.Join(why, err)
}

// printer keeps the first error of printing, and prints nothing after it.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) print(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, text)
	}
}

// complain prints err, if there is one, and returns the exit code.
func complain(stderr io.Writer, code int, err error) int {
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err) //nolint:errcheck // nowhere else to say it
	}
	return code
}
