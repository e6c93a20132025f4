package identity

import (
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// clockSkew is how far the clocks of two machines may be apart. Certificates are
// backdated by as much, so that handshakes need no tolerance of their own.
const clockSkew = 5 * time.Minute

// Clock tells the time, and whether it can be true: it is not before this program was
// built, nor before the newest configuration was signed. A machine that has lost its
// clock (it boots in 1970) can tell neither whether a certificate is valid yet nor
// whether it has expired.
//
// The time of the machine itself is never remembered: a clock that was ahead once would
// shut the machine out of the mesh for good.
type Clock struct {
	built  time.Time
	newest func() time.Time
	wall   func() time.Time
}

// NewClock returns the clock of a program that was built at a time, the zero Time if
// nobody knows. newest returns when the newest configuration was signed that this process
// has verified, the zero Time while it has none; it may be nil.
func NewClock(built time.Time, newest func() time.Time) *Clock {
	if newest == nil {
		newest = func() time.Time { return time.Time{} }
	}
	return &Clock{built: built, newest: newest, wall: wallClock}
}

// Now returns the wall clock's time, without a monotonic reading, which stands still
// while a machine is suspended.
func (c *Clock) Now() time.Time { return c.wall().Round(0) }

// Check returns nil, or an error of kind Unavailable if the clock is so far behind that
// it is wrong.
func (c *Clock) Check() error {
	now := c.Now()
	for _, floor := range []struct {
		at   time.Time
		what string
	}{{c.built, "this program was built"}, {c.newest(), "the newest configuration was signed"}} {
		if now.Add(clockSkew).Before(floor.at) {
			return mesh.Errorf("identity.Clock", "", mesh.Unavailable, "the clock shows %s, but %s at %s",
				now.UTC().Format(time.RFC3339), floor.what, floor.at.UTC().Format(time.RFC3339)).
				WithHint("set the clock, by NTP for example; nothing needs to be restarted")
		}
	}
	return nil
}
