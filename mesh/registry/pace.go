package registry

import "time"

// What costs more the larger the configuration is takes a bounded share of the time: it
// is not done again for so many times as long as it took, but for so long at most.
const (
	restAfterChange = 19
	mostChangeRest  = 300 * time.Millisecond // a change is not to wait for longer
	restAfterSave   = 49
	mostSaveRest    = pollEvery
)

// pace spreads something that may be asked for without end.
type pace struct {
	times time.Duration
	most  time.Duration
	next  time.Time
}

// took notes that it was done since began.
func (p *pace) took(began time.Time) {
	now := time.Now()
	p.next = now.Add(min(p.times*now.Sub(began), p.most))
}

// left returns how long to wait; 0 is not at all.
func (p *pace) left() time.Duration { return max(time.Until(p.next), 0) }
