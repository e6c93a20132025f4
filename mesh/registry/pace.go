package registry

import "time"

// Shares of the time that go at most into what costs more the larger the configuration
// is: it is not done again for so many times as long as it took.
const (
	restFor        = 9
	mostChangeRest = 500 * time.Millisecond // a change is not to wait for longer
	mostSaveRest   = pollEvery
)

// pace spreads something that may be asked for without end.
type pace struct {
	most time.Duration
	next time.Time
}

// took notes that it was done since began.
func (p *pace) took(began time.Time) {
	now := time.Now()
	p.next = now.Add(min(restFor*now.Sub(began), p.most))
}

// left returns how long to wait; 0 is not at all.
func (p *pace) left() time.Duration { return max(time.Until(p.next), 0) }
