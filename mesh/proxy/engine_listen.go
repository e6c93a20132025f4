package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Site is a bound listener and what answers there.
type Site struct {
	Listener net.Listener
	Handler  http.Handler
	TLS      *tls.Config // nil for clear text
}

// Plan says what an engine serves, and in which order it leaves.
type Plan struct {
	// Stages are drained one after the other: while a request of the first is
	// being finished, those of the second are still accepted. A sidecar's
	// inbound comes before its outbound, because the workload may need the
	// second to finish what came by the first.
	Stages [][]Site
	Admin  Site          // served to the end
	Drain  time.Duration // for everything that is under way at the end
}

// running is one site's server. cut ends the context of its requests.
type running struct {
	srv  *http.Server
	name string
	cut  context.CancelFunc
}

// Run serves plan until ctx ends or a listener fails, then drains: it stops
// accepting, asks clients to go (GOAWAY, closing idle connections), lets
// requests and WebSockets under way finish, and cuts those that outlive
// plan.Drain. It closes the engine and every listener. When Run returns, every
// goroutine that the engine started has ended.
func (e *Engine) Run(ctx context.Context, plan Plan) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var serving sync.WaitGroup
	start := func(s Site) running {
		srv := e.opt.Limits.Server(s.Handler, s.TLS, e.metrics.serverLog(e.opt.Log))
		base, cut := context.WithCancel(context.WithoutCancel(ctx))
		srv.BaseContext = func(net.Listener) context.Context { return base }
		r := running{srv, s.Listener.Addr().String(), cut}
		l := netutil.LimitListener(s.Listener, e.opt.Limits.Connections)
		serving.Go(func() {
			if err := serve(srv, l); !errors.Is(err, http.ErrServerClosed) {
				fail(mesh.Errorf("proxy.Run", r.name, mesh.Internal, "%w", err))
			}
		})
		return r
	}
	admin := start(plan.Admin)
	stages := make([][]running, len(plan.Stages))
	for i, sites := range plan.Stages {
		for _, s := range sites {
			stages[i] = append(stages[i], start(s))
		}
	}
	<-failed.Done()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), plan.Drain)
	defer cancel()
	var errs []error
	for _, stage := range stages {
		errs = append(errs, e.drain(bounded, stage)...)
	}
	e.tunnels.drain(bounded.Done())
	errs = append(errs, e.drain(bounded, []running{admin})...)
	serving.Wait()
	e.handlers.Wait()
	e.Close()
	if ctx.Err() == nil {
		errs = append(errs, context.Cause(failed))
	}
	return errors.Join(errs...)
}

func serve(srv *http.Server, l net.Listener) error {
	if srv.TLSConfig != nil {
		return srv.ServeTLS(l, "", "")
	}
	return srv.Serve(l)
}

// drain shuts the servers of one stage down together.
func (e *Engine) drain(ctx context.Context, stage []running) []error {
	errs := make([]error, len(stage))
	var wg sync.WaitGroup
	for i, r := range stage {
		wg.Go(func() {
			defer r.cut()
			if r.srv.Shutdown(ctx) == nil {
				return
			}
			// Some requests outlived the drain. That they are cut was promised.
			e.opt.Log.Warn().Str("listener", r.name).Msg("requests were cut: they outlived the drain")
			if err := r.srv.Close(); err != nil {
				errs[i] = mesh.Errorf("proxy.Run", r.name, mesh.Internal, "close: %w", err)
			}
		})
	}
	wg.Wait()
	return errs
}

// ListenAll binds every address, or none.
func ListenAll(addresses ...string) ([]net.Listener, error) {
	var out []net.Listener
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			errs := []error{mesh.Errorf("proxy.Listen", a, mesh.Unavailable, "%w", err).WithHint("is another process listening there? choose another address")}
			for _, open := range out {
				errs = append(errs, open.Close())
			}
			return nil, errors.Join(errs...)
		}
		out = append(out, l)
	}
	return out, nil
}

// Discard closes the engine and the listeners of a plan that was never run.
func (e *Engine) Discard(plan Plan) error {
	errs := []error{plan.Admin.Listener.Close()}
	for _, stage := range plan.Stages {
		for _, s := range stage {
			errs = append(errs, s.Listener.Close())
		}
	}
	e.Close()
	return errors.Join(errs...)
}
