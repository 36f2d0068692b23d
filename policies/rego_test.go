package policies_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

func parseValue(t testing.TB, text string) strictjson.Value {
	t.Helper()
	var d strictjson.Doc
	if err := d.Parse(text); err != nil {
		t.Fatal(err)
	}
	return d.Root()
}

// compileRego compiles a module, whose package line is put before it.
func compileRego(t testing.TB, body string) *policies.Policy {
	t.Helper()
	p, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: "package policies.p\n\n" + body}, 1)
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return p
}

func asked() *policies.Input {
	return &policies.Input{
		Subject:  policies.Entity{Type: "user", ID: "ann"},
		Action:   policies.Action{Name: "read"},
		Resource: policies.Entity{Type: "doc", ID: "plan"},
		Now:      moment,
	}
}

func TestRego_Answers(t *testing.T) {
	tests := []struct {
		name, rego string
		want       policies.Result
		failure    policies.Failure
	}{
		{"allow", `allow if input.subject.id == "ann"`, policies.Result{Permit: true, Action: "allow"}, ""},
		{"undefined", `allow if input.subject.id == "bob"`, policies.Result{}, policies.Undefined},
		{"default", "default allow := false\n\nallow if input.subject.id == \"bob\"", policies.Result{Action: "deny"}, ""},
		{"object", `decision := {"allow": true, "action": "throttle", "reasons": ["x"], "obligations": [{"b": 1, "a": null}]}`,
			policies.Result{Permit: true, Action: "throttle", Reasons: `["x"]`, Obligations: `[{"a":null,"b":1}]`}, ""},
		{"absent properties are empty", `allow := input.subject.properties == input.context`, policies.Result{Permit: true, Action: "allow"}, ""},
		{"now", `allow := time.parse_rfc3339_ns(input.latchkey.now) == time.now_ns()`, policies.Result{Permit: true, Action: "allow"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compileRego(t, tt.rego).Evaluate(&policies.Snapshot{}, asked())
			if failed, ok := errors.AsType[*policies.EvaluationError](err); ok != (tt.failure != "") || ok && failed.Failure != tt.failure {
				t.Fatalf("error %v, want %q", err, tt.failure)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRego_AResultOfAnotherShapeDenies(t *testing.T) {
	for name, rego := range map[string]string{
		"a text":                   `decision := input.subject.id`,
		"no allow":                 `decision := {"action": "deny"}`,
		"allow is no boolean":      `decision := {"allow": input.subject.id}`,
		"an unknown member":        `decision := {"allow": true, "obligation": []}`,
		"action and allow differ":  `decision := {"allow": true, "action": "deny"}`,
		"action is no word":        `decision := {"allow": true, "action": "let in"}`,
		"reasons are no array":     `decision := {"allow": true, "reasons": "because"}`,
		"obligations are texts":    `decision := {"allow": true, "obligations": ["log"]}`,
		"too many obligations":     `decision := {"allow": true, "obligations": [{"n": [i, j]} | some i in [1, 2, 3, 4, 5, 6]; some j in [1, 2, 3, 4, 5, 6]]}`,
		"two values":               "decision := true if input.subject.id == \"ann\"\n\ndecision := false if input.action.name == \"read\"",
		"two values of a function": "f(_) := true if input.subject.id == \"ann\"\n\nf(_) := false if input.action.name == \"read\"\n\nallow := f(1)",
	} {
		t.Run(name, func(t *testing.T) {
			wantFailure(t, compileRego(t, rego), &policies.Snapshot{}, asked(), policies.TwoResults)
		})
	}
	long := `decision := {"allow": true, "reasons": [concat("", [x | some _ in input.context.list; x := "0123456789"])]}`
	in := asked()
	in.Context = parseValue(t, `{"list": [`+strings.Repeat("1,", 2000)+`1]}`)
	wantFailure(t, compileRego(t, long), &policies.Snapshot{}, in, policies.TooCostly)
}

func wantFailure(t *testing.T, p *policies.Policy, s *policies.Snapshot, in *policies.Input, want policies.Failure) {
	t.Helper()
	result, err := p.Evaluate(s, in)
	failed, ok := errors.AsType[*policies.EvaluationError](err)
	if !ok || failed.Failure != want || result != (policies.Result{}) {
		t.Errorf("got %+v, %v, want %s", result, err, want)
	}
}

// In stock OPA a built-in function that fails is undefined, and not of it true.
func TestRego_ABuiltinThatFailsDenies(t *testing.T) {
	for _, rego := range []string{
		`allow if not net.cidr_contains("10.0.0.0/8", input.context.ip)`,
		`allow if not to_number(input.context.ip) == 1`,
		"default allow := true\n\nallow := false if time.parse_rfc3339_ns(input.context.ip)",
		"allow if {\n\tevery x in [1] {\n\t\tx == 1\n\t}\n\tnot json.unmarshal(input.context.ip)\n}",
	} {
		in := asked()
		in.Context = parseValue(t, `{"ip": "secret garbage"}`)
		p := compileRego(t, rego)
		wantFailure(t, p, &policies.Snapshot{}, in, policies.Failed)
		if _, err := p.Evaluate(&policies.Snapshot{}, in); strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "line ") {
			t.Errorf("the error quotes the question or has no place: %v", err)
		}
	}
}

func TestRego_WhatDoesNotCompile(t *testing.T) {
	tests := []struct {
		name, rego, code string
		line             int
	}{
		{"another package", "package policies.q\nallow := true", "wrong_package", 1},
		{"a longer package", "package policies.p.x\nallow := true", "wrong_package", 1},
		{"a longer package in brackets", "package policies[\"p\"].x\nallow := true", "wrong_package", 1},
		{"the library's package", "package latchkey.scopes\nallow := true", "wrong_package", 1},
		{"another case", "package policies.P\nallow := true", "wrong_package", 1},
		{"a name that looks alike", "package policies[\"\u0440\"]\nallow := true", "wrong_package", 1},
		{"syntax", "package policies.p\nallow := {", "rego_parse_error", 2},
		{"old syntax", "package policies.p\nallow { true }", "rego_parse_error", 2},
		{"no result", "package policies.p\nx := true", "no_result", 1},
		{"two results", "package policies.p\nallow := true\ndecision := true", "two_results", 3},
		{"a function", "package policies.p\nallow(x) := x", "wrong_result", 2},
		{"a set", "package policies.p\nallow contains 1", "wrong_result", 2},
		{"an object", "package policies.p\ndecision[x] := 1 if some x in [1]", "wrong_result", 2},
		{"a part", "package policies.p\ndecision.allow := true", "wrong_result", 2},
		{"another policy", "package policies.p\nallow := data.policies.q.allow", "forbidden_reference", 2},
		{"any policy", "package policies.p\nallow if data.policies[input.context.x].allow", "forbidden_reference", 2},
		{"all policies", "package policies.p\nallow if data.policies", "forbidden_reference", 2},
		{"all data", "package policies.p\nallow if data", "forbidden_reference", 2},
		{"any data", "package policies.p\nallow if data[input.context.x]", "forbidden_reference", 2},
		{"other data", "package policies.p\nallow if data.users.ann", "forbidden_reference", 2},
		{"any of the library", "package policies.p\nallow if data.latchkey[input.context.x]", "forbidden_reference", 2},
		{"an import", "package policies.p\nimport data.policies.q\nallow if q.allow", "forbidden_reference", 2},
		{"an import under another name", "package policies.p\nimport data.policies as latchkey\nallow if latchkey.q.allow", "forbidden_reference", 2},
		{"in a comprehension", "package policies.p\nallow if count([x | some x in data.policies]) == 1", "forbidden_reference", 2},
		{"in a template", "package policies.p\nallow if $\"{data.users}\" == \"\"", "forbidden_reference", 2},
		{"in a head", "package policies.p\nallow := true\nx[data.users.ann] := 1", "forbidden_reference", 3},
		{"in brackets", "package policies.p\nallow if input.context[data.users.ann]", "forbidden_reference", 2},
		{"in else", "package policies.p\nallow := false if input.x\nelse := data.users", "forbidden_reference", 3},
		{"in every", "package policies.p\nallow if {\n\tevery x in data.users { x }\n}", "forbidden_reference", 3},
		{"as with's value", "package policies.p\nallow if input.x with input as data.users", "forbidden_reference", 2},
		{"with on data", "package policies.p\nallow if input.x with data.users as 1", "forbidden_with", 2},
		{"with on the library", "package policies.p\nimport data.latchkey\nallow if latchkey.grants.permits with data.latchkey.grants.permits as true", "forbidden_with", 3},
		{"with on a function", "package policies.p\nallow if count([]) == 1 with count as 1", "forbidden_with", 2},
		{"the built-in of sets", "package policies.p\nallow if latchkey_in_set(\"x\", 1)", "forbidden_builtin", 2},
		{"a set by a variable", "package policies.p\nimport data.latchkey\nallow if latchkey.in_set(input.context.set, 1)", "set_name_not_literal", 3},
		{"a set by a local", "package policies.p\nimport data.latchkey\nallow if {\n\ts := \"x\"\n\tlatchkey.in_set(s, 1)\n}", "set_name_not_literal", 5},
		{"the network", "package policies.p\nallow if http.send({}).status_code == 200", "rego_type_error", 2},
		{"the host", "package policies.p\nallow if opa.runtime().env", "rego_type_error", 2},
		{"an old built-in", "package policies.p\nallow if any([true])", "rego_type_error", 2},
		{"recursion", "package policies.p\nallow if x\nx if allow", "rego_recursion_error", 2},
		{"an unsafe variable", "package policies.p\nallow if x == 1", "rego_unsafe_var_error", 2},
		{"an unused import", "package policies.p\nimport data.latchkey\nallow := true", "rego_compile_error", 2},
		{"an unused variable", "package policies.p\nallow if { x := 1 }", "rego_compile_error", 2},
		{"a type that cannot be", "package policies.p\nallow if count(1) == 1", "rego_type_error", 2},
		{"a great number", "package policies.p\nallow if 1e999999 == 1", "", 2},
		{"a long number", "package policies.p\nallow if " + strings.Repeat("9", 2000) + " == 1", "number_too_long", 2},
		{"depth", "package policies.p\nallow := " + strings.Repeat("[", 10000) + strings.Repeat("]", 10000), "too_deep", 2},
		{"comprehensions in comprehensions", "package policies.p\nallow := " + strings.Repeat("[x | x := ", 60) + "1" + strings.Repeat("]", 60), "too_deep", 2},
		{"rules", "package policies.p\n" + strings.Repeat("allow := true\n", 1001), "too_many_rules", 1},
		{"else", "package policies.p\nallow := true if input.x" + strings.Repeat(" else := true if input.y", 1001), "too_many_rules", 1},
		{"expressions", "package policies.p\nallow if {\n" + strings.Repeat("1 == 1\n", 4100) + "}", "too_many_expressions", 1},
		{"calls", "package policies.p\n" + strings.Repeat("x := 1"+strings.Repeat("+1", 50)+"\n", 90) + "allow := true", "too_many_expressions", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: tt.rego}, 1)
			refused, ok := errors.AsType[*latchkey.Error](err)
			if !ok || refused.Kind != latchkey.Invalid || len(refused.Faults) == 0 {
				t.Fatalf("error %v, want a refusal", err)
			}
			if f := refused.Faults[0]; tt.code != "" && f.Code != tt.code || f.Pointer != "/rego" || f.Line != tt.line || f.Column == 0 {
				t.Errorf("got %+v, want %s in line %d", f, tt.code, tt.line)
			}
		})
	}
}

func TestRego_APackageOfAnyName(t *testing.T) {
	for name, pkg := range map[string]string{
		"p":     `policies["p"]`,
		"a-b.c": `policies["a-b.c"]`,
		"x:1":   `policies["x:\u0031"]`,
		"2":     `policies["2"]`,
	} {
		d := &policies.Document{Name: name, Language: policies.Rego, Rego: "package " + pkg + "\n\nx := true\n\nallow := data." + pkg + ".x"}
		p, err := policies.Compile(d, 1)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r, err := p.Evaluate(&policies.Snapshot{}, asked()); err != nil || !r.Permit {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// What takes exponential time in OPA's compiler is refused or left out.
func TestRego_EvilDocumentsCompileSoon(t *testing.T) {
	consts := "x0 := \"x\"\ny0 := \"y\"\n" + doubling(400, "X := [W, W]") + strings.ReplaceAll(doubling(400, "X := [W, W]"), "x", "y")
	for name, rego := range map[string]string{
		"types of arrays":  consts + "allow if x400 == y400",
		"types of objects": strings.NewReplacer("[", `{"a": `, ",", `, "b":`, "]", "}").Replace(consts) + "allow if x400 == y400",
		"types of locals":  "allow if {\nx0 := \"x\"\n" + doubling(400, "X := [W, W]") + "x400 == 1\n}",
		"many rules":       "x0 := 1\n" + doubling(998, "X := W") + "allow if x998 == 1",
		"wide":             "x0 := 1\n" + doubling(6, "X := ["+strings.Repeat("W, ", 200)+"W]") + "allow if x6 == 1",
		"closures":         "allow if " + strings.Repeat("every x in [y | y := input] { ", 4) + "x" + strings.Repeat("}", 4),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			p, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: "package policies.p\n\n" + rego}, 1)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if err == nil {
				_, err = p.Evaluate(&policies.Snapshot{}, asked())
			}
			t.Log(time.Since(began), err)
		})
	}
}

