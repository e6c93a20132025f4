package mqttbridge

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge/spool"
)

// A DeadLetter is a message that was given up, as DeadLetters shows it.
type DeadLetter struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	Reason    string    `json:"reason"`
	MessageID string    `json:"messageId,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Client    string    `json:"client,omitempty"`
	Rule      string    `json:"rule,omitempty"`
	Received  time.Time `json:"received,omitzero"`
	// Payload is the message if it is text; else Bytes, in base64.
	Payload string `json:"payload,omitempty"`
	Bytes   []byte `json:"bytes,omitempty"`
}

// DeadLetterPage is the answer to GET.
type DeadLetterPage struct {
	DeadLetters []DeadLetter `json:"deadLetters"`
	// NextAfter is the after of the next page; "" on the last.
	NextAfter string `json:"nextAfter,omitempty"`
}

// DeadLetterAction is the body of a POST: which dead letters to replay or to purge.
// Without IDs, All has to say that all are meant.
type DeadLetterAction struct {
	IDs []string `json:"ids,omitempty"`
	All bool     `json:"all,omitempty"`
}

// DeadLetterResult is the answer to a POST.
type DeadLetterResult struct {
	Done int `json:"done"`
	// Failed says why, by id.
	Failed map[string]string `json:"failed,omitempty"`
}

const (
	deadLettersPage = 100
	maxActionBytes  = 1 << 20
)

// DeadLetters serves the bridge's dead letters to its operator: GET lists them, at most
// 100 after ?after=ID; POST with ?action=replay delivers them again, under the message
// id that they had; POST with ?action=purge forgets them. It authenticates nobody: it
// is for the admin port.
func (b *Bridge) DeadLetters() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", b.listDeadLetters)
	mux.HandleFunc("POST /", b.changeDeadLetters)
	return mux
}

func (b *Bridge) listDeadLetters(w http.ResponseWriter, r *http.Request) {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 63); err != nil {
			http.Error(w, "after: it is the id of a dead letter", http.StatusBadRequest)
			return
		}
	}
	page := DeadLetterPage{DeadLetters: []DeadLetter{}}
	if b.spool != nil {
		found, err := b.spool.Dead(after, deadLettersPage)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		for i := range found {
			page.DeadLetters = append(page.DeadLetters, b.deadLetter(&found[i]))
		}
		if len(found) == deadLettersPage {
			page.NextAfter = strconv.FormatUint(found[len(found)-1].ID, 10)
		}
	}
	answerJSON(w, page)
}

func (b *Bridge) deadLetter(d *spool.DeadLetter) DeadLetter {
	out := DeadLetter{ID: strconv.FormatUint(d.ID, 10), Time: d.Time.UTC(), Reason: d.Reason}
	if d.Topic == "" { // it could not be read
		return out
	}
	out.MessageID, out.Topic, out.Client, out.Rule, out.Received = b.spooledID(&d.Record), d.Topic, d.Client, d.Rule, d.Received.UTC()
	if utf8.Valid(d.Payload) {
		out.Payload = string(d.Payload)
	} else {
		out.Bytes = d.Payload
	}
	return out
}

// changeDeadLetters wants JSON, which no web page can send here without asking first.
func (b *Bridge) changeDeadLetters(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" || r.Header.Get("Origin") != "" {
		http.Error(w, "Content-Type: application/json is needed, and no Origin", http.StatusUnsupportedMediaType)
		return
	}
	var action DeadLetterAction
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxActionBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&action); err != nil {
		http.Error(w, "the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	ids, err := action.ids()
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case b.spool == nil:
		http.Error(w, "this bridge keeps no messages", http.StatusNotFound)
		return
	}
	switch r.URL.Query().Get("action") {
	case "replay":
		b.replay(w, r, ids)
	case "purge":
		n, err := b.spool.Purge(r.Context(), ids...)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		b.opts.Log.Warn().Int("purged", n).Msg("dead letters purged")
		answerJSON(w, DeadLetterResult{Done: n})
	default:
		http.Error(w, "action: replay or purge", http.StatusBadRequest)
	}
}

// ids returns the numbers of action; none if all are meant.
func (a *DeadLetterAction) ids() ([]uint64, error) {
	if (len(a.IDs) == 0) != a.All {
		return nil, errors.New(`either "ids" or "all": true is needed`)
	}
	out := make([]uint64, 0, len(a.IDs))
	for _, text := range a.IDs {
		id, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return nil, errors.New("ids: they are numbers, as the list has them")
		}
		out = append(out, id)
	}
	return out, nil
}

// replay replays ids, or all that there are now.
func (b *Bridge) replay(w http.ResponseWriter, r *http.Request, ids []uint64) {
	result := DeadLetterResult{}
	again := func(id uint64) {
		if err := b.spool.Replay(r.Context(), id); err == nil {
			result.Done++
			return
		} else if result.Failed == nil {
			result.Failed = map[string]string{strconv.FormatUint(id, 10): err.Error()}
		} else {
			result.Failed[strconv.FormatUint(id, 10)] = err.Error()
		}
	}
	for _, id := range ids {
		again(id)
	}
	// What dies again meanwhile has a greater number: this ends.
	for after, last := uint64(0), b.spool.Last(); len(ids) == 0; {
		found, err := b.spool.Dead(after, deadLettersPage)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if len(found) == 0 || found[0].ID > last {
			break
		}
		for i := range found {
			if after = found[i].ID; after <= last {
				again(after)
			}
		}
	}
	b.opts.Log.Warn().Int("replayed", result.Done).Int("failed", len(result.Failed)).Msg("dead letters replayed")
	answerJSON(w, result)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked is gone
}
