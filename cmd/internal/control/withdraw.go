package control

import (
	"context"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/controlapi"
	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// withdrawals is where nodes log in; vault and users are nil if these are not this control
// plane's to change. They are listed all the same, so that a receipt says what remains to be
// done by hand.
func withdrawals(vault nodes.Trust, users *nodeUsers) []controlapi.Access {
	inVault := controlapi.Access{Name: "vault", Certifies: true}
	if vault != nil {
		inVault.Withdraw = vault.Withdraw
	} else {
		inVault.Detail = "this control plane has no Vault: disable the node's login and roles where it gets its certificates"
	}
	inRedis := controlapi.Access{Name: "redis", Tells: true}
	if users != nil {
		inRedis.Withdraw = users.withdraw
	} else {
		inRedis.Detail = "this control plane makes no Redis users: disable the node's and end its connections"
	}
	return []controlapi.Access{inVault, inRedis}
}

// userKeeper is what makes the Redis users of nodes.
type userKeeper interface {
	Want(nodes []string)
	State() registry.UsersState
}

// nodeUsers says which nodes are to have a Redis user.
type nodeUsers struct {
	users userKeeper

	mu        sync.Mutex // guards what follows
	last      *mesh.Snapshot
	withdrawn map[string]bool // of nodes in quarantine
}

const (
	// leftFor is for how long a node in quarantine is left its user, by which it learns of
	// that; withdraw may end it sooner.
	leftFor = 5 * time.Second
	lookFor = 50 * time.Millisecond
)

// usersOf returns what has users follow the nodes of snapshots; nil of nil.
func usersOf(users *registry.Users) *nodeUsers {
	if users == nil {
		return nil
	}
	return &nodeUsers{users: users, withdrawn: map[string]bool{}}
}

// follow takes the nodes of a snapshot. It may be called on nil.
func (n *nodeUsers) follow(s *mesh.Snapshot) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = s
	n.want()
}

// want tells which nodes are to have a user. mu is held.
func (n *nodeUsers) want() {
	if n.last == nil {
		return
	}
	var ids []string
	for id := range n.last.Config.Nodes {
		if !n.last.Denies.Node(id) {
			delete(n.withdrawn, id)
		}
		q := n.last.Config.Quarantines[id]
		recent := q != nil && q.Time != nil && time.Since(*q.Time) < leftFor
		if !n.last.Denies.Node(id) || recent && !n.withdrawn[id] {
			ids = append(ids, id)
		}
	}
	n.users.Want(ids)
}

// withdraw takes the node's user away, and returns when no server has it.
func (n *nodeUsers) withdraw(ctx context.Context, node string) error {
	n.mu.Lock()
	n.withdrawn[node] = true
	n.want()
	n.mu.Unlock()
	since := time.Now()
	tick := time.NewTicker(lookFor)
	defer tick.Stop()
	for {
		if state := n.users.State(); state.At.After(since) {
			return state.Failed
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return mesh.Errorf("control.withdraw", "nodes/"+node, mesh.Unavailable, "Redis has not confirmed that the node's user is gone: %w", ctx.Err())
		}
	}
}
