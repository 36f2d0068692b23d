package people_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/scopes"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"username":"alice","email":"A@b","name":"x","type":"InternalAdmin","active":false}`, `{"name":"g","member_ids":["bot"],"entitlement_ids":[]}`,
		`{"app_id":"00000000-0000-4000-8000-000000000000","name":"e","entries":{"host":[{"f":"*","p":2}]},"claims":{"g":["x"]}}`, `[]`, `{"username":null}`, `{"claims":{"":[7]}}`,
	} {
		f.Add(seed)
	}
	parser := scopes.NewParser(8)
	f.Fuzz(func(t *testing.T, text string) {
		var doc strictjson.Doc
		if doc.Parse(text) != nil {
			return
		}
		faulty := func(err error) bool {
			if err != nil && (latchkey.KindOf(err) != latchkey.Invalid || latchkey.CodeOf(err) == "") {
				t.Errorf("%q: %v", text, err)
			}
			return err != nil
		}
		if p, err := people.ParsePerson(doc.Root()); !faulty(err) {
			folded, ok := authz.FoldEmail(p.Email)
			if !latchkey.ValidName(p.Username) || strings.EqualFold(p.Username, authz.Bot) || strings.Contains(p.Username, "@") || p.Email != "" && (!ok || folded != p.Email) || !p.Type.Valid() || utf8.RuneCountInString(p.Name) > 200 {
				t.Errorf("%q makes %+v", text, p)
			}
		}
		if g, err := people.ParseGroup(doc.Root()); !faulty(err) {
			seen := map[string]bool{}
			for _, id := range g.Members {
				if _, ok := authz.ParseKeyID(id); !ok && id != authz.Bot || seen[id] {
					t.Errorf("%q makes %+v", text, g)
				}
				seen[id] = true
			}
		}
		if e, err := people.ParseEntitlement(parser, doc.Root()); !faulty(err) {
			if _, err := parser.LoadEntries(e.Entries); err != nil {
				t.Errorf("%q makes entries %s: %v", text, e.Entries, err)
			}
		}
	})
}

func TestFoldEmail_TakesOneSpellingForOneAddress(t *testing.T) {
	for text, want := range map[string]string{
		"Alice@Example.COM": "alice@example.com", "a+b.c_d@x-y.z": "a+b.c_d@x-y.z", "": "", "@": "", "a@": "", "@b": "", "a@b@c": "", "a b@c": "", "a\u212a@b": "", "ı@b": "",
		"<a>@b": "", `"a"@b`: "", "a,b@c": "", "a@b\n": "", strings.Repeat("a", 253) + "@b": "", strings.Repeat("a", 252) + "@b": strings.Repeat("a", 252) + "@b",
	} {
		if got, ok := authz.FoldEmail(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, ok, want)
		}
	}
}
