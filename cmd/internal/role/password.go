package role

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

const (
	// passwordEvery is how often a process looks in Vault whether the node has another
	// password. While Redis is away, perhaps because it has, it looks at once, and then less
	// and less often: Vault is not to be asked by a whole fleet for as long as that takes.
	passwordEvery     = 5 * time.Minute
	passwordAwayEvery = 3 * time.Second
	passwordMost      = 10 * time.Second // of one look
)

// redisPassword keeps the file with the password of the node's user in Redis as Vault has it.
// Redis is logged in to by the file, so that a process starts without Vault.
type redisPassword struct {
	read   func(context.Context) (string, error)
	record *enrolment.Record
	log    zerolog.Logger
	failed prometheus.Counter
}

func newRedisPassword(v *vaultpki.Vault, record *enrolment.Record, log zerolog.Logger, reg prometheus.Registerer) (*redisPassword, error) {
	r := &redisPassword{
		read:   func(ctx context.Context) (string, error) { return v.RedisPassword(ctx, record.Node) },
		record: record, log: log,
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_role_redis_password_errors_total",
			Help: "Times that the node's password in Redis could not be read in Vault, or written to disk. The one on disk stands.",
		}),
	}
	return r, reg.Register(r.failed)
}

// run looks until ctx ends.
func (r *redisPassword) run(ctx context.Context, connected func() bool) error {
	tick := time.NewTicker(passwordAwayEvery)
	defer tick.Stop()
	due := time.Now().Add(rand.N(passwordEvery)) // the processes of a site do not ask together
	var again time.Time                          // when to look once more while Redis is away
	away := passwordAwayEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch now := time.Now(); {
		case connected():
			again, away = time.Time{}, passwordAwayEvery
			if now.Before(due) {
				continue
			}
			due = now.Add(passwordEvery)
		case now.Before(again):
			continue
		default:
			again, away = now.Add(away), min(2*away, passwordEvery)
		}
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.failed.Inc()
			r.log.Warn().Err(err).Str("hint", mesh.HintOf(err)).Msg("whether the node has another password in Redis is not known: the one on disk stands")
		}
	}
}

// look takes another password over.
func (r *redisPassword) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, passwordMost)
	defer cancel()
	password, err := r.read(ctx)
	if err != nil {
		return err
	}
	was, err := os.ReadFile(r.record.RedisPasswordFile())
	if err == nil && strings.TrimSpace(string(was)) == password {
		return nil
	}
	if err := r.record.KeepRedisPassword(password); err != nil {
		return err
	}
	r.log.Info().Msg("the node has another password in Redis")
	return nil
}