func sets(t testing.TB, version int64, members ...string) *policies.Snapshot {
	t.Helper()
	var s policies.Snapshot
	return s.Edit(1, moment, func(d *policies.Draft) {
		d.PutSet("names", policies.NewSet(scopes.EntityString, version, slices.Values(members)))
		d.PutSet("numbers", policies.NewSet(scopes.EntityUint, version, slices.Values([]string{"7", "18446744073709551615"})))
		d.PutSet("blocks", policies.NewSet(scopes.EntityIP, version, slices.Values([]string{"10.0.0.0/8"})))
	})
}

func TestRego_AsksTheSetsOfTheSnapshot(t *testing.T) {
	snapshot := sets(t, 1, "ann")
	in := asked()
	in.Context = parseValue(t, `{"n": 7, "big": 18446744073709551615, "ip": "10.2.3.4", "half": 1.5, "list": []}`)
	for call, want := range map[string]policies.Failure{
		`latchkey.in_set("names", input.subject.id)`:         "",
		`not latchkey.in_set("names", "bob")`:                "",
		`latchkey.in_set("numbers", input.context.n)`:        "",
		`latchkey.in_set("numbers", input.context.big)`:      "",
		`latchkey.in_set("blocks", input.context.ip)`:        "",
		`not latchkey.in_set("numbers", 8)`:                  "",
		`not latchkey.in_set("numbers", -1)`:                 policies.Failed,
		`not latchkey.in_set("numbers", input.context.half)`: policies.Failed,
		`not latchkey.in_set("numbers", input.context.list)`: policies.Failed,
		`not latchkey.in_set("blocks", input.subject.id)`:    policies.Failed,
		`not latchkey.in_set("gone", input.subject.id)`:      policies.UnknownSet,
		`not latchkey.in_set("gone", 1) with input as {}`:    policies.UnknownSet,
	} {
		p := compileRego(t, "import data.latchkey\n\nallow if "+call)
		if want != "" {
			wantFailure(t, p, snapshot, in, want)
		} else if r, err := p.Evaluate(snapshot, in); err != nil || !r.Permit {
			t.Errorf("%s: %+v, %v", call, r, err)
		}
		if len(p.Reads.Sets) != 1 {
			t.Errorf("%s: reads %v", call, p.Reads.Sets)
		}
	}
}

