package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// redisAs is who sends commands to which Redis.
type redisAs struct {
	client func() *redis.Client // a connection of its own for each command: some leave none
	before func() error         // is called before each command
	// words are what names in a command stand for.
	words map[string]string
}

const redisDenied = `^NOPERM `

// robRedis sends commands as the node's user.
func (e *estate) robRedis(r *row, l *loot) {
	assail(e.t, r, "redis", 30, redisAttempts(), redisAs{
		client: l.client, before: func() error { return nil },
		words: map[string]string{"@password": l.password},
	})
}

// redisControls sends the same to a Redis that has the same keys, as a user who may do
// everything there. Each finds the keys as they are in the mesh's.
func (e *estate) redisControls(r *row) {
	other := servers.RedisForMesh(e.t, "other", servers.RedisSetting("enable-debug-command", "yes"), servers.RedisSetting("enable-module-command", "yes"))
	client := func() *redis.Client { return redisClient(other.Addr, servers.RedisOperator, servers.RedisOperator) }
	dump := e.dump()
	host, port, _ := net.SplitHostPort(e.redis.Addr)
	vouch(e.t, r, "redis", redisAttempts(), redisAs{
		client: client, before: func() error { return dump.restore(e.t.Context(), client()) },
		words: map[string]string{"@password": redisPassword("shop"), "@host": host, "@port": port},
	})
	other.Stop() // the last command has ended it
}

// redisDump is all keys, and the functions.
type redisDump struct {
	keys      map[string]string
	functions string
}

func (e *estate) dump() redisDump {
	e.t.Helper()
	ctx, c := e.t.Context(), e.operator()
	defer c.Close() //nolint:errcheck // nothing is under way
	d := redisDump{keys: map[string]string{}}
	names, err := c.Keys(ctx, "*").Result()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, name := range names {
		value, err := c.Dump(ctx, name).Result()
		if err == nil { // else it has expired since
			d.keys[name] = value
		}
	}
	if d.functions, err = c.Do(ctx, "FUNCTION", "DUMP").Text(); err != nil {
		e.t.Fatal(err)
	}
	return d
}

// restore has a Redis hold what was dumped and nothing else, and know the user of shop.
func (d redisDump) restore(ctx context.Context, c *redis.Client) error {
	defer c.Close() //nolint:errcheck // nothing is under way
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.FlushAll(ctx)
		for name, value := range d.keys {
			p.Restore(ctx, name, 0, value)
		}
		p.Do(ctx, "FUNCTION", "RESTORE", d.functions, "FLUSH")
		p.Do(ctx, "ACL", "SETUSER", "node-shop", "on", ">"+redisPassword("shop"))
		return nil
	})
	return err
}

func redisAttempts() []attempt[redisAs] {
	var all []attempt[redisAs]
	for why, commands := range map[string][]string{redisDenied: redisCommands(), `^WRONGPASS `: {"AUTH node-shop @password"}} {
		for _, text := range commands {
			all = append(all, attempt[redisAs]{name: text, why: why, do: func(ctx context.Context, as redisAs) verdict { return as.send(ctx, text) }})
		}
	}
	// This one leaves no Redis.
	return append(all, attempt[redisAs]{name: "SHUTDOWN NOSAVE", why: redisDenied, do: func(ctx context.Context, as redisAs) verdict {
		o := as.send(ctx, "SHUTDOWN NOSAVE")
		if o.answer == io.EOF.Error() {
			return verdict{done: true, answer: "it has ended"}
		}
		return o
	}})
}

// send sends one command, in which $ stands for what the mesh's keys begin with.
func (as redisAs) send(ctx context.Context, text string) verdict {
	if err := as.before(); err != nil {
		return verdict{answer: "before: " + err.Error()}
	}
	c := as.client()
	defer c.Close() //nolint:errcheck // nothing is under way
	var args []any
	for word := range strings.FieldsSeq(text) {
		if w, ok := as.words[word]; ok {
			word = w
		}
		args = append(args, strings.NewReplacer("$", prefix, "·", " ", "¶", "\n").Replace(word))
	}
	err := c.Do(ctx, args...).Err()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return failed(err)
}

// redisCommands are what the user of a node has to be refused, with "·" and "¶" for the space
// and the end of a line within a word. Each can be done by who may.
func redisCommands() []string {
	const library = "#!lua·name=thief¶redis.register_function('thief',function()·return·1·end)"
	return []string{
		// what all nodes believe
		"SET $head x", "DEL $head", "GETDEL $head", "APPEND $head x", "SETRANGE $head 0 x", "SET $keys x", "DEL $keys",
		"HSET $config defaults/mesh {}", "HDEL $config defaults/mesh", "DEL $config", "UNLINK $config", "EXPIRE $config 1", "PEXPIRE $head 1",
		"XADD $changes * forged x", "XTRIM $changes MAXLEN 0", "XDEL $changes 1-0", "XGROUP CREATE $changes g 0", "DEL $changes",
		// what is others'
		"SET $inst:shop/SIDECAR x", "DEL $inst:shop/SIDECAR", "PEXPIRE $inst:shop/SIDECAR 1", "SET $inst:ledger/SIDECAR x PX 15000", "SET $inst:edge70/SIDECAR x", "SET $inst:edge7 x",
		"XADD $dev:shop * forged x", "XREAD COUNT 1 STREAMS $dev:shop 0", "XADD $dev:edge7 * forged x", "DEL $dev:shop", "XTRIM $ev:5 MAXLEN 0", "DEL $ev:5",
		"GET {hedgerow:other}:head", "SET {hedgerow:other}:inst:edge7/SIDECAR x", "SET anything x",
		"RENAME $inst:shop/SIDECAR $inst:edge7/SIDECAR", "RENAME $head $inst:edge7/SIDECAR", "COPY $head $inst:edge7/SIDECAR REPLACE", "COPY $inst:edge7/SIDECAR $inst:shop/SIDECAR REPLACE",
		"MOVE $head 1", "SORT $changes-of-nobody STORE $head", "DUMP $head", "OBJECT ENCODING $head",
		"MIGRATE @host @port $inst:shop/SIDECAR 0 1000 COPY REPLACE AUTH2 operator operator",
		// what looks around, or goes around
		"KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "SELECT 1", "SWAPDB 0 1",
		"EVAL return·redis.call('SET',KEYS[1],'x') 1 $head", "EVAL return·1 0", "SCRIPT LOAD return·1", "SCRIPT FLUSH",
		"FUNCTION LIST", "FUNCTION DUMP", "FUNCTION FLUSH", "FUNCTION DELETE hedgerow", "FUNCTION LOAD REPLACE " + library,
		"SUBSCRIBE x", "PSUBSCRIBE *", "PUBLISH x y", "MONITOR",
		// what is the operator's
		"CONFIG GET *", "CONFIG SET maxmemory 100mb", "CONFIG RESETSTAT", "FLUSHALL", "FLUSHDB", "DEBUG SLEEP 0", "SAVE", "BGSAVE", "INFO", "MEMORY USAGE $head",
		"ACL LIST", "ACL WHOAMI", "ACL GETUSER node-shop", "ACL SETUSER node-edge7 +@all ~*", "ACL SETUSER thief on nopass +@all ~*", "ACL DELUSER node-shop", "ACL LOG", "ACL GENPASS",
		"CLIENT LIST", "CLIENT KILL TYPE normal SKIPME yes", "CLIENT PAUSE 1", "CLIENT NO-EVICT on", "MODULE LIST", "LATENCY RESET", "SLOWLOG GET", "REPLICAOF NO ONE",
	}
}
