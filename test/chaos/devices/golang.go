package devices

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	atOnce = 8                // messages of a device of Go that are under way
	giveUp = 15 * time.Second // how long one of them is waited for
)

// Go has devices publish by paho.mqtt.golang: MQTT 3.1.1.
func Go(ctx context.Context, f Fleet) (func() error, error) {
	return Planned(ctx, f, Plan{AtOnce: atOnce})
}

// Plan is what a device of Go does.
type Plan struct {
	AtOnce int           // messages under way
	Most   int           // messages in all, each until it is acknowledged; 0 is no end
	Size   int           // of a text, which is filled up
	Rest   time.Duration // between two
}

// Planned is Go by a plan.
func Planned(ctx context.Context, f Fleet, p Plan) (func() error, error) {
	ctx, cancel := context.WithCancel(ctx)
	stopping := make(chan struct{})
	var all sync.WaitGroup
	for number := f.First; number < f.First+f.Count; number++ {
		d := &device{fleet: f, number: number, plan: p, ctx: ctx, stopping: stopping}
		all.Go(d.run)
	}
	return sync.OnceValue(func() error {
		close(stopping)
		late := time.AfterFunc(lastWords, cancel)
		defer late.Stop()
		all.Wait()
		cancel()
		return nil
	}), nil
}

// device is one that publishes. Each connection is a client of its own: when a client of this
// library resumes a session it completes the tokens of what it sends again without an error,
// before that is acknowledged (messageIds.claimID).
type device struct {
	fleet    Fleet
	number   int
	plan     Plan
	ctx      context.Context
	stopping <-chan struct{}

	mu     sync.Mutex
	next   int
	failed []int // messages to send again
	acked  int
}

// run publishes until stopping, or until all of its messages are acknowledged.
func (d *device) run() {
	for !d.over() {
		client := mqtt.NewClient(mqtt.NewClientOptions().
			AddBroker("tcp://" + d.fleet.Broker).SetClientID(fmt.Sprintf("go-%d", d.number)).SetCleanSession(true).SetProtocolVersion(4).
			SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(5 * time.Second))
		token := client.Connect()
		<-token.Done() // bounded by the timeout
		if token.Error() == nil {
			var all sync.WaitGroup
			for range d.plan.AtOnce {
				all.Go(func() { d.publishes(client) })
			}
			all.Wait()
		} else {
			wait(d.ctx, 100*time.Millisecond)
		}
		client.Disconnect(100)
	}
}

// publishes publishes by client until that fails.
func (d *device) publishes(client mqtt.Client) {
	for !d.over() {
		n, ok := d.take()
		if !ok {
			return
		}
		if !publish(d.ctx, client, d.number, n, d.plan.Size) {
			d.mu.Lock()
			d.failed = append(d.failed, n)
			slices.Sort(d.failed)
			d.mu.Unlock()
			return
		}
		d.fleet.Acked(d.number, n)
		d.mu.Lock()
		d.acked++
		d.mu.Unlock()
		wait(d.ctx, d.plan.Rest)
	}
}

// take returns the message to be sent next; ok is false if there is none for now.
func (d *device) take() (n int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.failed) > 0 {
		n, d.failed = d.failed[0], d.failed[1:]
		return n, true
	}
	if d.plan.Most > 0 && d.next == d.plan.Most {
		return 0, false
	}
	d.next++
	return d.next - 1, true
}

// over reports whether nothing more is to be published.
func (d *device) over() bool {
	select {
	case <-d.stopping:
		return true
	default:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx.Err() != nil || d.plan.Most > 0 && d.acked == d.plan.Most
}

// publish sends one message and reports whether it was acknowledged in time.
func publish(ctx context.Context, client mqtt.Client, device, n, size int) bool {
	text := Text(device, n)
	if len(text)+1 < size {
		text += " " + strings.Repeat("x", size-len(text)-1)
	}
	token := client.Publish(Topic(device), 1, false, text)
	timer := time.NewTimer(giveUp)
	defer timer.Stop()
	select {
	case <-token.Done():
		return token.Error() == nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
