package registry

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for refusing what Redis holds: the label of
// hedgerow_registry_rejects_total. Those of heads and keys that are not believed are
// signing's.
const (
	rejectMalformed   = "malformed" // not the JSON, or not the shape, that it must be
	rejectOversize    = "oversize"
	rejectOlder       = "older"         // a head below the highest applied
	rejectForged      = "forged"        // a head that the control plane found and replaced
	rejectFork        = "fork"          // the applied revision with another digest
	rejectDigest      = "digest"        // records that their head does not describe
	rejectRecord      = "record"        // one object that does not validate
	rejectUnsigned    = "unsigned"      // a document without a signature
	rejectSignature   = "bad_signature" // a document that its certificate's key did not sign
	rejectUntrusted   = "untrusted"     // a document by a certificate that is not of the mesh, or no longer
	rejectSigner      = "wrong_signer"  // a document by the certificate of somebody else
	rejectQuarantined = "quarantined"   // a document by a certificate from before its node was released
	rejectOwner       = "owner"         // a document under another node's or role's key
	rejectExpired     = "expired"       // notAfter is past, or too far ahead
	rejectReplayed    = "replayed"      // a document older than the accepted one
	rejectEntitled    = "entitled"      // a service that the node may not run
	rejectAddress     = "address"       // not IP:port, or outside the dial list
	rejectDuplicate   = "duplicate"     // an instance name that another document has
	rejectUnsaved     = "unsaved"       // the snapshot could not be written to disk
)

type metrics struct {
	rejects     *prometheus.CounterVec
	errors      *prometheus.CounterVec
	publishes   *prometheus.CounterVec
	revision    prometheus.Gauge
	instances   prometheus.Gauge
	syncedAt    atomic.Int64 // when Redis last confirmed the snapshot, Unix ns; 0 for never
	signedAt    atomic.Int64 // of the newest head that was believed, likewise
	keysEnd     atomic.Int64 // when the last key that may sign ceases to, likewise
	leaseWrites prometheus.Counter
	inSync      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_registry_rejects_total",
			Help: "Heads, records, documents and instances in Redis that were refused, by reason.",
		}, []string{"reason"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_registry_errors_total",
			Help: "Calls to Redis that failed, by the part that made them.",
		}, []string{"part"}),
		publishes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_registry_publishes_total",
			Help: "Revisions written to Redis, by way: delta or full.",
		}, []string{"way"}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_registry_applied_revision",
			Help: "Revision of the newest configuration taken from Redis.",
		}),
		instances: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_registry_instances",
			Help: "Instances in the current snapshot.",
		}),
		leaseWrites: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_registry_lease_writes_total",
			Help: "Registrations written, as opposed to prolonged.",
		}),
		inSync: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_registry_published",
			Help: "1 while Redis is known to hold the newest logged revision.",
		}),
	}
	since := func(name, help string, at *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if at.Load() == 0 {
				return 0
			}
			return time.Since(time.Unix(0, at.Load())).Seconds()
		})
	}
	stale := since("hedgerow_registry_stale_seconds",
		"Seconds since Redis last confirmed the current snapshot; rises while Redis is away or refused, 0 before the first.", &m.syncedAt)
	signed := since("hedgerow_registry_signed_seconds",
		"Seconds since a control plane last signed that the current configuration is the newest; beyond 300 it may be withheld. 0 before the first.", &m.signedAt)
	ends := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hedgerow_registry_signing_keys_end_seconds",
		Help: "When the last key that may sign configuration ceases to, as Unix time; 0 if none is known.",
	}, func() float64 { return float64(m.keysEnd.Load()) / 1e9 })
	var errs []error
	for _, c := range []prometheus.Collector{m.rejects, m.errors, m.publishes, m.revision, m.instances, stale, signed, ends, m.leaseWrites, m.inSync} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
