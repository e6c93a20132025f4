package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// userServer is one server of Redis.
type userServer struct {
	redis *redis.Client
	// set is what users were given, and how Redis lists that: it writes rules in its
	// own order, so that nothing else tells whether somebody changed them.
	set      map[string]setUser
	kill     map[string]bool // users whose connections of an earlier password are to end
	unsaved  bool            // something changed since ACL SAVE
	fileless bool            // it has no aclfile
	err      error
}

type setUser struct{ rules, line string }

// discover returns the addresses of all servers.
func (u *Users) discover(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var found []string
	var err error
	switch {
	case u.cfg.MasterName != "":
		found, err = u.askSentinels(ctx)
	case len(u.cfg.Addresses) > 1:
		found, err = u.askCluster(ctx)
	default:
		return u.cfg.Addresses, nil
	}
	if err == nil && len(found) > maxServers {
		err = fmt.Errorf("%d servers, at most %d can be", len(found), maxServers)
	}
	return found, err
}

// askSentinels asks one Sentinel after the other for the primary and its replicas.
func (u *Users) askSentinels(ctx context.Context) ([]string, error) {
	var errs []error
	for _, addr := range u.cfg.Addresses {
		o := options(Config{}, u.client.dial).Simple()
		o.Addr, o.CredentialsProviderContext = addr, nil
		s := redis.NewSentinelClient(o)
		primary, err := s.GetMasterAddrByName(ctx, u.cfg.MasterName).Result()
		var replicas []map[string]string
		if err == nil {
			replicas, err = s.Replicas(ctx, u.cfg.MasterName).Result()
		}
		_ = s.Close() // nothing is under way
		if err != nil || len(primary) != 2 {
			errs = append(errs, fmt.Errorf("ask the Sentinel at %s: %w", addr, err))
			continue
		}
		found := []string{net.JoinHostPort(primary[0], primary[1])}
		for _, r := range replicas {
			found = append(found, net.JoinHostPort(r["ip"], r["port"]))
		}
		return found, nil
	}
	return nil, errors.Join(errs...)
}

// askCluster asks one server after the other for all of them.
func (u *Users) askCluster(ctx context.Context) ([]string, error) {
	var errs []error
	for _, addr := range u.cfg.Addresses {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		c := u.connect(addr)
		slots, err := c.ClusterSlots(ctx).Result() //nolint:staticcheck // it names the ports that this connection can use, over TLS or not
		_ = c.Close()                              // nothing is under way
		if err != nil {
			errs = append(errs, fmt.Errorf("ask %s for the servers of the Cluster: %w", addr, err))
			continue
		}
		found := map[string]bool{}
		for _, slot := range slots {
			for _, n := range slot.Nodes {
				nodeHost, port, err := net.SplitHostPort(n.Addr)
				if err != nil {
					continue
				}
				if nodeHost == "" { // "the one that you asked"
					nodeHost = host
				}
				found[net.JoinHostPort(nodeHost, port)] = true
			}
		}
		return slices.Sorted(maps.Keys(found)), nil
	}
	return nil, errors.Join(errs...)
}

// keepServers connects to new servers, and forgets those that are gone. None found says
// nothing.
func (u *Users) keepServers(addresses []string) {
	if len(addresses) == 0 {
		return
	}
	for _, addr := range addresses {
		if u.servers[addr] == nil {
			u.servers[addr] = &userServer{redis: u.connect(addr), set: map[string]setUser{}, kill: map[string]bool{}}
		}
	}
	maps.DeleteFunc(u.servers, func(addr string, s *userServer) bool {
		gone := !slices.Contains(addresses, addr)
		if gone {
			_ = s.redis.Close() // nothing is under way
		}
		return gone
	})
}

// connect returns a client of one server.
func (u *Users) connect(addr string) *redis.Client {
	o := options(u.cfg, u.client.dial).Simple()
	o.Addr, o.MaxActiveConns, o.MaxIdleConns = addr, 2, 1
	return redis.NewClient(o)
}

// reconcile gives one server the users that are wanted, by node, and takes the others
// away.
func (u *Users) reconcile(ctx context.Context, s *userServer, want map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	listed, err := s.list(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(s.kill, func(name string, _ bool) bool { return listed[name].name == "" }) // which ended them
	var errs []error
	var set []string
	rules := map[string][]string{}
	for _, node := range slices.Sorted(maps.Keys(want)) {
		name, digest := UserName(node), want[node]
		if digest == "" {
			continue
		}
		one, err := u.client.keys.userRules(node, digest)
		there, ok := listed[name]
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok && !there.ours(u.client.keys):
			errs = append(errs, fmt.Errorf("user %s is there and not of this mesh: no two meshes of one Redis may have nodes of one name", name))
		case ok && s.set[name] == setUser{strings.Join(one, " "), there.line}:
		default:
			rules[name], set = one, append(set, name)
			if ok && !there.has(digest) { // who knows the password of before is no longer the node
				s.kill[name] = true // until all of it has succeeded: the next look does not tell any more
			}
		}
	}
	var remove []string
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if _, wanted := want[strings.TrimPrefix(name, userPrefix)]; !wanted && listed[name].ours(u.client.keys) {
			remove = append(remove, name)
		}
	}
	errs = append(errs, u.change(ctx, s, rules, set, remove))
	return errors.Join(append(errs, s.save(ctx))...)
}

// change sets and removes users, and learns how Redis lists those that were set.
func (u *Users) change(ctx context.Context, s *userServer, rules map[string][]string, set, remove []string) error {
	if len(set)+len(remove) == 0 {
		return nil
	}
	s.unsaved = true
	var commands [][]any
	for _, name := range set {
		commands = append(commands, command(append([]string{"ACL", "SETUSER", name}, rules[name]...)...))
	}
	for _, name := range remove { // Redis ends their connections
		commands = append(commands, command("ACL", "DELUSER", name))
		delete(s.set, name)
		delete(s.kill, name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.kill)) {
		commands = append(commands, command("CLIENT", "KILL", "USER", name))
	}
	for chunk := range slices.Chunk(commands, usersChunk) {
		if _, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, c := range chunk {
				p.Do(ctx, c...)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("change the users: %w", err)
		}
	}
	clear(s.kill)
	u.changes.WithLabelValues("set").Add(float64(len(set)))
	u.changes.WithLabelValues("removed").Add(float64(len(remove)))
	u.log.Info().Str("server", s.redis.Options().Addr).Strs("set", set).Strs("removed", remove).Msg("Redis users of nodes changed")
	listed, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, name := range set {
		s.set[name] = setUser{strings.Join(rules[name], " "), listed[name].line}
	}
	return nil
}

func (s *userServer) list(ctx context.Context) (map[string]listedUser, error) {
	lines, err := s.redis.Do(ctx, "ACL", "LIST").StringSlice()
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	return listedUsers(lines), nil
}

// save has the server write its aclfile, if something changed since it did.
func (s *userServer) save(ctx context.Context) error {
	if !s.unsaved {
		return nil
	}
	err := s.redis.Do(ctx, "ACL", "SAVE").Err()
	if s.fileless = err != nil && strings.Contains(err.Error(), "not configured to use an ACL file"); s.fileless {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("save the users: %w", err)
	}
	s.unsaved = false
	return nil
}

func command(words ...string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}
