package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// keeper is a userKeeper that has done what it is told a moment later, with err.
type keeper struct {
	mu     sync.Mutex
	wanted []string
	at     time.Time
	err    error
	unread error
}

func (k *keeper) Want(nodes []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted, k.at = slices.Sorted(slices.Values(nodes)), time.Now().Add(time.Millisecond)
}

func (k *keeper) State() registry.UsersState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return registry.UsersState{At: k.at, Err: errors.Join(k.unread, k.err), Failed: k.err}
}

func TestANodeInQuarantineLosesItsRedisUser(t *testing.T) {
	k := &keeper{}
	n := &nodeUsers{users: k, withdrawn: map[string]bool{}}
	snapshot := func(since *time.Time) *mesh.Snapshot {
		c := mesh.NewConfig()
		c.Nodes["a"], c.Nodes["edge7"] = &mesh.Node{}, &mesh.Node{}
		if since != nil {
			c.Quarantines["edge7"] = &mesh.Quarantine{Time: since}
		}
		return &mesh.Snapshot{Config: c, Denies: mesh.NewDenies(c.Quarantines)}
	}
	now, before := time.Now(), time.Now().Add(-time.Hour)
	for _, step := range []struct {
		name  string
		since *time.Time
		both  bool
	}{
		{"no quarantine", nil, true},
		{"a quarantine from before this process", &before, false},
		{"released", nil, true},
		{"a quarantine of now, of which the node learns by its user", &now, true},
	} {
		n.follow(snapshot(step.since))
		if both := slices.Equal(k.wanted, []string{"a", "edge7"}); both != step.both {
			t.Errorf("%s: %v", step.name, k.wanted)
		}
	}
	if err := n.withdraw(t.Context(), "edge7"); err != nil || !slices.Equal(k.wanted, []string{"a"}) {
		t.Errorf("withdrawn: %v, %v", k.wanted, err)
	}
	n.follow(snapshot(&now))
	if !slices.Equal(k.wanted, []string{"a"}) {
		t.Errorf("the next snapshot gives it back: %v", k.wanted)
	}
	k.unread = errors.New("Vault is away: the passwords of other nodes are not known")
	if err := n.withdraw(t.Context(), "edge7"); err != nil {
		t.Errorf("that other nodes' passwords are not known holds it up: %v", err)
	}
	k.err = errors.New("a server is away")
	if err := n.withdraw(t.Context(), "edge7"); !errors.Is(err, k.err) {
		t.Errorf("a failure is %v", err)
	}
	k.err = nil
	n.follow(snapshot(nil))
	if !slices.Equal(k.wanted, []string{"a", "edge7"}) {
		t.Errorf("released: %v", k.wanted)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	n.users = &stuck{}
	if err := n.withdraw(ended, "edge7"); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("unconfirmed: %v", err)
	}
}

// stuck is a userKeeper that never does anything.
type stuck struct{}

func (*stuck) Want([]string)              {}
func (*stuck) State() registry.UsersState { return registry.UsersState{} }
