package mqttbridge

import (
	"bytes"
	"context"

	"golang.org/x/sync/semaphore"
)

// laneKey is what order is kept for: one publisher's messages on one topic.
type laneKey struct{ client, topic string }

// lane is the queue of one key; the first item is being delivered. A lane and
// its goroutine exist while it has items.
type lane struct{ items []*item }

// item is a message on its way, from its reception to its outcome.
type item struct {
	ctx      context.Context // of the face: ends when nobody waits for the outcome any more
	message  Message
	id       string
	rule     *rule
	captures map[string]string
	// failFast ends the delivery when the service refuses the message for
	// good; otherwise it is tried again at the rule's slowest pace, because
	// giving up would either lose it or stop the face.
	failFast bool
	cost     int64 // of room
	room     *semaphore.Weighted
	done     []func(error) // told the outcome; more than one if duplicates joined
}

// submit queues it, which has been admitted. If the bridge is closed its
// outcome is reported at once.
func (b *Bridge) submit(it *item) {
	it.id = b.messageID()
	b.account.receive()
	key := laneKey{it.message.Client, it.message.Topic}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		refusal := &Refusal{Reason: ReasonShutdown}
		b.account.finish(it.message.QoS, refusal)
		b.settle(it, refusal, it.done)
		return
	}
	l := b.lanes[key]
	if l == nil {
		l = &lane{}
		b.lanes[key] = l
		b.wg.Go(func() { b.drain(key, l) })
	}
	l.items = append(l.items, it)
	b.mu.Unlock()
}

// join lets a duplicate wait for the outcome of the message it repeats, if
// that one is still in its lane. An acknowledgement is what frees a packet id,
// so a repeated id with DUP is the same message; topic and payload are
// compared all the same, because senders have defects.
func (b *Bridge) join(dup *item) bool {
	m := &dup.message
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lanes[laneKey{m.Client, m.Topic}]
	if l == nil {
		return false
	}
	for _, it := range l.items {
		w := &it.message
		if w.QoS > 0 && w.PacketID == m.PacketID && bytes.Equal(w.Payload, m.Payload) {
			it.ctx = dup.ctx // the face that waits now
			it.done = append(it.done, dup.done...)
			return true
		}
	}
	return false
}

// drain delivers the items of a lane in order until there are none.
func (b *Bridge) drain(key laneKey, l *lane) {
	for {
		b.mu.Lock()
		if len(l.items) == 0 {
			delete(b.lanes, key)
			b.mu.Unlock()
			return
		}
		it := l.items[0]
		b.mu.Unlock()

		var err error
		if b.spool != nil && it.message.QoS > 0 && b.queue.has(key) {
			err = &Refusal{Reason: ReasonTimeout} // the one before it was spooled: it must not overtake
		} else {
			err = b.deliver(it)
		}
		safe := b.rescue(it, err)

		// Removed before it is reported: from here on no duplicate can join,
		// and all that did are told.
		b.mu.Lock()
		if r := asRefusal(err); r != nil && r.Reason == ReasonSenderGone && it.ctx.Err() == nil {
			b.mu.Unlock() // its sender had gone, and came back at this moment
			continue
		}
		l.items[0] = nil
		l.items = l.items[1:]
		done := it.done
		b.mu.Unlock()
		if safe {
			err = nil
		} else {
			b.account.finish(it.message.QoS, asRefusal(err))
		}
		b.settle(it, err, done)
	}
}

// settle frees the room and reports the outcome, which was counted.
func (b *Bridge) settle(it *item, err error, done []func(error)) {
	it.room.Release(it.cost)
	for _, d := range done {
		d(err)
	}
}

// waiting returns the context of the face that waits for it now.
func (b *Bridge) waiting(it *item) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return it.ctx
}
