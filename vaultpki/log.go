package vaultpki

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The layout below the KV engine. A revision is there when its head is, which is created
// once and never written again, so there is one history. What the head is about is in
// chunks, which are there before it and named by what is in them: writers who race do not
// touch each other's. The snapshot names chunks that hold all records of some revision, so
// that nobody has to read every revision there was.
const (
	kvLog      = mountKV + "/data/hedgerow/log/"
	kvLogMeta  = mountKV + "/metadata/hedgerow/log/"
	kvSnapshot = mountKV + "/data/hedgerow/snapshot"
	headName   = "head"
)

const (
	// chunkBytes is how much of a revision one entry holds: 512 KiB, which some storages
	// of Vault have as their limit, less what base64, JSON and encryption add.
	chunkBytes = 360 << 10
	maxChunks  = 1024

	snapshotEvery = 64   // revisions
	keepRevisions = 1000 // whose chunks are kept behind the snapshot
	compactEvery  = 10 * time.Second
)

// Log is the revision log of control planes that share a Vault. It keeps the newest
// revision that it has seen, and reads what is newer. It is safe for concurrent use.
//
// Invariant: when Append returns nil, the revision is in Vault, and no other of its number
// ever will be.
type Log struct {
	v           *Vault
	log         zerolog.Logger
	every, keep uint32

	mu      sync.Mutex
	head    mesh.Head
	records mesh.Records // never changed, replaced
	leaves  mesh.Leaves  // of those that are published
}

// entry is what a head or the snapshot holds.
type entry struct {
	Head   mesh.Head `json:"head"`
	Chunks []string  `json:"chunks"` // names, in order
	// Writer is random: two control planes that write the same are told apart.
	Writer string `json:"writer,omitempty"`
	// Pruned is the newest revision without chunks, of a snapshot.
	Pruned uint32 `json:"pruned,omitempty"`
}

// Log returns the log of the mesh in a Vault that Bootstrap has set up for it.
func (v *Vault) Log(ctx context.Context, meshName string) (*Log, error) {
	marker, err := v.marker(ctx)
	if err != nil {
		return nil, err
	}
	if marker.mesh != meshName {
		return nil, mesh.Errorf("vaultpki.OpenLog", meshName, mesh.Invalid, "this Vault is that of mesh %s", marker.mesh).
			WithHint("use the Vault of this mesh, or correct the key mesh")
	}
	return &Log{v: v, log: v.log, every: snapshotEvery, keep: keepRevisions}, nil
}

// Append stores c and returns once it is in Vault. It fails with kind Stale when another
// control plane was first: load, decide again, retry. After an error of another kind
// nobody knows whether it is there, and Load tells.
func (l *Log) Append(ctx context.Context, c mesh.Change) error {
	const op = "vaultpki.Append"
	l.mu.Lock()
	defer l.mu.Unlock()
	n := c.Head.Revision
	if n != l.head.Revision+1 || c.Head.Epoch < l.head.Epoch {
		return mesh.Errorf(op, "", mesh.Stale, "revision %d.%d does not follow %d.%d", c.Head.Epoch, n, l.head.Epoch, l.head.Revision)
	}
	leaves := l.leaves.Next(c.Published())
	if got := leaves.Digest(); got != c.Head.Digest {
		return mesh.Errorf(op, "", mesh.Internal, "revision %d leads to digest %.16s, its head says %.16s", n, got, c.Head.Digest)
	}
	// Most races end here, and leave no chunks behind.
	if there, err := l.readEntry(ctx, headPath(n)); err != nil || there != nil {
		return lost(n, err)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return mesh.Errorf(op, "", mesh.Internal, "encode the change: %w", err)
	}
	chunks, err := l.writeChunks(ctx, n, raw)
	if err != nil {
		return err
	}
	head, err := json.Marshal(entry{Head: c.Head, Chunks: chunks, Writer: rand.Text()})
	if err != nil {
		return mesh.Errorf(op, "", mesh.Internal, "encode the head: %w", err)
	}
	if err := l.create(ctx, headPath(n), string(head)); err != nil {
		if mesh.KindOf(err) == mesh.Stale {
			return lost(n, nil)
		}
		return err
	}
	records := maps.Clone(l.records)
	if records == nil {
		records = mesh.Records{}
	}
	records.Apply(c)
	l.head, l.records, l.leaves = c.Head, records, leaves
	return nil
}

func lost(n uint32, err error) error {
	if err != nil {
		return err
	}
	return mesh.Errorf("vaultpki.Append", "", mesh.Stale, "another control plane has written revision %d", n)
}

