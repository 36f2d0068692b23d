package scopes_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/scopes"
)

// What the text means is tested where it can be evaluated, in package
// policies; here is how it reads.

func TestRego_ReadsLikeTheScopes(t *testing.T) {
	set := mustParse(t, `{"customer": {"decision": true, "access_keys": ["*"],
		"policies": [{"f": "*", "p": 2}, {"f": "staging", "p": 4}],
		"doc": [{"f": "/a\"b/*", "p": 14, "a": ["lock"]}, {"f": "x", "a": ["*"], "p": 4}]}}`)
	got := set.Rego(scopes.RegoKey{
		ID: "9017501f-9fa4-4a88-b657-5bd49c1bb722", Handles: []string{"lk1_live_0123456789ab"}, ExpiresAt: 1_800_000_000_123_456,
	})
	want := `# What the scopes of one access key permit, for any OPA from 1.0 on. The input is
# the body of a decision request. Revocation is not in this file: the module of a
# key that was revoked goes on permitting. Nor are grants.
package latchkey.access_key

default permits := false

permits if {
	input.subject.type == "access_key"
	input.subject.id in {"9017501f-9fa4-4a88-b657-5bd49c1bb722", "lk1_live_0123456789ab"}
	time.now_ns() < 1800000000123456000
	legal(input.resource.id)
	granted
}

default granted := false

# entry 0
granted if {
	input.resource.type == "doc"
	input.action.name in {"read", "update", "delete", "lock"}
	startswith(input.resource.id, "/a\"b/")
}

# entry 1
granted if {
	input.resource.type == "doc"
	is_string(input.action.name)
	not input.action.name in {"create", "delete"}
	input.resource.id == "x"
}

# entry 0
granted if {
	input.resource.type == "policies"
	input.action.name == "read"
}

# entry 1
granted if {
	input.resource.type == "policies"
	input.action.name in {"read", "update"}
	input.resource.id == "staging"
}

# Text of at most 1 KiB without U+0000. The limit is in bytes, while count()
# alone would count characters.
legal(text) if {
	is_string(text)
	contains(text, "\u0000") == false
	count(hex.encode(text)) <= 2048
}
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRego_RendersRestrictionsAsSearches(t *testing.T) {
	got := mustParse(t, customer("sets", `[{"f": "caps*", "p": 12, "r": {"entity_type": "^string$", "filter": "^[A-Z]+\\.\"$"}}, {"f": "*", "p": 9, "r": {"filter": "x"}}, {"f": "a", "p": 4}]`)).Rego(scopes.RegoKey{})
	for _, want := range []string{`
# entry 0
granted if {
	input.resource.type == "sets"
	input.action.name == "read"
	startswith(input.resource.id, "caps")
}
`, `
# entry 0, writes
writes(entity_type, value) if {
	input.resource.type == "sets"
	input.action.name in {"update", "delete"}
	startswith(input.resource.id, "caps")
	regex.match("^string$", entity_type)
	regex.match("^[A-Z]+\\.\"$", value)
}
`, `
# entry 1, writes
writes(_, value) if {
	input.resource.type == "sets"
	input.action.name in {"create", "delete"}
	regex.match("x", value)
}
`, `
# entry 2, writes
writes_any_value if {
	input.resource.type == "sets"
	input.action.name == "update"
	input.resource.id == "a"
}
`, "\nwrites(_, _) if writes_any_value\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nis not in\n%s", want, got)
		}
	}
}

func TestRego_CarriesTheValueRulesOnlyWhereSetsAreWritten(t *testing.T) {
	for text, want := range map[string]bool{
		`{"customer": {"decision": true}}`:                                     false,
		customer("policies", `[{"f": "*", "p": 15}]`):                          false,
		customer("sets", `[{"f": "*", "p": 2}]`):                               false,
		customer("sets", `[{"f": "*", "p": 2, "r": {"filter": "x"}}]`):         false,
		customer("sets", `[{"f": "*", "p": 2}, {"f": "x", "p": 4}]`):           true,
		customer("sets", `[{"f": "*", "p": 1, "r": {"entity_type": "^ip$"}}]`): true,
	} {
		module := mustParse(t, text).Rego(scopes.RegoKey{})
		if got := strings.Contains(module, "canonical(\"ip\""); got != want {
			t.Errorf("%s: value rules %v, want %v", text, got, want)
		}
		if strings.Count(module, "package ") != 1 {
			t.Errorf("%s: more than one package clause", text)
		}
	}
}

func TestRego_EqualArgumentsGiveEqualText(t *testing.T) {
	a := mustParse(t, `{"customer": {"doc": [{"f": "*", "p": 2}], "app": [{"f": "*", "p": 2}]}}`)
	b := mustParse(t, `{"customer": {"app": [{"p": 2, "f": "*"}], "decision": true, "doc": [{"f": "*", "p": 2}]}}`)
	one := a.Rego(scopes.RegoKey{ID: "k", Handles: []string{"h2", "h1", "h2", "k"}, ExpiresAt: latchkey.Never})
	two := b.Rego(scopes.RegoKey{ID: "k", Handles: []string{"h1", "h2"}, ExpiresAt: latchkey.Never})
	if one != two {
		t.Errorf("%s\n%s", one, two)
	}
	if strings.Contains(one, "now_ns") {
		t.Error("a key without end reads the clock")
	}
}

func TestRego_OfNothingPermitsNothing(t *testing.T) {
	var none *scopes.Set
	for name, module := range map[string]string{
		"nil set":       none.Rego(scopes.RegoKey{ID: "k", ExpiresAt: latchkey.Never}),
		"booleans only": mustParse(t, `{"customer": {"decision": true, "access_keys": ["*"]}}`).Rego(scopes.RegoKey{ID: "k", ExpiresAt: latchkey.Never}),
	} {
		if strings.Contains(module, "granted if") {
			t.Errorf("%s:\n%s", name, module)
		}
	}
	if module := mustParse(t, busy).Rego(scopes.RegoKey{}); !strings.Contains(module, "time.now_ns() < 0\n") {
		t.Error("the zero expiry is not in the past")
	}
}

// Only what prints stands in a literal as it is; the rest is escaped as JSON
// would, which Rego reads.
func TestRego_EscapesWhatDoesNotPrint(t *testing.T) {
	for text, want := range map[string]string{
		"a\u00e9\u4e16😀":     "\"a\u00e9\u4e16😀\"",
		"\ufeff":             `"\ufeff"`,
		"\u2028\u2029":       `"\u2028\u2029"`,
		"\u202e":             `"\u202e"`,
		"\u00a0\u200b":       `"\u00a0\u200b"`,
		"\U000e0001":         `"\udb40\udc01"`,
		"\u007f\u0085\u009f": `"\u007f\u0085\u009f"`,
		"\n\r\t\x01":         `"\n\u000d\u0009\u0001"`,
		`"\`:                 `"\"\\"`,
		"<&>$`{}#":           "\"<&>$`{}#\"",
	} {
		module := mustParse(t, busy).Rego(scopes.RegoKey{ID: text, ExpiresAt: latchkey.Never})
		if line := "\tinput.subject.id == " + want + "\n"; !strings.Contains(module, line) {
			t.Errorf("%q: %s is not in the module", text, line)
		}
	}
}

func TestValuesRego_IsAModuleOfThePackageAskedFor(t *testing.T) {
	module := scopes.ValuesRego("latchkey.other")
	if !strings.HasPrefix(module, "package latchkey.other\n\n") || strings.Count(module, "package ") != 1 {
		t.Errorf("%.60s", module)
	}
}
