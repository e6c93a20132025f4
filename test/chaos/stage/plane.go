package stage

import (
	"fmt"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// readyMost is how long a data plane may take to serve, on a loaded machine.
const readyMost = 30 * time.Second

// Limits is what a process is started under. The zero value is no limits.
type Limits struct {
	Files int      // file descriptors, hard and soft
	Group string   // the cgroup.procs file to enter
	Env   []string // "NAME=value", beside the environment of this process
}

// apply returns the command that runs c under the limits: they are set by a
// shell, which then becomes the program, so that the process has its id.
func (l Limits) apply(c rig.Command) rig.Command {
	var script []string
	if l.Group != "" {
		script = append(script, fmt.Sprintf("echo $$ > %q", l.Group))
	}
	if l.Files > 0 {
		script = append(script, fmt.Sprintf("ulimit -n %d", l.Files))
	}
	script = append(script, `exec "$0" "$@"`)
	c.Args = append([]string{"-c", strings.Join(script, " && "), c.Program}, c.Args...)
	c.Program = "/bin/sh"
	c.Env = append(c.Env, l.Env...)
	return c
}

// Plane is a sidecar or a gateway, which may be ended and started again at the
// same addresses. Its methods belong to the row's goroutine; Pid and Admin may
// be used by others while it is not started again.
type Plane struct {
	*rig.Process // the one that was started last
	Admin        proc.Admin
	Inbound      string // of a sidecar: where peers come in, "127.0.0.1:port"
	Outbound     string // of a sidecar: where the workload calls out
	Public       string // of a gateway: in clear text
	Secure       string // of a gateway: over TLS

	t       *T
	command rig.Command
}

// Start starts the process under limits and returns when it is ready.
func (p *Plane) Start(limits Limits) {
	p.t.Helper()
	p.launch(limits)
	p.ready()
}

// Launch starts the process with another program, in an environment, and does not wait
// until it is ready.
func (p *Plane) Launch(program string, env ...string) {
	p.t.Helper()
	was := p.command.Program
	p.command.Program = program
	p.launch(Limits{Env: env})
	p.command.Program = was
}

func (p *Plane) launch(limits Limits) {
	p.t.Helper()
	p.Process = rig.Start(p.t, limits.apply(p.command))
}

func (p *Plane) ready() {
	p.t.Helper()
	p.Until(readyMost, "is ready", p.Admin.Ready)
}
