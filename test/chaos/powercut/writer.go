package powercut

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// What the writer says before it asks for something, and once it was told that it is done.
const (
	opened   = "opened"   // the spool serves
	asks     = "asks"     // NUMBER OF A MESSAGE: to keep it
	kept     = "kept"     // the same, and its number in the spool
	removes  = "removes"  // a number in the spool
	buries   = "buries"   // likewise
	buried   = "buried"   // likewise
	forgets  = "forgets"  // a dead letter
	forgot   = "forgot"   // likewise
	finished = "finished" // the writer has done all that it wanted
)

const (
	writers = 4 // at once, each with a topic of its own
	lives   = 3 // how often the spool is opened
)

// write keeps n messages in the spool in dir, delivers some, gives some up, and says so.
func write(dir string, n int) error {
	for life := range lives {
		if err := live(dir, life, n/lives); err != nil {
			return err
		}
	}
	return say(finished)
}

func live(dir string, life, n int) error {
	s, err := spool.Open(spool.Options{Dir: dir, Log: zerolog.Nop()}, func(spool.Kept) {})
	for tries := 0; errors.Is(err, syscall.EIO) && tries < 10; tries++ { // as whoever starts the program again
		s, err = spool.Open(spool.Options{Dir: dir, Log: zerolog.Nop()}, func(spool.Kept) {})
	}
	if err != nil {
		return err
	}
	failed := make([]error, writers)
	failed[0] = say(opened)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := 0; i < n/writers && failed[w] == nil; i++ {
				failed[w] = one(s, w, (life*n+i)*writers+w)
			}
		})
	}
	all.Wait()
	return errors.Join(append(failed, s.Close())...)
}

// one keeps message id, and does with it what its number says.
func one(s *spool.Spool, w, id int) error {
	if err := say(asks, id); err != nil {
		return err
	}
	seq, err := s.Append(context.Background(), message(id))
	if errors.Is(err, spool.ErrFailed) { // its sender is not told that it is safe
		return recovered(s)
	}
	if err != nil {
		return err
	}
	if err := say(kept, id, int(seq)); err != nil {
		return err
	}
	switch id / writers % 5 {
	case 1, 2:
		if err := say(removes, int(seq)); err != nil {
			return err
		}
		s.Remove(seq)
	case 3:
		return giveUp(s, seq, w == 1)
	}
	return nil
}

// giveUp makes a dead letter of a message, and forgets it if that is asked for.
func giveUp(s *spool.Spool, seq uint64, purge bool) error {
	done, err := told(s, seq, buries, buried, func() error { return s.Bury(context.Background(), seq, "http_400") })
	if err != nil || !done || !purge {
		return err
	}
	_, err = told(s, seq, forgets, forgot, func() error {
		_, err := s.Purge(context.Background(), seq)
		return err
	})
	return err
}

// told does something and says so before and, if the disk took it, after.
func told(s *spool.Spool, seq uint64, before, after string, do func() error) (done bool, err error) {
	if err := say(before, int(seq)); err != nil {
		return false, err
	}
	if err := do(); errors.Is(err, spool.ErrFailed) {
		return false, recovered(s)
	} else if err != nil {
		return false, err
	}
	return true, say(after, int(seq))
}

// recovered waits until the spool's disk works again.
func recovered(s *spool.Spool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Failed != nil; <-tick.C {
		if time.Now().After(deadline) {
			return errors.New("the spool does not come back after its disk failed")
		}
	}
	return nil
}

// message returns the message that is called id. What is in it follows from that.
func message(id int) *spool.Record {
	h := fnv.New64a()
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(id)))
	chance := rand.New(rand.NewPCG(h.Sum64(), 0))
	size := chance.IntN(600)
	if id%29 == 0 {
		size = chance.IntN(20_000) // over several pages
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(chance.Uint32())
	}
	return &spool.Record{
		Received: time.UnixMicro(int64(id)), QoS: 1, ID: fmt.Sprint(id), Client: "device", Topic: fmt.Sprintf("t/%d", id%writers),
		Rule: "topicRules/t", Payload: payload,
	}
}

// say has the trace remember something. One call is one mark.
func say(what string, numbers ...int) error {
	for _, n := range numbers {
		what += fmt.Sprintf(" %d", n)
	}
	_, err := os.Stdout.WriteString(what + "\n")
	return err
}