// create writes what is not there yet. If something is, and it is not this, the error is
// of kind Stale: a policy that lets nothing be written again says 403 then, cas says 400,
// and an answer that was lost on the way says nothing.
func (l *Log) create(ctx context.Context, path, value string) error {
	_, err := l.v.write(ctx, "log", path, map[string]any{
		"options": map[string]any{"cas": 0}, "data": map[string]any{"value": value},
	})
	if err == nil {
		return nil
	}
	there, found, readErr := l.readValue(ctx, path)
	switch {
	case readErr != nil || !found:
		return err
	case there == value:
		return nil
	}
	return mesh.Errorf("vaultpki.Create", path, mesh.Stale, "it is there already")
}

// readValue returns what create wrote.
func (l *Log) readValue(ctx context.Context, path string) (value string, found bool, err error) {
	answer, err := l.v.read(ctx, "log", path)
	if mesh.KindOf(err) == mesh.NotFound {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	data, _ := answer["data"].(map[string]any)
	value, found = data["value"].(string)
	return value, found, nil
}

// writeChunks stores raw as chunks of a revision and returns their names.
func (l *Log) writeChunks(ctx context.Context, n uint32, raw []byte) ([]string, error) {
	var names []string
	for len(raw) > 0 {
		chunk := raw[:min(len(raw), chunkBytes)]
		raw = raw[len(chunk):]
		name := chunkName(chunk)
		if err := l.create(ctx, revisionPath(n)+name, base64.StdEncoding.EncodeToString(chunk)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) > maxChunks {
		return nil, mesh.Errorf("vaultpki.Append", "", mesh.Invalid, "revision %d is too large: %d chunks", n, len(names))
	}
	return names, nil
}

// readChunks reads what writeChunks stored, and decodes it.
func (l *Log) readChunks(ctx context.Context, e *entry, into any) error {
	if len(e.Chunks) > maxChunks {
		return damaged(e, "it has %d chunks", len(e.Chunks))
	}
	var raw []byte
	for _, name := range e.Chunks {
		value, found, err := l.readValue(ctx, revisionPath(e.Head.Revision)+name)
		if err != nil {
			return err
		}
		chunk, err := base64.StdEncoding.DecodeString(value)
		if err != nil || !found || chunkName(chunk) != name {
			return damaged(e, "chunk %.16s is not there, or another", name)
		}
		raw = append(raw, chunk...)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return damaged(e, "%v", err)
	}
	return nil
}

func damaged(e *entry, format string, args ...any) error {
	return mesh.Errorf("vaultpki.ReadLog", revisionPath(e.Head.Revision), mesh.Internal, "revision %d cannot be used: %s", e.Head.Revision, fmt.Sprintf(format, args...)).
		WithHint("restore Vault from a backup, then run hedgerow root bump-epoch")
}

func (l *Log) readEntry(ctx context.Context, path string) (*entry, error) {
	value, found, err := l.readValue(ctx, path)
	if err != nil || !found {
		return nil, err
	}
	var e entry
	if err := json.Unmarshal([]byte(value), &e); err != nil {
		return nil, mesh.Errorf("vaultpki.ReadLog", path, mesh.Internal, "%w", err)
	}
	return &e, nil
}

// Newer reports whether a revision after that of head is there.
func (l *Log) Newer(ctx context.Context, head mesh.Head) (bool, error) {
	next, err := l.readEntry(ctx, headPath(head.Revision+1))
	return next != nil, err
}

// Load returns the newest head and every record, whose digest it has checked. An empty log
// has the zero Head and no records. The caller owns what it gets.
func (l *Log) Load(ctx context.Context) (mesh.Head, mesh.Records, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.follow(ctx)
	if err != nil && mesh.KindOf(err) == mesh.Internal && l.head.Revision > 0 {
		// Far behind: the chunks that come next were pruned, and a snapshot has them.
		l.head, l.records, l.leaves = mesh.Head{}, nil, nil
		err = l.follow(ctx)
	}
	if err != nil {
		return mesh.Head{}, nil, err
	}
	records := maps.Clone(l.records)
	if records == nil {
		records = mesh.Records{}
	}
	return l.head, records, nil
}

// follow takes every revision after the newest that was seen.
func (l *Log) follow(ctx context.Context) error {
	head, records, leaves := l.head, l.records, l.leaves
	if head.Revision == 0 {
		snapshot, err := l.readEntry(ctx, kvSnapshot)
		if err != nil {
			return err
		}
		if snapshot != nil {
			if err := l.readChunks(ctx, snapshot, &records); err != nil {
				return err
			}
			if head, leaves = snapshot.Head, records.Published().Leaves(); leaves.Digest() != head.Digest {
				return damaged(snapshot, "the records of the snapshot have another digest")
			}
		}
	}
	cloned := false
	for {
		e, err := l.readEntry(ctx, headPath(head.Revision+1))
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		var c mesh.Change
		if err := l.readChunks(ctx, e, &c); err != nil {
			return err
		}
		if leaves = leaves.Next(c.Published()); e.Head.Revision != head.Revision+1 || c.Head != e.Head || leaves.Digest() != e.Head.Digest {
			return damaged(e, "it does not lead to the digest of its head")
		}
		if !cloned {
			if records, cloned = maps.Clone(records), true; records == nil {
				records = mesh.Records{}
			}
		}
		records.Apply(c)
		head = e.Head
	}
	l.head, l.records, l.leaves = head, records, leaves
	return nil
}

// Run makes snapshots, and removes what they make superfluous, until ctx ends. It returns
// nil: what fails is logged, and tried again.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.Compact(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn().Err(err).Msg("the revision log is not compacted, which only costs room and time")
		}
	}
}

