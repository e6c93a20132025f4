package registry

import (
	"context"
	_ "embed" // tokens.lua
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

//go:embed tokens.lua
var tokensSource string

const (
	libraryName    = "hedgerow"
	tokensFunction = "hedgerow_lease"
	tokensTimeout  = 500 * time.Millisecond
)

// library is what the control plane loads into Redis, so that nodes need no right to run
// scripts of their own.
func library() string {
	return "#!lua name=" + libraryName + "\nlocal function lease(keys, args)\n" + tokensSource + "end\nredis.register_function('" + tokensFunction + "', lease)\n"
}

// script is the same for a registry that knows no functions, as the embedded one.
func script() string {
	return "local function lease(keys, args)\n" + tokensSource + "end\nreturn lease(KEYS, ARGV)\n"
}

// Tokens tells what was admitted by shared rates and leases more of them, all in one
// round trip. The grants are in the order of asks. It fails with kind Unavailable
// when Redis is away or does not know the function that the control plane loads.
func (c *Client) Tokens(ctx context.Context, asks []mesh.TokenAsk) ([]mesh.TokenGrant, error) {
	const op = "registry.Tokens"
	ctx, cancel := context.WithTimeout(ctx, tokensTimeout)
	defer cancel()
	answers, err := c.askTokens(ctx, asks)
	if redis.HasErrorPrefix(err, "unknown command") {
		c.scripts.Store(true)
		answers, err = c.askTokens(ctx, asks)
	}
	if err != nil {
		c.scripts.Store(false) // it may be another Redis by now
		return nil, wrap(op, "", err)
	}
	grants := make([]mesh.TokenGrant, len(answers))
	for i, a := range answers {
		pair, err := a.Int64Slice()
		if err == nil && (len(pair) != 2 || pair[0] < 0 || pair[0] > math.MaxUint32 || pair[1] < 0 || pair[1] > math.MaxInt64/1000) {
			err = fmt.Errorf("it answered %d", pair)
		}
		if err != nil {
			return nil, mesh.Errorf(op, asks[i].Bucket, mesh.Unavailable, "%w", err)
		}
		grants[i] = mesh.TokenGrant{Granted: uint32(pair[0]), Wait: time.Duration(pair[1]) * time.Microsecond}
	}
	return grants, nil
}

func (c *Client) askTokens(ctx context.Context, asks []mesh.TokenAsk) ([]*redis.Cmd, error) {
	answers := make([]*redis.Cmd, len(asks))
	source := script()
	_, err := c.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, a := range asks {
			keys := []string{c.keys.rate(a.Bucket)}
			micros := strconv.FormatFloat(float64(a.Interval)/float64(time.Microsecond), 'f', 3, 64)
			if c.scripts.Load() {
				answers[i] = p.Eval(ctx, source, keys, micros, a.Burst, a.Spent, a.Returned, a.Want, a.Planes)
			} else {
				answers[i] = p.FCall(ctx, tokensFunction, keys, micros, a.Burst, a.Spent, a.Returned, a.Want, a.Planes)
			}
		}
		return nil
	})
	return answers, err
}

// bring loads the functions into server if it lacks them: loading is a write, which goes
// to its disk and replicas.
func bring(ctx context.Context, server redis.Cmdable) error {
	there, err := server.FunctionList(ctx, redis.FunctionListQuery{LibraryNamePattern: libraryName, WithCode: true}).Result()
	if err == nil && len(there) == 1 && there[0].Code == library() {
		return nil
	}
	return server.FunctionLoadReplace(ctx, library()).Err()
}

// load brings the functions of the control plane to Redis. One that knows none keeps its
// nodes to their shares of the rates, unless they may run scripts.
func (c *Client) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	if cluster, ok := c.redis.(*redis.ClusterClient); ok { // each of whose servers has functions of its own
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, server *redis.Client) error { return bring(ctx, server) })
	} else {
		err = bring(ctx, c.redis)
	}
	if redis.HasErrorPrefix(err, "unknown command") {
		return nil
	}
	return wrap("registry.Load", "", err)
}
