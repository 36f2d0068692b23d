package scopes_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

func mustParse(t testing.TB, text string) *scopes.Set {
	t.Helper()
	set, err := scopes.NewParser(64).Parse(text)
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return set
}

// faults returns "code pointer" of each fault; none means accepted.
func faults(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *latchkey.Error
	if !errors.As(err, &e) || e.Kind != latchkey.Invalid {
		t.Fatalf("%v is not an Invalid error", err)
	}
	var list []string
	for _, f := range scopes.Faults(err) {
		list = append(list, f.Code+" "+f.Pointer)
		if f.Detail == "" {
			t.Errorf("%s at %s has no detail", f.Code, f.Pointer)
		}
	}
	return list
}

// customer puts one member in place.
func customer(name, value string) string {
	return `{"customer": {"` + name + `": ` + value + `}}`
}

func entries(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(`{"f": "x", "p": 2},`, n), ",") + "]"
}

func actions(n int) string {
	var list []string
	for i := range n {
		list = append(list, strconv.Quote("a"+strconv.Itoa(i)))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func TestParse_RefusesWithCodeAndPointer(t *testing.T) {
	policy := func(entry string) string { return customer("policies", "["+entry+"]") }
	set := func(entry string) string { return customer("sets", "["+entry+"]") }
	doc := func(entry string) string { return customer("doc", "["+entry+"]") }
	long := strings.Repeat("x", 129)
	tests := []struct {
		name, text string
		want       []string
	}{
		// The whole.
		{"nothing", ``, []string{"empty_body "}},
		{"null", `null`, []string{"missing_scopes "}},
		{"an array", `[]`, []string{"wrong_type "}},
		{"no customer", `{}`, []string{"missing_scopes /customer"}},
		{"customer null", `{"customer": null}`, []string{"wrong_type /customer"}},
		{"customer an array", `{"customer": []}`, []string{"wrong_type /customer"}},
		{"member beside customer", `{"customer": {"decision": true}, "metadata": {}}`, []string{"unknown_member /metadata"}},
		{"wrong case of customer", `{"Customer": {"decision": true}}`, []string{"unknown_member /Customer", "missing_scopes /customer"}},
		{"duplicate name", `{"customer": {"decision": true, "decision": true}}`, []string{"duplicate_name /customer/decision"}},
		{"duplicate name in an entry", policy(`{"f": "a", "f": "*", "p": 2}`), []string{"duplicate_name /customer/policies/0/f"}},
		{"trailing data", `{"customer": {"decision": true}} {}`, []string{"trailing_data "}},
		{"comment", "{\"customer\": {\"decision\": true}} // yes", []string{"trailing_data "}},
		{"too deep", customer("doc", strings.Repeat("[", 64)+strings.Repeat("]", 64)), []string{"too_deep /customer/doc" + strings.Repeat("/0", 62)}},
		{"U+0000", doc(`{"f": "a\u0000", "p": 2}`), []string{"nul_character /customer/doc/0/f"}},
		{"lone surrogate", doc(`{"f": "\ud800", "p": 2}`), []string{"lone_surrogate /customer/doc/0/f"}},
		{"number too long", policy(`{"f": "*", "p": ` + strings.Repeat("1", 65) + `}`), []string{"number_too_long /customer/policies/0/p"}},
		{"infinite number", policy(`{"f": "*", "p": 1e999}`), []string{"number_out_of_range /customer/policies/0/p"}},

		// Scopes that give nothing.
		{"empty customer", `{"customer": {}}`, []string{"empty_scopes /customer"}},
		{"false booleans", `{"customer": {"decision": false, "search": false}}`, []string{"empty_scopes /customer"}},
		{"empty lists", `{"customer": {"policies": [], "doc": [], "access_keys": []}}`, []string{"empty_scopes /customer"}},

		// Names.
		{"wrong case of a name", customer("Policies", entries(1)), []string{"invalid_scope_name /customer/Policies"}},
		{"reserved prefix", customer("latchkey_doc", entries(1)), []string{"invalid_scope_name /customer/latchkey_doc"}},
		{"empty name", customer("", entries(1)), []string{"invalid_scope_name /customer/"}},
		{"leading digit", customer("1doc", entries(1)), []string{"invalid_scope_name /customer/1doc"}},
		{"leading underscore", customer("_doc", entries(1)), []string{"invalid_scope_name /customer/_doc"}},
		{"hyphen", customer("a-b", entries(1)), []string{"invalid_scope_name /customer/a-b"}},
		{"pointer of a name is escaped", customer("a/~b", entries(1)), []string{"invalid_scope_name /customer/a~1~0b"}},
		{"65 bytes", customer(strings.Repeat("a", 65), entries(1)), []string{"invalid_scope_name /customer/" + strings.Repeat("a", 65)}},
		{"not ASCII", customer("dóc", entries(1)), []string{"invalid_scope_name /customer/dóc"}},

		// Booleans and access_keys.
		{"boolean as text", customer("decision", `"true"`), []string{"wrong_type /customer/decision"}},
		{"boolean as number", customer("audit_events", `1`), []string{"wrong_type /customer/audit_events"}},
		{"boolean as null", customer("sidecar", `null`), []string{"wrong_type /customer/sidecar"}},
		{"boolean as list", customer("search", entries(1)), []string{"wrong_type /customer/search"}},
		{"access_keys as text", customer("access_keys", `"*"`), []string{"wrong_type /customer/access_keys"}},
		{"access_keys as true", customer("access_keys", `true`), []string{"wrong_type /customer/access_keys"}},
		{"access_keys of an unknown name", customer("access_keys", `["policies", "doc"]`), []string{"invalid_access_keys /customer/access_keys/1"}},
		{"access_keys of wrong case", customer("access_keys", `["Policies"]`), []string{"invalid_access_keys /customer/access_keys/0"}},
		{"access_keys of a pattern", customer("access_keys", `["pol*", "**", ""]`), []string{"invalid_access_keys /customer/access_keys/0", "invalid_access_keys /customer/access_keys/1", "invalid_access_keys /customer/access_keys/2"}},
		{"access_keys of a number", customer("access_keys", `["*", 1]`), []string{"wrong_type /customer/access_keys/1"}},

		// Entry lists.
		{"list as object", customer("policies", `{"f": "*", "p": 2}`), []string{"wrong_type /customer/policies"}},
		{"list as true", customer("bundles", `true`), []string{"wrong_type /customer/bundles"}},
		{"list as null", customer("doc", `null`), []string{"wrong_type /customer/doc"}},
		{"11 entries", customer("policies", entries(11)), []string{"too_many_entries /customer/policies"}},
		{"11 entries of an application", customer("doc", entries(11)), []string{"too_many_entries /customer/doc"}},
		{"entry as text", policy(`"*"`), []string{"wrong_type /customer/policies/0"}},
		{"entry null", policy(`null`), []string{"wrong_type /customer/policies/0"}},
		{"empty entry", policy(`{}`), []string{"missing_selector /customer/policies/0/f", "missing_permission /customer/policies/0/p"}},
		{"wrong case of f and p", policy(`{"F": "*", "P": 2}`), []string{"unknown_member /customer/policies/0/F", "unknown_member /customer/policies/0/P", "missing_selector /customer/policies/0/f", "missing_permission /customer/policies/0/p"}},
		{"unknown member", policy(`{"f": "*", "p": 2, "q": 1}`), []string{"unknown_member /customer/policies/0/q"}},
		{"r of a policy", policy(`{"f": "*", "p": 2, "r": {"filter": "x"}}`), []string{"restriction_not_allowed /customer/policies/0/r"}},
		{"r of a bundle", customer("bundles", `[{"f": "*", "p": 2, "r": {}}]`), []string{"restriction_not_allowed /customer/bundles/0/r"}},
		{"r of an application", doc(`{"f": "*", "p": 2, "r": {"filter": "x"}}`), []string{"restriction_not_allowed /customer/doc/0/r"}},
		{"a of a policy", policy(`{"f": "*", "p": 2, "a": ["x"]}`), []string{"actions_not_allowed /customer/policies/0/a"}},
		{"a of a set", set(`{"f": "*", "p": 2, "a": ["x"]}`), []string{"actions_not_allowed /customer/sets/0/a"}},
		{"neither p nor a", doc(`{"f": "*"}`), []string{"missing_permission /customer/doc/0"}},

		// Selectors.
		{"f as number", policy(`{"f": 1, "p": 2}`), []string{"wrong_type /customer/policies/0/f"}},
		{"f null", policy(`{"f": null, "p": 2}`), []string{"wrong_type /customer/policies/0/f"}},
		{"f empty", policy(`{"f": "", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"two stars", policy(`{"f": "**", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"star in the middle", policy(`{"f": "a*b", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"star in front", policy(`{"f": "*a", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"star before the last", policy(`{"f": "a**", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"space", policy(`{"f": "a b", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"slash", policy(`{"f": "a/b", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"leading dot", policy(`{"f": ".a", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"not ASCII in a name", set(`{"f": "é", "p": 2}`), []string{"invalid_selector /customer/sets/0/f"}},
		{"129 bytes", policy(`{"f": "` + long + `", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"129 bytes and a star", policy(`{"f": "` + long + `*", "p": 2}`), []string{"invalid_selector /customer/policies/0/f"}},
		{"application: empty", doc(`{"f": "", "p": 2}`), []string{"invalid_selector /customer/doc/0/f"}},
		{"application: control character", doc(`{"f": "a\nb", "p": 2}`), []string{"invalid_selector /customer/doc/0/f"}},
		{"application: DEL", doc(`{"f": "a\u007f", "p": 2}`), []string{"invalid_selector /customer/doc/0/f"}},
		{"application: C1", doc(`{"f": "\u0085", "p": 2}`), []string{"invalid_selector /customer/doc/0/f"}},
		{"application: over 1 KiB", doc(`{"f": "` + strings.Repeat("é", 512) + `*", "p": 2}`), []string{"invalid_selector /customer/doc/0/f"}},

		// Create.
		{"create on one name", policy(`{"f": "a", "p": 1}`), []string{"create_needs_all /customer/policies/0/f"}},
		{"create among others on a prefix", set(`{"f": "a*", "p": 15}`), []string{"create_needs_all /customer/sets/0/f"}},
		{"create of an application", doc(`{"f": "a", "p": 3}`), []string{"create_needs_all /customer/doc/0/f"}},

		// Actions.
		{"a as text", doc(`{"f": "*", "a": "lock"}`), []string{"wrong_type /customer/doc/0/a"}},
		{"a null", doc(`{"f": "*", "a": null}`), []string{"wrong_type /customer/doc/0/a"}},
		{"a empty", doc(`{"f": "*", "p": 2, "a": []}`), []string{"invalid_actions /customer/doc/0/a"}},
		{"33 actions", doc(`{"f": "*", "a": ` + actions(33) + `}`), []string{"invalid_actions /customer/doc/0/a"}},
		{"action as number", doc(`{"f": "*", "a": ["x", 1]}`), []string{"wrong_type /customer/doc/0/a/1"}},
		{"create in a", doc(`{"f": "*", "a": ["create", "read", "update", "delete"]}`), []string{"invalid_action /customer/doc/0/a/0", "invalid_action /customer/doc/0/a/1", "invalid_action /customer/doc/0/a/2", "invalid_action /customer/doc/0/a/3"}},
		{"action empty", doc(`{"f": "*", "a": [""]}`), []string{"invalid_action /customer/doc/0/a/0"}},
		{"action with a star", doc(`{"f": "*", "a": ["lo*"]}`), []string{"invalid_action /customer/doc/0/a/0"}},
		{"action of 65 bytes", doc(`{"f": "*", "a": ["` + strings.Repeat("x", 65) + `"]}`), []string{"invalid_action /customer/doc/0/a/0"}},

		// Restrictions (regexes themselves: TestRegexp).
		{"r as text", set(`{"f": "*", "p": 4, "r": "x"}`), []string{"wrong_type /customer/sets/0/r"}},
		{"r null", set(`{"f": "*", "p": 4, "r": null}`), []string{"wrong_type /customer/sets/0/r"}},
		{"r empty", set(`{"f": "*", "p": 4, "r": {}}`), []string{"empty_restriction /customer/sets/0/r"}},
		{"r of an unknown member", set(`{"f": "*", "p": 4, "r": {"Filter": "x"}}`), []string{"unknown_member /customer/sets/0/r/Filter"}},
		{"filter as number", set(`{"f": "*", "p": 4, "r": {"filter": 1}}`), []string{"wrong_type /customer/sets/0/r/filter"}},
		{"filter null", set(`{"f": "*", "p": 4, "r": {"filter": null}}`), []string{"wrong_type /customer/sets/0/r/filter"}},
		{"filter empty", set(`{"f": "*", "p": 4, "r": {"filter": ""}}`), []string{"empty_regex /customer/sets/0/r/filter"}},
		{"entity_type no regex", set(`{"f": "*", "p": 4, "r": {"entity_type": "("}}`), []string{"invalid_regex /customer/sets/0/r/entity_type"}},

		// Several faults at once.
		{"all of them", `{"customer": {"policies": [{"f": "*", "p": 0}, {"f": "a b", "p": 2}], "decision": 1}}`,
			[]string{"invalid_permission /customer/policies/0/p", "invalid_selector /customer/policies/1/f", "wrong_type /customer/decision"}},
	}
	p := scopes.NewParser(64)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, err := p.Parse(tt.text)
			if set != nil {
				t.Errorf("a set comes with the refusal")
			}
			if diff := cmp.Diff(tt.want, faults(t, err)); diff != "" {
				t.Errorf("Parse(%s) (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

func TestParse_TakesTheLiteralsOneToFifteenAsPermission(t *testing.T) {
	p := scopes.NewParser(1)
	for n := 1; n <= 15; n++ {
		set, err := p.Parse(customer("policies", fmt.Sprintf(`[{"f": "*", "p": %d}]`, n)))
		if err != nil {
			t.Errorf("%d: %v", n, err)
		} else if got := set.Entries("policies")[0].Permissions; got != scopes.Permission(n) {
			t.Errorf("%d is read as %d", n, got)
		}
	}
	for _, other := range []string{"0", "16", "-1", "-0", "7.0", "7e0", "0.7e1", "70e-1", "150", "1500", "10000000000000000000000002", `"7"`, "null", "true", "[7]", `{"p": 7}`} {
		_, err := p.Parse(customer("policies", `[{"f": "*", "p": `+other+`}]`))
		if got := faults(t, err); !slices.Equal(got, []string{"invalid_permission /customer/policies/0/p"}) {
			t.Errorf("%s: %v", other, got)
		}
	}
}

func TestParse_AcceptsTheLimitsThemselves(t *testing.T) {
	for name, text := range map[string]string{
		"10 entries":                       customer("policies", entries(10)),
		"name of 64 bytes":                 customer(strings.Repeat("a", 64), entries(1)),
		"selector of 128 bytes":            customer("policies", `[{"f": "`+strings.Repeat("x", 128)+`", "p": 2}]`),
		"selector of 128 bytes and a star": customer("policies", `[{"f": "`+strings.Repeat("x", 128)+`*", "p": 2}]`),
		"application selector of 1 KiB":    customer("doc", `[{"f": "`+strings.Repeat("é", 512)+`", "p": 2}]`),
		"32 actions":                       customer("doc", `[{"f": "*", "a": `+actions(32)+`}]`),
		"action of 64 bytes":               customer("doc", `[{"f": "x", "a": ["`+strings.Repeat("x", 64)+`"]}]`),
		"an empty list beside a right":     `{"customer": {"decision": true, "policies": [], "access_keys": []}}`,
		"names that only look reserved":    customer("latchkey", entries(1)),
	} {
		t.Run(name, func(t *testing.T) { mustParse(t, text) })
	}
}

func TestParse_ReportsABoundedNumberOfFaults(t *testing.T) {
	_, err := scopes.NewParser(1).Parse(customer("access_keys", "["+strings.Repeat(`"no",`, 500)+`"no"]`))
	if n := len(faults(t, err)); n != 20 {
		t.Errorf("%d faults, want 20", n)
	}
}

func TestParseValue_PointsIntoTheLargerBody(t *testing.T) {
	var doc strictjson.Doc
	if err := doc.Parse(`{"scopes": {"customer": {"decision": 1}, "metadata": {}, "other": 1}}`); err != nil {
		t.Fatal(err)
	}
	_, err := scopes.NewParser(1).ParseValue(doc.Root().Get("scopes"), "/scopes", "metadata")
	want := []string{"unknown_member /scopes/other", "wrong_type /scopes/customer/decision"}
	if diff := cmp.Diff(want, faults(t, err)); diff != "" {
		t.Error(diff)
	}
	_, err = scopes.NewParser(1).ParseValue(doc.Root().Get("missing"), "/scopes")
	if got := faults(t, err); !slices.Equal(got, []string{"missing_scopes /scopes"}) {
		t.Error(got)
	}
}

// A body may live in a buffer that is used again: nothing of a set may point
// into it.
func TestParseValue_KeepsNothingOfTheBody(t *testing.T) {
	body := []byte(`{"customer": {"doc": [{"f": "abc*", "a": ["lock"], "p": 2}], "sets": [{"f": "abc", "p": 4, "r": {"filter": "abc", "entity_type": "ip"}}]}}`)
	var doc strictjson.Doc
	if err := doc.Parse(unsafe.String(&body[0], len(body))); err != nil {
		t.Fatal(err)
	}
	set, err := scopes.NewParser(1).ParseValue(doc.Root(), "")
	if err != nil {
		t.Fatal(err)
	}
	before := set.Rego(scopes.RegoKey{})
	clear(body)
	if after := set.Rego(scopes.RegoKey{}); after != before {
		t.Errorf("the set changed with the body:\n%s", after)
	}
}
