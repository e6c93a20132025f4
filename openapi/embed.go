// Package openapi is the contract of the control API in the forms that are
// served: the OpenAPI document and the page that shows it. The sources are
// hedgerow/v1/*.proto; everything else in this folder that looks generated is.
//
// It has no behaviour: package controlapi serves it.
//
// Invariant: `go generate ./openapi` on a clean checkout changes nothing.
package openapi

import (
	_ "embed" // the documents
)

//go:generate ./generate.sh

// YAML is the OpenAPI 3.1 document.
//
//go:embed openapi.yaml
var YAML []byte

// Docs is the document as one HTML page, which loads nothing else.
//
//go:embed docs.html
var Docs []byte
