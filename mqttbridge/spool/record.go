package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Record is one message as it is kept. Strings and bytes may hold anything.
type Record struct {
	Received time.Time // when it came; to the microsecond
	Expires  time.Time // when it must not be delivered any more; zero is never
	QoS      byte
	ID       string // what the message is called; "" is by Epoch and Number
	Client   string // who published it
	Topic    string
	Rule     string // "topicRules/telemetry", the one that matched
	// Headers are fields for the request beside those of the rule: what MQTT 5
	// says of the message. Names and values alternate.
	Headers []string
	Payload []byte

	// Epoch and Number name the record for ever, whatever becomes of the file that it
	// was kept in first. They are set by what returns a Record.
	Epoch, Number uint64
}

// Limits of a Record, far above those of MQTT and of the bridge's faces.
const (
	maxPayload = 1 << 20
	maxText    = 64 << 10
	maxHeaders = 128 // names and values
)

// Layout, all integers little endian:
//
//	magic "HGS1" | length of all u32 | CRC-32C of what follows u32 | flags u32 | epoch u64 | seq u64 | body
//
// The magic and the sum let a reader find records in a file that is damaged. The
// sum covers epoch and seq, so a record is never taken for another one.
const (
	magic      = "HGS1"
	headSize   = 4 + 4 + 4 + 4 + 8 + 8
	sumFrom    = 12
	flagSealed = 1 // the body is encrypted

	maxRecordBytes = headSize + maxPayload + (5+maxHeaders)*maxText
)

// checksum is CRC-32C, which processors have an instruction for.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendBody appends r without head.
func (r *Record) appendBody(b []byte) []byte {
	b = binary.AppendVarint(b, r.Received.UnixMicro())
	var expires int64
	if !r.Expires.IsZero() {
		expires = max(r.Expires.UnixMicro(), 1)
	}
	b = binary.AppendVarint(b, expires)
	b = append(b, r.QoS)
	for _, s := range [...]string{r.ID, r.Client, r.Topic, r.Rule} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, s := range r.Headers {
		b = appendText(b, s)
	}
	return append(b, r.Payload...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// check reports a record that could not be read again.
func (r *Record) check() error {
	if len(r.Payload) > maxPayload {
		return fmt.Errorf("a payload of %d bytes, at most %d are kept", len(r.Payload), maxPayload)
	}
	if len(r.Headers) > maxHeaders || len(r.Headers)%2 != 0 {
		return fmt.Errorf("%d names and values of headers, at most %d are kept, in pairs", len(r.Headers), maxHeaders)
	}
	for _, s := range append([]string{r.ID, r.Client, r.Topic, r.Rule}, r.Headers...) {
		if len(s) > maxText {
			return fmt.Errorf("a text of %d bytes, at most %d are kept", len(s), maxText)
		}
	}
	return nil
}

// encode returns r framed, but for its number.
func (s *Spool) encode(r *Record) ([]byte, error) {
	b := make([]byte, headSize, headSize+64+len(r.Client)+len(r.Topic)+len(r.Rule)+len(r.Payload))
	copy(b, magic)
	b = r.appendBody(b)
	if s.opts.Seal != nil {
		nonce := make([]byte, s.opts.Seal.NonceSize())
		if _, err := rand.Read(nonce); err != nil {
			return nil, err
		}
		binary.LittleEndian.PutUint32(b[12:], flagSealed)
		sealed := append(bytes.Clone(b[:headSize]), nonce...)
		b = s.opts.Seal.Seal(sealed, nonce, b[headSize:], []byte(magic))
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	return b, nil
}

// number finishes what encode began.
func number(b []byte, epoch, seq uint64) {
	binary.LittleEndian.PutUint64(b[16:], epoch)
	binary.LittleEndian.PutUint64(b[24:], seq)
	binary.LittleEndian.PutUint32(b[8:], checksum(b[sumFrom:]))
}

// decode reads what was kept. It keeps nothing of raw.
func (s *Spool) decode(raw []byte) (Record, error) {
	f, size, err := unframe(raw)
	switch {
	case err != nil:
		return Record{}, err
	case size != len(raw):
		return Record{}, fmt.Errorf("%d bytes follow it", len(raw)-size)
	}
	if f.flags&flagSealed != 0 {
		if f.body, err = s.unseal(f.body); err != nil {
			return Record{}, err
		}
	}
	r, err := parseBody(f.body)
	r.Epoch, r.Number = f.epoch, f.seq
	return r, err
}

func (s *Spool) unseal(body []byte) ([]byte, error) {
	if s.opts.Seal == nil || len(body) < s.opts.Seal.NonceSize() {
		return nil, errKey
	}
	n := s.opts.Seal.NonceSize()
	plain, err := s.opts.Seal.Open(nil, body[:n], body[n:], []byte(magic))
	if err != nil { // its sum is right, so it is what was written
		return nil, errKey
	}
	return plain, nil
}

// framed is a record with its head taken off.
type framed struct {
	flags      uint32
	epoch, seq uint64
	body       []byte
}

// unframe reads the record that b begins with, and returns how long it is.
func unframe(b []byte) (f framed, size int, err error) {
	if len(b) < headSize || string(b[:4]) != magic {
		return f, 0, errors.New("it does not begin as a record")
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n < headSize || n > maxRecordBytes || uint64(n) > uint64(len(b)) {
		return f, 0, fmt.Errorf("its length is given as %d of %d bytes", n, len(b))
	}
	b = b[:n]
	if got, want := checksum(b[sumFrom:]), binary.LittleEndian.Uint32(b[8:]); got != want {
		return f, 0, fmt.Errorf("its checksum is %08x, %08x was written", got, want)
	}
	f = framed{
		flags: binary.LittleEndian.Uint32(b[12:]), epoch: binary.LittleEndian.Uint64(b[16:]), seq: binary.LittleEndian.Uint64(b[24:]),
		body: b[headSize:],
	}
	return f, int(n), nil
}

// parseBody reads what appendBody wrote. It keeps nothing of b.
func parseBody(b []byte) (Record, error) {
	var r Record
	p := parser{b: b}
	r.Received = time.UnixMicro(p.varint())
	if expires := p.varint(); expires != 0 {
		r.Expires = time.UnixMicro(expires)
	}
	r.QoS = p.byte()
	r.ID, r.Client, r.Topic, r.Rule = p.text(), p.text(), p.text(), p.text()
	n := p.uvarint()
	if n > maxHeaders || n%2 != 0 {
		p.failed = true
	}
	for i := uint64(0); i < n && !p.failed; i++ {
		r.Headers = append(r.Headers, p.text())
	}
	if p.failed || len(p.b) > maxPayload {
		return Record{}, errors.New("its body makes no sense")
	}
	r.Payload = append([]byte{}, p.b...)
	return r, nil
}

// parser reads from the front of b. Once it failed it returns zeros.
type parser struct {
	b      []byte
	failed bool
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.b)
	if !p.take(n) {
		return 0
	}
	return v
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if !p.take(n) {
		return 0
	}
	return v
}

func (p *parser) byte() byte {
	b := p.b
	if !p.take(1) {
		return 0
	}
	return b[0]
}

func (p *parser) text() string {
	n := p.uvarint()
	b := p.b
	if n > maxText || n > 0 && !p.take(int(n)) {
		p.failed = true
		return ""
	}
	return string(b[:n])
}

// take moves over n bytes, at least one, and reports whether they are there.
func (p *parser) take(n int) bool {
	if p.failed = p.failed || n <= 0 || n > len(p.b); p.failed {
		return false
	}
	p.b = p.b[n:]
	return true
}
