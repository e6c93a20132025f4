package registry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

const (
	maxSavedBytes = 2 * maxConfigBytes
	// savedFrame is more than what the file has around an item's name and base64, and
	// around all items.
	savedFrame = 64

	maxFloorBytes = 256 << 10
)

// saved is what a Watcher keeps on disk: the bytes as Redis held them, so that
// they are verified again when they are read.
type saved struct {
	Mesh      string          `json:"mesh"` // the prefix of its keys
	Time      time.Time       `json:"time"`
	Head      mesh.Head       `json:"head"`
	Keys      []byte          `json:"keys"` // who may sign heads, as signed
	Records   mesh.Records    `json:"records"`
	Needed    []string        `json:"needed"`
	Documents []savedDocument `json:"documents"`
}

type savedDocument struct {
	Node string `json:"node"`
	Role string `json:"role"`
	Raw  []byte `json:"raw"`
}

// floorFile is what a Watcher keeps beside the snapshot, and writes before a
// revision is applied: no run after it applies an older one, or another history.
type floorFile struct {
	Mesh  string    `json:"mesh"`
	Floor mesh.Head `json:"floor"`
	Keys  []byte    `json:"keys"`
}

// floorName returns where the floor of a snapshot's file is.
func floorName(file string) string { return strings.TrimSuffix(file, ".json") + ".floor.json" }

// loadFloor reads what an earlier run had applied. It is believed without its
// signature: it can only make this process refuse more.
func (w *Watcher) loadFloor() {
	name := floorName(w.opts.File)
	raw, err := readBounded(name, maxFloorBytes)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var f floorFile
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err == nil && f.Mesh != w.client.keys.prefix {
		err = fmt.Errorf("it is of another mesh, %.80q", f.Mesh)
	}
	if err != nil {
		w.reject("file "+name, refuse(rejectMalformed, "%w", err))
		return
	}
	w.config.floor = f.Floor
	w.learn(string(f.Keys))
}

// raiseFloor writes that nothing before head is to be applied. A disk that takes
// nothing is counted and logged, and does not keep the mesh from changing: what is
// about to be applied may be what shuts out a thief.
func (w *Watcher) raiseFloor(head mesh.Head) {
	if w.opts.File == "" {
		return
	}
	_, keys := w.client.trust.Keys()
	raw, err := json.Marshal(floorFile{Mesh: w.client.keys.prefix, Floor: head, Keys: keys})
	if err == nil {
		err = replaceFile(floorName(w.opts.File), raw)
	}
	if err != nil {
		w.reject("file "+floorName(w.opts.File), &refusal{reason: rejectUnsaved, err: err})
	}
}

// load starts from the file of an earlier run, so that a process serves with
// Redis away. What it holds is judged as if it came from Redis: a damaged file
// is counted and logged, and left.
func (w *Watcher) load() {
	s, err := readSaved(w.opts.File)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil && s.Mesh != w.client.keys.prefix {
		err = fmt.Errorf("it is of another mesh, %.80q", s.Mesh)
	}
	if err != nil {
		w.reject("file "+w.opts.File, refuse(rejectMalformed, "%w", err))
		return
	}
	_, err = w.client.trust.Learn(s.Keys)
	r := unbelieved(err)
	if r == nil || r.reason == string(signing.OlderKeys) { // the floor's were written later
		r = unbelieved(w.client.trust.Kept(s.Head))
	}
	if r != nil {
		w.reject("file "+w.opts.File, r)
		return
	}
	w.client.knowKeys()
	if s.Head.Before(w.config.floor) {
		w.client.log.Warn().Uint32("revision", s.Head.Revision).Uint32("applied", w.config.floor.Revision).Msg("the snapshot on disk is older than what was applied last")
	}
	decoded, errs := mesh.DecodeRecords(s.Head, s.Records)
	for _, err := range errs {
		w.reject("file "+w.opts.File, refuse(rejectRecord, "%w", err))
	}
	floor := w.config.floor
	if floor.Before(s.Head) {
		floor = s.Head
	}
	w.config = configState{head: s.Head, floor: floor, records: s.Records, leaves: s.Records.Leaves(), decoded: decoded, denies: w.denies(decoded)}
	w.signed()
	w.Need(s.Needed...)
	w.client.metrics.revision.Set(float64(s.Head.Revision))
	w.setStatus(func(st *WatchStatus) { st.Head = s.Head })
	w.client.log.Info().Uint32("revision", s.Head.Revision).Time("saved", s.Time).Msg("started from the snapshot on disk")
	w.kept = s
	w.takeKept()
}

