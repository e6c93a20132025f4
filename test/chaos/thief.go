package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// playThief takes every file of a node that runs a service, tries what can be tried with
// them, and has each attempt made again by somebody who may do it: what was refused was a
// thing that can be done, and was refused for who asked.
func playThief(t *stage.T, r *row, s settings) {
	e := newEstate(t, s.binaries)
	l := e.steal(victim)
	r.note("files", len(l.files))
	before := e.configuration()

	r.own(e.ownRights(l))
	e.robVault(r, l)
	e.robAPI(r, l)
	e.robWire(r, l)
	e.impersonate(r, l)
	if now := e.configuration(); now != before {
		r.blame("the configuration", "it is another than before the attempts")
	}
	e.robRedis(r, l)
	if now := e.configuration(); now != before {
		r.blame("the configuration in Redis", "it is another than before the attempts")
	}
	e.overreach(r, l)

	// What only somebody else may do is done last: it takes the mesh apart.
	e.redisControls(r)
	e.apiControls(r)
	e.vaultControls(r)
}

// verdict is how an attempt ended.
type verdict struct {
	done   bool   // what it was after, it got
	answer string // what was answered, with the status or code
}

// attempt is one thing that is tried, by whoever it is given.
type attempt[C any] struct {
	name string
	do   func(ctx context.Context, as C) verdict
	why  string // what the answer to one who may not matches, and to a mistake does not
}

// attemptMost bounds one attempt.
const attemptMost = 20 * time.Second

// assail makes the attempts as one who may do nothing of it, and adds how many there were
// and how many got what they were after. One that was refused for another reason than its
// own has shown nothing, and fails the row.
func assail[C any](t *stage.T, r *row, what string, least int, attempts []attempt[C], as C) {
	allowed := 0
	for _, a := range attempts {
		switch o := carryOut(t, a, as); {
		case o.done:
			allowed++
			r.blame(what+" allowed", a.name+": "+o.answer)
		case !regexp.MustCompile(a.why).MatchString(o.answer):
			r.blame(what+" was refused for another reason than "+a.why, a.name+": "+o.answer)
		}
	}
	r.atLeast(what, len(attempts), least)
	r.zero(what+"_allowed", allowed)
}

// vouch makes the attempts as somebody who may: each has to succeed.
func vouch[C any](t *stage.T, r *row, what string, attempts []attempt[C], as C) {
	succeeded := 0
	for _, a := range attempts {
		if o := carryOut(t, a, as); o.done {
			succeeded++
		} else {
			r.blame(what+": the control does not succeed", a.name+": "+o.answer)
		}
	}
	r.equal(what+"_controls", succeeded, len(attempts))
}

func carryOut[C any](t *stage.T, a attempt[C], as C) verdict {
	ctx, cancel := context.WithTimeout(t.Context(), attemptMost)
	defer cancel()
	return a.do(ctx, as)
}

// own adds what the thief can do because the node can: by that its credentials are known
// to be good.
func (r *row) own(wrong map[string]error) {
	good := 0
	for what, err := range wrong {
		if err == nil {
			good++
			continue
		}
		r.blame("the node's own right to "+what, err.Error())
	}
	r.equal("own_rights", good, len(wrong))
}

// failed is a verdict that is an error, or done if there is none.
func failed(err error) verdict {
	if err != nil {
		return verdict{answer: err.Error()}
	}
	return verdict{done: true, answer: "done"}
}

// answered is the verdict on a request: done if the status is 2xx.
func answered(status int, body []byte) verdict {
	return verdict{done: status/100 == 2, answer: fmt.Sprintf("%d: %.300s", status, body)}
}
