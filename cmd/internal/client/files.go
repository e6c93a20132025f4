package client

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/client/yamljson"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// maxFile bounds one file and standard input.
const maxFile = 16 << 20

// object is one object of a file, on its way to the API.
type object struct {
	source string // where it stands: "mesh.yaml:12"
	name   string // "routes/orders"
	json   json.RawMessage
}

// readObjects reads the objects of a file, of a directory's .yaml, .yml and
// .json files in the order of their names, or of stdin for "-". Two objects of
// one name are refused: which one would hold depends on the order.
func readObjects(path string, stdin io.Reader) ([]object, error) {
	names := []string{path}
	if info, err := os.Stat(path); path != "-" && err == nil && info.IsDir() {
		if names, err = objectFiles(path); err != nil {
			return nil, err
		}
	}
	var all []object
	seen := map[string]string{}
	for _, name := range names {
		raw, label, err := readSource(name, stdin)
		if err != nil {
			return nil, err
		}
		objects, err := parseObjects(label, raw)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if first, twice := seen[o.name]; twice {
				return nil, fmt.Errorf("%s: %s stands in %s already", o.source, o.name, first)
			}
			seen[o.name] = o.source
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil, mesh.Errorf("read", path, mesh.Invalid, "no object in %s", path).
			WithHint("an object is a YAML or JSON document with a name, like {name: services/orders}")
	}
	return all, nil
}

func readSource(name string, stdin io.Reader) (raw []byte, label string, err error) {
	if name == "-" {
		raw, err = readAtMost(stdin, "standard input", maxFile)
		return raw, "standard input", err
	}
	raw, err = readFile(name, maxFile)
	return raw, filepath.Base(name), err
}

// objectFiles lists the files of a directory, without its subdirectories and
// hidden files.
func objectFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		known := slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name()))
		if known && !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// parseObjects reads the documents of one file. A document that is a list, as
// `get -o json` prints it, stands for its items.
func parseObjects(label string, raw []byte) ([]object, error) {
	parse := yamljson.ToJSON
	if filepath.Ext(label) == ".json" {
		parse = yamljson.JSON
	}
	docs, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	var objects []object
	for _, d := range docs {
		source := fmt.Sprintf("%s:%d", label, d.Line)
		items := listItems(d.JSON)
		if items == nil {
			items = []json.RawMessage{d.JSON}
		}
		for _, item := range items {
			var head struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(item, &head); err != nil || head.Name == "" {
				return nil, mesh.Errorf("read", source, mesh.Invalid, "%s: the object has no name", source).
					WithHint("the name says the kind and the id: name: routes/orders")
			}
			if err := mesh.CheckName(head.Name); err != nil {
				return nil, fmt.Errorf("%s: %.100q: %w", source, head.Name, bare(err))
			}
			objects = append(objects, object{source: source, name: head.Name, json: item})
		}
	}
	return objects, nil
}

// listItems returns the items of {"routes": [...]} or {"objects": [...]}, or
// nil if doc is no list: a list has no name, and one array of objects.
func listItems(doc []byte) []json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(doc, &fields) != nil {
		return nil
	}
	delete(fields, "nextPageToken")
	if len(fields) != 1 {
		return nil
	}
	for _, value := range fields {
		var items []json.RawMessage
		if json.Unmarshal(value, &items) == nil && len(items) > 0 {
			return items
		}
	}
	return nil
}

// bare returns the cause of a *mesh.Error, whose operation the user did not
// ask for.
func bare(err error) error {
	if e, ok := err.(*mesh.Error); ok && e.Err != nil { //nolint:errorlint // only the outermost one is taken off
		return e.Err
	}
	return err
}
