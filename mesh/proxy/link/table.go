package link

import "sync"

// table has the streams of a link that somebody still uses, and the goroutines
// that handle those of the peer.
type table struct {
	// mu guards all. No other lock is taken under it.
	mu    sync.Mutex
	byID  map[uint32]*Stream
	free  []*Stream // to be used again
	begun uint64    // streams so far
	ended bool      // the link has failed

	window    int64  // what the peer may send on a new stream
	lastLocal uint32 // highest id opened here
	lastPeer  uint32 // highest id that the peer used
	lastTaken uint32 // highest of them that this side acted on
	frozen    bool   // no later one will be

	over    [pastStreams]pastStream // of the peer, that it ended itself, the last ones
	overAt  int
	skipped idRange // of the peer, the last ones that it left out

	slots   int       // streams of the peer that are being handled
	workers int       // goroutines that handle them, or wait for more
	jobs    []*Stream // to be handled by idle workers
	idle    int       // workers that wait, with jobs or without
	least   int       // the fewest of them since the last trim
	dismiss int       // how many of them should end
	wake    sync.Cond // of workers
}

// take returns a stream that is not in use.
func (t *table) take(c *Conn) *Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.free)
	if n == 0 {
		return newStream(c)
	}
	s := t.free[n-1]
	t.free = t.free[:n-1]
	return s
}

// insert makes s known by its id.
func (t *table) insert(s *Stream) {
	t.mu.Lock()
	if t.byID == nil {
		t.byID = map[uint32]*Stream{}
	}
	t.byID[s.id] = s
	t.begun++
	s.recvWindow = t.window
	if s.local {
		t.lastLocal = s.id
	} else {
		t.slots++
	}
	t.mu.Unlock()
}

// pastStreams is how many streams are remembered that the peer ended itself. It must
// not use them any more; but what it sends on a stream that this side has reset may
// have been under way.
const pastStreams = 64

// pastStream is one of them.
type pastStream struct {
	id    uint32
	reset bool // or it ended as it should
}

// idRange is ids from first to last; 0 to 0 is none.
type idRange struct{ first, last uint32 }

// remove forgets the stream id, whose object may be used again. state is the last that
// it had.
func (t *table) remove(id uint32, s *Stream, state uint32) {
	t.mu.Lock()
	delete(t.byID, id)
	if !s.local {
		t.slots--
		if state&(receivedEnd|peerReset) != 0 {
			t.over[t.overAt%pastStreams] = pastStream{id, state&peerReset != 0}
			t.overAt++
		}
	}
	t.free = append(t.free, s)
	t.mu.Unlock()
}

// find returns the stream id, or nil. idle says that it was never opened.
func (t *table) find(id uint32, local bool) (s *Stream, idle bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if local {
		return t.byID[id], id > t.lastLocal
	}
	return t.byID[id], id > t.lastPeer
}

// past says what became of the peer's stream id, which is not open: skipped, if a later
// one was opened before it; state has how the peer ended it itself, as bits, if that
// was lately.
func (t *table) past(id uint32) (state uint32, skipped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id >= t.skipped.first && id <= t.skipped.last {
		return 0, true
	}
	for i := range t.over {
		switch {
		case t.over[i].id != id:
		case t.over[i].reset:
			return peerReset, false
		default:
			return receivedEnd, false
		}
	}
	return 0, false
}

// arrival is what becomes of a HEADERS frame from the peer.
type arrival uint8

const (
	late    arrival = iota // on a stream that is or was open
	ignored                // after the last stream of a final GOAWAY
	refused                // there is no slot
	taken                  // a new stream
)

// arrive classifies a HEADERS frame on a stream of the peer.
func (t *table) arrive(id uint32, slots int) arrival {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id <= t.lastPeer {
		return late
	}
	if t.lastPeer > 0 && id > t.lastPeer+2 || t.lastPeer == 0 && id > 2 {
		t.skipped = idRange{t.lastPeer + 1, id - 1}
	}
	t.lastPeer = id
	if t.frozen {
		return ignored
	}
	t.lastTaken = id
	if t.slots >= slots {
		return refused
	}
	return taken
}

// last returns the last stream of the peer that this side acts on, for GOAWAY.
func (t *table) last() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastTaken
}

// freeze makes last final and returns it.
func (t *table) freeze() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frozen = true
	return t.lastTaken
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// busy reports whether there is more than one stream.
func (t *table) busy() bool { return t.len() > 1 }

// all returns the streams there are.
func (t *table) all() []*Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*Stream, 0, len(t.byID))
	for _, s := range t.byID {
		list = append(list, s)
	}
	return list
}

// shut ends the idle workers and returns the streams there are.
func (t *table) shut() []*Stream {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.wake.Broadcast()
	return t.all()
}

// activity returns how many streams there are, how many there were ever, and how
// many workers there are. It sends home the workers that had nothing to do since it was called before.
func (t *table) activity() (open int, begun uint64, workers int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.least > 0 {
		t.dismiss += t.least
		t.wake.Broadcast()
	}
	t.least = t.idle - t.dismiss
	return len(t.byID), t.begun, t.workers
}

// rest gives back the memory of past streams, if there are none now.
func (t *table) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) == 0 {
		t.byID, t.free, t.jobs = nil, nil, nil
	}
}

// hand gives s to an idle worker. If there is none, a new one must take it.
func (t *table) hand(s *Stream) bool {
	t.mu.Lock()
	if t.idle-t.dismiss <= len(t.jobs) {
		t.workers++
		t.mu.Unlock()
		return false
	}
	t.jobs = append(t.jobs, s)
	t.least = min(t.least, t.idle-t.dismiss-len(t.jobs))
	t.mu.Unlock()
	t.wake.Signal()
	return true
}

// next waits for a stream to handle. It returns nil if the worker should end.
func (t *table) next() *Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle++
	defer func() { t.idle-- }()
	for len(t.jobs) == 0 {
		if t.ended || t.dismiss > 0 {
			t.dismiss = max(t.dismiss-1, 0)
			if t.workers--; t.ended {
				t.wake.Broadcast()
			}
			return nil
		}
		t.wake.Wait()
	}
	n := len(t.jobs) - 1
	s := t.jobs[n]
	t.jobs[n] = nil
	t.jobs = t.jobs[:n]
	return s
}

// await waits until no stream is handled any more. It is called after shut, when the
// reader has ended.
func (t *table) await() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.workers > 0 {
		t.wake.Wait()
	}
}

// handle runs Handle for s, and then for other streams.
func (c *Conn) handle(s *Stream) {
	for s != nil {
		id := s.id
		c.cfg.Handle(s)
		s.close(id)
		s = c.streams.next()
	}
}

// dispatch has s handled.
func (c *Conn) dispatch(s *Stream) {
	if !c.streams.hand(s) {
		go c.handle(s)
	}
}
