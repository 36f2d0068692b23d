package policies_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

func mustParse(t testing.TB, text string) *scopes.Set {
	t.Helper()
	set, err := scopes.NewParser(16).Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// wide holds every kind of entry there is.
const wide = `{"customer": {"decision": true, "access_keys": ["*"],
	"policies": [{"f": "*", "p": 2}, {"f": "staging", "p": 4}],
	"sets": [{"f": "*", "p": 15, "r": {"entity_type": "^string$", "filter": "^[A-Z]+\\.[A-Z]+$"}}, {"f": "open*", "p": 12}, {"f": "ro", "p": 2}],
	"doc": [{"f": "*", "a": ["*"], "p": 15}, {"f": "a*", "a": ["lock"], "p": 4}, {"f": "b", "a": ["lock", "open"]}]}}`

// old returns what the first OPA with today's Rego could do.
func old(t *testing.T) *ast.Capabilities {
	t.Helper()
	c, err := ast.LoadCapabilitiesVersion("v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRendered_CompilesUnderTheFirstOPAOfItsLanguage(t *testing.T) {
	sources := policies.Library()
	sources["key.rego"] = mustParse(t, wide).Rego(scopes.RegoKey{ID: "k", Handles: []string{"h"}, ExpiresAt: moment})
	modules := map[string]*ast.Module{}
	for name, source := range sources {
		module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{Capabilities: old(t), RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		modules[name] = module
	}
	compiler := ast.NewCompiler().WithCapabilities(old(t)).WithStrict(true)
	if compiler.Compile(modules); compiler.Failed() {
		t.Fatal(compiler.Errors)
	}
}

func TestRendered_IsFormatted(t *testing.T) {
	for _, text := range []string{wide, `{"customer": {"decision": true}}`, `{"customer": {"sets": [{"f": "x", "p": 4}]}}`} {
		source := mustParse(t, text).Rego(scopes.RegoKey{ID: "k", ExpiresAt: moment})
		formatted, err := format.SourceWithOpts("key.rego", []byte(source), format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		if string(formatted) != source {
			t.Errorf("want\n%s\ngot\n%s", formatted, source)
		}
	}
}

// Whatever a key's id, a selector or a regex holds stays inside its literal:
// the module has the rules and comments of a tame one, and the literal reads
// back as it was.
func TestRendered_NothingBreaksOutOfItsLiteral(t *testing.T) {
	shape := func(text string, id string) (rules, comments int, literals map[string]bool) {
		source := mustParse(t, text).Rego(scopes.RegoKey{ID: id, Handles: []string{"h" + id}, ExpiresAt: moment})
		module, err := ast.ParseModuleWithOpts("key.rego", source, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		literals = map[string]bool{}
		ast.WalkTerms(module, func(x *ast.Term) bool {
			if s, ok := x.Value.(ast.String); ok {
				literals[string(s)] = true
			}
			return false
		})
		return len(module.Rules), len(module.Comments), literals
	}
	render := func(text string) string {
		quoted, err := plainJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(`{"customer": {"doc": [{"f": $, "p": 2}], "sets": [{"f": "*", "p": 4, "r": {"filter": $}}]}}`, "$", strings.TrimSpace(quoted))
	}
	wantRules, wantComments, _ := shape(render("tame"), "tame")
	for _, text := range nasty {
		unfit := strings.HasSuffix(text, "*") || strings.ContainsAny(text, "\n\r\t\u007f\u0085\u009f\u0001")
		if _, err := scopes.NewParser(1).Parse(render(text)); err != nil || unfit {
			continue // no such selector or regex; the agreement test has those with a star
		}
		rules, comments, literals := shape(render(text), text)
		if rules != wantRules || comments != wantComments {
			t.Errorf("%q: %d rules and %d comments, want %d and %d", text, rules, comments, wantRules, wantComments)
		}
		if !literals[text] || !literals["h"+text] {
			t.Errorf("%q is not a literal of the module", text)
		}
	}
	// Ids and handles take what a selector may not hold.
	for _, text := range nasty {
		if _, _, literals := shape(render("tame"), text); !literals[text] {
			t.Errorf("id %q is not a literal of the module", text)
		}
	}
}

// stock evaluates as an OPA out of the box does, or with strict errors.
func stock(t *testing.T, module string, strictErrors bool) rego.PreparedEvalQuery {
	t.Helper()
	query, err := rego.New(rego.Query("data.latchkey.access_key.permits"), rego.Module("key.rego", module), rego.StrictBuiltinErrors(strictErrors)).PrepareForEval(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, module)
	}
	return query
}

func TestRendered_AnswersTheWorkedExample(t *testing.T) {
	set := mustParse(t, `{"customer": {"decision": true, "access_keys": ["*"], "policies": [{"f": "*", "p": 2}, {"f": "staging", "p": 4}]}}`)
	query := stock(t, set.Rego(scopes.RegoKey{ID: "k", ExpiresAt: latchkey.Never}), false)
	for _, tt := range []struct {
		typ, id, action string
		want            bool
	}{
		{"policies", "main", "read", true},
		{"policies", "staging", "read", true},
		{"policies", "staging", "update", true},
		{"policies", "main", "update", false},
		{"policies", "staging", "delete", false},
		{"policies", "staging", "create", false},
		{"sets", "staging", "read", false},
		{"decision", "decision", "read", false},
		{"access_keys", "access_keys", "read", false},
	} {
		input := ast.MustInterfaceToValue(map[string]any{
			"subject":  map[string]any{"type": "access_key", "id": "k"},
			"action":   map[string]any{"name": tt.action},
			"resource": map[string]any{"type": tt.typ, "id": tt.id},
		})
		if got, err := evaluate(t.Context(), query, input, moment); err != nil || got != tt.want {
			t.Errorf("%s %s %s = %v, %v, want %v", tt.action, tt.typ, tt.id, got, err, tt.want)
		}
	}
}

func TestRendered_EndsWithTheKeyToTheMicrosecond(t *testing.T) {
	for _, expires := range []latchkey.Instant{1, 1_800_000_000_000_000, 1_800_000_000_123_456, 9_223_372_036_854_775} {
		query := stock(t, mustParse(t, wide).Rego(scopes.RegoKey{ID: "k", ExpiresAt: expires}), true)
		input := ast.MustParseTerm(`{"subject": {"type": "access_key", "id": "k"}, "action": {"name": "read"}, "resource": {"type": "policies", "id": "x"}}`).Value
		for now, want := range map[time.Time]bool{
			expires.Time().Add(-time.Nanosecond): true,
			expires.Time():                       false,
			expires.Time().Add(time.Nanosecond):  false,
		} {
			results, err := query.Eval(t.Context(), rego.EvalParsedInput(input), rego.EvalTime(now))
			if err != nil || !strings.Contains(resultText(results), "true") == want {
				t.Errorf("expires %d, at %s: %s, %v, want %v", expires, now.Format(time.RFC3339Nano), resultText(results), err, want)
			}
		}
	}
}

func resultText(results rego.ResultSet) string {
	text, _ := json.Marshal(results)
	return string(text)
}

// A request that the server would refuse is refused here too, without an
// error in either mode and by both forms.
func TestRendered_RefusesARequestItCannotRead(t *testing.T) {
	set := mustParse(t, wide)
	module := set.Rego(scopes.RegoKey{ID: "k", ExpiresAt: moment.Add(time.Hour)})
	lenient, strict := stock(t, module, false), stock(t, module, true)
	library := newForge(t).library
	requests := map[string]string{
		"null":                      `null`,
		"number":                    `7`,
		"empty":                     `{}`,
		"no resource":               `{"subject": S, "action": {"name": "read"}}`,
		"resource no object":        `{"subject": S, "action": {"name": "read"}, "resource": "policies"}`,
		"resource an array":         `{"subject": S, "action": {"name": "read"}, "resource": ["policies", "x"]}`,
		"no id":                     `{"subject": S, "action": {"name": "read"}, "resource": {"type": "policies"}}`,
		"number as id":              `{"subject": S, "action": {"name": "read"}, "resource": {"type": "policies", "id": 7}}`,
		"null as id":                `{"subject": S, "action": {"name": "read"}, "resource": {"type": "doc", "id": null}}`,
		"U+0000 in id":              `{"subject": S, "action": {"name": "read"}, "resource": {"type": "doc", "id": "a\u0000b"}}`,
		"id over 1 KiB":             `{"subject": S, "action": {"name": "read"}, "resource": {"type": "doc", "id": "` + strings.Repeat("é", 513) + `"}}`,
		"no action":                 `{"subject": S, "resource": {"type": "policies", "id": "x"}}`,
		"action no object":          `{"subject": S, "action": "read", "resource": {"type": "policies", "id": "x"}}`,
		"number as action":          `{"subject": S, "action": {"name": 7}, "resource": {"type": "doc", "id": "x"}}`,
		"null as action":            `{"subject": S, "action": {"name": null}, "resource": {"type": "doc", "id": "x"}}`,
		"type an array":             `{"subject": S, "action": {"name": "read"}, "resource": {"type": ["policies"], "id": "x"}}`,
		"properties null":           `{"subject": S, "action": {"name": "update"}, "resource": {"type": "sets", "id": "open", "properties": null}}`,
		"properties an array":       `{"subject": S, "action": {"name": "update"}, "resource": {"type": "sets", "id": "open", "properties": []}}`,
		"values null":               `{"subject": S, "action": {"name": "update"}, "resource": {"type": "sets", "id": "open", "properties": {"values": null}}}`,
		"values an object":          `{"subject": S, "action": {"name": "update"}, "resource": {"type": "sets", "id": "open", "properties": {"entity_type": "ip", "values": {"0": "::1"}}}}`,
		"removed_values a string":   `{"subject": S, "action": {"name": "delete"}, "resource": {"type": "sets", "id": "open", "properties": {"entity_type": "ip", "removed_values": "::1"}}}`,
		"entity_type an array":      `{"subject": S, "action": {"name": "delete"}, "resource": {"type": "sets", "id": "open", "properties": {"entity_type": ["ip"], "values": ["::1"]}}}`,
		"no entity_type":            `{"subject": S, "action": {"name": "delete"}, "resource": {"type": "sets", "id": "open", "properties": {"values": ["::1"]}}}`,
		"one value not text":        `{"subject": S, "action": {"name": "delete"}, "resource": {"type": "sets", "id": "open", "properties": {"entity_type": "ip", "values": ["::1", 1]}}}`,
		"value over 1 KiB":          `{"subject": S, "action": {"name": "delete"}, "resource": {"type": "sets", "id": "open", "properties": {"entity_type": "string", "values": ["` + strings.Repeat("é", 513) + `"]}}}`,
		"subject no object":         `{"subject": "k", "action": {"name": "read"}, "resource": {"type": "policies", "id": ""}}`,
		"a custom action on a set":  `{"subject": S, "action": {"name": "lock"}, "resource": {"type": "sets", "id": "open"}}`,
		"a custom action on policy": `{"subject": S, "action": {"name": "lock"}, "resource": {"type": "policies", "id": "open"}}`,
	}
	for name, request := range requests {
		value := ast.MustParseTerm(strings.ReplaceAll(request, "S", `{"type": "access_key", "id": "k"}`)).Value
		if name == "subject no object" {
			value = ast.MustParseTerm(strings.Replace(request, `"id": ""`, `"id": "x"`, 1)).Value
		}
		for mode, query := range map[string]rego.PreparedEvalQuery{"lenient": lenient, "strict": strict} {
			if got, err := evaluate(t.Context(), query, value, moment); err != nil || got {
				t.Errorf("%s, %s: %v, %v, want false", name, mode, got, err)
			}
		}
		if name == "subject no object" {
			continue // the library does not look at the subject
		}
		both := ast.NewObject([2]*ast.Term{ast.StringTerm("scopes"), ast.MustParseTerm(wide)}, [2]*ast.Term{ast.StringTerm("request"), ast.NewTerm(value)})
		if got, err := evaluate(t.Context(), library, both, moment); err != nil || got {
			t.Errorf("%s, library: %v, %v, want false", name, got, err)
		}
	}
}

// The rule index leaves, of many entries, those whose literals fit.
func TestRendered_LetsTheRuleIndexChoose(t *testing.T) {
	compiler := compile(t, map[string]string{"key.rego": mustParse(t, wide).Rego(scopes.RegoKey{ID: "k", ExpiresAt: latchkey.Never})})
	input := ast.MustParseTerm(`{"action": {"name": "lock"}, "resource": {"type": "doc", "id": "b"}}`)
	index := compiler.RuleIndex(ast.MustParseRef("data.latchkey.access_key.granted"))
	found, err := index.Lookup(inputResolver{input})
	if err != nil {
		t.Fatal(err)
	}
	// Of ten rules: entry 0, any action on any doc; entry 2, this one; and the
	// two over set values, which no literal tells apart.
	if len(found.Rules) != 4 {
		t.Errorf("%d rules are left: %v", len(found.Rules), found.Rules)
	}
}

type inputResolver struct{ input *ast.Term }

func (r inputResolver) Resolve(ref ast.Ref) (ast.Value, error) {
	v, err := r.input.Value.Find(ref[1:])
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // undefined, in the index's language
	}
	return v, nil
}
