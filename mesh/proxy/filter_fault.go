package proxy

import (
	"context"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// CodeFault is that of a request that a filter aborted on purpose.
const CodeFault = "fault_injected"

// fault is a compiled mesh.Fault.
type fault struct {
	delay time.Duration // 0 is none
	abort int           // 0 is not
	share float64       // of the requests
}

func compileFault(f *mesh.Fault) *fault {
	return &fault{delay: f.Delay.Or(0), abort: int(f.Abort), share: percent(f.Percent)}
}

// inject delays or aborts x if the lot falls on it.
func (f *fault) inject(x *exchange) *failure {
	if f == nil || another(x.draw, drawFault) >= f.share {
		return nil
	}
	if f.delay > 0 {
		timer := time.NewTimer(f.delay)
		defer timer.Stop()
		ctx := x.context()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return x.classify(context.Cause(ctx))
		}
	}
	if f.abort == 0 {
		return nil
	}
	return &failure{Refusal: Refusal{f.abort, CodeFault, "a filter of the route aborts requests on purpose"}, kind: failedFault}
}