// takeKept takes the documents of the file, once there are roots to verify them by.
// They are judged as of when they were saved: accepted once, a document does not age
// while Redis is silent.
func (w *Watcher) takeKept() {
	s := w.kept
	v := verification{mesh: w.client.trust.Mesh(), bundle: w.bundle()}
	if s == nil || v.bundle == nil {
		return
	}
	w.kept, v.at = nil, s.Time
	for _, d := range s.Documents {
		key := instanceKey{d.Node, d.Role}
		doc, by, r := v.openDocument(d.Raw, key, nil)
		if r != nil {
			w.reject("file "+w.opts.File, r)
			continue
		}
		w.instances.held[key] = &held{raw: string(d.Raw), doc: doc, by: by, seen: s.Time}
	}
	w.instances.read, w.instances.stale = true, true
	w.publish()
}

// save writes the file if the snapshot changed since it was written, and not too much
// time went into that lately; else saveDue says when.
func (w *Watcher) save() {
	if w.saves.left() == 0 {
		w.saveNow()
	}
}

// saveDue returns a channel that delivers when what save left is to be written.
func (w *Watcher) saveDue() <-chan time.Time {
	if !w.unsaved() {
		return nil
	}
	return time.After(w.saves.left())
}

// unsaved reports whether the file is behind the snapshot.
func (w *Watcher) unsaved() bool {
	now := w.snapshot.Load()
	_, keys := w.client.trust.Keys()
	return w.opts.File != "" && now != nil && (w.savedSnapshot != now || !bytes.Equal(w.savedKeys, keys) || w.savedSigner != w.config.head.KeyID)
}

// saveNow writes the file if the snapshot changed since it was written. A write
// that fails is counted and logged; the next one is tried as if it were the first.
func (w *Watcher) saveNow() {
	if !w.unsaved() {
		return
	}
	now, began := w.snapshot.Load(), time.Now()
	defer func() { w.saves.took(began) }()
	_, keys := w.client.trust.Keys()
	s := saved{Mesh: w.client.keys.prefix, Time: time.Now().UTC(), Head: w.config.head, Keys: keys, Records: w.config.records}
	w.mu.Lock()
	for service := range w.need {
		s.Needed = append(s.Needed, service)
	}
	w.mu.Unlock()
	slices.Sort(s.Needed)
	if left := s.add(w.instances.held, maxSavedBytes); left > 0 {
		w.reject("file "+w.opts.File, &refusal{reason: rejectUnsaved, err: fmt.Errorf(
			"the configuration and the documents of nodes are over %d bytes together: %d documents are left out", maxSavedBytes, left)})
	}
	if err := writeSaved(w.opts.File, &s); err != nil {
		w.reject("file "+w.opts.File, &refusal{reason: rejectUnsaved, err: err})
		return
	}
	w.savedSnapshot, w.savedKeys, w.savedSigner = now, keys, s.Head.KeyID
}

// add takes the accepted documents, in the order of their keys, and returns how many it leaves out
// because a file with them would be longer than most, and not be read again.
func (s *saved) add(documents map[instanceKey]*held, most int) (left int) {
	room := most - 4*savedFrame - len(s.Mesh) - len(s.Head.Digest) - len(s.Head.KeyID) - len(s.Head.Signature) - base64.StdEncoding.EncodedLen(len(s.Keys))
	for name, record := range s.Records {
		room -= savedFrame + len(name) + base64.StdEncoding.EncodedLen(len(record))
	}
	for _, service := range s.Needed {
		room -= savedFrame + len(service)
	}
	for key, h := range documents {
		if h.doc != nil {
			s.Documents = append(s.Documents, savedDocument{key.node, key.role, []byte(h.raw)})
		}
	}
	slices.SortFunc(s.Documents, func(a, b savedDocument) int {
		return strings.Compare(a.Node+"/"+a.Role, b.Node+"/"+b.Role)
	})
	for i, d := range s.Documents {
		if room -= savedFrame + len(d.Node) + len(d.Role) + base64.StdEncoding.EncodedLen(len(d.Raw)); room < 0 {
			left = len(s.Documents) - i
			s.Documents = s.Documents[:i]
			break
		}
	}
	return left
}

// readSaved reads and verifies a file. Its records add up to its head's digest.
func readSaved(name string) (*saved, error) {
	b, err := readBounded(name, maxSavedBytes)
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.Head.Revision == 0 {
		return nil, errors.New("it has no revision")
	}
	if got := s.Records.Digest(); got != s.Head.Digest {
		return nil, fmt.Errorf("its records have the digest %.16s, its head says %.16s", got, s.Head.Digest)
	}
	return &s, nil
}

// readBounded reads a file of at most most bytes.
func readBounded(name string, most int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fmt.Errorf("over %d bytes", most)
	}
	return b, nil
}

// writeSaved writes the file of a snapshot.
func writeSaved(name string, s *saved) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if len(b) > maxSavedBytes { // it could not be read again, the one before can
		return fmt.Errorf("%d bytes, at most %d are read", len(b), maxSavedBytes)
	}
	return replaceFile(name, b)
}

// replaceFile replaces the file as a whole, or not at all, whatever happens
// meanwhile: a temporary file, synced, renamed, and the directory synced.
func replaceFile(name string, b []byte) error {
	dir := filepath.Dir(name)
	tmp, err := os.CreateTemp(dir, filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
