// Package mqttbridge turns MQTT messages into requests to mesh services.
//
// A Bridge holds the compiled topic rules and delivers: it matches a message,
// builds the request, sends it through the mesh (routing, balancing, mTLS and
// authorization are the RoundTripper's) and tries again until the service
// answers 2xx. Messages that need not wait for their service to be acknowledged
// are kept in a spool meanwhile (package spool). Two faces feed it: External, a client of somebody else's broker,
// and the embedded broker in the package broker. Publish is the client side,
// for the command line.
//
// It sends nothing back to devices, and knows nothing of certificates or of where
// services run.
//
// Invariant: a message of QoS 1 or 2 that a rule matches is acknowledged only
// when it is on disk or the service has answered 2xx, and received + recovered =
// delivered + dead + refused + dropped + spooled + in flight, at every moment.
package mqttbridge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// Defaults of Options, and limits that are not configurable.
const (
	DefaultDeliveryTimeout = 10 * time.Second
	DefaultGrace           = 5 * time.Second
	DefaultMaxConcurrent   = 64
	DefaultMaxPendingBytes = 64 << 20

	defaultBackoffBase = 500 * time.Millisecond
	defaultBackoffMax  = 60 * time.Second
	maxRetryAfter      = 10 * time.Minute

	// messageOverhead is what a pending message costs besides its bytes. It
	// bounds the number of pending messages: 64 MiB hold at most 16384.
	messageOverhead = 4 << 10
)

// Options configure a Bridge. RoundTripper, Node and Registerer are required.
type Options struct {
	// RoundTripper carries requests to http://<service>.mesh as the bridge's
	// own identity. It must not follow redirects.
	RoundTripper http.RoundTripper
	// Node is the id of the node the bridge runs on. It begins every message id.
	Node string
	// DeliveryTimeout bounds one attempt, and all attempts of a QoS 0 message.
	DeliveryTimeout time.Duration // default 10s
	// Grace is how long attempts that are under way may still take once Run's
	// context has ended. No new attempt begins then.
	Grace time.Duration // default 5s
	// MaxConcurrent bounds the requests under way at once.
	MaxConcurrent int // default 64
	// MaxPendingBytes bounds the memory of messages of QoS 1 and 2 that wait
	// for their turn. QoS 0 has a quarter of it for itself. A face that finds
	// it full stops reading: the broker or the device waits.
	MaxPendingBytes int64 // default 64 MiB
	// Spool is where messages are kept on disk. Without a directory there is none, and
	// every message is acknowledged when its service has answered 2xx, whatever its rule says.
	Spool spool.Options
	// Clock returns why the machine's time cannot be right, or nil. What comes meanwhile has
	// no deadline: by the right time it would be over. Nil is a clock that is always right.
	Clock      func() error
	Log        zerolog.Logger
	Registerer prometheus.Registerer
}

// Message is one PUBLISH as a face received it. The payload must not change
// until its outcome is known.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	// Client is the publisher's client identifier, "" where the broker hides
	// it. Messages of one client and topic are delivered in order, one at a time.
	Client string
	// PacketID and Duplicate are those of the packet. A duplicate of a message
	// that still waits here joins it instead of being delivered twice: until it
	// is acknowledged the sender cannot give its packet id to another message.
	PacketID  uint16
	Duplicate bool
	// Told says that the sender learns why it was refused. The message of one that
	// does not, which a service refuses for good, becomes a dead letter.
	Told bool
}

// Bridge matches messages to rules and delivers them. Its methods are safe for
// concurrent use.
type Bridge struct {
	opts       Options
	log        zerolog.Logger // of single messages: sampled, so that a flood of them is not a flood of lines
	account    account
	metrics    metrics
	table      atomic.Pointer[table]
	ready      chan struct{} // closed by the first Update
	suspension atomic.Pointer[suspension]

	// updateMu makes Updates one at a time and guards config, the last one compiled.
	updateMu sync.Mutex
	config   *mesh.Config

	spool *spool.Spool // nil if there is none
	queue *queue

	epoch string // random, part of every message id of this process
	seq   atomic.Uint64

	slots    chan struct{}       // one per request under way
	pending  *semaphore.Weighted // bytes of QoS 1 and 2
	pending0 *semaphore.Weighted // bytes of QoS 0

	// soft ends when Run's context does: nothing is tried again. hard ends a
	// grace later: attempts are cut.
	soft, hard             context.Context
	softCancel, hardCancel context.CancelFunc

	// mu guards lanes and closed. Nothing is called under it.
	mu     sync.Mutex
	lanes  map[laneKey]*lane
	closed bool
	wg     sync.WaitGroup // the lanes' goroutines
}

