package policies_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
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
		t.Fatalf("%.200q: %v", rules, err)
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

func failureOf(err error) *policies.EvaluationError {
	e := &policies.EvaluationError{}
	errors.As(err, &e)
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
		{"loops in loops", strings.Repeat("[1].exists(a, ", 9) + "true" + strings.Repeat(")", 9), "too_complex", 1, 123},
		{"loops after loops", "[1]" + strings.Repeat(".map(x, [x, x])", 9) + " == []", "too_complex", 1, 8},
		{"too many operators", "true" + strings.Repeat(" && 1 == 1", 501), "too_complex", 0, 0},
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

// celQuestion is what most expressions below are asked about.
func celQuestion(t testing.TB) *policies.Input {
	at := func(text string) latchkey.Instant {
		i, ok := latchkey.ParseInstant(text)
		if !ok {
			t.Fatal(text)
		}
		return i
	}
	return &policies.Input{
		Subject: policies.Entity{Type: "user", ID: "alice",
			Given:  value(t, `{"n":3,"f":3.5,"big":9007199254740993,"huge":18446744073709551615,"exp":1e2,"neg":-0,"name":"Zoë 🦊","esc":"a\"\u00e9","ip":"10.1.2.3","nil":null,"yes":true,"tags":["a","b",1,1.0,null,{"k":"v"}],"deep":{"a":{"b":"c"}},"same":"given"}`),
			Stored: properties(t, `{"same":"stored","only":"stored","level":7}`)},
		Resource: policies.Entity{Type: "doc", ID: "d/1"},
		Action:   policies.Action{Name: "read", Properties: value(t, `{"soft":true}`)},
		Context:  value(t, `{"ip":"192.168.1.9","time":"2026-11-21T22:10:30Z"}`),
		Grants: []policies.Grant{{ID: "g1", Entitlement: "viewer", Reason: "on call", NotBefore: at("2026-11-01T00:00:00Z"), ExpiresAt: at("2026-12-01T00:00:00Z")},
			{ID: "g2", ExpiresAt: latchkey.Never}},
		ScopePermits: true,
		Now:          at("2026-11-21T22:10:30.5Z"),
	}
}

func TestCEL_Expressions(t *testing.T) {
	s := (&policies.Snapshot{}).Edit(1, 1, func(d *policies.Draft) {
		d.PutSet("names", policies.NewSet(scopes.EntityString, 1, slices.Values([]string{"alice", "3", "d/1"})))
		d.PutSet("numbers", policies.NewSet(scopes.EntityUint, 1, slices.Values([]string{"3", "100", "18446744073709551615"})))
		d.PutSet("office", policies.NewSet(scopes.EntityIP, 1, slices.Values([]string{"10.0.0.0/8", "2001:db8::1"})))
	})
	tests := []struct {
		rule string
		want string // "true", "false", or the failure
	}{
		// Entities and their members.
		{`subject.type == "user" && subject.id == "alice"`, "true"},
		{`subject["type"] == "user" && "id" in subject && !("x" in subject)`, "true"},
		{`size(subject) == 3 && size(action) == 2`, "true"},
		{`action.name == "read" && action.properties.soft == true`, "true"},
		{`resource.properties == {}`, "true"},
		{`has(resource.properties.x)`, "false"},
		{`resource.properties.x == 1`, "error"},
		{`resource.properties.x == "a"`, "error"},
		{`resource.typ == "doc"`, "error"},
		{`resource.id.x == "doc"`, "error"},
		{`subject.properties.deep.a.b == "c"`, "true"},
		{`subject.properties.deep.a == {"b": "c"}`, "true"},
		{`subject.properties.deep.a.b.c == "c"`, "error"},
		{`subject.properties["deep"]["a"]["b"] == "c"`, "true"},
		{`subject.properties.?deep.?x.orValue("none") == "none"`, "true"},
		{`subject.?properties.?deep.?a.?b.orValue("") == "c"`, "true"},
		{`has(subject.properties.deep.a) && !has(subject.properties.deep.z)`, "true"},
		{`has(subject.properties.nil) && subject.properties.nil == null`, "true"},
		{`subject.properties.yes == true`, "true"},
		{`subject.properties.yes` + ` == "true"`, "false"},
		{`subject.properties.n != "3"`, "true"},
		{`"alice" == subject.id && "bob" != subject.id`, "true"},
		{`subject.id == subject.properties.name`, "false"},
		{`subject == subject`, "true"},
		{`subject == {"type": "user", "id": "alice", "properties": subject.properties}`, "true"},
		{`{"type": "doc", "id": "d/1", "properties": {}} == resource`, "true"},
		{`context == {"time": "2026-11-21T22:10:30Z", "ip": "192.168.1.9"}`, "true"},
		{`context == resource`, "false"},
		{`subject.all(k, k in ["id", "type", "properties"])`, "true"},
		{`type(subject) == map && type(subject.properties.tags) == list`, "true"},
		// The request's properties over the stored ones.
		{`subject.properties.same == "given" && subject.properties.only == "stored" && subject.properties.level == 7`, "true"},
		{`size(subject.properties) == 16 && subject.properties.exists(k, k == "only")`, "true"},
		// Numbers.
		{`subject.properties.n == 3 && subject.properties.n == 3.0 && subject.properties.n == 3u`, "true"},
		{`type(subject.properties.n) == int && type(subject.properties.f) == double && type(subject.properties.exp) == double`, "true"},
		{`subject.properties.f > 3 && subject.properties.n < 3.5 && subject.properties.exp == 100`, "true"},
		{`subject.properties.big == 9007199254740993 && subject.properties.big != 9007199254740992`, "true"},
		{`type(subject.properties.huge) == double && subject.properties.huge == 18446744073709551616.0`, "true"},
		{`subject.properties.neg == 0 && type(subject.properties.neg) == int`, "true"},
		{`subject.properties.n + 1 == 4`, "true"},
		{`subject.properties.n + 9223372036854775807 > 0`, "error"},
		{`subject.properties.n / 0 == 1`, "error"},
		// Lists.
		{`"a" in subject.properties.tags && 1 in subject.properties.tags && !("c" in subject.properties.tags)`, "true"},
		{`null in subject.properties.tags && {"k": "v"} in subject.properties.tags`, "true"},
		{`subject.properties.tags[0] == "a" && subject.properties.tags[5].k == "v"`, "true"},
		{`subject.properties.tags[6] == "a"`, "error"},
		{`subject.properties.tags[-1] == "a"`, "error"},
		{`subject.properties.tags["0"] == "a"`, "error"},
		{`size(subject.properties.tags) == 6 && subject.properties.tags.size() == 6`, "true"},
		{`subject.properties.tags == ["a", "b", 1, 1, null, {"k": "v"}] && [] + subject.properties.tags + [] == subject.properties.tags`, "true"},
		{`subject.properties.tags + [2] == ["a", "b", 1, 1, null, {"k": "v"}, 2]`, "true"},
		{`subject.properties.tags.exists(t, t == "b") && subject.properties.tags.exists_one(t, t == "b")`, "true"},
		{`subject.properties.tags.filter(t, type(t) == string).join("-") == "a-b"`, "true"},
		{`sets.contains(subject.properties.tags, ["b", "a"]) && !sets.intersects(subject.properties.tags, ["z"])`, "true"},
		{`subject.properties.tags.distinct().size() == 5`, "true"},
		{`subject.properties.tags.slice(0, 2).sort() == dyn(["a", "b"])`, "true"},
		{`lists.range(3) == [0, 1, 2]`, "true"},
		{`subject.properties.tags.map(t, type(t) == string ? t : "-").join() == "ab----"`, "true"},
		{`"n" in subject.properties && !("zzz" in subject.properties) && !(1 in dyn(subject.properties))`, "true"},
		{`subject.properties.n in [1, 2, 3] && subject.id in ["alice"] && !(subject.properties.tags in ["a"])`, "true"},
		{`optional.ofNonZeroValue(resource.properties).hasValue()`, "false"},
		// Texts.
		{`subject.properties.name == "Zoë 🦊" && size(subject.properties.name) == 5 && subject.properties.name.charAt(4) == "🦊"`, "true"},
		{`subject.properties.esc == "a\"é"`, "true"},
		{`subject.id.startsWith("al") && subject.id.upperAscii() == "ALICE" && "%s".format([subject.id]) == "alice"`, "true"},
		{`subject.id.matches("^a.{3}e$") && matches(subject.id, "l[i]c")`, "true"},
		{`subject.id.matches(subject.properties.esc + "|alice")`, "true"},
		{`"a(".matches("a" + "(")`, "error"},
		{`subject.properties.n.matches("3")`, "error"},
		{`regex.extract(subject.id, "(l.)") == optional.of("li") && regex.extractAll(subject.id, "[aeiou]") == ["a", "i", "e"]`, "true"},
		{`regex.replace(subject.id, "a|e", "_") == "_lic_" && regex.replace(subject.id, "[a-z]", "x", 2) == "xxice"`, "true"},
		{`subject.id.replace("l", "ll") == "allice" && subject.id.indexOf("c") == 3 && resource.id.split("/") == ["d", "1"]`, "true"},
		// Addresses.
		{`cidr("10.0.0.0/8").containsIP(subject.properties.ip) && !cidr("10.0.0.0/8").containsIP(context.ip)`, "true"},
		{`ip(context.ip).family() == 4 && isIP(context.ip)`, "true"},
		{`cidr("10.0.0.0/8").containsIP(subject.id)`, "error"},
		// Time and grants.
		{`now == timestamp("2026-11-21T22:10:30.5Z") && now > timestamp(context.time) && now.getFullYear() == 2026 && now.getHours() == 22`, "true"},
		{`now - timestamp(context.time) < duration("1s")`, "true"},
		{`scope_permits && size(grants) == 2 && grants[0].id == "g1" && grants[0].entitlement == "viewer" && grants[0].reason == "on call"`, "true"},
		{`grants.exists(g, g.expires_at > now + duration("240h") && g.not_before < now && g.id == "g2")`, "true"},
		{`grants[0].expires_at - now < duration("240h")`, "true"},
		// Sets.
		{`in_set("names", subject.id) && !in_set("names", subject.type) && in_set("names", resource.id)`, "true"},
		{`in_set("names", subject.properties.n) && in_set("names", 3) && in_set("names", 3u) && in_set("names", 3.0)`, "true"},
		{`in_set("numbers", 3) && in_set("numbers", 3.0) && in_set("numbers", 100u) && in_set("numbers", "100") && in_set("numbers", subject.properties.exp)`, "true"},
		{`in_set("numbers", 18446744073709551615u) && !in_set("numbers", 4)`, "true"},
		{`in_set("numbers", -1)`, "error"},
		{`in_set("numbers", "alice")`, "error"},
		{`!in_set("numbers", "alice")`, "error"},
		{`in_set("numbers", 3.5)`, "error"},
		{`in_set("numbers", 1e300)`, "error"},
		{`in_set("numbers", 0.0 / 0.0)`, "error"},
		{`in_set("names", subject.properties.yes)`, "error"},
		{`in_set("names", subject.properties.tags)`, "error"},
		{`in_set("office", subject.properties.ip) && !in_set("office", context.ip) && in_set("office", "2001:DB8:0::1")`, "true"},
		{`in_set("office", subject.id)`, "error"},
		{`in_set("office", 3)`, "error"},
		{`subject.properties.tags.filter(t, type(t) == string).exists(t, in_set("names", t))`, "false"},
		{`in_set("gone", subject.id)`, "unknown_set"},
		{`!in_set("gone", subject.id)`, "unknown_set"},
		// CEL's own logic: an error is no answer, unless the other side is.
		{`resource.properties.x == 1 || true`, "true"},
		{`resource.properties.x == 1 && false`, "false"},
		{`!(resource.properties.x == 1)`, "error"},
		{`.subject.id == "alice"`, "true"},
	}
	in := celQuestion(t)
	for _, tt := range tests {
		p, err := policies.Compile(celDocument(tt.rule), 1)
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
			continue
		}
		result, err := p.Evaluate(s, in)
		got := fmt.Sprint(result.Permit)
		var e *policies.EvaluationError
		if errors.As(err, &e) {
			got = string(e.Failure)
			if e.Rule != "r0" {
				t.Errorf("%s: the error names rule %q", tt.rule, e.Rule)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s (%v)", tt.rule, got, tt.want, err)
		}
	}
}
