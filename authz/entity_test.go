package authz_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

// Whatever an item of a bulk update holds, it is refused as Invalid, with a
// place, or what is stored of it can be read again.
func FuzzParseEntities(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"host","id":"a","displayName":"A","labels":{"a":"b"},"properties":{"n":[1,{"x":null}]}}`,
		`{"type":"user","id":"alice","properties":{}}`, `{"type":"access_key","id":"x"}`, `{"kind":"h","id":"*"}`, `{"actions":["a","b"]}`, `[]`, `7`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var doc strictjson.Doc
		if doc.Parse(text) != nil {
			return
		}
		refused := func(err error) {
			if latchkey.KindOf(err) != latchkey.Invalid {
				t.Errorf("%s: %v", text, err)
			}
		}
		readable := func(text *string) {
			if text == nil {
				return
			}
			if p, err := policies.NewProperties(*text); err != nil || p.Text() != *text {
				t.Errorf("%q cannot be read again: %v", *text, err)
			}
		}
		if u, err := authz.ParseSubjectUpdate(doc.Root(), "/subjects/0"); err != nil {
			refused(err)
		} else {
			readable(u.Properties)
		}
		if u, err := authz.ParseResourceUpdate(doc.Root(), "/resources/0"); err != nil {
			refused(err)
		} else {
			readable(u.Labels)
			readable(u.Properties)
		}
		if _, err := authz.ParseResourceType(doc.Root(), "host"); err != nil {
			refused(err)
		}
	})
}
