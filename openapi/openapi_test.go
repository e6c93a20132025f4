package openapi_test

import (
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hedgerow-mesh/hedgerow/openapi"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

type object = map[string]any

func document(t *testing.T) object {
	t.Helper()
	var doc object
	if err := yaml.Unmarshal(openapi.YAML, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func at(t *testing.T, doc object, path ...string) object {
	t.Helper()
	for _, p := range path {
		next, ok := doc[p].(object)
		if !ok {
			t.Fatalf("there is no %s", strings.Join(path, " / "))
		}
		doc = next
	}
	return doc
}

func TestEveryMethodIsDocumentedWithItsErrors(t *testing.T) {
	doc := document(t)
	methods := hedgerowv1.File_hedgerow_v1_control_proto.Services().Get(0).Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		verb, path := "", ""
		switch p := rule.GetPattern().(type) {
		case *annotations.HttpRule_Get:
			verb, path = "get", p.Get
		case *annotations.HttpRule_Put:
			verb, path = "put", p.Put
		case *annotations.HttpRule_Post:
			verb, path = "post", p.Post
		case *annotations.HttpRule_Delete:
			verb, path = "delete", p.Delete
		}
		op := at(t, doc, "paths", path, verb)
		if op["operationId"] != string(m.Name()) {
			t.Errorf("%s %s is called %v", verb, path, op["operationId"])
		}
		responses := at(t, op, "responses")
		want := []string{"200", "400", "401", "403"}
		if verb != "get" {
			want = append(want, "409", "412", "503")
		}
		for _, status := range want {
			if responses[status] == nil {
				t.Errorf("%s says nothing of %s", m.Name(), status)
			}
		}
	}
}

func TestEveryReferenceLeadsSomewhere(t *testing.T) {
	doc := document(t)
	for _, ref := range regexp.MustCompile(`\$ref: ["']?#/([A-Za-z0-9/]+)`).FindAllStringSubmatch(string(openapi.YAML), -1) {
		at(t, doc, strings.Split(ref[1], "/")...)
	}
}

// The schemas that are written by hand have the fields of the messages.
func TestProblemIsTheMessage(t *testing.T) {
	doc := document(t)
	for name, md := range map[string]protoreflect.MessageDescriptor{
		"Problem":   new(hedgerowv1.Problem).ProtoReflect().Descriptor(),
		"Violation": new(hedgerowv1.Violation).ProtoReflect().Descriptor(),
	} {
		properties := at(t, doc, "components", "schemas", name, "properties")
		if len(properties) != md.Fields().Len() {
			t.Errorf("%s has %d properties and %d fields", name, len(properties), md.Fields().Len())
		}
		for i := range md.Fields().Len() {
			if field := md.Fields().Get(i).JSONName(); properties[field] == nil {
				t.Errorf("%s has no property %s", name, field)
			}
		}
	}
}

func TestThePageLoadsNothing(t *testing.T) {
	for _, bad := range []string{"<script", "<link", "<img", "<iframe", "@import", "url("} {
		if strings.Contains(string(openapi.Docs), bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	for _, want := range []string{`id="PutRoute"`, `id="RouteRule"`, `href="#RouteRule"`, "/docs/errors"} {
		if !strings.Contains(string(openapi.Docs), want) {
			t.Errorf("the page has no %s", want)
		}
	}
}
