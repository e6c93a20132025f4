package controlapi

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

func TestWalkNamesEverything(t *testing.T) {
	const raw = `{
		"nmae": 1,
		"name": 1,
		"labels": {"a": "b", "a": "c", "d": 1, "": "e", "odd key": null},
		"subsets": [null, {"labels": {"x": ["deep", {"er": 1, "er": 2}]}}, []],
		"loadBalancing": {"policy": 3, "slowStart": "soon", "hash": {"device": 1}},
		"protocol": "QUIC",
		"createTime": "yesterday"
	}`
	malformed, invalid, err := walk([]byte(raw), new(hedgerowv1.Service).ProtoReflect().Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	fields := func(v mesh.Violations) (out []string) {
		for _, x := range v {
			out = append(out, x.Field)
		}
		return out
	}
	wantMalformed := []string{
		"nmae", "name", "labels.a", "labels.d", `labels["odd key"]`, "subsets[0]", "subsets[1].labels.x", "subsets[1].labels.x[1].er", "subsets[2]",
		"loadBalancing.policy", "loadBalancing.hash.device",
	}
	if got := fields(malformed); !reflect.DeepEqual(got, wantMalformed) {
		t.Errorf("malformed\n%q, want\n%q", got, wantMalformed)
	}
	if got, want := fields(invalid), []string{"loadBalancing.slowStart", "protocol", "createTime"}; !reflect.DeepEqual(got, want) {
		t.Errorf("invalid %q, want %q", got, want)
	}
	if hint := malformed[0].Hint; !strings.Contains(hint, "name, labels, etag") {
		t.Errorf("the hint names no fields: %q", hint)
	}
}

func TestWalkTakesDepth32(t *testing.T) {
	md := new(hedgerowv1.Batch).ProtoReflect().Descriptor()
	inBatch := func(n int) []byte {
		return []byte(`{"objects":[` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + `]}`)
	}
	if _, _, err := walk(inBatch(maxDepth-2), md); err != nil {
		t.Errorf("%d deep: %v", maxDepth, err)
	}
	if _, _, err := walk(inBatch(maxDepth-1), md); err == nil {
		t.Errorf("%d deep is accepted", maxDepth+1)
	}
}

func TestSyntaxErrorsSayWhere(t *testing.T) {
	_, _, err := walk([]byte("{\n \"name\": \"a\"\n \"labels\": {}}"), new(hedgerowv1.Route).ProtoReflect().Descriptor())
	if err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Error(err)
	}
}

// What walk has nothing against, protojson reads, and encoding/json reads what
// that writes: the three never disagree on what a body means. And no body makes
// walk fail in another way than by an answer.
func FuzzWalk(f *testing.F) {
	for _, seed := range []string{
		demoRoute, ordersService, `{}`, `null`, `[]`, `{"rules":[{"timeout":"1.5s","backends":[{"weight":1e1}]}]}`,
		`{"targets":["GATEWAY",null],"labels":{"a":"b","a":""}}`, `{"rules":[{"timeout":".5s"}]}`, `{"rules":[{"timeout":"5.s"}]}`,
		`{"name":"\ud800"}`, `{"createTime":"2026-01-02T03:04:05.999999999+01:00"}`, "\xef\xbb\xbf{}", `{"revision":-0}`, `{"revision":1E400}`,
		`{"rules":[{"timeout":"-0s"},{"timeout":"9999999999s"},{"timeout":"0.0000000001s"}]}`, `{"a":{"a":{"a":[[[[]]]]}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(hedgerowv1.Route)
		malformed, invalid, err := walk(raw, m.ProtoReflect().Descriptor())
		if len(malformed)+len(invalid) > maxFound {
			t.Fatalf("%d violations", len(malformed)+len(invalid))
		}
		for _, v := range append(malformed, invalid...) {
			if v.Message == "" {
				t.Fatalf("a violation of %q without a message", v.Field)
			}
		}
		if err != nil || len(malformed)+len(invalid) > 0 {
			return
		}
		if !json.Valid(raw) {
			t.Fatal("accepted what is no JSON")
		}
		if err := protojson.Unmarshal(raw, m); err != nil {
			// Half of a surrogate pair is left to protojson to refuse.
			if strings.Contains(strings.ToLower(string(raw)), `\ud`) {
				return
			}
			t.Fatalf("walk accepts what protojson refuses: %v", err)
		}
		canonical, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var r mesh.Route
		if err := json.Unmarshal(canonical, &r); err != nil {
			t.Fatalf("the mesh does not read %s: %v", canonical, err)
		}
	})
}
