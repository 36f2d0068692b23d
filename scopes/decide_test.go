package scopes_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey/scopes"
)

func TestSelector_MatchesBytesLiterally(t *testing.T) {
	tests := []struct {
		f, id string
		want  bool
	}{
		{"*", "anything", true},
		{"*", "*", true},
		{"exact", "exact", true},
		{"exact", "exact2", false},
		{"exact", "exac", false},
		{"exact", "Exact", false},
		{"prefix*", "prefix", true},
		{"prefix*", "prefix-2", true},
		{"prefix*", "prefix*", true},
		{"prefix*", "prefi", false},
		{"prefix*", "Prefix", false},
		{"prefix*", "a prefix", false},
		{"a*b", "a*b", true}, // only a final star is special
		{"a*b", "axb", false},
		{"**", "*", true},
		{"**", "*x", true},
		{"**", "x", false},
		{"/todos/{todoId}", "/todos/{todoId}", true},
		{"/todos/{todoId}", "/todos/7", false},
		{"a.c", "abc", false},
		{"caf\u00e9", "cafe\u0301", false}, // equal to the eye, not in bytes
		{"caf*", "cafe\u0301", true},
		{"%2a", "*", false},
	}
	for _, tt := range tests {
		set := mustParse(t, customer("doc", `[{"f": "`+tt.f+`", "p": 2}]`))
		if got := set.Permits(scopes.Question{Type: "doc", ID: tt.id, Action: "read"}); got != tt.want {
			t.Errorf("%q on %q = %v, want %v", tt.f, tt.id, got, tt.want)
		}
		if got := set.Entries("doc")[0].Selector.String(); got != tt.f {
			t.Errorf("%q prints as %q", tt.f, got)
		}
	}
	if (scopes.Selector{}).Matches("x") {
		t.Error("the zero selector matches")
	}
}

func TestValidID_TakesOneByteToOneKiBOfText(t *testing.T) {
	for id, want := range map[string]bool{
		"x": true, "*": true, "a\nb": true, "\u0085": true, strings.Repeat("é", 512): true,
		"": false, "a\x00b": false, "\xff": false, strings.Repeat("é", 512) + "x": false,
	} {
		if got := scopes.ValidID(id); got != want {
			t.Errorf("ValidID(%.10q) = %v", id, got)
		}
	}
}

func TestPermission_ImpliesReadOnItsOwnSelectorOnly(t *testing.T) {
	for p := scopes.Permission(0); p <= scopes.AllPermissions; p++ {
		want := p
		if p != 0 {
			want |= scopes.Read
		}
		if p.Implied() != want {
			t.Errorf("Implied(%d) = %d, want %d", p, p.Implied(), want)
		}
	}
	set := mustParse(t, `{"customer": {"policies": [{"f": "staging", "p": 4}, {"f": "prod*", "p": 8}]}}`)
	allow := func(action, id string) {
		t.Helper()
		if !set.Permits(scopes.Question{Type: "policies", ID: id, Action: action}) {
			t.Errorf("%s %s is refused", action, id)
		}
	}
	deny := func(action, id string) {
		t.Helper()
		if set.Permits(scopes.Question{Type: "policies", ID: id, Action: action}) {
			t.Errorf("%s %s is permitted", action, id)
		}
	}
	allow("read", "staging")
	allow("update", "staging")
	deny("delete", "staging")
	deny("create", "staging")
	allow("read", "prod-1")
	allow("delete", "prod-1")
	deny("update", "prod-1")
	deny("read", "main")
	deny("", "staging")
	deny("Read", "staging")
	deny("lock", "staging")
}

func TestDecide_AddsUpAllEntriesInAnyOrder(t *testing.T) {
	list := []string{`{"f": "a*", "p": 4}`, `{"f": "ab", "p": 8}`, `{"f": "*", "p": 1}`, `{"f": "ab", "p": 8}`}
	forward := mustParse(t, customer("policies", "["+strings.Join(list, ",")+"]"))
	slices.Reverse(list)
	backward := mustParse(t, customer("policies", "["+strings.Join(list, ",")+"]"))
	for _, id := range []string{"a", "ab", "abc", "b"} {
		for _, action := range []string{"create", "read", "update", "delete", "other"} {
			q := scopes.Question{Type: "policies", ID: id, Action: action}
			if forward.Permits(q) != backward.Permits(q) {
				t.Errorf("%s %s depends on the order", action, id)
			}
		}
	}
	verdict := forward.Decide(scopes.Question{Type: "policies", ID: "ab", Action: "read"})
	if got := slices.Collect(verdict.Granting); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("granting = %v, want all four", got)
	}
	verdict = forward.Decide(scopes.Question{Type: "policies", ID: "ab", Action: "delete"})
	if got := slices.Collect(verdict.Granting); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("granting = %v, want 1 and 3", got)
	}
}

