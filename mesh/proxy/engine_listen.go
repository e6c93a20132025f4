package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Site is a bound listener and what answers there.
type Site struct {
	Listener net.Listener
	Door     Door         // of the Engine that serves
	Handler  http.Handler // if there is no Door; net/http serves it
	TLS      *tls.Config  // nil for clear text
	// ProxyProtocol, of a Door, is nil if connections begin with TLS or HTTP.
	ProxyProtocol *Announcer
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

// running is one site that is served.
type running interface {
	// serve accepts until the listener fails or drain is called, which is no
	// error.
	serve() error
	// drain stops accepting and waits until what is under way has ended, or
	// ctx has: then it cuts the rest and reports that.
	drain(ctx context.Context) (cut bool, err error)
}

// Run serves plan until ctx ends or a listener fails, then drains: it stops
// accepting, asks clients to go (GOAWAY, Connection: close, closing idle
// connections), lets requests and WebSockets under way finish, and cuts those
// that outlive plan.Drain. It closes the engine and every listener. When Run
// returns, every goroutine that the engine started has ended.
func (e *Engine) Run(ctx context.Context, plan Plan) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var serving sync.WaitGroup
	serving.Go(func() { e.overload.run(failed) })
	serving.Go(func() { e.shared.run(failed) })
	serving.Go(func() { e.lives.run(failed) })
	start := func(s Site) running {
		r := e.site(ctx, s)
		if in, ok := s.Door.(*inbound); ok {
			serving.Go(func() { e.checkSelf(failed, s.Listener.Addr(), in) })
		}
		serving.Go(func() {
			if err := r.serve(); err != nil {
				fail(mesh.Errorf("proxy.Run", s.Listener.Addr().String(), mesh.Internal, "%w", err))
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
	e.Close()
	e.await(bounded.Done())
	if ctx.Err() == nil {
		errs = append(errs, context.Cause(failed))
	}
	return errors.Join(errs...)
}

func (e *Engine) site(ctx context.Context, s Site) running {
	if s.Door != nil {
		return newListener(e, s)
	}
	return newWebSite(ctx, e, s)
}

// drain drains the sites of one stage together.
func (e *Engine) drain(ctx context.Context, stage []running) []error {
	errs := make([]error, len(stage))
	var wg sync.WaitGroup
	for i, r := range stage {
		wg.Go(func() {
			cut, err := r.drain(ctx)
			if cut { // that they are was promised
				e.opt.Log.Warn().Msg("requests were cut: they outlived the drain")
			}
			if err != nil {
				errs[i] = mesh.Errorf("proxy.Run", "", mesh.Internal, "close: %w", err)
			}
		})
	}
	wg.Wait()
	return errs
}

// webSite is a site that net/http serves.
type webSite struct {
	srv *http.Server
	l   net.Listener
	end context.CancelFunc // of the requests' context
}

func newWebSite(ctx context.Context, e *Engine, s Site) *webSite {
	srv := e.opt.Limits.Server(s.Handler, s.TLS, e.metrics.serverLog(e.opt.Log))
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	srv.BaseContext = func(net.Listener) context.Context { return base }
	return &webSite{srv, s.Listener, end}
}

func (w *webSite) serve() error {
	var err error
	if w.srv.TLSConfig != nil {
		err = w.srv.ServeTLS(w.l, "", "")
	} else {
		err = w.srv.Serve(w.l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (w *webSite) drain(ctx context.Context) (bool, error) {
	defer w.end()
	if w.srv.Shutdown(ctx) == nil {
		return false, nil
	}
	return true, w.srv.Close()
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
