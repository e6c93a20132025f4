package registry

import (
	"context"
	"crypto/sha1" //nolint:gosec // what Redis has in scripts
	_ "embed"     // publish.lua
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	// changesKept bounds the changes stream. A watcher that was away for more
	// revisions reads everything.
	changesKept = 256

	// maxEntryBytes and maxEntryRecords bound the delta that an entry of
	// changes carries, and with changesKept the stream. Watchers read
	// everything after a greater change. Lua's unpack bounds the count too.
	maxEntryBytes   = 64 << 10
	maxEntryRecords = 256

	// publishTimeout bounds one run of the script with every record in it.
	publishTimeout = 10 * time.Second
)

//go:embed publish.lua
var publishSource string

// Outcome says what Publish found.
type Outcome uint8

// The outcomes of Publish that are no errors.
const (
	// Published: Redis holds the revision now, by this call.
	Published Outcome = iota + 1
	// AlreadyPublished: Redis held exactly this revision before.
	AlreadyPublished
	// Newer: Redis holds a later revision, or another of this number. Nothing
	// was written. After a lost race that is right; from the only writer it
	// means that Redis was filled by another log.
	Newer
)

// String returns the outcome's name in lower case.
func (o Outcome) String() string {
	switch o {
	case Published:
		return "published"
	case AlreadyPublished:
		return "already published"
	case Newer:
		return "newer"
	default:
		return "unknown"
	}
}

// Publish writes the revision change.Head to Redis, all or nothing. base is
// the head that the change was made on and all the records after it. If Redis
// holds base the change is applied to it; if it is empty, older or damaged it
// gets all; if it is not older it is left alone. Errors are of kind
// Unavailable (nothing or everything was written; publish again) and Invalid
// (too large).
func (c *Client) Publish(ctx context.Context, change mesh.Change, base mesh.Head, all mesh.Records) (Outcome, error) {
	const op = "registry.Publish"
	if err := checkSize(op, all); err != nil {
		return 0, err
	}
	p := publication{
		mode: "delta", base: base, head: change.Head, count: len(all),
		puts: change.Puts, deletes: change.Deletes, entry: entryFields(change),
	}
	outcome, err := c.publish(ctx, p)
	if err != nil || outcome != "full" {
		return c.outcome(op, "delta", outcome, err)
	}
	p.mode, p.puts, p.deletes = "full", all, nil
	outcome, err = c.publish(ctx, p)
	return c.outcome(op, "full", outcome, err)
}

// republish writes everything, over an older head and over whatever nobody signed who may; over the
// same one only to repair what does not fit it: a change that was published a moment ago has its
// entry in changes, which is quicker to follow than to read everything.
func (c *Client) republish(ctx context.Context, head mesh.Head, all mesh.Records, repair bool) (Outcome, error) {
	const op = "registry.Republish"
	if err := checkSize(op, all); err != nil {
		return 0, err
	}
	p := publication{mode: "full", head: head, count: len(all), puts: all, entry: []any{fieldWhole, "1"}}
	if repair {
		p.mode = "repair"
	}
	outcome, err := c.publish(ctx, p)
	if err == nil && outcome == "newer" {
		var forged string
		if forged, err = c.forged(ctx); err == nil && forged != "" {
			c.log.Warn().Msg("Redis holds a head that nobody signed who may: it is replaced")
			c.metrics.rejects.WithLabelValues(rejectForged).Inc()
			p.mode = fmt.Sprintf("over:%x", sha1.Sum([]byte(forged))) //nolint:gosec // names what is replaced, no secret
			outcome, err = c.publish(ctx, p)
		}
	}
	return c.outcome(op, "full", outcome, err)
}

// forged returns the head that Redis holds, if nobody signed it who may sign now.
func (c *Client) forged(ctx context.Context) (string, error) {
	const op = "registry.Republish"
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := c.redis.GetRange(ctx, c.keys.head(), 0, maxHeadBytes).Result()
	if err != nil {
		return "", readError(op, err)
	}
	head, err := decodeHead(op, []byte(raw))
	if err == nil && c.trust.Head(head, time.Now()) == nil {
		return "", nil
	}
	return raw, nil //nolint:nilerr // what is no head is no better than one of nobody's
}

// sign replaces the head by the same one, signed later.
func (c *Client) sign(ctx context.Context, head mesh.Head) error {
	outcome, err := c.publish(ctx, publication{mode: "sign", head: head})
	if err == nil && outcome != "published" {
		err = mesh.Errorf("registry.Republish", "", mesh.Unavailable, "the head changed while it was signed again")
	}
	return wrap("registry.Republish", "", err)
}

