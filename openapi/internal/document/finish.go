package main

import (
	_ "embed" // examples.json
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// object and list are decoded JSON.
type (
	object = map[string]any
	list   = []any
)

const version = "1"

// examples has one object of every kind, as a PUT takes it.
//
//go:embed examples.json
var examples []byte

// tags are the groups of operations, in the order of the page, each with the
// path that its operations begin with.
var tags = []struct{ name, prefix, description string }{
	{"Apply", "/v1:apply", "Write many objects at once, all or none."},
	{"Services", "/v1/services", "Named groups of interchangeable instances."},
	{"Routes", "/v1/routes", "Which requests go to which services."},
	{"Policies", "/v1/policies", "Who may call what."},
	{"Authenticators", "/v1/authenticators", "How end users and programs prove who they are."},
	{"TopicRules", "/v1/topicRules", "Which MQTT messages become which requests."},
	{"Nodes", "/v1/nodes", "The machines that run the data plane."},
	{"Quarantines", "/v1/quarantines", "Which nodes are shut out. Read-only: POST /v1/nodes/{id}:quarantine and :release change them."},
	{"Instances", "/v1/instances", "What runs now. Read-only."},
	{"Tokens", "/v1/tokens", "Who may call this API. For admins."},
	{"Defaults", "/v1/defaults", "What holds for the whole mesh."},
	{"Process", "/", "The control plane itself."},
}

// finish completes doc in place.
func finish(doc object) error {
	doc["info"] = object{
		"title":       "Hedgerow control API",
		"version":     version,
		"description": description,
		"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
	}
	doc["servers"] = list{object{"url": "http://127.0.0.1:7070", "description": "Where hedgerow control and hedgerow up listen unless told otherwise."}}
	doc["security"] = list{object{"bearer": list{}}}
	doc["tags"] = list{}
	for _, t := range tags {
		doc["tags"] = append(doc["tags"].(list), object{"name": t.name, "description": t.description})
	}
	var kinds map[string]object
	if err := json.Unmarshal(examples, &kinds); err != nil {
		return fmt.Errorf("examples.json: %w", err)
	}
	components := doc["components"].(object)
	schemas, err := renameSchemas(components["schemas"].(object))
	if err != nil {
		return err
	}
	components["schemas"] = schemas
	renameRefs(doc)
	for name, example := range kinds {
		schema, ok := schemas[name].(object)
		if !ok {
			return fmt.Errorf("examples.json: there is no schema %q", name)
		}
		schema["examples"] = list{example}
	}
	anyKind := list{}
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		anyKind = append(anyKind, object{"$ref": "#/components/schemas/" + name})
	}
	schemas["Batch"].(object)["properties"].(object)["objects"].(object)["items"] = object{"anyOf": anyKind}
	addErrors(components)
	paths := doc["paths"].(object)
	for path, item := range paths {
		for method, op := range item.(object) {
			finishOperation(path, method, op.(object))
		}
	}
	maps.Copy(paths, processPaths())
	return nil
}

// finishOperation completes one generated operation.
func finishOperation(path, method string, op object) {
	id := strings.TrimPrefix(op["operationId"].(string), "Control_")
	op["operationId"] = id
	for _, t := range tags {
		if strings.HasPrefix(path, t.prefix) {
			op["tags"] = list{t.name}
			break
		}
	}
	ok := op["responses"].(object)["200"].(object)
	parameters, _ := op["parameters"].(list)
	for _, p := range parameters {
		if p := p.(object); p["name"] == "id" {
			p["description"] = "The part of the name after the slash."
			p["schema"] = object{"type": "string", "pattern": idPattern}
		}
	}
	statuses := []string{"400", "401", "403"}
	switch {
	case method == "get" && strings.HasPrefix(id, "List"):
		ok["description"] = "One page."
	case method == "get":
		ok["description"] = "The object."
		ok["headers"] = object{"ETag": ref("headers", "ETag")}
		statuses = append(statuses, "404")
	case method == "put":
		ok["description"] = "What is stored now."
		ok["headers"] = object{"ETag": ref("headers", "ETag"), "Hedgerow-Published": ref("headers", "Published")}
		parameters = append(parameters, ref("parameters", "IfMatch"), ref("parameters", "IfNoneMatch"))
		statuses = append(statuses, "409", "412", "413", "415", "422", "503")
	case method == "delete":
		ok["description"] = "It is deleted."
		ok["headers"] = object{"Hedgerow-Published": ref("headers", "Published")}
		parameters = append(parameters, ref("parameters", "IfMatch"))
		statuses = append(statuses, "404", "409", "412", "503")
	case method == "post":
		ok["description"] = "What was done."
		ok["headers"] = object{"Hedgerow-Published": ref("headers", "Published")}
		statuses = append(statuses, "409", "412", "413", "415", "422", "503")
	}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	for _, s := range statuses {
		op["responses"].(object)[s] = ref("responses", "Error"+s)
	}
}

// renameSchemas drops the package from the names of schemas, "Route.Target"
// becoming "RouteTarget", and finishes their properties.
func renameSchemas(old object) (object, error) {
	schemas := object{}
	for name, schema := range old {
		short := shortName(name)
		if _, taken := schemas[short]; taken {
			return nil, fmt.Errorf("two schemas are called %q", short)
		}
		schemas[short] = schema
		properties, _ := schema.(object)["properties"].(object)
		for field, p := range properties {
			finishProperty(p.(object), isDuration(name, field))
		}
	}
	return schemas, nil
}

func finishProperty(p object, duration bool) {
	if d, ok := p["description"].(string); ok {
		if rest, ok := strings.CutPrefix(d, "Output only. "); ok {
			p["description"], p["readOnly"] = rest, true
		} else if d == "Output only." {
			p["readOnly"] = true
			delete(p, "description")
		}
	}
	if p["type"] == "integer" {
		p["minimum"], p["maximum"] = 0, 4294967295
	}
	if duration {
		p["pattern"] = `^-?[0-9]+(\.[0-9]{1,9})?s$`
		p["examples"] = list{"1.500s"}
	}
}

func shortName(name string) string {
	return strings.ReplaceAll(strings.TrimPrefix(name, "hedgerow.v1."), ".", "")
}

// renameRefs follows renameSchemas through the whole document. A $ref with
// siblings is legal in 3.1 and stays as it is.
func renameRefs(v any) {
	const prefix = "#/components/schemas/"
	switch v := v.(type) {
	case object:
		if r, ok := v["$ref"].(string); ok && strings.HasPrefix(r, prefix) {
			v["$ref"] = prefix + shortName(strings.TrimPrefix(r, prefix))
		}
		for _, x := range v {
			renameRefs(x)
		}
	case list:
		for _, x := range v {
			renameRefs(x)
		}
	}
}

func ref(kind, name string) object {
	return object{"$ref": "#/components/" + kind + "/" + name}
}
