package main

import (
	"bytes"
	_ "embed" // docs.html.tmpl
	"encoding/json"
	"html/template"
	"maps"
	"slices"
	"strings"
)

//go:embed docs.html.tmpl
var pageSource string

// page is what the template shows.
type page struct {
	Title, Description string
	Groups             []group
	Schemas            []schema
}

type group struct {
	Name, Description string
	Operations        []operation
}

type operation struct {
	ID, Method, Path, Summary string
	Parameters                []field
	Body                      kind
	Answers                   []answer
}

type answer struct {
	Status, Description string
	Body                kind
}

type schema struct {
	Name, Description, Example string
	Enum                       []string
	Fields                     []field
}

type field struct {
	Name, In, Description string
	Type                  kind
	ReadOnly              bool
}

// kind is a type as people write it: Prefix "list of ", Link "RouteRule".
type kind struct{ Prefix, Link string }

// render returns the page for doc: one file, nothing loaded from elsewhere.
func render(doc object) ([]byte, error) {
	t, err := template.New("docs").Parse(pageSource)
	if err != nil {
		return nil, err
	}
	info := doc["info"].(object)
	p := page{Title: text(info, "title"), Description: text(info, "description")}
	for _, tag := range tags {
		p.Groups = append(p.Groups, group{tag.name, tag.description, operations(doc, tag.name)})
	}
	schemas := doc["components"].(object)["schemas"].(object)
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		s, err := describe(name, schemas[name].(object))
		if err != nil {
			return nil, err
		}
		p.Schemas = append(p.Schemas, s)
	}
	var b bytes.Buffer
	err = t.Execute(&b, p)
	return b.Bytes(), err
}

func operations(doc object, tag string) []operation {
	var out []operation
	paths := doc["paths"].(object)
	for _, path := range orderedKeys(paths, "", "paths") {
		item := paths[path].(object)
		for _, method := range orderedKeys(item, "", "") {
			op := item[method].(object)
			if op["tags"].(list)[0] != tag {
				continue
			}
			o := operation{ID: text(op, "operationId"), Method: strings.ToUpper(method), Path: path, Summary: text(op, "summary")}
			parameters, _ := op["parameters"].(list)
			for _, p := range parameters {
				p := resolve(doc, p.(object))
				o.Parameters = append(o.Parameters, field{Name: text(p, "name"), In: text(p, "in"), Description: text(p, "description"), Type: kindOf(p["schema"])})
			}
			if body, ok := op["requestBody"].(object); ok {
				o.Body = bodyOf(body)
			}
			responses := op["responses"].(object)
			for _, status := range slices.Sorted(maps.Keys(responses)) {
				r := resolve(doc, responses[status].(object))
				o.Answers = append(o.Answers, answer{status, text(r, "description"), bodyOf(r)})
			}
			out = append(out, o)
		}
	}
	return out
}

func describe(name string, o object) (schema, error) {
	s := schema{Name: name, Description: text(o, "description")}
	enum, _ := o["enum"].(list)
	for _, v := range enum {
		s.Enum = append(s.Enum, v.(string))
	}
	properties, _ := o["properties"].(object)
	for _, key := range orderedKeys(properties, name, "properties") {
		p := properties[key].(object)
		readOnly, _ := p["readOnly"].(bool)
		s.Fields = append(s.Fields, field{Name: key, Description: text(p, "description"), Type: kindOf(p), ReadOnly: readOnly})
	}
	if e, ok := o["examples"].(list); ok {
		b, err := json.MarshalIndent(e[0], "", "  ")
		if err != nil {
			return s, err
		}
		s.Example = string(b)
	}
	return s, nil
}

// resolve follows a reference into components.
func resolve(doc, o object) object {
	target, ok := o["$ref"].(string)
	if !ok {
		return o
	}
	var at any = doc
	for step := range strings.SplitSeq(strings.TrimPrefix(target, "#/"), "/") {
		at = at.(object)[step]
	}
	return at.(object)
}

// bodyOf returns the type of the only content of a request or response.
func bodyOf(o object) kind {
	content, _ := o["content"].(object)
	for _, c := range content {
		return kindOf(c.(object)["schema"])
	}
	return kind{}
}

func kindOf(v any) kind {
	o, _ := v.(object)
	if target, ok := o["$ref"].(string); ok {
		return kind{Link: target[strings.LastIndex(target, "/")+1:]}
	}
	switch {
	case o["type"] == "array":
		of := kindOf(o["items"])
		return kind{"list of " + of.Prefix, of.Link}
	case o["anyOf"] != nil:
		return kind{Prefix: "objects of any kind"}
	case o["additionalProperties"] != nil:
		of := kindOf(o["additionalProperties"])
		return kind{"map of " + of.Prefix, of.Link}
	case o["format"] == "date-time":
		return kind{Prefix: "time"}
	case o["type"] == "string" && strings.HasSuffix(text(o, "pattern"), "s$"):
		return kind{Prefix: "duration"}
	}
	return kind{Prefix: text(o, "type")}
}

func text(o object, key string) string {
	s, _ := o[key].(string)
	return s
}