// publishKeys replaces the keys that Redis holds.
func (c *Client) publishKeys(ctx context.Context, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return wrap("registry.Republish", "", c.redis.Set(ctx, c.keys.signers(), raw, 0).Err())
}

func (c *Client) outcome(op, way, outcome string, err error) (Outcome, error) {
	if err != nil {
		return 0, wrap(op, "", err)
	}
	switch outcome {
	case "published":
		c.metrics.publishes.WithLabelValues(way).Inc()
		return Published, nil
	case "same":
		return AlreadyPublished, nil
	case "newer":
		return Newer, nil
	}
	return 0, mesh.Errorf(op, "", mesh.Unavailable, "the script answered %.40q", outcome)
}

// The fields of an entry in changes, beside "head". An entry carries either
// what its revision changed, or the word that everything is to be read.
const (
	fieldHead  = "head"
	fieldPut   = "put:" // and the name; the value is the record
	fieldDel   = "del:" // and the name
	fieldWhole = "whole"
)

func entryFields(change mesh.Change) []any {
	whole := []any{fieldWhole, "1"}
	if len(change.Puts)+len(change.Deletes) > maxEntryRecords {
		return whole
	}
	var fields []any
	size := 0
	for _, name := range slices.Sorted(maps.Keys(change.Puts)) {
		fields = append(fields, fieldPut+name, change.Puts[name])
		size += len(name) + len(change.Puts[name])
	}
	for _, name := range change.Deletes {
		fields = append(fields, fieldDel+name, "")
		size += len(name)
	}
	if size > maxEntryBytes {
		return whole
	}
	return fields
}

// publication is one run of publish.lua.
type publication struct {
	mode       string
	base, head mesh.Head
	count      int // of all records of the revision
	puts       mesh.Records
	deletes    []string
	entry      []any // fields of the entry in changes
}

func (p publication) args(signers []byte) ([]any, error) {
	head, err := json.Marshal(p.head)
	if err != nil {
		return nil, fmt.Errorf("encode the head: %w", err)
	}
	args := []any{
		head, p.head.Epoch, p.head.Revision, p.head.Digest,
		p.base.Epoch, p.base.Revision, p.base.Digest,
		p.count, p.mode, changesKept, len(p.puts), len(p.deletes), signers,
	}
	for _, name := range slices.Sorted(maps.Keys(p.puts)) {
		args = append(args, name, p.puts[name])
	}
	for _, name := range p.deletes {
		args = append(args, name)
	}
	return append(args, p.entry...), nil
}

func (c *Client) publish(ctx context.Context, p publication) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, signers := c.trust.Keys()
	args, err := p.args(signers)
	if err != nil {
		return "", err
	}
	keys := []string{c.keys.head(), c.keys.config(), c.keys.changes(), c.keys.signers()}
	reply, err := redis.NewScript(publishSource).Run(ctx, c.redis, keys, args...).StringSlice()
	if err != nil {
		return "", err
	}
	if len(reply) != 4 {
		return "", fmt.Errorf("the script answered %d values instead of 4", len(reply))
	}
	if reply[0] == "newer" {
		c.log.Warn().Uint32("revision", p.head.Revision).Str("registry_epoch", number(reply[1])).Str("registry_revision", number(reply[2])).
			Msg("Redis holds a newer or another revision, nothing was published")
	}
	return reply[0], nil
}

// number returns s if it is one: it came from Redis and goes to the log.
func number(s string) string {
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return "?"
	}
	return s
}

func checkSize(op string, all mesh.Records) error {
	if len(all) > maxRecords {
		return mesh.Errorf(op, "", mesh.Invalid, "%d objects, at most %d can be published", len(all), maxRecords)
	}
	size := 0
	for name, raw := range all {
		if len(raw) > maxRecordBytes {
			return mesh.Errorf(op, name, mesh.Invalid, "%d bytes, at most %d can be published", len(raw), maxRecordBytes)
		}
		size += len(name) + len(raw)
	}
	if size > maxConfigBytes {
		return mesh.Errorf(op, "", mesh.Invalid, "%d bytes of objects, at most %d can be published", size, maxConfigBytes)
	}
	return nil
}

// knowKeys notes when the keys that may sign cease to.
func (c *Client) knowKeys() {
	if keys, _ := c.trust.Keys(); keys != nil && !keys.Ends().IsZero() {
		c.metrics.keysEnd.Store(keys.Ends().UnixNano())
	}
}
