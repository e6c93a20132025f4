package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// metrics are the broker's series.
type metrics struct {
	connections *prometheus.CounterVec // by result
	limits      *prometheus.CounterVec // that a client broke: topic, subscriptions, retained
	logged      *prometheus.CounterVec // what the library had to say, by level
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hedgerow_broker_" + name + "_total", Help: help}, []string{label})
	}
	m := &metrics{
		connections: vec("connections", "Connections to the embedded broker, by result.", "result"),
		limits:      vec("limits_exceeded", "Limits of the embedded broker that clients exceeded, by limit.", "limit"),
		logged:      vec("log_entries", "Entries that the broker library logged, by level.", "level"),
	}
	for _, c := range []prometheus.Collector{m.connections, m.limits, m.logged} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// sampled bounds the lines that clients can cause.
func sampled(log zerolog.Logger) zerolog.Logger {
	return log.Sample(&zerolog.BurstSampler{Burst: 10, Period: 10 * time.Second})
}

// logHandler sends the library's log to ours at debug level. Any client can
// make the library warn, and its entries hold whole packets with payloads, so
// the level is lowered and only harmless attributes are kept. Warnings and
// errors are counted.
type logHandler struct {
	log     zerolog.Logger
	metrics *metrics
}

var _ slog.Handler = logHandler{}

func newLogger(log zerolog.Logger, m *metrics) *slog.Logger {
	return slog.New(logHandler{log: log, metrics: m})
}

// Enabled takes warnings and errors always, because they are counted.
func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || h.log.GetLevel() <= zerolog.DebugLevel
}

// Handle logs one entry.
func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.metrics.logged.WithLabelValues(r.Level.String()).Inc()
	}
	e := h.log.Debug().Str("library", "mochi-mqtt")
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "error", "client", "remote":
			e = e.Str(a.Key, a.Value.String())
		}
		return true
	})
	e.Msg(r.Message)
	return nil
}

// WithAttrs drops the attributes: they name the hook and the listener.
func (h logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup is not used by the library.
func (h logHandler) WithGroup(string) slog.Handler { return h }
