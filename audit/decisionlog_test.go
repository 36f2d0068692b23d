package audit_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

func same(s string) string { return s }

func masked(t testing.TB, input string, pointers ...string) (text, erased string) {
	t.Helper()
	masks, err := audit.ParseMasks(pointers)
	if err != nil {
		t.Fatal(err)
	}
	r := audit.DecisionRecord{ID: "1", Input: []byte(input), Result: []byte(`{}`)}
	e := r.Event([]byte(`{}`), 1)
	var doc strictjson.Doc
	var event struct {
		Input  json.RawMessage
		Erased json.RawMessage
	}
	out := e.Append(nil, &doc, masks, same)
	if err := json.Unmarshal(out, &event); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return string(event.Input), string(event.Erased)
}

func TestMasks_LeaveOutWhatTheyNameAndSayIt(t *testing.T) {
	for _, tt := range []struct{ input, pointers, text, erased string }{
		{`{"b":1,"a":{"x":1,"y":2}}`, "", `{"a":{"x":1,"y":2},"b":1}`, ``},
		{`{"b":1,"a":{"x":1,"y":2}}`, "/input/a/x", `{"a":{"y":2},"b":1}`, `["/input/a/x"]`},
		{`{"b":1,"a":{"x":1,"y":2}}`, "/input/a/x /input/a/y /input/b", `{"a":{}}`, `["/input/a/x","/input/a/y","/input/b"]`},
		{`{"b":1,"a":{"x":1,"y":2}}`, "/input/a /input/a/x", `{"b":1}`, `["/input/a"]`},
		{`{"b":1,"a":{"x":1,"y":2}}`, "/input", ``, `["/input"]`},
		{`{"a":1}`, "/input/b /input/a/x /input/a/0", `{"a":1}`, ``},
		{`{"l":[{"p":1,"q":2},{"p":3}]}`, "/input/l/0/p /input/l/1", `{"l":[{"q":2}]}`, `["/input/l/0/p","/input/l/1"]`},
		{`{"a/b":{"c~d":1,"":2}}`, "/input/a~1b/c~0d", `{"a/b":{"":2}}`, `["/input/a~1b/c~0d"]`},
		{`{"a/b":{"c~d":1,"":2}}`, "/input/a~1b/", `{"a/b":{"c~d":1}}`, `["/input/a~1b/"]`},
		{`{"p\u0069n":1}`, "/input/pin", `{}`, `["/input/pin"]`}, // however it is written
		{`{"n":1e30,"d":0.10}`, "", `{"d":0.10,"n":1e30}`, ``},
	} {
		text, erased := masked(t, tt.input, strings.Fields(tt.pointers)...)
		if text != tt.text || erased != tt.erased {
			t.Errorf("%s without %s: %s, erased %s", tt.input, tt.pointers, text, erased)
		}
	}
	for _, bad := range []string{"", "input", "/result/x", "/inputs", "/input/~", "/input/~2", "input/x"} {
		if _, err := audit.ParseMasks([]string{bad}); err == nil {
			t.Errorf("%q is taken for a mask", bad)
		}
	}
}

// Whatever a value is and wherever it stands, a mask of its place takes it out,
// and leaves everything else.
func TestMasks_NeverLetTheValueThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-c~/"\\é ]{0,3}`)
		pointer, path := "/input", rapid.SliceOfN(name, 1, 4).Draw(t, "path")
		escape := strings.NewReplacer("~", "~0", "/", "~1")
		var v any = "HIDDEN"
		for i := len(path) - 1; i >= 0; i-- {
			object := map[string]any{}
			for _, n := range rapid.SliceOfN(name, 0, 3).Draw(t, "siblings") {
				object[n] = "kept"
			}
			object[path[i]] = v
			v = object
		}
		for _, p := range path {
			pointer += "/" + escape.Replace(p)
		}
		input, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		r := audit.DecisionRecord{Input: input, Result: []byte(`{}`)}
		e := r.Event([]byte(`{}`), 1)
		masks, err := audit.ParseMasks([]string{pointer})
		if err != nil {
			t.Fatal(err)
		}
		var doc strictjson.Doc
		out := string(e.Append(nil, &doc, masks, same))
		if strings.Contains(out, "HIDDEN") || !json.Valid([]byte(out)) || strings.Count(out, "kept") != strings.Count(string(input), "kept") {
			t.Fatalf("%s without %s: %s", input, pointer, out)
		}
	})
}
