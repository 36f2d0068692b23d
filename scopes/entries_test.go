package scopes_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

func parseEntries(t testing.TB, text string) (*scopes.Set, string, error) {
	t.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return scopes.NewParser(4).ParseEntries(doc.Root(), "/entries")
}

func manyTypes(n int) string {
	var list []string
	for i := range n {
		list = append(list, `"t`+strings.Repeat("x", i)+`":[{"f":"*","p":2}]`)
	}
	return "{" + strings.Join(list, ",") + "}"
}

func TestParseEntries_RefusesWhatAGrantCannotGive(t *testing.T) {
	long := strings.Repeat("x", 1000)
	tests := []struct {
		name, text string
		want       []string
	}{
		{"one", `{"doc":[{"f":"*","p":15}]}`, nil},
		{"all of the grammar", `{"host":[{"f":"db-*","p":2,"a":["login","*"]},{"f":"a*b","a":["x"]}],"doc_2":[{"f":"/todos/{id}","p":14}]}`, nil},
		{"ten entries", `{"doc":` + entries(10) + `}`, nil},
		{"twenty types", manyTypes(20), nil},

		{"no object", `[]`, []string{"wrong_type /entries"}},
		{"null", `null`, []string{"wrong_type /entries"}},
		{"nothing", `{}`, []string{"empty_entries /entries"}},
		{"a type without entries", `{"doc":[],"host":[{"f":"*","p":2}]}`, []string{"empty_entries /entries/doc"}},
		{"a list that is none", `{"doc":{"f":"*","p":2}}`, []string{"wrong_type /entries/doc"}},
		{"an entry that is no object", `{"doc":["*"]}`, []string{"wrong_type /entries/doc/0"}},
		{"eleven entries", `{"doc":` + entries(11) + `}`, []string{"too_many_entries /entries/doc"}},
		{"twenty-one types", manyTypes(21), []string{"too_many_types /entries"}},
		{"too large", `{"doc":` + strings.ReplaceAll(entries(10), `"x"`, `"`+long+`"`) + `,"host":` + strings.ReplaceAll(entries(8), `"x"`, `"`+long+`"`) + `}`, []string{"entries_too_large /entries"}},

		{"policies", `{"policies":[{"f":"*","p":2}]}`, []string{"builtin_type /entries/policies"}},
		{"sets", `{"sets":[{"f":"*","p":2}]}`, []string{"builtin_type /entries/sets"}},
		{"a boolean scope", `{"decision":true}`, []string{"builtin_type /entries/decision"}},
		{"the right to grant", `{"access_requests_manage":[{"f":"*","p":15}]}`, []string{"builtin_type /entries/access_requests_manage"}},
		{"the keys", `{"access_keys":["*"]}`, []string{"builtin_type /entries/access_keys"}},
		{"a reserved name", `{"latchkey_anything":[{"f":"*","p":2}]}`, []string{"builtin_type /entries/latchkey_anything"}},
		{"a name that is none", `{"Doc":[{"f":"*","p":2}]}`, []string{"invalid_type /entries/Doc"}},
		{"a name that needs escaping", `{"a/b~":[{"f":"*","p":2}]}`, []string{"invalid_type /entries/a~1b~0"}},

		{"Create with a prefix", `{"doc":[{"f":"x*","p":1}]}`, []string{"create_needs_all /entries/doc/0/f"}},
		{"Create with a name", `{"doc":[{"f":"*","p":2},{"f":"x","p":15}]}`, []string{"create_needs_all /entries/doc/1/f"}},
		{"a restriction", `{"doc":[{"f":"*","p":2,"r":{"filter":"x"}}]}`, []string{"restriction_not_allowed /entries/doc/0/r"}},
		{"no selector", `{"doc":[{"p":2}]}`, []string{"missing_selector /entries/doc/0/f"}},
		{"an empty selector", `{"doc":[{"f":"","p":2}]}`, []string{"invalid_selector /entries/doc/0/f"}},
		{"no right", `{"doc":[{"f":"*"}]}`, []string{"missing_permission /entries/doc/0"}},
		{"no such permission", `{"doc":[{"f":"*","p":16}]}`, []string{"invalid_permission /entries/doc/0/p"}},
		{"a permission as an action", `{"doc":[{"f":"*","a":["delete"]}]}`, []string{"invalid_action /entries/doc/0/a/0"}},
		{"a member too many", `{"doc":[{"f":"*","p":2,"P":15}]}`, []string{"unknown_member /entries/doc/0/P"}},
		{"several faults", `{"sets":[{"f":"*","p":2}],"doc":[{"f":"x","p":1}]}`, []string{"builtin_type /entries/sets", "create_needs_all /entries/doc/0/f"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, text, err := parseEntries(t, tt.text)
			if diff := cmp.Diff(tt.want, faults(t, err)); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (set != nil) || (err == nil) != (text != "") {
				t.Errorf("%v, %q, %v", set, text, err)
			}
		})
	}
}

