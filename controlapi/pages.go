package controlapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/hedgerow-mesh/hedgerow/openapi"
)

// readyTimeout bounds all checks of one /readyz together.
const readyTimeout = 2 * time.Second

// pages are what is served without a token: the documents of the contract and
// the state of the process.
type pages struct {
	errors []byte
	ready  func(ctx context.Context) readiness
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready    bool      `json:"ready"`
	Revision uint32    `json:"revision"`
	Checks   []failure `json:"checks,omitempty"`   // those that failed
	Warnings []failure `json:"warnings,omitempty"` // likewise, of those that are advisory
}

type failure struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

func newPages(opts handlerOptions) (*pages, error) {
	list, err := renderErrors()
	if err != nil {
		return nil, err
	}
	w := opts.service.writer
	checks := append([]Check{{Name: "registry", Ready: w.publisher.Ping}}, opts.checks...)
	return &pages{errors: list, ready: func(ctx context.Context) readiness {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		out := readiness{Ready: true, Revision: w.state.Load().head.Revision}
		for _, c := range checks {
			switch err := c.Ready(ctx); {
			case err == nil:
			case c.Advisory:
				out.Warnings = append(out.Warnings, failure{c.Name, err.Error()})
			default:
				out.Ready = false
				out.Checks = append(out.Checks, failure{c.Name, err.Error()})
			}
		}
		return out
	}}, nil
}

func (p *pages) mount(r chi.Router) {
	r.Get("/openapi.yaml", serve("application/yaml", openapi.YAML))
	r.Get("/docs", serve("text/html; charset=utf-8", openapi.Docs))
	r.Get("/docs/errors", serve("text/html; charset=utf-8", p.errors))
	r.Get("/healthz", serve("text/plain; charset=utf-8", []byte("ok\n")))
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		state := p.ready(r.Context())
		body, err := json.Marshal(state)
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !state.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Write(append(body, '\n')) //nolint:errcheck // the caller is gone
	})
}

// serve answers with content. The pages run no script, load nothing and may
// not be framed.
func serve(contentType string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Length", strconv.Itoa(len(content)))
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		w.Write(content) //nolint:errcheck // the caller is gone
	}
}

const errorsPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hedgerow control API: errors</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 50rem; padding: 1rem; }
code { font: .9em ui-monospace, monospace; }
:target { outline: 2px solid; outline-offset: .5rem; }
</style>
</head>
<body>
<p><a href="/docs">Hedgerow control API</a></p>
<h1>Errors</h1>
<p>Errors are application/problem+json (RFC 9457). code is for programs; detail and violations are for people. Nothing was stored.</p>
{{range .}}<section id="{{.Code}}">
<h2>{{.Status}} <code>{{.Code}}</code></h2>
<p>{{.Meaning}}</p>
<p>What to do: {{.Remedy}}</p>
</section>
{{end}}</body>
</html>
`

// renderErrors returns the page that the type of every problem points into.
func renderErrors() ([]byte, error) {
	type section struct {
		Code, Meaning, Remedy string
		Status                int
	}
	var sections []section
	for _, c := range classes() {
		sections = append(sections, section{c.code, c.meaning, c.remedy, c.status})
	}
	t, err := template.New("errors").Parse(errorsPage)
	if err != nil {
		return nil, fmt.Errorf("parse the page of errors: %w", err)
	}
	var b bytes.Buffer
	err = t.Execute(&b, sections)
	return b.Bytes(), err
}
