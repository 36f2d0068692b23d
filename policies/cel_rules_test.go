package policies_test

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

func TestCEL_TheFirstRuleThatMatchesDecides(t *testing.T) {
	doc, err := policies.ParseDocument(value(t, `{"name":"main","language":"cel","rules":[
		{"label":"blocked","match":"subject.id == 'mallory'","action":"deny","obligations":[{"log":"loud"}]},
		{"label":"slow","match":"subject.properties.calls > 100","action":"throttle","effect":"permit","obligations":[{"seconds":5},{"b":1,"a":2}]},
		{"label":"odd","match":"subject.properties.calls > 50","action":"mfa","effect":"deny"},
		{"label":"rest","match":"subject.type == 'user'","action":"allow"}],
		"default":{"action":"stranger","effect":"deny","obligations":[{"log":"default"}]}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policies.Compile(doc, 1)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		kind, id, given string
		want            policies.Result
	}{
		{"user", "mallory", `{"calls":101}`, policies.Result{Action: "deny", Rule: "blocked", Obligations: `[{"log":"loud"}]`}},
		{"user", "a", `{"calls":101}`, policies.Result{Permit: true, Action: "throttle", Rule: "slow", Obligations: `[{"seconds":5},{"a":2,"b":1}]`}},
		{"user", "a", `{"calls":100.5}`, policies.Result{Permit: true, Action: "throttle", Rule: "slow", Obligations: `[{"seconds":5},{"a":2,"b":1}]`}},
		{"user", "a", `{"calls":51}`, policies.Result{Action: "mfa", Rule: "odd"}},
		{"user", "a", `{"calls":1}`, policies.Result{Permit: true, Action: "allow", Rule: "rest"}},
		{"robot", "a", `{"calls":1}`, policies.Result{Action: "stranger", Default: true, Obligations: `[{"log":"default"}]`}},
	}
	for _, tt := range tests {
		got, err := p.Evaluate(&policies.Snapshot{}, &policies.Input{Subject: policies.Entity{Type: tt.kind, ID: tt.id, Given: value(t, tt.given)}})
		if err != nil || got != tt.want {
			t.Errorf("%s %s %s: %+v, %v, want %+v", tt.kind, tt.id, tt.given, got, err, tt.want)
		}
	}
}

func TestCEL_WithoutRulesTheDefaultDecides(t *testing.T) {
	d := celDocument()
	d.Default = policies.Outcome{Action: "allow", Permit: true}
	p, err := policies.Compile(d, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Evaluate(&policies.Snapshot{}, &policies.Input{})
	if err != nil || !got.Permit || !got.Default {
		t.Errorf("%+v, %v", got, err)
	}
	if trace := p.Trace(&policies.Snapshot{}, &policies.Input{}); len(trace) != 0 {
		t.Errorf("trace of no rules: %v", trace)
	}
}

// Whoever leaves out what a rule asks for must not fall through to a later
// rule that allows.
func TestCEL_AnErrorBeforeTheMatchDeniesAndOneAfterDoesNot(t *testing.T) {
	in := &policies.Input{Subject: policies.Entity{Type: "user"}}
	p := compileCEL(t, `false`, "true &&\n  subject.properties.suspended == true", `true`)
	e := failure(t, p, &policies.Snapshot{}, in)
	if e.Failure != policies.Failed || e.Rule != "r1" || e.Detail != "no such key at line 2, column 21" {
		t.Errorf("%+v", e)
	}
	want := []policies.Trace{{Rule: "r0", Why: "did not match"}, {Rule: "r1", Why: e.Error()}, {Rule: "r2", Why: "not reached"}}
	if got := p.Trace(&policies.Snapshot{}, in); !reflect.DeepEqual(got, want) {
		t.Errorf("trace %v", got)
	}
	p = compileCEL(t, `false`, `true`, `subject.properties.suspended == true`)
	if r, err := p.Evaluate(&policies.Snapshot{}, in); err != nil || r.Rule != "r1" {
		t.Errorf("%+v, %v", r, err)
	}
	want = []policies.Trace{{Rule: "r0", Why: "did not match"}, {Rule: "r1", Matched: true, Why: "matched"}, {Rule: "r2", Why: "not reached"}}
	if got := p.Trace(&policies.Snapshot{}, in); !reflect.DeepEqual(got, want) {
		t.Errorf("trace %v", got)
	}
}

// An error's text goes to logs and to whoever may explain: it must not carry
// what the question held.
func TestCEL_ErrorsDoNotQuoteTheQuestion(t *testing.T) {
	in := &policies.Input{Subject: policies.Entity{Type: "user", ID: "s3cret", Given: value(t, `{"n":77001,"l":["s3cret"]}`)}}
	for _, rule := range []string{
		`context[subject.id] == 1`, `timestamp(subject.id) == now`, `duration(subject.id) > duration("1s")`, `int(subject.id) == 1`,
		`cidr(subject.id).prefixLength() == 1`, `ip(subject.id).family() == 4`, `subject.properties.l[subject.properties.n] == 1`,
		`subject.id.charAt(subject.properties.n) == ""`, `"a".matches(subject.id + "(")`, `now.getHours(subject.id) == 1`,
		`double(subject.id) == 1.0`, `regex.extract("a", subject.id + "(").hasValue()`, `in_set("x", subject.id)`, `{subject.id: 1}["x"] == 1`,
		`subject.id.substring(subject.properties.n) == ""`, `"%d".format([subject.id]) == ""`, `bool(subject.id)`,
	} {
		e := failure(t, compileCEL(t, rule), &policies.Snapshot{}, in)
		if text := e.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "77001") {
			t.Errorf("%s: %s", rule, text)
		}
	}
}

func TestCEL_PropertiesOfAnAccessKey(t *testing.T) {
	in := &policies.Input{Subject: policies.Entity{Type: "access_key", ID: "k", Key: true,
		Given:    value(t, `{"metadata":{"tier":"gold"},"key":"sk_secret","region":"eu"}`),
		Stored:   properties(t, `{"region":"us","zone":"b"}`),
		Metadata: properties(t, `{"tier":"bronze"}`)}}
	for rule, want := range map[string]bool{
		`subject.properties.metadata.tier == "bronze"`:                                  true,
		`subject.properties.metadata.tier == "gold"`:                                    false,
		`subject.properties["metadata"]["tier"] == "gold"`:                              false,
		`has(subject.properties.key)`:                                                   false,
		`subject.properties.exists(k, k == "key")`:                                      false,
		`subject.properties.region == "eu" && subject.properties.zone == "b"`:           true,
		`subject.properties == {"metadata":{"tier":"bronze"},"region":"eu","zone":"b"}`: true,
		`size(subject.properties) == 3`:                                                 true,
	} {
		got, err := compileCEL(t, rule).Evaluate(&policies.Snapshot{}, in)
		if err != nil || got.Permit != want {
			t.Errorf("%s: %+v, %v, want %v", rule, got, err, want)
		}
	}
	in.Subject.Metadata = nil // a key without any must not lend the request's
	if got, err := compileCEL(t, `has(subject.properties.metadata)`).Evaluate(&policies.Snapshot{}, in); err != nil || got.Permit {
		t.Errorf("metadata of a key without: %+v, %v", got, err)
	}
}

func TestCEL_Reads(t *testing.T) {
	both := policies.Reads{SubjectProperties: true, Metadata: true}
	tests := []struct {
		rule string
		want policies.Reads
	}{
		{`subject.type == "user" && subject["id"] == "a" && has(subject.type) && resource.id == action.name`, policies.Reads{}},
		{`context.now == 1 && action.properties.grants == 1 && "now" == "grants"`, policies.Reads{}},
		{`scope_permits`, policies.Reads{}},
		{`size(grants) > 0`, policies.Reads{Grants: true}},
		{`grants.size() > 0`, policies.Reads{Grants: true}},
		{`grants.exists(g, g.id == "a")`, policies.Reads{Grants: true}},
		{`[grants][0].size() == 0`, policies.Reads{Grants: true}},
		{`now > timestamp(0)`, policies.Reads{Time: true}},
		{`[1].exists(x, .now > timestamp(x))`, policies.Reads{Time: true}},
		{`subject.properties.a == 1`, policies.Reads{SubjectProperties: true}},
		{`subject.?properties.?a.hasValue()`, policies.Reads{SubjectProperties: true}},
		{`subject["properties"]["a"] == 1`, policies.Reads{SubjectProperties: true}},
		{`subject.properties.metadata.a == 1`, both},
		{`subject.properties[context.x] == 1`, both},
		{`subject[context.x] == 1`, both},
		{`subject == subject`, both},
		{`[subject].exists(s, s.properties.metadata == 1)`, both},
		{`size(subject.properties) == 0`, both},
		{`has(subject.properties.metadata)`, both},
		{`(true ? subject : resource).id == "a"`, policies.Reads{SubjectProperties: true, Metadata: true, ResourceProperties: true}},
		{`{"a": resource}.a.id == "x"`, policies.Reads{ResourceProperties: true}},
		{`resource.properties.metadata == 1`, policies.Reads{ResourceProperties: true}},
		{`optional.of(resource).optMap(r, r.id).hasValue()`, policies.Reads{ResourceProperties: true}},
		{`in_set("b", 1) || in_set("a", subject.id) || [in_set("b", 2)][0]`, policies.Reads{Sets: []string{"a", "b"}}},
	}
	for _, tt := range tests {
		if got := compileCEL(t, `false`, tt.rule).Reads; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.rule, got, tt.want)
		}
	}
}

func TestCEL_TwoHundredRules(t *testing.T) {
	rules := make([]string, policies.MaxRules)
	for i := range rules {
		rules[i] = fmt.Sprintf("subject.id ==\n 'u%d' // rule ) ] %d", i, i)
	}
	p := compileCEL(t, rules...)
	for _, i := range []int{0, 1, 99, 199} {
		got, err := p.Evaluate(&policies.Snapshot{}, &policies.Input{Subject: policies.Entity{ID: fmt.Sprintf("u%d", i)}})
		if err != nil || got.Rule != fmt.Sprintf("r%d", i) || got.Action != fmt.Sprintf("act%d", i) {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	}
	// All literals: the planner folds them to one value.
	literal := make([]string, policies.MaxRules)
	for i := range literal {
		literal[i] = fmt.Sprint(i == 150)
	}
	if got, err := compileCEL(t, literal...).Evaluate(&policies.Snapshot{}, &policies.Input{}); err != nil || got.Rule != "r150" {
		t.Errorf("literals: %+v, %v", got, err)
	}
	// As large as a document may be, and as deep as a rule may be.
	deep := strings.Repeat("(", 40) + "false" + strings.Repeat(")", 40)
	wide := "false" + strings.Repeat(" || subject.id == 'x'", 490)
	if got, err := compileCEL(t, deep, wide, deep, "true").Evaluate(&policies.Snapshot{}, &policies.Input{}); err != nil || got.Rule != "r3" {
		t.Errorf("deep: %+v, %v", got, err)
	}
}

// All rules are one program; it must answer as each rule alone would, asked
// one after the other, in both of its forms: tracked and not.
func TestCEL_TheProgramAgreesWithItsRulesAlone(t *testing.T) {
	pool := []string{
		`subject.type == "user"`, `subject.id != "a"`, `resource.properties.x == 1`, `resource.properties.x == subject.id`,
		`resource.properties.y == true`, `context.l.exists(e, e == resource.properties.x)`, `"a" in context.l`, `has(context.l)`,
		`in_set("s", subject.id)`, `in_set("gone", subject.id)`, `context.l[0] == "a" || subject.id == "a"`, `scope_permits`,
		`resource.properties.x == 1 ? context.l == [] : subject.type == "b"`, `subject.id.matches("^a+$")`, `true`, `false`,
		`context.l.map(x, x + x) == ["aa"]`, `resource.properties.?x.orValue("a") == "a"`, `context.l != context.l`,
	}
	s := (&policies.Snapshot{}).Edit(1, 1, func(d *policies.Draft) {
		d.PutSet("s", policies.NewSet(scopes.EntityString, 1, func(yield func(string) bool) { yield("a") }))
	})
	compiled := map[string]*policies.Policy{}
	for _, rule := range pool {
		compiled[rule] = compileCEL(t, rule)
	}
	rapid.Check(t, func(rt *rapid.T) {
		rules := rapid.SliceOfN(rapid.SampledFrom(pool), 1, 8).Draw(rt, "rules")
		text := rapid.SampledFrom([]string{"a", "b", "aa", ""})
		in := &policies.Input{
			Subject:      policies.Entity{Type: rapid.SampledFrom([]string{"user", "b"}).Draw(rt, "type"), ID: text.Draw(rt, "id")},
			Resource:     policies.Entity{Given: value(t, rapid.SampledFrom([]string{``, `{}`, `{"x":1}`, `{"x":1.0,"y":true}`, `{"x":"a","y":"true"}`}).Draw(rt, "resource"))},
			Context:      value(t, rapid.SampledFrom([]string{``, `{"l":[]}`, `{"l":["a"]}`, `{"l":[1,"a"]}`, `{"l":"a"}`}).Draw(rt, "context")),
			ScopePermits: rapid.Bool().Draw(rt, "scope"),
		}
		want, failed := "", policies.Failure("")
		for i, rule := range rules {
			r, err := compiled[rule].Evaluate(s, in)
			if err != nil {
				want, failed = fmt.Sprintf("r%d", i), failureOf(err).Failure
				break
			}
			if !r.Default {
				want = fmt.Sprintf("r%d", i)
				break
			}
		}
		got, err := compileCEL(t, rules...).Evaluate(s, in)
		if err != nil {
			if e := failureOf(err); e.Failure != failed || e.Rule != want {
				rt.Fatalf("%q: %v, want rule %q, failure %q", rules, err, want, failed)
			}
			return
		}
		if failed != "" || got.Rule != want {
			rt.Fatalf("%q: %+v, want rule %q, failure %q", rules, got, want, failed)
		}
	})
}

// A question's texts lie in a buffer that the next request overwrites: nothing
// of one evaluation may show in the next.
func TestCEL_ManyAtOnceAndNothingIsKept(t *testing.T) {
	p := compileCEL(t, `subject.properties.who == resource.id`, `context.l.exists(x, x == resource.id)`)
	s := &policies.Snapshot{}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var doc strictjson.Doc
			for i := range 300 {
				who := fmt.Sprintf("w%d-%d", g, i)
				if err := doc.Parse(fmt.Sprintf(`{"p":{"who":%q},"c":{"l":["x",%q]}}`, who, who)); err != nil {
					t.Error(err)
					return
				}
				in := &policies.Input{Subject: policies.Entity{Given: doc.Root().Get("p")}, Resource: policies.Entity{ID: who}, Context: doc.Root().Get("c")}
				if r, err := p.Evaluate(s, in); err != nil || r.Rule != "r0" {
					t.Errorf("%s: %+v, %v", who, r, err)
				}
				in.Subject.Given = value(t, `{"who":"nobody"}`)
				if r, err := p.Evaluate(s, in); err != nil || r.Rule != "r1" {
					t.Errorf("%s: %+v, %v", who, r, err)
				}
				in.Context = value(t, `{"l":[]}`)
				if r, err := p.Evaluate(s, in); err != nil || !r.Default {
					t.Errorf("%s: %+v, %v", who, r, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCEL(f *testing.F) {
	for _, seed := range []string{`subject.id == "a"`, `context.l.exists(x, x > 1)`, `in_set("s", 1)`, `true) || (true`, `[1].map(x, [x, x]) == []`,
		`"a".matches("(a{2}){3}")`, `optional.of(1).optMap(x, x + 1).hasValue()`, `now.getHours("UTC") == 1`, `{"a": 1}.?a == optional.of(1)`, `bytes("a") == b"a"`, `b"a" in ["a"]`} {
		f.Add(seed, `{"l":[1,2.5,"x",null,{"a":[]}]}`)
	}
	f.Fuzz(func(t *testing.T, rule, input string) {
		var doc strictjson.Doc
		if doc.Parse(input) != nil || doc.Root().Kind() != strictjson.Object || len(rule) > policies.MaxDocument {
			t.Skip()
		}
		p, err := policies.Compile(celDocument(rule, `subject.type == "user"`), 1)
		if err != nil {
			return
		}
		in := &policies.Input{Subject: policies.Entity{Type: "user", Given: doc.Root()}, Context: doc.Root(), Action: policies.Action{Properties: doc.Root()}}
		r, err := p.Evaluate(&policies.Snapshot{}, in)
		if err != nil && r.Permit {
			t.Fatal("permits with an error")
		}
		again, err2 := p.Evaluate(&policies.Snapshot{}, in)
		if (err == nil) != (err2 == nil) && !strings.Contains(fmt.Sprint(err, err2), string(policies.Deadline)) || err == nil && err2 == nil && again != r {
			t.Fatalf("answers %+v, %v, and then %+v, %v", r, err, again, err2)
		}
		if trace := p.Trace(&policies.Snapshot{}, in); len(trace) != 2 {
			t.Fatal(trace)
		}
	})
}
