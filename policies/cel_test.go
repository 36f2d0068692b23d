package policies_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

// value parses JSON; "" is Missing.
func value(t testing.TB, text string) strictjson.Value {
	t.Helper()
	if text == "" {
		return strictjson.Value{}
	}
	doc := &strictjson.Doc{}
	if err := doc.Parse(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return doc.Root()
}

func properties(t testing.TB, text string) *policies.Properties {
	t.Helper()
	p, err := policies.NewProperties(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

// celDocument is a policy whose rule number i, labelled r<i>, allows with the
// action act<i>; it denies by default.
func celDocument(rules ...string) *policies.Document {
	d := &policies.Document{Name: "main", Language: policies.CEL, Default: policies.Outcome{Action: "deny"}}
	for i, match := range rules {
		d.Rules = append(d.Rules, policies.Rule{Label: fmt.Sprintf("r%d", i), Match: match,
			Outcome: policies.Outcome{Action: fmt.Sprintf("act%d", i), Permit: true}})
	}
	return d
}

func compileCEL(t testing.TB, rules ...string) *policies.Policy {
	t.Helper()
	p, err := policies.Compile(celDocument(rules...), 1)
	if err != nil {
		t.Fatalf("%q: %v", rules, err)
	}
	return p
}

// faults compiles rules that must be refused.
func faults(t testing.TB, rules ...string) []latchkey.Fault {
	t.Helper()
	_, err := policies.Compile(celDocument(rules...), 1)
	var e *latchkey.Error
	if !errors.As(err, &e) || e.Kind != latchkey.Invalid || len(e.Faults) == 0 {
		t.Fatalf("%.80q compiled, or failed without a fault: %v", rules, err)
	}
	return e.Faults
}

// failure evaluates what must fail.
func failure(t testing.TB, p *policies.Policy, s *policies.Snapshot, in *policies.Input) *policies.EvaluationError {
	t.Helper()
	result, err := p.Evaluate(s, in)
	var e *policies.EvaluationError
	if !errors.As(err, &e) {
		t.Fatalf("answered %+v, %v, want an evaluation error", result, err)
	}
	if result.Permit {
		t.Fatalf("permits with the error %v", err)
	}
	return e
}

func teamRules(n int) []string {
	rules := make([]string, n)
	for i := range rules {
		rules[i] = fmt.Sprintf(`subject.type == "user" && resource.type == "doc" && action.name == "read" && resource.properties.team == "team%d"`, i)
	}
	return rules
}

func BenchmarkCEL(b *testing.B) {
	in := &policies.Input{
		Subject:  policies.Entity{Type: "user", ID: "alice", Given: value(b, `{"department":"sales","level":3}`)},
		Resource: policies.Entity{Type: "doc", ID: "d1", Given: value(b, `{"owner":"alice","team":"team9","tags":["a","b"]}`)},
		Action:   policies.Action{Name: "read"},
	}
	heavy := strings.Repeat(`|| resource.properties.owner == subject.id `, 12)
	for _, bb := range []struct {
		name  string
		rules []string
	}{
		{"tenth of 20", teamRules(20)},
		{"last of 200", append(teamRules(9), append(teamRules(200)[10:], "true")...)},
		{"owner", []string{`resource.properties.owner == subject.id`}},
		{"number", []string{`subject.properties.level >= 3 && "b" in resource.properties.tags`}},
		{"in literals", []string{`subject.properties.department in ["it", "sales"]`}},
		{"loop, tracked", []string{`resource.properties.tags.exists(t, t == "b")` + heavy}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := compileCEL(b, bb.rules...)
			s := &policies.Snapshot{}
			b.ReportAllocs()
			for b.Loop() {
				if r, err := p.Evaluate(s, in); err != nil || !r.Permit {
					b.Fatal(r, err)
				}
			}
		})
	}
}

func TestCEL_WhatDoesNotCompileIsRefusedWithItsPlace(t *testing.T) {
	tests := []struct {
		name, rule   string
		code         string
		line, column int
	}{
		{"syntax", `subject.type ==`, "invalid_expression", 1, 16},
		{"second line", "true &&\n  subjec.type == 'a'", "invalid_expression", 2, 3},
		{"unknown name", `user == "a"`, "invalid_expression", 1, 1},
		{"unknown function", `exec("ls") == ""`, "invalid_expression", 1, 5},
		{"types", `now == 1`, "invalid_expression", 1, 5},
		{"a closing bracket ends no rule", `true) || (true`, "invalid_expression", 1, 5},
		{"two expressions", `true, true`, "invalid_expression", 1, 5},
		{"bracket in a comment", "true /* )", "invalid_expression", 1, 7},
		{"open text", `subject.type == "user`, "invalid_expression", 1, 17},
		{"dyn", `subject.properties.admin`, "not_bool", 1, 19},
		{"dyn by or", `optional.of(subject.properties.admin).orValue(false)`, "not_bool", 1, 46},
		{"number", `1`, "not_bool", 1, 1},
		{"text", `"allow"`, "not_bool", 1, 1},
		{"the way rules are put together", `latchkey_first_([true])`, "invalid_expression", 1, 16},
		{"the way steps find the evaluation", `@latchkey == 1`, "invalid_expression", 1, 1},
		{"set by a variable", `in_set(subject.id, "a")`, "set_name_not_literal", 1, 15},
		{"set by a sum", `in_set("a" + "b", "a")`, "set_name_not_literal", 1, 12},
		{"set of bools", `in_set("a", true)`, "invalid_expression", 1, 7},
		{"shadowed", `[1].exists(subject, subject == 1)`, "shadowed_variable", 1, 11},
		{"bad pattern", `subject.id.matches("(")`, "invalid_regex", 1, 20},
		{"pattern of a giant program", `subject.id.matches("((a{99}){9}){1}((b{99}){9}){1}((c{99}){9}){1}((d{99}){9}){1}((e{99}){9}){1}")`, "invalid_regex", 1, 20},
		{"bad time", `now > timestamp("yesterday")`, "invalid_expression", 1, 17},
		{"loops in loops", `[1].exists(a, [1].exists(b, [1].exists(c, [1].exists(d, [1].exists(e, a == e)))))`, "invalid_expression", 0, 0},
		{"deep brackets", strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), "invalid_expression", 0, 0},
		{"deep lists", strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + " == []", "invalid_expression", 0, 0},
		{"deep nots", strings.Repeat("!(", 200) + "true" + strings.Repeat(")", 200), "invalid_expression", 0, 0},
		{"open brackets", strings.Repeat("(", 60000), "invalid_expression", 0, 0},
		{"not UTF-8", "\xff", "invalid_expression", 0, 0},
		{"empty", " ", "invalid_expression", 0, 0},
		{"number too large", `subject.properties.n == 92233720368547758080`, "invalid_expression", 1, 25},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := faults(t, "false", tt.rule)[0]
			if f.Pointer != "/rules/1/match" || f.Code != tt.code {
				t.Errorf("%+v, want %s at /rules/1/match", f, tt.code)
			}
			if tt.line != 0 && (f.Line != tt.line || f.Column != tt.column) {
				t.Errorf("line %d, column %d, want %d, %d (%s)", f.Line, f.Column, tt.line, tt.column, f.Detail)
			}
			if f.Detail == "" {
				t.Error("no detail")
			}
		})
	}
	if f := faults(t, `subject.properties.admin`)[0]; !strings.Contains(f.Detail, "== true") {
		t.Errorf("dyn: %q does not say what to write", f.Detail)
	}
}
