package scopes_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// The examples of the access-key document, as they stand there.
const (
	exampleList = `{"customer": {"decision": true, "audit_events": true, "access_keys": ["access_keys", "audit_events", "decision", "policies", "sets"]},
		"metadata": {"username": "dale.cooper", "keyname": "dale.cooper"}}`
	exampleStar = `{"customer": {"decision": true, "audit_events": true, "access_keys": ["*"]},
		"metadata": {"username": "dale.cooper", "keyname": "dale.cooper"}}`
	exampleWorked = `{"customer": {"decision": true, "access_keys": ["*"], "policies": [{"f": "*", "p": 2}, {"f": "staging", "p": 4}]},
		"metadata": {"username": "dale.cooper", "keyname": "dashboard_dale.cooper"}}`
	exampleSets = `{"customer": {"decision": true, "access_keys": ["*"],
		"sets": [{"f": "*", "p": 15, "r": {"entity_type": "^string$", "filter": "^[A-Z]+\\.[A-Z]+$"}}]}}`
	examplePost = `{"customer": {"decision": true}}`
	exampleGet  = `{"customer": {"policies": [{"f": "*", "p": 2}]}}`
)

func parseBeside(t *testing.T, text string) *scopes.Set {
	t.Helper()
	var doc strictjson.Doc
	if err := doc.Parse(text); err != nil {
		t.Fatal(err)
	}
	set, err := scopes.NewParser(4).ParseValue(doc.Root(), "", "metadata")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestExamples_ReadsEveryExample(t *testing.T) {
	for _, text := range []string{exampleList, exampleStar, exampleWorked, exampleSets, examplePost, exampleGet} {
		parseBeside(t, text)
	}
	list, star := parseBeside(t, exampleList), parseBeside(t, exampleStar)
	for _, other := range []string{exampleList, exampleStar, exampleWorked, exampleSets, examplePost, exampleGet} {
		if !list.Sees(parseBeside(t, other)) || !star.Sees(parseBeside(t, other)) {
			t.Errorf("the complete list and its star do not both see %s", other)
		}
	}
}

func TestExamples_WorkedExamplePermitsItsFiveBulletsAndNoMore(t *testing.T) {
	set := parseBeside(t, exampleWorked)
	if !set.Has(scopes.Decision) {
		t.Error("it may not call /decision")
	}
	if !set.SeesKeys() {
		t.Error("it may not list access keys")
	}
	if !set.Lists(scopes.AuditEvents) {
		t.Error("it may not call /v1/auditing")
	}
	for _, tt := range []struct {
		id, action string
		want       bool
	}{
		{"main", "read", true}, {"staging", "read", true}, {"staging", "update", true},
		{"main", "update", false}, {"main", "delete", false}, {"staging", "delete", false}, {"staging", "create", false}, {"staging2", "update", false},
	} {
		if got := set.Permits(scopes.Question{Type: "policies", ID: tt.id, Action: tt.action}); got != tt.want {
			t.Errorf("%s %s = %v, want %v", tt.action, tt.id, got, tt.want)
		}
	}
	if set.Permits(scopes.Question{Type: "sets", ID: "x", Action: "read"}) || set.Has(scopes.AuditEvents) || set.Has(scopes.Search) {
		t.Error("it may more")
	}
}

func TestExamples_FiltersAdmitWhatTheySpell(t *testing.T) {
	const ipFilter = `^[0-1][0-3][0-5]\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}$`
	tests := []struct {
		entityType, filter string
		asked              scopes.EntityType
		values             map[string]bool
	}{
		{"^string$", `^[A-Z]+\\.[A-Z]+$`, "string", map[string]bool{"ABC.DEF": true, "A.B": true, "ABC": false, "abc.def": false, "A.B.C": false, "A.B\n": false, ".": false}},
		{"^string$", `^[A-Z]+\\.[A-Z]+$`, "ip", map[string]bool{"1.2.3.4": false}},
		{"^string$", `^[A-Z]{3}-[A-Z]{1,3}$`, "string", map[string]bool{"ABC-A": true, "ABC-AB": true, "ABC-ABC": true, "ABC-ABCD": false, "AB-A": false, "ABC-": false, "abc-a": false}},
		// Just the octets it spells: three digits, each in its own range.
		{"^ip$", ipFilter, "ip", map[string]bool{"100.1.2.3": true, "135.255.0.0": true, "125.1.1.1": true, "136.1.1.1": false, "109.1.1.1": false, "10.0.0.1": false, "99.1.1.1": false, "140.1.1.1": false, "999.999.999.999": false, "::ffff:100.1.2.3": true, "100.0.0.0/8": false}},
		{"^ip$", ipFilter, "string", map[string]bool{"100.1.2.3": false}},
		// Meaningless in its context: it blocks all values.
		{"^uint$", `^[A-Z]{1,5}$`, "uint", map[string]bool{"1": false, "12345": false, "ABC": false}},
	}
	for _, tt := range tests {
		set := mustParse(t, customer("sets", `[{"f": "*", "p": 15, "r": {"entity_type": "`+tt.entityType+`", "filter": "`+tt.filter+`"}}]`))
		for value, want := range tt.values {
			for _, q := range []scopes.Values{{EntityType: tt.asked, Added: texts(value)}, {EntityType: tt.asked, Removed: texts(value)}} {
				verdict := set.Decide(scopes.Question{Type: "sets", ID: "x", Action: "update", Values: &q})
				if verdict.Permitted != want || verdict.Blocked == want {
					t.Errorf("%s as %s under %s: %+v, want %v", value, tt.asked, tt.filter, verdict, want)
				}
			}
		}
	}
}
