package mqttbridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

const (
	// DefaultMaxAge is how long a message is kept whose rule does not say.
	DefaultMaxAge = 7 * 24 * time.Hour

	// deliveredWait is how long a message of ack DELIVERED waits for its service
	// before it is spooled.
	deliveredWait = 10 * time.Second

	// spoolRetry is how long a message waits that the disk did not give.
	spoolRetry = time.Second
)

// Reasons of a Refusal that the spool has.
const (
	ReasonSpoolFull   = "spool_full"
	ReasonSpoolFailed = "spool_failed"
	ReasonTooLarge    = "too_large"
)

// Reasons of dead letters, beside those of Refusals.
const (
	reasonExpired = "expired"
	reasonDamaged = "damaged" // it is put aside, and cannot be replayed
)

// openSpool opens Options.Spool.
func (b *Bridge) openSpool() error {
	if b.opts.Spool.Dir == "" {
		return nil
	}
	var err error
	b.spool, err = spool.Open(b.opts.Spool, b.kept)
	return err
}

// kept takes a message that is on disk now, whoever put it there.
func (b *Bridge) kept(k spool.Kept) {
	if k.Appended {
		b.account.store()
	} else {
		b.account.recover()
	}
	key := lineKey{laneKey: laneKey{k.Client, k.Topic}}
	if r, _, _ := b.table.Load().match(k.Topic); r != nil && r.source.Ordering == mesh.NoOrder {
		key.number = k.Seq
	}
	b.queue.add(key, k.Seq)
}

// spools reports whether it is acknowledged when it is on disk.
func (b *Bridge) spools(it *item) bool {
	return b.spool != nil && it.rule.source.Ack != mesh.AckDelivered
}

// keep puts it, which was received, into the spool. done is told the outcome, nil once
// it is on disk.
func (b *Bridge) keep(ctx context.Context, it *item, done func(error)) {
	err := b.spool.Start(ctx, b.record(it), func(_ uint64, err error) {
		if err != nil {
			done(b.refuse(it, spoolRefusal(err)))
			return
		}
		done(nil)
	})
	if err != nil {
		done(b.refuse(it, spoolRefusal(err)))
	}
}

// refuse counts that it was not taken.
func (b *Bridge) refuse(it *item, refusal *Refusal) error {
	b.account.finish(it.message.QoS, refusal)
	return refusal
}

func spoolRefusal(err error) *Refusal {
	switch {
	case errors.Is(err, spool.ErrFull):
		return &Refusal{Reason: ReasonSpoolFull}
	case errors.Is(err, spool.ErrTooLarge):
		return &Refusal{Reason: ReasonTooLarge}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Reason: ReasonSenderGone}
	}
	return &Refusal{Reason: ReasonSpoolFailed}
}

// rescue puts it, which was not delivered, into the spool, and reports whether it is
// there: what took too long, and what its service refuses for good if its sender would
// not learn of that. There it becomes a dead letter.
func (b *Bridge) rescue(it *item, err error) bool {
	refusal := asRefusal(err)
	if b.spool == nil || refusal == nil || it.message.QoS == 0 {
		return false
	}
	late := refusal.Reason == ReasonTimeout || refusal.Reason == ReasonBadRule
	if !late && (it.failFast || !refusal.Permanent()) {
		return false
	}
	kept := make(chan error, 1)
	if b.spool.Start(b.hard, b.record(it), func(_ uint64, err error) { kept <- err }) != nil {
		return false
	}
	return <-kept == nil
}

// record returns it as it is kept.
func (b *Bridge) record(it *item) *spool.Record {
	age := DefaultMaxAge
	if r := it.rule.source.Retry; r != nil {
		age = r.MaxAge.Or(DefaultMaxAge)
	}
	now := time.Now()
	expires := now.Add(age)
	if b.opts.Clock != nil && b.opts.Clock() != nil {
		expires = time.Time{}
	}
	return &spool.Record{
		Received: now, Expires: expires, QoS: it.message.QoS,
		ID: it.id, Client: it.message.Client, Topic: it.message.Topic, Rule: it.rule.name, Payload: it.message.Payload,
	}
}