func TestDecide_CustomActionsAreGivenByTheEntrysListOnly(t *testing.T) {
	set := mustParse(t, `{"customer": {"doc": [{"f": "a", "a": ["lock"]}, {"f": "b", "a": ["*"]}, {"f": "c", "p": 14}]}}`)
	for _, tt := range []struct {
		id, action string
		want       bool
	}{
		{"a", "lock", true}, {"a", "open", false}, {"a", "read", false}, {"a", "*", false},
		{"b", "lock", true}, {"b", "anything at all", true}, {"b", "read", false}, {"b", "create", false}, {"b", "update", false}, {"b", "delete", false}, {"b", "READ", true},
		{"c", "lock", false}, {"c", "read", true},
	} {
		if got := set.Permits(scopes.Question{Type: "doc", ID: tt.id, Action: tt.action}); got != tt.want {
			t.Errorf("%s %s = %v, want %v", tt.action, tt.id, got, tt.want)
		}
	}
}

func TestDecide_BooleansAndAccessKeysPermitNothing(t *testing.T) {
	set := mustParse(t, `{"customer": {"decision": true, "audit_events": true, "access_keys": ["*"]}}`)
	for _, typ := range append(scopes.BuiltinNames(), "customer", "*", "") {
		for _, action := range []string{"create", "read", "update", "delete", "*"} {
			if set.Permits(scopes.Question{Type: typ, ID: "x", Action: action}) {
				t.Errorf("%s of %s is permitted", action, typ)
			}
		}
	}
	var none *scopes.Set
	if none.Permits(scopes.Question{Type: "doc", ID: "x", Action: "read"}) || none.Has("decision") || none.SeesKeys() || none.Sees(set) {
		t.Error("the nil set permits")
	}
	if new(scopes.Set).Permits(scopes.Question{Type: "doc", ID: "x", Action: "read"}) {
		t.Error("the zero set permits")
	}
}

func texts(list ...string) (values []scopes.Value) {
	for _, text := range list {
		values = append(values, scopes.Value{Text: text})
	}
	return values
}

func TestDecide_HoldsWritesToTheRestrictions(t *testing.T) {
	set := mustParse(t, `{"customer": {"sets": [
		{"f": "caps", "p": 12, "r": {"entity_type": "^string$", "filter": "^[A-Z]+$"}},
		{"f": "caps", "p": 4, "r": {"filter": "^[0-9]+$"}},
		{"f": "open*", "p": 8},
		{"f": "ips", "p": 4, "r": {"entity_type": "^ip$"}}]}}`)
	tests := []struct {
		name, id, action string
		values           *scopes.Values
		permitted        bool
		blocked          bool
		added, removed   []int
		granting         []int
	}{
		{name: "reading needs no values", id: "caps", action: "read", permitted: true, granting: []int{0, 1}},
		{name: "reading ignores values", id: "caps", action: "read", values: &scopes.Values{Malformed: true}, permitted: true, granting: []int{0, 1}},
		{name: "no values, all restricted", id: "caps", action: "update", blocked: true},
		{name: "empty values, all restricted", id: "caps", action: "update", values: &scopes.Values{EntityType: "string"}, blocked: true},
		{name: "no values, unrestricted", id: "open", action: "delete", permitted: true, granting: []int{2}},
		{name: "malformed lists, unrestricted", id: "open", action: "delete", values: &scopes.Values{Malformed: true}, blocked: true},
		{name: "each value finds an entry", id: "caps", action: "update", values: &scopes.Values{EntityType: "string", Added: texts("A", "1"), Removed: texts("B")}, permitted: true, granting: []int{0, 1}},
		{name: "one value finds none", id: "caps", action: "update", values: &scopes.Values{EntityType: "string", Added: texts("A", "a", "1"), Removed: texts("!", "B")}, blocked: true, added: []int{1}, removed: []int{0}},
		{name: "the other entry lacks the bit", id: "caps", action: "delete", values: &scopes.Values{EntityType: "string", Removed: texts("A", "1")}, blocked: true, removed: []int{1}},
		{name: "another entity type", id: "caps", action: "delete", values: &scopes.Values{EntityType: "uint", Removed: texts("1")}, blocked: true, removed: []int{0}},
		{name: "not text", id: "open", action: "delete", values: &scopes.Values{EntityType: "string", Removed: []scopes.Value{{NotText: true}}}, blocked: true, removed: []int{0}},
		{name: "malformed value, unrestricted", id: "open", action: "delete", values: &scopes.Values{EntityType: "ip", Removed: texts("1.2.3.4", "1.2.3.400")}, blocked: true, removed: []int{1}},
		{name: "no entity type, unrestricted", id: "open", action: "delete", values: &scopes.Values{Removed: texts("x")}, blocked: true, removed: []int{0}},
		{name: "restricted by type alone", id: "ips", action: "update", values: &scopes.Values{EntityType: "ip", Added: texts("::1", "10.0.0.0/8")}, permitted: true, granting: []int{3}},
		{name: "restricted by type alone, other type", id: "ips", action: "update", values: &scopes.Values{EntityType: "string", Added: texts("::1")}, blocked: true, added: []int{0}},
		{name: "no right at all", id: "caps", action: "create", values: &scopes.Values{EntityType: "string", Added: texts("A")}},
		{name: "no entry at all", id: "other", action: "update", values: &scopes.Values{EntityType: "string", Added: texts("A")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := set.Decide(scopes.Question{Type: "sets", ID: tt.id, Action: tt.action, Values: tt.values})
			if v.Permitted != tt.permitted || v.Blocked != tt.blocked {
				t.Errorf("permitted %v, blocked %v, want %v, %v", v.Permitted, v.Blocked, tt.permitted, tt.blocked)
			}
			if !slices.Equal(v.BadAdded, tt.added) || !slices.Equal(v.BadRemoved, tt.removed) {
				t.Errorf("bad %v, %v, want %v, %v", v.BadAdded, v.BadRemoved, tt.added, tt.removed)
			}
			if got := slices.Collect(v.Granting); !slices.Equal(got, tt.granting) {
				t.Errorf("granting %v, want %v", got, tt.granting)
			}
		})
	}
}

