package scopes_test

import (
	"slices"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Whatever is accepted means the same in canonical form, which is what the
// record keeps.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		exampleSets, examplePost, exampleGet, busy, `{"customer": {"doc": [{"f": "\u00e9\ufeff*", "a": ["*", "x"], "p": 15}]}}`, withFilter(`(?i)[[:alpha:](?m)]\Q(?m)\E`),
		withFilter(`((a{100}){100}){100}`), withFilter(`[]a-](?m)^`), `{"customer": {"a": [{"p": 7, "f": "a**"}], "access_keys": ["sets", "*"], "decision": false}}`, `{"customer":`, `null`,
	} {
		f.Add(text, "staging", "A.B")
	}
	f.Fuzz(func(t *testing.T, text, id, value string) {
		p := scopes.NewParser(8)
		set, err := p.Parse(text)
		if err != nil {
			if set != nil || len(faults(t, err)) == 0 {
				t.Errorf("a refusal of %d faults, with set %v", len(faults(t, err)), set)
			}
			return
		}
		var doc strictjson.Doc
		if err := doc.Parse(text); err != nil {
			t.Fatal(err)
		}
		canonical := string(doc.Root().AppendCanonical(nil))
		again, err := p.Load(canonical)
		if err != nil {
			t.Fatalf("%s is refused: %v", canonical, err)
		}
		if set.Rego(scopes.RegoKey{}) != again.Rego(scopes.RegoKey{}) || !slices.Equal(set.Booleans(), again.Booleans()) || !slices.Equal(set.Visible(), again.Visible()) {
			t.Errorf("%s differs from %s", text, canonical)
		}
		for _, typ := range append(set.Types(), "sets", "other") {
			for _, e := range set.Entries(typ) {
				if r := e.Restriction; r != nil {
					for _, pattern := range []string{r.EntityType, r.Filter} {
						if pattern != "" {
							checkAccepted(t, pattern)
						}
					}
				}
				if e.Permissions&scopes.Create != 0 && !e.Selector.All() {
					t.Errorf("create on %q", e.Selector)
				}
			}
			for _, action := range []string{"create", "read", "update", "delete", "x"} {
				q := scopes.Question{Type: typ, ID: id, Action: action, Values: &scopes.Values{EntityType: "string", Added: texts(value)}}
				if set.Permits(q) != again.Permits(q) {
					t.Errorf("%s and %s differ on %+v", text, canonical, q)
				}
			}
		}
	})
}

func FuzzRegexpFlag(f *testing.F) {
	for _, pattern := range []string{`(?m)a`, `[(?m)]`, `\Q(?m)\E`, `[]](?m)$`, `[[:alpha:]](?m)^`, `(?i:(?-m)a)`, `[^\]\\](?m)$`, `\pL(?m)$`, `\x{41}(?m)^`} {
		f.Add(pattern)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		if scopes.CheckRegexp(pattern) == "" {
			checkAccepted(t, pattern)
		}
	})
}