// What is stored reads back as the same rights, and gives no other kind of
// right, whatever was sent.
func TestLoadEntries_IsWhatWasParsed(t *testing.T) {
	selector := rapid.OneOf(rapid.SampledFrom([]string{"*", "db-*", "db-1", "a*b", "**"}), rapid.StringMatching(`[a-z/{}]{1,8}\*?`))
	types := []string{"doc", "host", "customer", "access_key"}
	p := scopes.NewParser(4)
	rapid.Check(t, func(t *rapid.T) {
		b := []byte{'{'}
		for i, typ := range rapid.SliceOfNDistinct(rapid.SampledFrom(types), 1, 4, rapid.ID).Draw(t, "types") {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(strictjson.AppendString(b, typ), ':', '[')
			for j := range rapid.IntRange(1, 10).Draw(t, "entries") {
				if j > 0 {
					b = append(b, ',')
				}
				b = strictjson.AppendString(append(b, `{"f":`...), selector.Draw(t, "f"))
				b = append(b, rapid.SampledFrom([]string{`,"p":2}`, `,"p":6}`, `,"p":8,"a":["lock"]}`, `,"a":["*"]}`}).Draw(t, "right")...)
			}
			b = append(b, ']')
		}
		var doc strictjson.Doc
		if err := doc.Parse(string(append(b, '}'))); err != nil {
			t.Fatal(err)
		}
		set, text, err := p.ParseEntries(doc.Root(), "")
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.LoadEntries(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if again.Booleans() != nil || again.SeesKeys() || again.Has(scopes.Decision) {
			t.Fatalf("%s opens latchkey itself", text)
		}
		for range 20 {
			q := scopes.Question{
				Type: rapid.SampledFrom(append(types, "sets", "policies")).Draw(t, "type"), ID: rapid.SampledFrom([]string{"db-1", "db-", "a*b", "x", "/{", "**"}).Draw(t, "id"),
				Action: rapid.SampledFrom([]string{"create", "read", "update", "delete", "lock", "open"}).Draw(t, "action"),
			}
			if got := again.Permits(q); got != set.Permits(q) || got && (scopes.IsBuiltin(q.Type) || q.Action == "create") {
				t.Fatalf("%s: %+v: %v", text, q, got)
			}
		}
	})
}

func TestLoadEntries_SharesEqualSetsAndMixesNoGrammars(t *testing.T) {
	p := scopes.NewParser(4)
	const text = `{"customer":[{"f":"*","p":2}]}`
	first, err := p.LoadEntries(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.LoadEntries(text); err != nil || again != first {
		t.Errorf("another set: %v", err)
	}
	// As scopes of a key the same text is malformed, whoever read it before.
	if _, err := p.Load(text); err == nil {
		t.Error("entries were taken for the scopes of a key")
	}
	if _, err := p.Load(`{"customer":{"doc":[{"f":"*","p":2}]}}`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.LoadEntries(`{"customer":{"doc":[{"f":"*","p":2}]}}`); err == nil {
		t.Error("the scopes of a key were taken for entries")
	}
	runtime.KeepAlive(first)
}

func FuzzParseEntries(f *testing.F) {
	for _, text := range []string{`{"doc":[{"f":"*","p":15}]}`, `{"host":[{"f":"db-*","p":2,"a":["login","*"]}]}`, `{"sets":[{"f":"*","p":2}]}`, `{}`, `null`, `{"a":[{"f":"\ud83d\ude00*","a":["x"]}]}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var doc strictjson.Doc
		if doc.Parse(text) != nil {
			t.Skip()
		}
		p := scopes.NewParser(4)
		set, stored, err := p.ParseEntries(doc.Root(), "/e")
		if err != nil {
			if set != nil || stored != "" || len(faults(t, err)) == 0 {
				t.Errorf("a refusal without faults, or with a set: %v", err)
			}
			return
		}
		again, err := p.LoadEntries(stored)
		if err != nil {
			t.Fatalf("%s is refused: %v", stored, err)
		}
		for _, typ := range again.Types() {
			if scopes.IsBuiltin(typ) || strings.HasPrefix(typ, "latchkey_") {
				t.Errorf("%s gives %s", text, typ)
			}
			for _, e := range again.Entries(typ) {
				if e.Permissions&scopes.Create != 0 && !e.Selector.All() {
					t.Errorf("create on %q", e.Selector)
				}
			}
		}
		if diff := cmp.Diff(set.Types(), again.Types()); diff != "" {
			t.Error(diff)
		}
	})
}