// The filter sees the canonical text, however the question spells the value.
func TestDecide_FiltersCanonicalText(t *testing.T) {
	set := mustParse(t, withFilter(`^1\.2\.3\.4$|^2001:db8::`))
	for value, want := range map[string]bool{
		"1.2.3.4": true, "::ffff:1.2.3.4": true, "::FFFF:102:304": true, "2001:0DB8:0::1": true, "2001:DB8::/32": true, "1.2.3.5": false, "::ffff:1.2.3.5": false,
	} {
		q := scopes.Question{Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "ip", Added: texts(value)}}
		if got := set.Permits(q); got != want {
			t.Errorf("%s = %v, want %v", value, got, want)
		}
	}
}

func TestExplain_LooksAtEveryEntry(t *testing.T) {
	set := mustParse(t, `{"customer": {"sets": [
		{"f": "other", "p": 4},
		{"f": "x", "p": 2},
		{"f": "x", "p": 4, "r": {"filter": "^[A-Z]+$"}},
		{"f": "x*", "p": 4, "r": {"filter": "^[0-9]+$"}},
		{"f": "*", "p": 15}]}}`)
	why := func(action string, values *scopes.Values) (list []string) {
		q := scopes.Question{Type: "sets", ID: "x", Action: action, Values: values}
		verdict, traces := set.Explain(q)
		if diff := cmp.Diff(set.Decide(q), verdict, cmp.AllowUnexported(scopes.Verdict{})); diff != "" {
			t.Errorf("the verdict is not Decide's:\n%s", diff)
		}
		granting := slices.Collect(verdict.Granting)
		for i, tr := range traces {
			if tr.Index != i || tr.Grants != slices.Contains(granting, i) || tr.Entry != &set.Entries("sets")[i] {
				t.Errorf("trace %d: %+v", i, tr)
			}
			list = append(list, tr.Why)
		}
		return list
	}
	for _, tt := range []struct {
		name   string
		action string
		values *scopes.Values
		want   []string
	}{
		{"read", "read", nil, []string{"selector_mismatch", "granted", "granted", "granted", "granted"}},
		{"write without values", "update", nil, []string{"selector_mismatch", "permission_missing", "values_required", "values_required", "granted"}},
		{"write with values", "update", &scopes.Values{EntityType: "string", Added: texts("A"), Removed: texts("B")}, []string{"selector_mismatch", "permission_missing", "granted", "value_not_permitted", "granted"}},
		{"values over two entries", "update", &scopes.Values{EntityType: "string", Added: texts("A", "1")}, []string{"selector_mismatch", "permission_missing", "granted", "granted", "granted"}},
		{"malformed value", "update", &scopes.Values{EntityType: "uint", Added: texts("A")}, []string{"selector_mismatch", "permission_missing", "value_not_permitted", "value_not_permitted", "value_not_permitted"}},
		{"unknown action", "lock", nil, []string{"selector_mismatch", "permission_missing", "permission_missing", "permission_missing", "permission_missing"}},
	} {
		if got := why(tt.action, tt.values); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	_, traces := set.Explain(scopes.Question{Type: "sets", ID: "x", Action: "update", Values: &scopes.Values{EntityType: "string", Added: texts("A", "1"), Removed: texts("1")}})
	if got := traces[2]; !slices.Equal(got.RefusedAdded, []int{1}) || !slices.Equal(got.RefusedRemoved, []int{0}) {
		t.Errorf("entry 2 refuses %v, %v", got.RefusedAdded, got.RefusedRemoved)
	}
	if _, traces := set.Explain(scopes.Question{Type: "doc", ID: "x", Action: "read"}); len(traces) != 0 {
		t.Errorf("an unknown type has traces: %v", traces)
	}
}
