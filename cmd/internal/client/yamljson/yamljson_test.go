package yamljson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestToJSONKeepsWhatIsWritten(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"an integer keeps its digits", "a: 12345678901234567890", `{"a":12345678901234567890}`},
		{"a fraction keeps its digits", "a: 0.10", `{"a":0.10}`},
		{"an exponent stays", "a: 1e3", `{"a":1e3}`},
		{"a plus sign is dropped", "a: +7", `{"a":7}`},
		{"a leading point gets its zero", "a: .5", `{"a":0.5}`},
		{"hexadecimal becomes decimal", "a: 0x1F", `{"a":31}`},
		{"octal becomes decimal", "a: 0o17", `{"a":15}`},
		{"yes, no, on, off, y and n are words", "a: [yes, no, on, off, y, n]", `{"a":["yes","no","on","off","y","n"]}`},
		{"a key on is a word", "on: [RESET]", `{"on":["RESET"]}`},
		{"true and false are booleans", "a: [true, False]", `{"a":[true,false]}`},
		{"a quoted number is a string", `a: "80"`, `{"a":"80"}`},
		{"a duration is a string", "a: 2.5s", `{"a":"2.5s"}`},
		{"an address with a port is a string", "a: 127.0.0.1:80", `{"a":"127.0.0.1:80"}`},
		{"base 60 is a string", "a: 1:30", `{"a":"1:30"}`},
		{"a date is a string", "a: 2026-01-02", `{"a":"2026-01-02"}`},
		{"a time is a string", "a: 2026-01-02T03:04:05Z", `{"a":"2026-01-02T03:04:05Z"}`},
		{"nothing is null", "a:\nb: ~", `{"a":null,"b":null}`},
		{"a number as a key is text", "8080: x", `{"8080":"x"}`},
		{"an alias is written out", "a: &x [1]\nb: *x", `{"a":[1],"b":[1]}`},
		{"a block of text keeps its lines", "a: |\n  x\n  y\n", `{"a":"x\ny\n"}`},
		{"html is not escaped", "a: <b>&", `{"a":"<b>&"}`},
		{"keys keep their order", "b: 1\na: 2", `{"b":1,"a":2}`},
		{"JSON stays", `{"a": 1.50, "b": "\ud83d\ude00"}`, `{"a":1.50,"b":"\ud83d\ude00"}`},
		{"flow style that is not JSON", "{a: b}", `{"a":"b"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := ToJSON([]byte(tt.in))
			if err != nil || len(docs) != 1 {
				t.Fatalf("ToJSON = %d documents, %v", len(docs), err)
			}
			if got := string(docs[0].JSON); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestToJSONRefusesWhatIsAmbiguous(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"a key twice", "a: 1\nb: 2\na: 3", "twice"},
		{"a key twice in JSON", `{"a":1,"a":2}`, "twice"},
		{"a key twice, deep in JSON", `{"a":{"b":[{"c":1,"c":2}]}}`, "twice"},
		{"a key twice, once by number", "1: x\n\"1\": y", "twice"},
		{"a leading zero", "a: 012", "line 1: \"012\" is read as a number by some"},
		{"underscores", "a: 1_000", "quote it"},
		{"infinity", "a: .inf", "quote it"},
		{"not a number", "a: .nan", "quote it"},
		{"a merge key", "x: &x {a: 1}\ny:\n  <<: *x", "line 3: merge keys"},
		{"binary", "a: !!binary aGk=", "tag"},
		{"a tag of one's own", "a: !secret x", "tag"},
		{"a list as a key", "? [a]\n: b", "a key must be a word"},
		{"a loop", "a: &a [*a]", ""},
		{"an unclosed list", "a: [1", "not YAML"},
		{"a tab as indentation", "a:\n\tb: 1", "not YAML"},
		{"too deep", strings.Repeat("[", 80) + strings.Repeat("]", 80), "deeper"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := ToJSON([]byte(tt.in))
			if err == nil {
				t.Fatalf("accepted: %s", docs[0].JSON)
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, tt.want)
			}
		})
	}
}

// A few hundred bytes of aliases must not become gigabytes.
func TestToJSONBoundsAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	if _, err := ToJSON([]byte(b.String())); err == nil {
		t.Error("ten to the twelfth nodes were accepted")
	}
}

func TestToJSONSplitsDocuments(t *testing.T) {
	docs, err := ToJSON([]byte("# a comment\n---\na: 1\n---\n# nothing here\n---\nb: 2\n...\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Document{{Line: 3, JSON: []byte(`{"a":1}`)}, {Line: 7, JSON: []byte(`{"b":2}`)}}
	if !reflect.DeepEqual(docs, want) {
		t.Errorf("got %+v, want %+v", docs, want)
	}
}

func TestJSONReadsAStream(t *testing.T) {
	docs, err := JSON([]byte("{\"a\":1}\n\n{\"b\": 2}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Document{{Line: 1, JSON: []byte(`{"a":1}`)}, {Line: 3, JSON: []byte(`{"b":2}`)}}
	if !reflect.DeepEqual(docs, want) {
		t.Errorf("got %+v, want %+v", docs, want)
	}
	if _, err := JSON([]byte("{\"a\":1}\n{\"b\": }\n")); err == nil || !strings.HasPrefix(err.Error(), "line 2: not JSON") {
		t.Errorf("a broken second value: %v", err)
	}
}

func TestFromJSONIsReadBackTheSame(t *testing.T) {
	in := `{"name":"routes/a","on":["yes","NO","1.5s","87","0x1F","","~"," x","a: b","#c","*","é","tab\t","1:30","2026-01-02","null"],` +
		`"weight":0,"share":0.10,"big":12345678901234567890,"exp":1e3,"ok":true,"none":null,"empty":{},"list":[],"text":"a\nb\n","key with space":{"y":"n"}}`
	out, err := FromJSON([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := ToJSON(out)
	if err != nil || len(docs) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := string(docs[0].JSON); got != in {
		t.Errorf("got  %s\nwant %s\nfrom\n%s", got, in, out)
	}
	for _, quoted := range []string{`"on":`, `- "yes"`, `- "NO"`, `- "87"`, `- "1:30"`, `- "null"`} {
		if !strings.Contains(string(out), quoted) {
			t.Errorf("%s is not quoted, so older readers take it for something else:\n%s", quoted, out)
		}
	}
}

func FuzzToJSON(f *testing.F) {
	f.Add("a: 1\n---\nb: [x, {c: 0x1F}]\n")
	f.Add("x: &a [*a]")
	f.Add("{\"a\": \"\\ud83d\"}")
	f.Add("a: !!float 012\n? b\n: |+\n  c\n")
	f.Fuzz(func(t *testing.T, in string) {
		docs, err := ToJSON([]byte(in))
		if err != nil {
			return
		}
		for _, d := range docs {
			if !json.Valid(d.JSON) {
				t.Fatalf("%q became invalid JSON %q", in, d.JSON)
			}
			out, err := FromJSON(d.JSON)
			if err != nil {
				t.Fatalf("%s does not become YAML: %v", d.JSON, err)
			}
			back, err := ToJSON(out)
			if err != nil || len(back) > 1 {
				t.Fatalf("%s became %q, which is %d documents, %v", d.JSON, out, len(back), err)
			}
			var was, is any
			if json.Unmarshal(d.JSON, &was) != nil || was == nil {
				continue // a lone null is an empty document
			}
			if len(back) != 1 || json.Unmarshal(back[0].JSON, &is) != nil || !reflect.DeepEqual(was, is) {
				t.Errorf("%s became %q and then %+v", d.JSON, out, back)
			}
		}
	})
}
