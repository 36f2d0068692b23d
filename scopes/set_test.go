package scopes_test

import (
	"slices"
	"testing"

	"github.com/latchkey-dev/latchkey/scopes"
)

func TestSees_NeedsEveryNameInTheList(t *testing.T) {
	viewer := func(list string) *scopes.Set { return mustParse(t, customer("access_keys", list)) }
	everyBuiltin := `["decision", "audit_events", "search", "sidecar", "approvals", "resources_manage", "access_requests_manage", "access_keys", "policies", "bundles", "sets"]`
	tests := []struct {
		name, list, other string
		want              bool
	}{
		{"the name is listed", `["decision"]`, `{"customer": {"decision": true}}`, true},
		{"another name is listed", `["policies"]`, `{"customer": {"decision": true}}`, false},
		{"one of two", `["policies"]`, `{"customer": {"decision": true, "policies": [{"f": "*", "p": 2}]}}`, false},
		{"both of two", `["policies", "decision"]`, `{"customer": {"decision": true, "policies": [{"f": "*", "p": 2}]}}`, true},
		{"more than needed", `["policies", "sets"]`, `{"customer": {"policies": [{"f": "*", "p": 2}]}}`, true},
		{"a false boolean is a name too", `["policies"]`, `{"customer": {"decision": false, "policies": [{"f": "*", "p": 2}]}}`, false},
		{"an empty list is a name too", `["policies"]`, `{"customer": {"sets": [], "policies": [{"f": "*", "p": 2}]}}`, false},
		{"a key that sees keys", `["policies"]`, `{"customer": {"access_keys": ["policies"]}}`, false},
		{"a key that sees keys, listed", `["access_keys"]`, `{"customer": {"access_keys": ["*"]}}`, true},
		{"star", `["*"]`, `{"customer": {"decision": true, "sets": [{"f": "*", "p": 2}]}}`, true},
		{"star sees application types", `["*"]`, `{"customer": {"doc": [{"f": "*", "p": 2}]}}`, true},
		{"all names do not", everyBuiltin, `{"customer": {"doc": [{"f": "*", "p": 2}]}}`, false},
		{"all names see all builtins", everyBuiltin, `{"customer": {"decision": true, "bundles": [{"f": "*", "p": 2}], "approvals": true}}`, true},
		{"star among names", `["sets", "*"]`, `{"customer": {"doc": [{"f": "*", "p": 2}]}}`, true},
	}
	for _, tt := range tests {
		if got := viewer(tt.list).Sees(mustParse(t, tt.other)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	all := viewer(`["*"]`)
	if blind := mustParse(t, `{"customer": {"decision": true, "access_keys": []}}`); blind.Sees(blind) || blind.SeesKeys() {
		t.Error("an empty list sees keys")
	}
	if all.Sees(nil) || !all.SeesKeys() {
		t.Error("seeing nothing")
	}
}

func TestLists_OpensAuditingThroughTheNameOrStar(t *testing.T) {
	for list, want := range map[string]bool{`["*"]`: true, `["audit_events"]`: true, `["policies"]`: false, `["policies", "audit_events"]`: true} {
		if got := mustParse(t, customer("access_keys", list)).Lists(scopes.AuditEvents); got != want {
			t.Errorf("%s: %v", list, got)
		}
	}
	if mustParse(t, customer("access_keys", `["*"]`)).Lists("doc") {
		t.Error("an application type is listed")
	}
}

func TestSet_TellsWhatItHolds(t *testing.T) {
	set := mustParse(t, `{"customer": {"sets": [{"f": "*", "p": 2}], "search": true, "doc": [{"f": "a*", "a": ["x"]}], "decision": true, "sidecar": false, "policies": [], "access_keys": ["sets", "decision"]}}`)
	if got := set.Types(); !slices.Equal(got, []string{"doc", "sets"}) {
		t.Errorf("Types = %v", got)
	}
	if got := set.Booleans(); !slices.Equal(got, []string{"decision", "search"}) {
		t.Errorf("Booleans = %v", got)
	}
	if got := set.Visible(); !slices.Equal(got, []string{"decision", "sets"}) {
		t.Errorf("Visible = %v", got)
	}
	if !set.Has(scopes.Decision) || set.Has(scopes.Sidecar) || set.Has(scopes.Sets) || set.Has("doc") || set.Has("") {
		t.Error("Has takes what is not a true boolean")
	}
	if got := mustParse(t, customer("access_keys", `["*"]`)).Visible(); !slices.Equal(got, []string{"*"}) {
		t.Errorf("Visible = %v", got)
	}
	for _, name := range scopes.BuiltinNames() {
		if !scopes.IsBuiltin(name) {
			t.Errorf("%s is not built in", name)
		}
	}
	if scopes.IsBuiltin("doc") || scopes.IsBuiltin("*") || scopes.IsBuiltin("") {
		t.Error("other names are built in")
	}
}