// New returns a Bridge without rules. Its faces wait until Update gave it some.
func New(opts Options) (*Bridge, error) {
	if opts.RoundTripper == nil || opts.Registerer == nil || !mesh.ValidID(opts.Node) {
		return nil, mesh.Errorf("mqttbridge.New", opts.Node, mesh.Invalid, "a RoundTripper, a Registerer and a node id are needed")
	}
	opts.DeliveryTimeout = or(opts.DeliveryTimeout, DefaultDeliveryTimeout)
	opts.Grace = or(opts.Grace, DefaultGrace)
	opts.MaxConcurrent = or(opts.MaxConcurrent, DefaultMaxConcurrent)
	opts.MaxPendingBytes = or(opts.MaxPendingBytes, DefaultMaxPendingBytes)
	var epoch [8]byte
	if _, err := rand.Read(epoch[:]); err != nil {
		return nil, fmt.Errorf("mqttbridge.New: epoch of message ids: %w", err)
	}
	b := &Bridge{
		opts:     opts,
		log:      opts.Log.Sample(&zerolog.BurstSampler{Burst: 10, Period: 10 * time.Second}),
		ready:    make(chan struct{}),
		epoch:    hex.EncodeToString(epoch[:]),
		slots:    make(chan struct{}, opts.MaxConcurrent),
		pending:  semaphore.NewWeighted(opts.MaxPendingBytes),
		pending0: semaphore.NewWeighted(max(opts.MaxPendingBytes/4, 1)),
		lanes:    map[laneKey]*lane{},
		queue:    newQueue(),
	}
	b.soft, b.softCancel = context.WithCancel(context.Background())
	b.hard, b.hardCancel = context.WithCancel(context.Background())
	b.table.Store(newTable())
	b.suspension.Store(newSuspension(false))
	if err := b.metrics.register(opts.Registerer, &b.account); err != nil {
		return nil, fmt.Errorf("mqttbridge.New: %w", err)
	}
	if err := b.openSpool(); err != nil {
		return nil, fmt.Errorf("mqttbridge.New: %w", err)
	}
	return b, nil
}

// Run keeps the bridge delivering until ctx ends, then lets the attempts under
// way finish within Options.Grace and returns when nothing of it runs any
// more. Messages that were neither delivered nor spooled are given back to their
// faces, which leave them unacknowledged.
func (b *Bridge) Run(ctx context.Context) error {
	if b.spool != nil {
		for range b.opts.MaxConcurrent {
			b.wg.Go(func() { b.work(ctx) })
		}
	}
	<-ctx.Done()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.softCancel()
	b.queue.close()
	cut := time.AfterFunc(b.opts.Grace, b.hardCancel)
	defer cut.Stop()
	b.wg.Wait()
	b.hardCancel()
	if b.spool == nil {
		return nil
	}
	return b.spool.Close()
}

// Ready is closed when the first Snapshot has arrived. A face must not take
// messages before: without rules they would look like nobody's.
func (b *Bridge) Ready() <-chan struct{} { return b.ready }

// Stats returns the message counts at one moment.
func (b *Bridge) Stats() Stats { return b.account.stats() }

// Update makes the topic rules of s the current ones, and ends the faces' sessions while it
// has the bridge's node in quarantine. A rule that does not
// compile is held: its messages wait, unacknowledged, until it is repaired.
// Messages that wait are matched again before their next attempt, and keep
// their last rule if none matches any more.
func (b *Bridge) Update(s *mesh.Snapshot) {
	b.updateMu.Lock()
	defer b.updateMu.Unlock()
	b.suspend(s.Denies)
	if s.Config == b.config { // only instances changed
		return
	}
	old := b.table.Load()
	if next, changed := compile(s.Config, old); changed {
		b.table.Store(next)
		close(old.replaced)
		b.queue.wake()
		b.reportRules(next)
	}
	if b.config == nil {
		close(b.ready)
	}
	b.config = s.Config
}

// reportRules logs and counts what is wrong with the rules of t.
func (b *Bridge) reportRules(t *table) {
	var held int
	for _, r := range t.rules {
		if r.err != nil {
			held++
			b.opts.Log.Error().Err(r.err).Str("rule", r.name).Msg("topic rule held: its messages wait until it is repaired")
		}
	}
	for _, name := range t.shadowed {
		b.opts.Log.Warn().Str("rule", name).Msg("topic rule unused: another rule has the same filter")
	}
	b.metrics.rules.WithLabelValues("active").Set(float64(len(t.rules) - held - len(t.shadowed)))
	b.metrics.rules.WithLabelValues("held").Set(float64(held))
	b.metrics.rules.WithLabelValues("shadowed").Set(float64(len(t.shadowed)))
}