func TestRego_Reads(t *testing.T) {
	type reads = policies.Reads
	tests := []struct {
		rego string
		want reads
		memo bool
	}{
		{`allow if input.subject.type == "user"`, reads{}, true},
		{`allow if input.latchkey.scope_permits`, reads{}, true},
		{`allow if time.now_ns() > 1`, reads{Time: true}, false},
		{`allow if input.latchkey.now == ""`, reads{Time: true}, false},
		{`allow if input.subject.properties.metadata.x`, reads{Metadata: true}, true},
		{`allow if input.subject.properties.email`, reads{SubjectProperties: true}, true},
		{`allow if input.subject.properties[input.action.name]`, reads{Metadata: true, SubjectProperties: true}, true},
		{`allow if input.resource.properties.owner == input.subject.id`, reads{ResourceProperties: true}, true},
		{`allow if count(input.latchkey.grants) > 1`, reads{Grants: true}, true},
		{"import data.latchkey\n\nallow if latchkey.grants.permits", reads{Grants: true}, true},
		{"import data.latchkey.grants as g\n\nallow if g.permits", reads{Grants: true}, true},
		{"f(x) := x.subject\n\nallow if f(input).id", reads{Time: true, Metadata: true, SubjectProperties: true, ResourceProperties: true, Grants: true}, false},
		{"x := input.subject\n\nallow if x.id", reads{Metadata: true, SubjectProperties: true}, true},
		{"allow if input[input.action.name]", reads{Time: true, Metadata: true, SubjectProperties: true, ResourceProperties: true, Grants: true}, false},
		{"import input.resource as r\n\nallow if r.id", reads{}, true},
		{"allow if input.action.name with input.action.name as \"x\"", reads{}, false},
		{"import data.latchkey\n\nallow if {\n\tlatchkey.in_set(\"b\", 1)\n\tlatchkey.in_set(\"a\", 1)\n\tlatchkey.in_set(\"b\", 2)\n}", reads{Sets: []string{"a", "b"}}, true},
	}
	for _, tt := range tests {
		p := compileRego(t, tt.rego)
		if diff := cmp.Diff(tt.want, p.Reads); diff != "" {
			t.Errorf("%s: %s", tt.rego, diff)
		}
		if p.Memoised() != tt.memo {
			t.Errorf("%s: memoised %t, want %t", tt.rego, !tt.memo, tt.memo)
		}
	}
}

