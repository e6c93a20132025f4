package client

import (
	"os"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// What these pages show can be stored, all of a page together.
func TestExamplesOfTheDocsAreValid(t *testing.T) {
	for _, name := range []string{"routing.md", "authorization.md", "authentication.md", "mqtt.md"} {
		t.Run(name, func(t *testing.T) { examplesAreValid(t, name) })
	}
}

func examplesAreValid(t *testing.T, name string) {
	page, err := os.ReadFile("../../../docs/" + name)
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
		objects, err := parseObjects(name, []byte(block))
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
			if p, is := object.(*mesh.Policy); is {
				if err := proxy.CheckConditions(p); err != nil {
					t.Error(err)
				}
			}
			if a, is := object.(*mesh.Authenticator); is {
				if err := proxy.CheckAuthenticator(a); err != nil {
					t.Error(err)
				}
			}
			config.Put(object)
		}
	}
	if blocks == 0 {
		t.Errorf("%d blocks were found", blocks)
	}
	for name, violations := range config.CheckAll() {
		t.Errorf("%s: %v", name, violations)
	}
}