// Deliver takes m for the service of the rule that matches its topic and waits for
// the outcome: nil when it is spooled or, where the rule wants its acknowledgement to
// say so, after a 2xx; ErrUnrouted if no rule matches, and a
// *Refusal if the service refused it for good, ctx ended, or the bridge is
// shutting down. An attempt under way when ctx is cancelled is waited for; one
// under way at ctx's deadline is cut.
func (b *Bridge) Deliver(ctx context.Context, m Message) error {
	it, err := b.item(ctx, m)
	if err != nil {
		return err
	}
	it.failFast = m.Told || b.spool == nil
	result := make(chan error, 1)
	it.done = []func(error){func(err error) { result <- err }}
	if b.spools(it) {
		b.account.receive()
		b.keep(ctx, it, it.done[0])
	} else if err := b.admit(ctx, it); err != nil {
		return err
	}
	return <-result
}

// Offer takes m, of QoS 0, if there is room, and delivers it later or drops it
// with a counter: when DeliveryTimeout has passed, when the service refuses
// it, or at once if too many wait. It never blocks. It reports whether a rule
// matches the topic.
func (b *Bridge) Offer(m Message) bool {
	ctx, cancel := context.WithTimeout(b.soft, b.opts.DeliveryTimeout)
	m.QoS = 0
	it, err := b.item(ctx, m)
	if err != nil {
		cancel()
		return !errors.Is(err, ErrUnrouted)
	}
	it.failFast = true
	it.done = []func(error){func(error) { cancel() }}
	b.admit0(it)
	return true
}

// item prepares m for delivery. A message whose topic can never become a
// request is refused here, before it takes room.
func (b *Bridge) item(ctx context.Context, m Message) (*item, error) {
	r, captures, err := b.table.Load().match(m.Topic)
	if r == nil {
		b.account.unroutedMessage()
		return nil, ErrUnrouted
	}
	if err != nil {
		refusal := asRefusal(err)
		b.account.receive()
		b.account.finish(m.QoS, refusal)
		b.log.Warn().Err(refusal).Str("topic", clip(m.Topic)).Str("rule", r.name).Msg("message refused")
		return nil, refusal
	}
	return &item{ctx: ctx, message: m, rule: r, captures: captures}, nil
}

// admit waits for room, then queues it. It returns nil once the outcome will
// be reported to it.done.
func (b *Bridge) admit(ctx context.Context, it *item) error {
	it.cost = min(int64(len(it.message.Payload)+len(it.message.Topic)+messageOverhead), b.opts.MaxPendingBytes)
	it.room = b.pending
	if b.spool != nil {
		var cancel context.CancelFunc
		it.ctx, cancel = context.WithTimeout(it.ctx, deliveredWait)
		it.done = append(it.done, func(error) { cancel() })
	}
	if it.message.Duplicate && b.join(it) {
		b.account.duplicate()
		return nil
	}
	if err := b.pending.Acquire(ctx, it.cost); err != nil {
		refusal := &Refusal{Reason: ReasonOverloaded}
		b.account.receive()
		b.account.finish(it.message.QoS, refusal)
		return refusal
	}
	b.submit(it)
	return nil
}

// admit0 queues it if there is room, else drops it.
func (b *Bridge) admit0(it *item) {
	it.cost = min(int64(len(it.message.Payload)+len(it.message.Topic)+messageOverhead), max(b.opts.MaxPendingBytes/4, 1))
	it.room = b.pending0
	if !b.pending0.TryAcquire(it.cost) {
		b.account.receive()
		b.account.finish(0, &Refusal{Reason: ReasonOverloaded})
		for _, done := range it.done {
			done(&Refusal{Reason: ReasonOverloaded})
		}
		return
	}
	b.submit(it)
}

// messageID returns the next id: <node>/<epoch>/<sequence>. The epoch is
// random per process, so ids never repeat. A message keeps its id through all
// attempts and joined duplicates; one that the sender repeats after a restart
// of the bridge, or after its acknowledgement was lost, gets a new one.
func (b *Bridge) messageID() string {
	return fmt.Sprintf("%s/%s/%d", b.opts.Node, b.epoch, b.seq.Add(1))
}

// or returns v, or otherwise if v is not positive.
func or[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// clip shortens a topic for a log line.
func clip(topic string) string {
	const most = 120
	if len(topic) > most {
		return topic[:most] + "..."
	}
	return topic
}
