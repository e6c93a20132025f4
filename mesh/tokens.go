package mesh

import "time"

// TokenAsk tells what one data plane did by a rate that the whole mesh shares, and asks
// for more.
type TokenAsk struct {
	Bucket   string        // names the rate, and whose it is
	Interval time.Duration // between two requests at the rate
	Burst    uint32        // requests at once
	Spent    uint32        // admitted without a lease, since the last ask
	Returned uint32        // leased, and not needed
	Want     uint32        // to be leased
	Planes   uint32        // that may each admit a part without a lease
}

// TokenGrant answers a TokenAsk.
type TokenGrant struct {
	Granted uint32        // of what was wanted
	Wait    time.Duration // until there is more, if that was not all
}
