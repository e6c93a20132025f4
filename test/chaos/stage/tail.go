package stage

import "sync"

// outputLimit is how much of a process's output is kept, in bytes.
const outputLimit = 64 << 10

// tail keeps the last outputLimit bytes written to it.
type tail struct {
	mu   sync.Mutex
	data []byte // guarded by mu; up to twice the limit, so that trimming is rare
}

// Write never fails.
func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data = append(o.data, b...)
	if len(o.data) > 2*outputLimit {
		o.data = append(o.data[:0], o.data[len(o.data)-outputLimit:]...)
	}
	return len(b), nil
}

// String returns what is kept.
func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.data[max(0, len(o.data)-outputLimit):])
}
