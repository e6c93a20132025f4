package mqttbridge

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestDeadLettersOverHTTP(t *testing.T) {
	s := newSink()
	s.answer(func(string, string) int { return 422 })
	b, stop := startSpooling(t, t.TempDir(), s, spoolingRule())
	defer stop()
	for _, payload := range []string{"one", "two", "\xff\xfe"} {
		delivered(t, b, from("d1", payload))
	}
	eventually(t, "dead", func() bool { return b.Stats().Dead["http_422"] == 3 })
	h := b.DeadLetters()
	ask := func(method, target, body string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/dead-letters"+target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	var page DeadLetterPage
	if err := json.Unmarshal(ask("GET", "", "").Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.DeadLetters) != 3 || page.DeadLetters[0].Payload != "one" || string(page.DeadLetters[2].Bytes) != "\xff\xfe" ||
		page.DeadLetters[0].MessageID != s.ids["d1 one"] || page.DeadLetters[0].Reason != "http_422" {
		t.Fatalf("%+v", page)
	}
	first := page.DeadLetters[0].ID
	for name, test := range map[string]struct {
		target, body string
		header       []string
		status       int
	}{
		"a form of a web page":    {"?action=purge", `{"all":true}`, []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		"a script of a web page":  {"?action=purge", `{"all":true}`, []string{"Origin", "http://evil.example"}, http.StatusUnsupportedMediaType},
		"neither ids nor all":     {"?action=purge", `{}`, nil, http.StatusBadRequest},
		"both ids and all":        {"?action=purge", `{"ids":["1"],"all":true}`, nil, http.StatusBadRequest},
		"an unknown field":        {"?action=purge", `{"everything":true}`, nil, http.StatusBadRequest},
		"an id that is none":      {"?action=purge", `{"ids":["-1"]}`, nil, http.StatusBadRequest},
		"an action that is none":  {"?action=burn", `{"all":true}`, nil, http.StatusBadRequest},
		"a body without end":      {"?action=purge", `{"ids":["` + strings.Repeat("1", 2<<20) + `"]}`, nil, http.StatusBadRequest},
		"what is not there fails": {"?action=replay", `{"ids":["999"]}`, nil, http.StatusOK},
	} {
		if w := ask("POST", test.target, test.body, test.header...); w.Code != test.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := ask("GET", "?after=x", ""); w.Code != http.StatusBadRequest {
		t.Errorf("an after that is none: %d", w.Code)
	}
	s.answer(nil)
	if w := ask("POST", "?action=replay", `{"ids":["`+first+`"]}`); !strings.Contains(w.Body.String(), `"done":1`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	eventually(t, "replayed", func() bool { return len(s.of("d1")) == 1 })
	if w := ask("POST", "?action=replay", `{"all":true}`); !strings.Contains(w.Body.String(), `"done":2`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	eventually(t, "replayed", func() bool { return len(s.of("d1")) == 3 })
	if w := ask("POST", "?action=purge", `{"all":true}`); !strings.Contains(w.Body.String(), `"done":0`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	checkSum(t, b)
}