// The answers of OPA's glob depend on a cache whose key is ambiguous: "a-b"
// without delimiters, and "a" with the delimiters b and -.
func TestRego_OneGlobDoesNotPoseAsAnother(t *testing.T) {
	first := compileRego(t, `allow if glob.match("a", ["b", "-"], input.subject.id)`)
	second := compileRego(t, `allow if glob.match("a-b", null, input.subject.id)`)
	in := asked()
	in.Subject.ID = "a"
	if r, err := first.Evaluate(&policies.Snapshot{}, in); err != nil || !r.Permit {
		t.Fatal(r, err)
	}
	wantFailure(t, second, &policies.Snapshot{}, in, policies.Undefined)
}

// propertiesOf parses stored properties.
func propertiesOf(t testing.TB, text string) *policies.Properties {
	t.Helper()
	p, err := policies.NewProperties(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRego_PropertiesAreOverlaid(t *testing.T) {
	p := compileRego(t, `decision := {"allow": true, "reasons": [input.subject.properties, input.resource.properties]}`)
	in := asked()
	in.Subject = policies.Entity{
		Type: "access_key", ID: "k", Key: true,
		Given:    parseValue(t, `{"key": "secret", "metadata": {"admin": true}, "a": 1.50}`),
		Stored:   propertiesOf(t, `{"a": 2, "b": {"c": null}}`),
		Metadata: propertiesOf(t, `{"team": "x"}`),
	}
	in.Resource.Stored = propertiesOf(t, `{"owner": "\u0061nn"}`)
	for range 2 {
		got, err := p.Evaluate(&policies.Snapshot{}, in)
		want := `[{"a":1.50,"b":{"c":null},"metadata":{"team":"x"}},{"owner":"ann"}]`
		if err != nil || got.Reasons != want {
			t.Errorf("got %s, %v, want %s", got.Reasons, err, want)
		}
	}
}

func TestRego_SeesTheGrants(t *testing.T) {
	p := compileRego(t, `decision := {"allow": true, "reasons": input.latchkey.grants}`)
	in := asked()
	in.Grants = []policies.Grant{{ID: "g", Entitlement: "e", Reason: "on call", NotBefore: moment, ExpiresAt: latchkey.Never}}
	want := `[{"entitlement":"e","expires_at":"9999-12-31T23:59:59Z","id":"g","not_before":"2027-01-15T08:00:00Z","reason":"on call"}]`
	if got, err := p.Evaluate(&policies.Snapshot{}, in); err != nil || got.Reasons != want {
		t.Errorf("got %s, %v, want %s", got.Reasons, err, want)
	}
}

func TestRego_IsSafeForConcurrentUse(t *testing.T) {
	p := compileRego(t, `allow if {
	regex.match(input.subject.properties.like, input.subject.id)
	glob.match("*", null, input.resource.properties.owner)
	some x in input.context.list
	x == input.subject.id
	{k | some k, _ in input.subject.properties} == {"like", "z"}
}`)
	stored := propertiesOf(t, `{"z": 1, "like": "^u[0-9]+$"}`)
	owner := propertiesOf(t, `{"owner": "x"}`)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 50 {
				in := asked()
				in.Subject.ID, in.Subject.Stored, in.Resource.Stored = fmt.Sprint("u", i), stored, owner
				in.Context = parseValue(t, fmt.Sprintf(`{"list": ["u%d"]}`, i+g%2))
				r, err := p.Evaluate(&policies.Snapshot{}, in)
				if failed, ok := errors.AsType[*policies.EvaluationError](err); ok && failed.Failure == policies.Deadline {
					continue // of a slow machine
				}
				if r.Permit != (g%2 == 0) {
					t.Errorf("%d: %+v, %v", i, r, err)
				}
			}
		})
	}
	group.Wait()
}

