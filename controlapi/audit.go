package controlapi

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// An Audit keeps what was asked for, and by whom. *auditlog.Log is one.
type Audit interface {
	// Append writes an entry; with sync it returns once that is safe.
	Append(e auditlog.Entry, sync bool) error
}

var _ Audit = (*auditlog.Log)(nil)

const (
	// strangersPerSecond bounds what those who are not known have written to the disk.
	strangersPerSecond = 10
	// maxTargetBytes is as much of a path as an entry has.
	maxTargetBytes = 200
	maxAudited     = 100 // objects that an entry names
)

// auditor writes the audit log. A nil one writes nothing.
type auditor struct {
	log     Audit
	now     func() time.Time
	errors  zerolog.Logger
	metrics *metrics

	mu        sync.Mutex
	strangers bucket
	missed    int // failed authentications without an entry
}

func newAuditor(log Audit, now func() time.Time, errors zerolog.Logger, m *metrics) *auditor {
	if log == nil {
		return nil
	}
	return &auditor{log: log, now: now, errors: errors, metrics: m}
}

// accepted notes a write that is about to be stored. If that fails nothing may be stored:
// a write that nobody can account for is none.
func (a *auditor) accepted(ctx context.Context, p *plan) error {
	if a == nil {
		return nil
	}
	c := callerOf(ctx)
	e := auditlog.Entry{Time: a.now(), Outcome: auditlog.Accepted, Who: c.name, From: c.remote, Call: rpcOf(ctx), Revision: p.change.Head.Revision}
	for i, change := range p.changes {
		if i == maxAudited {
			e.Objects = append(e.Objects, "...")
			break
		}
		e.Objects = append(e.Objects, change.name)
	}
	if err := a.log.Append(e, true); err != nil {
		a.metrics.unaudited.Inc()
		return &mesh.Error{Op: "controlapi.audit", Kind: mesh.Unavailable, Err: err, Hint: mesh.HintOf(err)}
	}
	return nil
}

// failed notes that what was accepted could not be stored.
func (a *auditor) failed(ctx context.Context, p *plan, err error) {
	if a == nil {
		return
	}
	c := callerOf(ctx)
	a.append(auditlog.Entry{Outcome: auditlog.Failed, Who: c.name, From: c.remote, Call: rpcOf(ctx), Revision: p.change.Head.Revision, Code: classify(err)})
}

// allowed is accepted for what makes no revision, and is about one object.
func (a *auditor) allowed(ctx context.Context, name string) error {
	if a == nil {
		return nil
	}
	c := callerOf(ctx)
	e := auditlog.Entry{Time: a.now(), Outcome: auditlog.Accepted, Who: c.name, From: c.remote, Call: rpcOf(ctx), Objects: []string{name}}
	if err := a.log.Append(e, true); err != nil {
		a.metrics.unaudited.Inc()
		return &mesh.Error{Op: "controlapi.audit", Kind: mesh.Unavailable, Err: err, Hint: mesh.HintOf(err)}
	}
	return nil
}

// refused notes a write that was refused, or a caller who is not known. Reads that are
// refused are not noted.
func (a *auditor) refused(ctx context.Context, target string, err error) {
	if a == nil {
		return
	}
	c, rpc, code := callerOf(ctx), rpcOf(ctx), classify(err)
	if len(target) > maxTargetBytes {
		target = target[:maxTargetBytes] + "..."
	}
	e := auditlog.Entry{Outcome: auditlog.Refused, Who: c.name, From: c.remote, Call: rpc, Target: strings.ToValidUTF8(target, "?"), Code: code}
	switch {
	case code == codeUnauthenticated:
		e.Outcome = auditlog.Unauthenticated
		if !a.room(&e) {
			return
		}
	case code == codeRateLimited, c.err != nil, strings.HasPrefix(rpc, "Get"), strings.HasPrefix(rpc, "List"), rpc == "":
		return
	}
	a.append(e)
}

// room reports whether a stranger gets an entry, so that they cannot fill the disk.
func (a *auditor) room(e *auditlog.Entry) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.strangers.take(a.now(), strangersPerSecond, 10*strangersPerSecond) {
		a.missed++
		return false
	}
	e.Suppressed, a.missed = a.missed, 0
	return true
}

func (a *auditor) append(e auditlog.Entry) {
	e.Time = a.now()
	if err := a.log.Append(e, e.Outcome != auditlog.Unauthenticated); err != nil {
		a.metrics.unaudited.Inc()
		a.errors.Error().Err(err).Str("outcome", e.Outcome).Str("who", e.Who).Str("call", e.Call).Str("target", e.Target).Msg("this is not in the audit log")
	}
}

type rpcKey struct{}

func withRPC(ctx context.Context, rpc string) context.Context {
	return context.WithValue(ctx, rpcKey{}, rpc)
}

// rpcOf returns the RPC that ctx is of, "" if it is of none.
func rpcOf(ctx context.Context) string {
	rpc, _ := ctx.Value(rpcKey{}).(string)
	return rpc
}
