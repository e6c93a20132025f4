// Command document turns what protoc-gen-openapiv3 made of the sources into
// the two documents that the control plane serves: openapi.yaml and docs.html.
// It adds what annotations cannot say: errors, conditional requests, examples,
// the order of fields. generate.sh runs it; it is no part of the product.
//
// Its output depends on its input alone, so that generating again shows drift.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}

// run reads the generated document named by args and writes openapi.yaml and
// docs.html to the working directory.
func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: document control.openapi.json")
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var doc object
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if err := finish(doc); err != nil {
		return err
	}
	text, err := encodeYAML(doc)
	if err != nil {
		return err
	}
	page, err := render(doc)
	if err != nil {
		return err
	}
	if err := os.WriteFile("openapi.yaml", text, 0o644); err != nil { //nolint:gosec // checked in
		return err
	}
	return os.WriteFile("docs.html", page, 0o644) //nolint:gosec // checked in
}
