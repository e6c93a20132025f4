package client

import (
	"os"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What docs/routing.md shows can be stored, all of it together.
func TestExamplesOfTheRoutingPageAreValid(t *testing.T) {
	page, err := os.ReadFile("../../../docs/routing.md")
	if err != nil {
		t.Fatal(err)
	}
	config := mesh.NewConfig()
	blocks := 0
	for rest := string(page); ; {
		_, after, ok := strings.Cut(rest, "```yaml\n")
		if !ok {
			break
		}
		block, after, ok := strings.Cut(after, "```\n")
		if !ok {
			t.Fatal("a block has no end")
		}
		rest = after
		blocks++
		objects, err := parseObjects("routing.md", []byte(block))
		if err != nil {
			t.Fatalf("%v in\n%s", err, block)
		}
		for _, o := range objects {
			object, err := mesh.DecodeObject(o.name, o.json)
			if err != nil {
				t.Fatal(err)
			}
			mesh.Normalize(object)
			if err := mesh.Validate(object); err != nil {
				t.Error(err)
			}
			config.Put(object)
		}
	}
	if blocks < 4 {
		t.Errorf("%d blocks were found", blocks)
	}
	for name, violations := range config.CheckAll() {
		t.Errorf("%s: %v", name, violations)
	}
}