// work delivers spooled messages from the first rules on until the queue is closed.
func (b *Bridge) work(ctx context.Context) {
	select {
	case <-b.ready:
	case <-ctx.Done():
		return
	}
	for {
		l, seq, attempt := b.queue.next()
		if l == nil {
			return
		}
		if delay, again := b.deliverSpooled(seq, attempt); again {
			b.queue.retry(l, delay)
		} else {
			b.queue.finish(l)
		}
	}
}

// deliverSpooled tries one message once. again says that it stays, and is to be tried
// after delay.
func (b *Bridge) deliverSpooled(seq uint64, attempt int) (delay time.Duration, again bool) {
	r, err := b.spool.Load(seq)
	switch {
	case errors.Is(err, spool.ErrGone):
		return 0, false
	case errors.Is(err, spool.ErrFailed):
		b.log.Error().Err(err).Uint64("seq", seq).Msg("a spooled message could not be read, it is tried again")
		return spoolRetry, true
	case err != nil:
		return b.setAside(seq, err)
	case !r.Expires.IsZero() && time.Now().After(r.Expires):
		return b.bury(seq, &r, reasonExpired)
	}
	it, held := b.spooledItem(&r)
	if held != nil {
		return defaultBackoffMax/2 + jitter(defaultBackoffMax/2), true
	}
	refusal, retryAfter := b.attempt(it)
	switch {
	case refusal == nil:
		b.spool.Remove(seq)
		b.account.deliverStored()
		return 0, false
	case refusal.Permanent():
		return b.bury(seq, &r, refusal.Reason)
	}
	delay = max(backoff(it.rule.backoffBase, it.rule.backoffMax, attempt), retryAfter)
	b.log.Warn().Str("topic", clip(r.Topic)).Str("rule", it.rule.name).Str("reason", refusal.Reason).
		Int("attempt", attempt+1).Dur("retry_in", delay).Str("message_id", it.id).Msg("spooled message not delivered yet")
	return delay, true
}

// spooledItem returns the message as it is sent, or why it cannot be now: the rule that
// matched when it came is gone or does not compile. Then it waits, until there is a rule
// again or it expires.
func (b *Bridge) spooledItem(r *spool.Record) (*item, error) {
	rule, captures, err := b.table.Load().match(r.Topic)
	switch {
	case rule == nil:
		return nil, ErrUnrouted
	case err != nil:
		return nil, err
	case rule.err != nil:
		return nil, rule.err
	}
	return &item{
		ctx:     b.soft,
		message: Message{Topic: r.Topic, Payload: r.Payload, QoS: r.QoS, Client: r.Client},
		id:      b.spooledID(r),
		rule:    rule, captures: captures,
	}, nil
}

// spooledID returns what a message is called, for ever: <node>/<epoch>/<sequence>, the epoch
// that of the spool that it came to first, or the name that it had before it was spooled.
func (b *Bridge) spooledID(r *spool.Record) string {
	if r.ID != "" {
		return r.ID
	}
	return fmt.Sprintf("%s/%016x/%d", b.opts.Node, r.Epoch, r.Number)
}

// setAside gives up a message that is not what was written, so that it holds up no other.
func (b *Bridge) setAside(seq uint64, damage error) (delay time.Duration, again bool) {
	if err := b.spool.SetAside(b.hard, seq); err != nil && !errors.Is(err, spool.ErrGone) {
		b.log.Error().Err(err).Uint64("seq", seq).Msg("a damaged message could not be put aside, it is tried again")
		return spoolRetry, true
	}
	b.account.buryStored(reasonDamaged)
	b.log.Error().Err(damage).Uint64("seq", seq).Msg("a message in the spool is not what was written: it was put aside")
	return 0, false
}

// bury makes a dead letter of a message, which stays if the disk does not take that.
func (b *Bridge) bury(seq uint64, r *spool.Record, reason string) (delay time.Duration, again bool) {
	if err := b.spool.Bury(b.hard, seq, reason); err != nil && !errors.Is(err, spool.ErrGone) {
		b.log.Error().Err(err).Str("topic", clip(r.Topic)).Str("reason", reason).Msg("a message could not be made a dead letter, it is tried again")
		return spoolRetry, true
	}
	b.account.buryStored(reason)
	b.log.Warn().Str("topic", clip(r.Topic)).Str("rule", r.Rule).Str("reason", reason).
		Str("message_id", b.spooledID(r)).Msg("message given up, it is a dead letter now")
	return 0, false
}
