package client

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// clean leaves nothing of the tester's environment.
func clean(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"HEDGEROW_SERVER", "HEDGEROW_TOKEN", "HEDGEROW_TOKEN_FILE", "HEDGEROW_CA_FILE"} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	t.Chdir(dir)
	return dir
}

func TestTokenOrder(t *testing.T) {
	// Each case sets one source more, which goes before those below it.
	dir := clean(t)
	n := &connection{}
	check := func(want, wantFrom string) {
		t.Helper()
		got, from, err := n.readToken()
		if err != nil || got != want || from != wantFrom {
			t.Errorf("got %q from %q, %v; want %q from %q", got, from, err, want, wantFrom)
		}
	}
	check("", "")
	mkdir(t, ".hedgerow")
	write(t, dir, ".hedgerow/admin.token", "from-default\n")
	check("from-default", "the file ./.hedgerow/admin.token")
	t.Setenv("HEDGEROW_TOKEN", "from-env")
	check("from-env", "$HEDGEROW_TOKEN")
	file := write(t, dir, "env.token", "from-env-file")
	t.Setenv("HEDGEROW_TOKEN_FILE", file)
	check("from-env-file", "the file "+file)
	n.tokenFile = write(t, dir, "flag.token", "  from-flag\n")
	check("from-flag", "the file "+n.tokenFile)
}

func TestTokenIsRefused(t *testing.T) {
	dir := clean(t)
	for name, text := range map[string]string{"empty": " \n", "two words": "a b", "a header of its own": "a\r\nX-Admin: yes", "not ASCII": "tök", "a large file": strings.Repeat("x", maxToken+1)} {
		n := &connection{tokenFile: write(t, dir, "t", text)}
		if got, _, err := n.readToken(); err == nil {
			t.Errorf("%s: accepted %.20q", name, got)
		}
	}
	n := &connection{tokenFile: filepath.Join(dir, "absent")}
	if _, _, err := n.readToken(); err == nil {
		t.Error("a token file that was named and is not there: accepted")
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:7070":          "http://127.0.0.1:7070",
		"https://control.example:7070/":  "https://control.example:7070",
		"127.0.0.1:7070":                 "http://127.0.0.1:7070",
		"localhost":                      "http://localhost",
		"ftp://x":                        "",
		"http://user:secret@127.0.0.1":   "",
		"http://127.0.0.1/v1":            "",
		"http://127.0.0.1:7070?token=x":  "",
		"http://":                        "",
		"http://127.0.0.1:7070/\n/x":     "",
		"http://127.0.0.1:7070#fragment": "",
	} {
		u, err := parseServer(in)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("parseServer(%q) = %v, %v; want %q", in, u, err, want)
		}
	}
}

func TestTheTokenStaysHere(t *testing.T) {
	t.Run("not over plain HTTP to another machine", func(t *testing.T) {
		clean(t)
		t.Setenv("HEDGEROW_TOKEN", token)
		hedgerow(t, "", "get", "routes", "--server", "http://192.0.2.1:7070").want(t, "", `
hedgerow: get routes: refusing to send the token to 192.0.2.1:7070 over plain HTTP
hedgerow: hint: use https://, with --ca-file for a CA of your own
`, 1)
	})
	t.Run("not to where a redirect points", func(t *testing.T) {
		clean(t)
		t.Setenv("HEDGEROW_TOKEN", token)
		thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
		defer thief.Close()
		srv := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
		defer srv.Close()
		r := hedgerow(t, "", "get", "routes", "--server", srv.URL)
		if r.code != 1 || !strings.Contains(r.stderr, "answered 307") || !strings.Contains(r.stderr, "is this the address of a Hedgerow control plane?") {
			t.Errorf("%d %s", r.code, r.stderr)
		}
	})
}

func TestHTTPS(t *testing.T) {
	clean(t)
	t.Setenv("HEDGEROW_TOKEN", token)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write([]byte(`{"name":"routes/a","revision":1}`)); err != nil {
			t.Error(err)
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // one handshake fails on purpose
	srv.StartTLS()
	defer srv.Close()

	r := hedgerow(t, "", "get", "routes/a", "--server", srv.URL)
	if r.code != 1 || !strings.Contains(r.stderr, "unknown authority") || !strings.Contains(r.stderr, "hint: --ca-file") {
		t.Errorf("without the CA: %d %s", r.code, r.stderr)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	file := write(t, t.TempDir(), "ca.pem", ca)
	if r := hedgerow(t, "", "get", "routes/a", "--server", srv.URL, "--ca-file", file); r.code != 0 {
		t.Errorf("with the CA: %d %s", r.code, r.stderr)
	}
	none := write(t, t.TempDir(), "none.pem", "no PEM")
	if r := hedgerow(t, "", "get", "routes/a", "--server", srv.URL, "--ca-file", none); r.code != 1 || !strings.Contains(r.stderr, "no PEM certificate") {
		t.Errorf("with a CA file without CA: %d %s", r.code, r.stderr)
	}
}

func TestAnswersThatAreNotOurs(t *testing.T) {
	for _, tt := range []struct {
		name                string
		status              int
		contentType, answer string
		want                string
	}{
		{"a web page", 200, "text/html", "<html>", "answered 200 text/html"},
		{"an error page", 502, "text/html", "<html>", "answered 502 text/html"},
		{"JSON that is cut off", 200, "application/json", `{"routes":[`, "answered 200 application/json"},
		{"a list of another shape", 200, "application/json", `{"routes":{}}`, "not as documented"},
		{"a page token of another shape", 200, "application/json", `{"nextPageToken":1}`, "not as documented"},
		{"an object of another shape", 200, "application/json", `{"routes":[{"name":1}]}`, "not as documented"},
		{"no token", 401, "application/problem+json", `{"code":"unauthenticated","detail":"a token is needed"}`, "holds a token that this control plane does not know"},
		{"a name that is not the server's", 403, "application/problem+json", `{"code":"denied","detail":"the Host is not known here"}`, "get routes: the Host is not known here (403 denied)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			control(t, exchange{method: "GET", uri: "/v1/routes?pageSize=500", status: tt.status, contentType: tt.contentType, answer: tt.answer})
			if r := hedgerow(t, "", "get", "routes"); r.code != 1 || !strings.Contains(r.stderr, tt.want) {
				t.Errorf("exit code %d, stderr %q; want %q", r.code, r.stderr, tt.want)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	clean(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	hedgerow(t, "", "status", "--server", addr).want(t, "", `
hedgerow: status: dial tcp `+addr+`: connect: connection refused
hedgerow: hint: is the control plane running at http://`+addr+`? --server or HEDGEROW_SERVER names another
`, 1)
}

// A server that answers nothing must not hold a script for ever.
func TestTimeout(t *testing.T) {
	clean(t)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	hedgerow(t, "", "status", "--server", srv.URL, "--timeout", "50ms").want(t, "", `
hedgerow: status: no answer in time from `+srv.URL+`
hedgerow: hint: --timeout allows more
`, 1)
}

func mkdir(t *testing.T, name string) {
	t.Helper()
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
}
