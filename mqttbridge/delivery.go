package mqttbridge

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// ErrUnrouted is returned by Deliver for a message that no rule matches. It is
// not the bridge's: a face treats it as if there were no bridge, which includes
// acknowledging it.
var ErrUnrouted = errors.New("no topic rule matches")

// A Refusal says why a message was not delivered. Its sender was not told that
// it was: the face must not acknowledge it, but for the reasons bad_capture and
// bad_device, which will be the same for ever.
type Refusal struct {
	Reason string // one of the Reason constants, or "http_<status>"
	Status int    // of the last response, 0 if there was none
}

// Reasons of a Refusal, besides "http_<status>". They are the label values of
// the refused and dropped counters.
const (
	ReasonBadCapture = "bad_capture"  // a captured level cannot be a path segment
	ReasonBadDevice  = "bad_device"   // the captured device cannot be a header value
	ReasonBadRule    = "bad_rule"     // the rule does not compile
	ReasonNetwork    = "network"      // no response
	ReasonTimeout    = "timeout"      // the sender's or the message's time is over
	ReasonSenderGone = "sender_gone"  // nobody waits for the acknowledgement
	ReasonShutdown   = "shutdown"     // the bridge ends
	ReasonOverloaded = "overloaded"   // no room to wait
	reasonOther      = "http_invalid" // a status outside 100..599
)

// Error says "not delivered: reason".
func (r *Refusal) Error() string { return "not delivered: " + r.Reason }

// Permanent reports whether the same message would be refused again.
func (r *Refusal) Permanent() bool {
	return r.Reason == ReasonBadCapture || r.Reason == ReasonBadDevice || r.Status >= 300 && !retryable(r.Status)
}

// asRefusal returns the *Refusal that err is, or nil if err is nil.
func asRefusal(err error) *Refusal {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return &Refusal{Reason: ReasonNetwork}
}

// deliver tries it until the service accepts it, its context ends, the bridge
// ends, or the service refuses it and it.failFast is set.
func (b *Bridge) deliver(it *item) error {
	var last *Refusal // of the previous attempt
	for attempt := 0; ; attempt++ {
		if refusal := b.ended(it, last); refusal != nil {
			return refusal
		}
		// The table is read after the channel that says it was replaced, so
		// that a replacement in between wakes the wait below.
		t := b.table.Load()
		if r, captures, err := t.match(it.message.Topic); r != nil && err == nil {
			it.rule, it.captures = r, captures
		}
		var retryAfter time.Duration
		last, retryAfter = b.attempt(it)
		if last == nil {
			return nil
		}
		refused := last.Permanent() || last.Reason == ReasonBadRule
		if refused && (it.failFast || b.spool != nil) {
			return last
		}
		delay := backoff(it.rule.backoffBase, it.rule.backoffMax, attempt)
		if refused {
			delay = it.rule.backoffMax/2 + jitter(it.rule.backoffMax/2)
		}
		b.log.Warn().Str("topic", clip(it.message.Topic)).Str("rule", it.rule.name).Str("reason", last.Reason).
			Int("attempt", attempt+1).Dur("retry_in", delay).Str("message_id", it.id).Msg("message not delivered yet")
		b.pause(it, t, max(delay, retryAfter))
	}
}

// ended returns why it may not be tried again, or nil.
func (b *Bridge) ended(it *item, last *Refusal) *Refusal {
	refusal := &Refusal{}
	if last != nil {
		refusal.Status = last.Status
	}
	ctx := b.waiting(it)
	switch {
	case b.soft.Err() != nil:
		refusal.Reason = ReasonShutdown
	case ctx.Err() == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		refusal.Reason = ReasonTimeout
	default:
		refusal.Reason = ReasonSenderGone
	}
	return refusal
}

// pause waits for d, or until it need not wait any longer: its context or the
// bridge ended, or its rule was changed, which may be the repair.
func (b *Bridge) pause(it *item, t *table, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-b.soft.Done():
			return
		case <-b.waiting(it).Done():
			return
		case <-t.replaced:
			t = b.table.Load()
			if r, _, _ := t.match(it.message.Topic); r != nil && r != it.rule {
				return
			}
		}
	}
}

// attempt sends it once. It returns nil after a 2xx.
func (b *Bridge) attempt(it *item) (refusal *Refusal, retryAfter time.Duration) {
	ctx, cancel := b.attemptContext(it)
	defer cancel()
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return &Refusal{Reason: ReasonOverloaded}, 0
	}
	start := time.Now()
	defer func() {
		result := "accepted"
		if refusal != nil {
			result = refusal.Reason
		}
		b.metrics.attempts.WithLabelValues(result).Inc()
		b.metrics.duration.Observe(time.Since(start).Seconds())
	}()
	req, err := it.rule.request(ctx, it)
	if err != nil {
		return &Refusal{Reason: ReasonBadRule}, 0
	}
	resp, err := b.opts.RoundTripper.RoundTrip(req)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &Refusal{Reason: ReasonTimeout}, 0
		}
		return &Refusal{Reason: ReasonNetwork}, 0
	}
	// Read what is left so that the connection can be used again. The status
	// has decided; a broken or long body changes nothing.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil, 0
	}
	return &Refusal{Reason: statusReason(resp.StatusCode), Status: resp.StatusCode}, parseRetryAfter(resp.Header)
}

// attemptContext bounds one attempt by DeliveryTimeout and by the deadline of
// its face. When the face only goes away the attempt runs on: it may succeed,
// and cutting it would make a duplicate more likely, not less.
func (b *Bridge) attemptContext(it *item) (context.Context, context.CancelFunc) {
	end := time.Now().Add(b.opts.DeliveryTimeout)
	if deadline, ok := b.waiting(it).Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	return context.WithDeadline(b.hard, end)
}

// retryable reports whether a later attempt may succeed: the service is busy,
// away or failing, not refusing.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

func statusReason(status int) string {
	if status < 100 || status > 599 {
		return reasonOther
	}
	return "http_" + strconv.Itoa(status)
}

// backoff returns the wait after the given attempt, counted from 0: full
// jitter, a random time up to base * 2^attempt, at most limit.
func backoff(base, limit time.Duration, attempt int) time.Duration {
	ceiling := limit
	if attempt < 32 && base<<attempt>>attempt == base {
		ceiling = min(limit, base<<attempt)
	}
	return jitter(ceiling)
}

// jitter returns a random duration in (0, limit].
func jitter(limit time.Duration) time.Duration {
	return rand.N(max(limit, 1)) + 1
}

// parseRetryAfter reads Retry-After (RFC 9110, 10.2.3), at most maxRetryAfter.
func parseRetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if seconds, err := strconv.Atoi(v); err == nil {
		return min(max(time.Duration(min(seconds, 1e6))*time.Second, 0), maxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
