package jwt

import (
	"container/list"
	"crypto/sha256"
	"sync"
)

// Bounds of what is remembered of tokens (Envoy's jwt_cache_config).
const (
	mostRemembered   = 100
	rememberedLength = 4 << 10 // of a token; longer ones are verified each time
)

// cache remembers tokens whose signature was verified, by their hash: no token is kept.
// What was verified by other keys does not count any more.
type cache struct {
	mu     sync.Mutex
	keys   *KeySet
	byName map[[sha256.Size]byte]*list.Element // of *remembered
	used   list.List                           // the last one used first
	room   sync.Pool                           // of *[MaxTokenBytes]byte
}

// name returns the hash of a token, in memory that is used again.
func (c *cache) name(token string) [sha256.Size]byte {
	room, ok := c.room.Get().(*[MaxTokenBytes]byte)
	if !ok {
		room = new([MaxTokenBytes]byte)
	}
	n := copy(room[:], token)
	sum := sha256.Sum256(room[:n])
	clear(room[:n]) // a token is a secret
	c.room.Put(room)
	return sum
}

type remembered struct {
	name   [sha256.Size]byte
	claims *Claims
}

// get returns the claims of a token that was verified by keys, or nil.
func (c *cache) get(name [sha256.Size]byte, keys *KeySet) *Claims {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys != keys {
		return nil
	}
	e := c.byName[name]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	r, _ := e.Value.(*remembered)
	return r.claims
}

// put takes note of a token of that length.
func (c *cache) put(name [sha256.Size]byte, keys *KeySet, claims *Claims, length int) {
	if length > rememberedLength {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName == nil || c.keys != keys {
		c.keys, c.byName = keys, make(map[[sha256.Size]byte]*list.Element, mostRemembered)
		c.used.Init()
	}
	if c.byName[name] != nil {
		return
	}
	if c.used.Len() == mostRemembered {
		last := c.used.Back()
		r, _ := c.used.Remove(last).(*remembered)
		delete(c.byName, r.name)
	}
	c.byName[name] = c.used.PushFront(&remembered{name, claims})
}