func TestRego_TheLibraryIsFormatted(t *testing.T) {
	for name, source := range policies.WholeLibrary() {
		formatted, err := format.SourceWithOpts(name, []byte(source), format.Opts{RegoVersion: ast.RegoV1})
		if err != nil || string(formatted) != source {
			t.Errorf("%s: %v\n%s", name, err, formatted)
		}
	}
}

// The memo gives what an evaluation gives, whatever changes in between.
func TestMemo_GivesWhatAnEvaluationGives(t *testing.T) {
	parts := []string{
		`input.subject.id == "ann"`, `input.subject.type == "user"`, `input.subject.properties.a == input.context.a`,
		`not input.subject.properties.a`, `input.subject.properties.a == null`, `count(input.subject.properties) == 1`,
		`input.resource.properties.a.b == 1`, `not input.resource.properties.a.b`, `input.resource.id == input.context.id`,
		`input.context == {}`, `input.context.a`, `not input.context.a`, `input.context.a.b`, `input.context.list[0] == 1`,
		`some x in input.context.list; x == 2`, `input.action.properties == {}`, `input.action.properties.a == 1`, `input.action.name == "read"`,
		`latchkey.in_set("names", input.subject.id)`, `not latchkey.in_set("names", input.resource.id)`, `input.latchkey.scope_permits`,
		`latchkey.grants.permits`, `input.latchkey.grants[_].entitlement == "e1"`, `input.latchkey.grants[0].expires_at`, `input.subject.properties.metadata.a == 1`,
		`input.nothing`, `input.latchkey.nothing`, `input.subject.nothing`, `input.subject.id.x`, `input.context.a == input.action.properties.a`,
		`to_number(input.context.a) == 1`, `sprintf("%v", [input.subject]) == input.context.id`,
	}
	values := []string{`1`, `null`, `{}`, `{"b": 1}`, `"1"`, `1.0`, `[1, 2]`, `false`}
	objects := []string{"", `{}`, `{"z": 1}`}
	for _, v := range values {
		objects = append(objects, `{"a": `+v+`}`, `{"a": `+v+`, "id": "plan", "list": [1, 2]}`)
	}
	rapid.Check(t, func(t *rapid.T) {
		var compiled []*policies.Policy
		for range rapid.IntRange(1, 3).Draw(t, "policies") {
			var b strings.Builder
			b.WriteString("package policies.p\n\nimport data.latchkey\n\nx if latchkey.in_set(\"names\", \"x\")\n\n")
			for _, c := range rapid.SliceOfN(rapid.SampledFrom(parts), 1, 4).Draw(t, "parts") {
				fmt.Fprintf(&b, "reasons contains %q if { %s }\n", c, c)
			}
			b.WriteString("decision := {\"allow\": count(reasons) > 0, \"reasons\": reasons}\n")
			p, err := policies.Compile(&policies.Document{Name: "p", Language: policies.Rego, Rego: b.String()}, 1)
			if err != nil {
				t.Fatal(err, b.String())
			}
			if !p.Memoised() && !strings.Contains(b.String(), "input.latchkey.nothing") {
				t.Fatalf("not memoised: %s", b.String())
			}
			compiled = append(compiled, p)
		}
		object := func(what string) strictjson.Value {
			text := rapid.SampledFrom(objects).Draw(t, what)
			if text == "" {
				return strictjson.Value{}
			}
			var d strictjson.Doc
			if err := d.Parse(text); err != nil {
				t.Fatal(err, text)
			}
			return d.Root()
		}
		stored := func(what string) *policies.Properties {
			v := object(what)
			if v.Kind() == strictjson.Missing {
				return nil
			}
			p, err := policies.NewProperties(v.Raw())
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		version, names := int64(1), policies.NewSet(scopes.EntityString, 1, slices.Values([]string{"ann"}))
		for range rapid.IntRange(5, 30).Draw(t, "questions") {
			id := rapid.SampledFrom([]string{"ann", "plan", "x", ""})
			if rapid.IntRange(0, 3).Draw(t, "change") == 0 {
				version++
				names = names.With(version, []string{id.Draw(t, "add")}, []string{id.Draw(t, "remove")})
			}
			snapshot := (&policies.Snapshot{}).Edit(version, moment, func(d *policies.Draft) {
				if version%5 != 4 {
					d.PutSet("names", names)
				}
			})
			in := &policies.Input{
				Subject:      policies.Entity{Type: rapid.SampledFrom([]string{"user", "access_key"}).Draw(t, "type"), ID: id.Draw(t, "id"), Given: object("given"), Stored: stored("stored")},
				Resource:     policies.Entity{Type: "doc", ID: id.Draw(t, "resource"), Given: object("given"), Stored: stored("stored")},
				Action:       policies.Action{Name: rapid.SampledFrom([]string{"read", "x"}).Draw(t, "action"), Properties: object("properties")},
				Context:      object("context"),
				ScopePermits: rapid.Bool().Draw(t, "permits"),
				Now:          moment,
			}
			if in.Subject.Type == "access_key" {
				in.Subject.Key, in.Subject.Metadata = true, stored("metadata")
			}
			for i := range rapid.IntRange(0, 2).Draw(t, "grants") {
				in.Grants = append(in.Grants, policies.Grant{ID: fmt.Sprint(i), Entitlement: rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, "e"),
					ExpiresAt: rapid.SampledFrom([]latchkey.Instant{moment + 1, latchkey.Never}).Draw(t, "end")})
			}
			for _, p := range compiled {
				want, wantErr := p.Uncached(snapshot, in)
				for range 2 {
					if got, err := p.Evaluate(snapshot, in); got != want || (err == nil) != (wantErr == nil) {
						t.Fatalf("got %+v, %v, want %+v, %v\n%s", got, err, want, wantErr, p.Document.Rego)
					}
				}
			}
		}
	})
	if hits, misses := policies.MemoStats(); hits == 0 || misses == 0 {
		t.Errorf("%d hits and %d misses", hits, misses)
	}
}

const benchmarked = `import data.latchkey

default allow := false

allow if {
	input.action.name in {"read", "list"}
	input.resource.properties.owner == input.subject.id
}

allow if {
	some role in input.subject.properties.roles
	role in {"admin", "operator"}
	latchkey.in_set("blocks", input.context.ip)
}
`

func BenchmarkRego(b *testing.B) {
	p := compileRego(b, benchmarked)
	snapshot := sets(b, 1, "ann")
	in := asked()
	in.Subject.Stored = propertiesOf(b, `{"roles": ["user", "auditor", "operator"], "department": "x"}`)
	in.Resource.Stored = propertiesOf(b, `{"owner": "bob", "labels": {"a": "b"}}`)
	in.Context = parseValue(b, `{"ip": "10.1.2.3", "time": "x"}`)
	run := func(evaluate func(*policies.Snapshot, *policies.Input) (policies.Result, error)) func(b *testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r, err := evaluate(snapshot, in); err != nil || !r.Permit {
					b.Fatal(r, err)
				}
			}
		}
	}
	b.Run("memo", run(p.Evaluate))
	b.Run("no memo", run(p.Uncached))
}
