package registry

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// Head returns the head that Redis holds. It fails with kind NotFound when
// Redis holds none, Malformed when it is no head, Unavailable when Redis is away.
func (c *Client) Head(ctx context.Context) (mesh.Head, error) {
	const op = "registry.Head"
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := c.redis.GetRange(ctx, c.keys.head(), 0, maxHeadBytes).Result()
	if err != nil {
		return mesh.Head{}, readError(op, err)
	}
	return decodeHead(op, []byte(raw))
}

// Read returns everything that Redis holds, as of one moment, without looking
// at the records. It fails like Head, and with kind Malformed when the records
// are not those that the head describes.
func (c *Client) Read(ctx context.Context) (mesh.Head, mesh.Records, error) {
	head, records, _, err := c.read(ctx)
	return head, records, err
}

// read is Read that also returns what is there for the keys, whatever becomes of the rest.
func (c *Client) read(ctx context.Context) (_ mesh.Head, _ mesh.Records, signers string, _ error) {
	const op = "registry.Read"
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	var head, keys *redis.StringCmd
	var config *redis.MapStringStringCmd
	_, err := c.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		keys = p.GetRange(ctx, c.keys.signers(), 0, signing.MaxKeySetBytes)
		head = p.GetRange(ctx, c.keys.head(), 0, maxHeadBytes)
		config = p.HGetAll(ctx, c.keys.config())
		return nil
	})
	if err != nil && (head.Err() != nil || config.Err() != nil) {
		return mesh.Head{}, nil, keys.Val(), readError(op, errors.Join(head.Err(), config.Err()))
	}
	h, err := decodeHead(op, []byte(head.Val()))
	if err != nil {
		return mesh.Head{}, nil, keys.Val(), err
	}
	records := make(mesh.Records, len(config.Val()))
	for name, raw := range config.Val() {
		records[name] = []byte(raw)
	}
	if err := checkSize(op, records); err != nil {
		return h, nil, keys.Val(), mesh.Errorf(op, "", mesh.Malformed, "%w", err)
	}
	if got := records.Digest(); got != h.Digest {
		return h, nil, keys.Val(), &mesh.Error{Op: op, Kind: mesh.Malformed, Err: fmt.Errorf("%w: they have %.16s, revision %d says %.16s", errDigest, got, h.Revision, h.Digest)}
	}
	return h, records, keys.Val(), nil
}

// errDigest is in the chain of errors about records that their head does not
// describe. The head was returned; reading again may find what is being written.
var errDigest = errors.New("the records do not have the digest of their head")

// decodeHead decodes the first maxHeadBytes+1 bytes of the head: it is read by
// GETRANGE, so that one of a gigabyte is malformed like any other, and mended.
func decodeHead(op string, raw []byte) (mesh.Head, error) {
	var h mesh.Head
	if len(raw) == 0 {
		return h, mesh.Errorf(op, "", mesh.NotFound, "Redis holds no configuration")
	}
	if len(raw) > maxHeadBytes {
		return h, mesh.Errorf(op, "", mesh.Malformed, "the head has %d bytes, at most %d are read", len(raw), maxHeadBytes)
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return mesh.Head{}, mesh.Errorf(op, "", mesh.Malformed, "decode the head: %w", err)
	}
	if b, err := hex.DecodeString(h.Digest); err != nil || len(b) != 32 || h.Revision == 0 {
		return mesh.Head{}, mesh.Errorf(op, "", mesh.Malformed, "the head has revision %d and digest %.70q", h.Revision, h.Digest)
	}
	return h, nil
}

// readError sorts the errors of a read: a key that is not there, one of the
// wrong type or beyond all bounds, and Redis being away.
func readError(op string, err error) error {
	switch {
	case errors.Is(err, redis.Nil):
		return mesh.Errorf(op, "", mesh.NotFound, "Redis holds no configuration")
	case odd(err):
		return mesh.Errorf(op, "", mesh.Malformed, "%w", err)
	}
	return wrap(op, "", err)
}

func parseRevision(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}
