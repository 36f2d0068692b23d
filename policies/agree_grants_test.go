package policies_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// What a grant's entries cover is answered alike by the compiled matcher, the
// library's Rego and the naive oracle, and by a set that was stored and read
// back.
func TestAgree_EntriesOfGrants(t *testing.T) {
	f := newForge(t)
	asked, covered := 0, 0
	notes := map[string]int{}
	note := func(what string) { notes[what]++ }
	for i := range max(*agreeKeys/6, 1) {
		d := seeded(*agreeSeed, 1<<32+uint64(i))
		entries := map[string]any{}
		for range 1 + d.n(3) {
			typ := pick(d, appTypes)
			entries[typ] = d.entries(typ)
		}
		text, err := plainJSON(entries)
		if err != nil {
			t.Fatal(err)
		}
		var doc strictjson.Doc
		if err := doc.Parse(text); err != nil {
			t.Fatal(err)
		}
		set, stored, err := f.parser.ParseEntries(doc.Root(), "/entries")
		if len(stored) == 0 && len(text) > scopes.MaxEntriesText {
			continue
		}
		if err != nil {
			t.Fatalf("seed %d, grant %d: %v in %s", *agreeSeed, i, err, text)
		}
		again, err := f.parser.LoadEntries(stored)
		if err != nil {
			t.Fatalf("seed %d, grant %d: what was stored does not parse: %v", *agreeSeed, i, err)
		}
		k := &key{id: "x", set: set, lists: slices.Sorted(maps.Keys(entries))}
		if err := json.Unmarshal([]byte(`{"customer":`+stored+`}`), &k.scopes); err != nil {
			t.Fatal(err)
		}
		term := ast.NewTerm(ast.MustInterfaceToValue(k.scopes))
		for n := range questionsPerKey {
			request := d.request(k)
			want := oraclePermits(map[string]any{"customer": entries}, request, note)
			both := ast.NewObject([2]*ast.Term{ast.StringTerm("scopes"), term},
				[2]*ast.Term{ast.StringTerm("request"), ast.NewTerm(ast.MustInterfaceToValue(request))})
			library, err := evaluate(t.Context(), f.library, both, moment)
			if got, read := set.Permits(question(request)), again.Permits(question(request)); err != nil || got != want || read != want || library != want {
				t.Fatalf("seed %d, grant %d, question %d: matcher %v, read back %v, library %v %v, oracle %v\n%s\n%s",
					*agreeSeed, i, n, got, read, library, err, want, stored, fmt.Sprint(request))
			}
			asked++
			if want {
				covered++
			}
		}
	}
	if share := 100 * covered / max(asked, 1); asked < 10_000 && *agreeKeys >= 1000 || share < 15 || share > 85 {
		t.Errorf("%d questions, %d%% of them covered: the generator has lost its balance", asked, share)
	}
	for _, what := range []string{"prefix selector", "exact selector", "implied read", "custom action", "star action", "no entry"} {
		if notes[what] < asked/100 {
			t.Errorf("%s: hit %d times in %d questions", what, notes[what], asked)
		}
	}
}