// Compact makes a snapshot if the last one is some revisions back, and removes chunks of
// revisions long before it. Several control planes may do so at once.
func (l *Log) Compact(ctx context.Context) error {
	l.mu.Lock()
	head, records := l.head, l.records
	l.mu.Unlock()
	was, version, err := l.readSnapshot(ctx)
	if err != nil {
		return err
	}
	if head.Revision < was.Head.Revision+l.every {
		return nil
	}
	raw, err := json.Marshal(records)
	if err != nil {
		return mesh.Errorf("vaultpki.Compact", "", mesh.Internal, "%w", err)
	}
	next := entry{Head: head, Pruned: was.Pruned}
	if next.Chunks, err = l.writeChunks(ctx, head.Revision, raw); err != nil {
		return err
	}
	// Behind the snapshot that everybody finds now. If this ends halfway it is done again.
	if was.Head.Revision > l.keep {
		next.Pruned = max(was.Pruned, was.Head.Revision-l.keep)
	}
	if err := l.prune(ctx, was.Pruned+1, next.Pruned); err != nil {
		return err
	}
	value, err := json.Marshal(next)
	if err != nil {
		return mesh.Errorf("vaultpki.Compact", "", mesh.Internal, "%w", err)
	}
	_, err = l.v.write(ctx, "log", kvSnapshot, map[string]any{
		"options": map[string]any{"cas": version}, "data": map[string]any{"value": string(value)},
	})
	return err
}

// readSnapshot returns the snapshot and its version; zeros if there is none.
func (l *Log) readSnapshot(ctx context.Context) (entry, json.Number, error) {
	answer, err := l.v.read(ctx, "log", kvSnapshot)
	if mesh.KindOf(err) == mesh.NotFound {
		return entry{}, "0", nil
	}
	if err != nil {
		return entry{}, "", err
	}
	var e entry
	data, _ := answer["data"].(map[string]any)
	metadata, _ := answer["metadata"].(map[string]any)
	value, _ := data["value"].(string)
	version, _ := metadata["version"].(json.Number)
	if err := json.Unmarshal([]byte(value), &e); err != nil {
		return entry{}, "", mesh.Errorf("vaultpki.ReadLog", kvSnapshot, mesh.Internal, "%w", err)
	}
	return e, version, nil
}

// prune removes the chunks of revisions from first to last. Their heads stay: a control
// plane that slept since then must find that these revisions are taken.
func (l *Log) prune(ctx context.Context, first, last uint32) error {
	for n := first; n <= last; n++ {
		names, err := l.v.list(ctx, "log", kvLogMeta+strconv.FormatUint(uint64(n), 10))
		if err != nil {
			return err
		}
		for _, name := range names {
			if name == headName {
				continue
			}
			if err := l.v.remove(ctx, "log", kvLogMeta+strconv.FormatUint(uint64(n), 10)+"/"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

func revisionPath(n uint32) string { return kvLog + strconv.FormatUint(uint64(n), 10) + "/" }

func headPath(n uint32) string { return revisionPath(n) + headName }

func chunkName(chunk []byte) string {
	sum := sha256.Sum256(chunk)
	return hex.EncodeToString(sum[:])
}
