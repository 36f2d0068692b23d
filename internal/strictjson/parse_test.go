package strictjson_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

func TestParse_RefusesWhatTwoReadersCouldSeeDifferently(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	many := func(extra string) string {
		var b strings.Builder
		for i := range 40 {
			b.WriteString(`"m` + strconv.Itoa(i) + `":1,`)
		}
		return "{" + b.String() + extra + "}"
	}
	tests := []struct{ name, body, code, pointer string }{
		{"duplicate name", `{"a":1,"a":2}`, "duplicate_name", "/a"},
		{"duplicate name spelled with an escape", `{"a":1,"\u0061":2}`, "duplicate_name", "/a"},
		{"duplicate name below", `{"x":[0,{"k":1,"k":1}]}`, "duplicate_name", "/x/1/k"},
		{"duplicate among many names", many(`"m7":1`), "duplicate_name", "/m7"},
		{"trailing bytes", `{} x`, "trailing_data", ""},
		{"second value", `{}{}`, "trailing_data", ""},
		{"invalid UTF-8", "{\"a\":\"\xff\"}", "invalid_utf8", ""},
		{"overlong UTF-8", "\"\xc0\x80\"", "invalid_utf8", ""},
		{"U+0000 escaped", `{"a":["x","\u0000"]}`, "nul_character", "/a/1"},
		{"U+0000 raw", "\"\x00\"", "invalid_json", ""},
		{"lone high surrogate", `"\ud800"`, "lone_surrogate", ""},
		{"high surrogate before another escape", `"\ud800\u0041"`, "lone_surrogate", ""},
		{"lone low surrogate", `{"~/":"\udc00"}`, "lone_surrogate", "/~0~1"},
		{"NaN", `{"a":NaN}`, "invalid_json", "/a"},
		{"Infinity", `-Infinity`, "invalid_json", ""},
		{"infinite number", `{"a":{"b":1e999}}`, "number_out_of_range", "/a/b"},
		{"long number", `[` + strings.Repeat("1", 65) + `]`, "number_too_long", "/0"},
		{"leading zero", `01`, "trailing_data", ""},
		{"bare fraction", `.5`, "invalid_json", ""},
		{"fraction without digits", `1.`, "invalid_json", ""},
		{"plus sign", `+1`, "invalid_json", ""},
		{"65 levels", deep(65), "too_deep", strings.Repeat("/0", 64)},
		{"empty", ``, "empty_body", ""},
		{"white space", " \n", "empty_body", ""},
		{"comment", `{} // no`, "trailing_data", ""},
		{"comment inside", `{/* no */}`, "invalid_json", ""},
		{"trailing comma in object", `{"a":1,}`, "invalid_json", ""},
		{"trailing comma in array", `[1,]`, "invalid_json", "/1"},
		{"single quotes", `{'a':1}`, "invalid_json", ""},
		{"byte order mark", "\ufeff{}", "invalid_json", ""},
		{"unterminated string", `"abc`, "invalid_json", ""},
		{"unterminated escape", `"abc\`, "invalid_json", ""},
		{"bad escape", `"\x41"`, "invalid_json", ""},
		{"newline in string", "\"a\nb\"", "invalid_json", ""},
		{"missing colon", `{"a" 1}`, "invalid_json", "/a"},
		{"unfinished object", `{"a":1`, "invalid_json", ""},
		{"wrong literal", `nul`, "invalid_json", ""},
	}
	var doc strictjson.Doc // reused on purpose
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := doc.Parse(tt.body)
			var e *latchkey.Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse(%q) = %v, want a fault", tt.body, err)
			}
			if e.Kind != latchkey.Invalid || len(e.Faults) != 1 || e.Faults[0].Code != tt.code || e.Faults[0].Pointer != tt.pointer {
				t.Errorf("Parse(%q) = %+v, want %s at %q", tt.body, e.Faults, tt.code, tt.pointer)
			}
		})
	}
	if err := doc.Parse(deep(64)); err != nil {
		t.Errorf("64 levels: %v", err)
	}
	if err := doc.Parse(many(`"z":1`)); err != nil {
		t.Errorf("many names: %v", err)
	}
}

func TestValue_ReadsWhatWasWritten(t *testing.T) {
	var doc strictjson.Doc
	if err := doc.Parse(` {"a\n\u00e9\ud83d\ude00": [1, "x", {"k": true}, null], "b": -1.5e3} `); err != nil {
		t.Fatal(err)
	}
	list := doc.Root().Get("a\né😀")
	if list.Kind() != strictjson.Array || list.Len() != 4 {
		t.Fatalf("list = %s of %d", list.Kind(), list.Len())
	}
	var kinds []string
	for _, v := range list.Elements() {
		kinds = append(kinds, v.Kind().String())
	}
	if got := strings.Join(kinds, " "); got != "number string object null" {
		t.Errorf("kinds = %s", got)
	}
	if got := doc.Root().Get("b").Raw(); got != "-1.5e3" {
		t.Errorf("b = %s", got)
	}
	if doc.Root().Get("B").Kind() != strictjson.Missing {
		t.Error("names are folded")
	}
}

// FuzzParse: what Parse accepts, encoding/json reads as the same value; and
// what is accepted is valid UTF-8 without U+0000.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":"\u00e9\ud83d\ude00"}]}`, `{"a":1,"a":2}`, `"\ud800"`, `[1e5,-0,0.1]`, "\"\xff\"", `{"":{"":[]}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var doc strictjson.Doc
		if err := doc.Parse(body); err != nil {
			return
		}
		if !utf8.ValidString(body) {
			t.Fatalf("accepted invalid UTF-8: %q", body)
		}
		var want any
		d := json.NewDecoder(strings.NewReader(body))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses what was accepted: %q: %v", body, err)
		}
		if got := tree(doc.Root()); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", body, got, want)
		}
	})
}

func tree(v strictjson.Value) any {
	switch v.Kind() {
	case strictjson.Bool:
		return v.True()
	case strictjson.Number:
		return json.Number(v.Raw())
	case strictjson.String:
		return v.Text()
	case strictjson.Array:
		list := []any{}
		for _, e := range v.Elements() {
			list = append(list, tree(e))
		}
		return list
	case strictjson.Object:
		m := map[string]any{}
		for k, e := range v.Members() {
			m[k] = tree(e)
		}
		return m
	default:
		return nil
	}
}

func BenchmarkParse(b *testing.B) {
	body := `{"subject":{"type":"access_key","id":"9017501f-9fa4-4a88-b657-5bd49c1bb722"},"action":{"name":"update"},"resource":{"type":"policies","id":"staging"},"context":{}}`
	var doc strictjson.Doc
	b.ReportAllocs()
	for b.Loop() {
		if err := doc.Parse(body); err != nil {
			b.Fatal(err)
		}
		n := 0
		for range doc.Root().Members() {
			n++
		}
		if n != 4 {
			b.Fatal(n)
		}
	}
}
