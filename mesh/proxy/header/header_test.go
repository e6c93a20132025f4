package header_test

import (
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func TestListKeepsOrderAndCase(t *testing.T) {
	l := header.List{{"X-B", "1"}, {"x-a", "2"}, {"X-b", "3"}, {"c", "4"}}
	if v, ok := l.Get("x-B"); !ok || v != "1" {
		t.Errorf("Get = %q, %v", v, ok)
	}
	if _, ok := l.Get("d"); ok {
		t.Error("Get found what is not there")
	}
	if n := l.Count("x-b"); n != 2 {
		t.Errorf("Count = %d, want 2", n)
	}
	if got, want := l.Clone().Del("X-B"), (header.List{{"x-a", "2"}, {"c", "4"}}); !slices.Equal(got, want) {
		t.Errorf("Del = %v, want %v", got, want)
	}
	if got, want := l.Clone().Set("x-B", "9"), (header.List{{"X-B", "9"}, {"x-a", "2"}, {"c", "4"}}); !slices.Equal(got, want) {
		t.Errorf("Set = %v, want %v", got, want)
	}
	if got, want := l.Clone().Set("d", "9"), append(l.Clone(), header.Field{Name: "d", Value: "9"}); !slices.Equal(got, want) {
		t.Errorf("Set of a new field = %v, want %v", got, want)
	}
}

func TestEqualKnowsOnlyASCII(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"Host", "hOST", true},
		{"", "", true},
		{"a", "ab", false},
		{"Kelvin", "\u212aelvin", false},
		{"x-a", "x_a", false},
		{"[", "{", false},
		{"@", "`", false},
	} {
		if got := header.Equal(tt.a, tt.b); got != tt.want {
			t.Errorf("Equal(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestHasToken(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  bool
	}{
		{"close", true},
		{"keep-alive, \tCLOSE ", true},
		{"closed", false},
		{",,close", true},
		{"", false},
		{"not close", false},
	} {
		if got := header.HasToken(tt.value, "close"); got != tt.want {
			t.Errorf("HasToken(%q) = %v, want %v", tt.value, got, tt.want)
		}
	}
}
