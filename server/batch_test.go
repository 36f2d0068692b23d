package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// codes lists, for each answer of a batch, its first reason, or the status of
// its error.
func codes(r *reply) (list []string) {
	for _, e := range r.get("evaluations").Array() {
		code := e.Get("context.reasons.0.code").String()
		if status := e.Get("context.error.status"); status.Exists() {
			code = status.String()
			if e.Get("decision").Raw != "false" || e.Get("context.error.message").String() == "" {
				r.Errorf("%s: an error that is no denial: %s", r.request, e)
			}
		}
		list = append(list, code)
	}
	return list
}

func TestBatch_FollowsItsSemantic(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"yes*","p":2}]}`)
	const yes, no, bad = `{"resource":{"type":"policies","id":"yes"}}`, `{"resource":{"type":"policies","id":"no"}}`, `{"resource":{"type":"policies"}}`
	defaults := `"subject":` + subject(k.id) + `,"action":{"name":"read"},"resource":{"type":"policies","id":"yes-too"}`
	for _, path := range []string{"/decision/batch", "/access/v1/evaluations"} {
		for _, tt := range []struct {
			semantic string
			items    []string
			want     []string
		}{
			{"", []string{yes, no, yes}, []string{"scope_permits", "scope_missing", "scope_permits"}},
			{"execute_all", []string{no, bad, yes}, []string{"scope_missing", "400", "scope_permits"}},
			{"deny_on_first_deny", []string{yes, yes, no, yes}, []string{"scope_permits", "scope_permits", "scope_missing"}},
			{"deny_on_first_deny", []string{yes, bad, yes}, []string{"scope_permits", "400"}}, // an error denies
			{"deny_on_first_deny", []string{yes, yes}, []string{"scope_permits", "scope_permits"}},
			{"permit_on_first_permit", []string{no, bad, yes, no}, []string{"scope_missing", "400", "scope_permits"}},
			{"permit_on_first_permit", []string{no, no}, []string{"scope_missing", "scope_missing"}},
			{"", []string{`{}`}, []string{"scope_permits"}}, // takes all defaults
			{"", []string{`7`, `null`, `[]`, `{}`}, []string{"400", "400", "400", "scope_permits"}},
			{"", []string{`{"subject":{"type":"user"}}`}, []string{"400"}}, // a whole entity is replaced, nothing merged
			{"", []string{`{"action":{}}`, `{"action":{"name":"update"}}`}, []string{"400", "scope_missing"}},
			{"", []string{`{"context":[]}`, `{"context":{"a":1}}`}, []string{"400", "scope_permits"}},
			{"", []string{`{"subject":{"type":"Access-Key","id":"x"}}`}, []string{"400"}},
		} {
			options := ""
			if tt.semantic != "" {
				options = `,"options":{"evaluations_semantic":"` + tt.semantic + `"}`
			}
			r := a.do("POST", path, k.secret, `{`+defaults+`,"evaluations":[`+strings.Join(tt.items, ",")+`]`+options+`}`).is(200)
			if got := codes(r); !slices.Equal(got, tt.want) {
				t.Errorf("%s %s %v: %v, want %v", path, tt.semantic, tt.items, got, tt.want)
			}
			if r.get("decision").Exists() || r.get("context").Exists() {
				t.Errorf("%s: a batch has no decision of its own: %s", path, r.body)
			}
		}
	}
}

func TestBatch_WithoutItemsIsASingleEvaluation(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	ask := strings.TrimSuffix(evaluation(subject(k.id), "read", "policies", "x"), "}")
	for _, path := range []string{"/decision/batch", "/access/v1/evaluations"} {
		for _, more := range []string{`}`, `,"evaluations":[]}`, `,"evaluations":[],"options":{"evaluations_semantic":"deny_on_first_deny"}}`, `,"options":{}}`} {
			if r := a.do("POST", path, k.secret, ask+more).is(200); !r.get("decision").Bool() || r.get("evaluations").Exists() {
				t.Errorf("%s %s: %s", path, more, r.body)
			}
		}
		a.do("POST", path, k.secret, `{"evaluations":[]}`).is(400)
		a.do("POST", path, k.secret, `{}`).is(400)
	}
}

func TestBatch_RefusesWhatSpoilsTheWholeCall(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	items := func(n int) string { return `[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `]` }
	for _, tt := range []struct {
		body, code, pointer string
		authzen             int
	}{
		{`{"evaluations":` + items(101) + `}`, "too_many_evaluations", "/evaluations", 400},
		{`{"evaluations":{}}`, "wrong_type", "/evaluations", 400},
		{`{"evaluations":null}`, "wrong_type", "/evaluations", 400},
		{`{"evaluations":[{}],"options":[]}`, "wrong_type", "/options", 400},
		{`{"evaluations":[{}],"options":{"evaluations_semantic":"first"}}`, "unknown_semantic", "/options/evaluations_semantic", 400},
		{`{"evaluations":[{}],"options":{"evaluations_semantic":1}}`, "wrong_type", "/options/evaluations_semantic", 400},
		{`{"evaluations":[{}],"options":{"evaluations_semantic":""}}`, "unknown_semantic", "/options/evaluations_semantic", 400},
		{`{"evaluations":[{}],"subject":"x"}`, "wrong_type", "/subject", 400},
		{`{"evaluations":[{}],"context":7}`, "wrong_type", "/context", 400},
		{`{"evaluations":[{}],"options":{"x":1}}`, "unknown_member", "/options/x", 200},
		{`{"evaluations":[{}],"x":1}`, "unknown_member", "/x", 200},
		{`{"evaluations":[{}`, "invalid_json", "", 400},
		{`{"evaluations":[{},{"a":1,"a":2}]}`, "duplicate_name", "", 400}, // a fault of the JSON fails the call
		{`[]`, "wrong_type", "", 400},
	} {
		r := a.do("POST", "/decision/batch", k.secret, tt.body)
		if tt.pointer != "" {
			r.refused(400, tt.code, tt.pointer)
		} else {
			r.refused(400, tt.code)
		}
		if r := a.do("POST", "/access/v1/evaluations", k.secret, tt.body); r.status != tt.authzen {
			t.Errorf("AuthZEN %s: %d %s", tt.body, r.status, r.body)
		}
	}
	if got := codes(a.do("POST", "/decision/batch", k.secret, `{"evaluations":`+items(100)+`}`).is(200)); len(got) != 100 {
		t.Errorf("%d answers to 100", len(got))
	}
}

func TestBatch_IsStrictInEachItemOnOurOwnPath(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	defaults := `"subject":` + subject(k.id) + `,"action":{"name":"read"},"resource":{"type":"policies","id":"x"}`
	for item, want := range map[string][2]string{
		`{"x":1}`:              {"400", "scope_permits"},
		`{"evaluations":[]}`:   {"400", "scope_permits"},
		`{"options":{}}`:       {"400", "scope_permits"},
		`{"policy":"nothing"}`: {"404", "scope_permits"}, // AuthZEN knows no policies
		`{"policy":7}`:         {"400", "scope_permits"},
		`{"subject":{"type":"access_key","properties":{"key":"x"}}}`: {"key_unknown", "400"},
	} {
		body := `{` + defaults + `,"evaluations":[` + item + `]}`
		ours, theirs := codes(a.do("POST", "/decision/batch", k.secret, body).is(200)), codes(a.do("POST", "/access/v1/evaluations", k.secret, body).is(200))
		if got := [2]string{ours[0], theirs[0]}; got != want {
			t.Errorf("%s: %v, want %v", item, got, want)
		}
	}
	r := a.do("POST", "/decision/batch", k.secret, `{`+defaults+`,"policy":"nothing","evaluations":[{}]}`).is(200)
	if got := codes(r); got[0] != "404" { // the default policy is taken, and fails closed
		t.Errorf("%v", got)
	}
	if got := r.text("evaluations.0.context.error.code"); got != "policy_not_found" {
		t.Errorf("code %s", got)
	}
}

func TestBatch_KeepsTheOrderAndStatesOfItsItemsApart(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"1*","p":2}]}`)
	var items, want []string
	for i := range 100 {
		items = append(items, fmt.Sprintf(`{"resource":{"type":"policies","id":"%d"}}`, i))
		want = append(want, map[bool]string{true: "scope_permits", false: "scope_missing"}[fmt.Sprint(i)[0] == '1'])
	}
	r := a.do("POST", "/decision/batch", k.secret, `{"subject":`+subject(k.id)+`,"action":{"name":"read"},"evaluations":[`+strings.Join(items, ",")+`]}`).is(200)
	if got := codes(r); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	ids := map[string]bool{}
	for _, e := range r.get("evaluations").Array() {
		ids[e.Get("context.decision_id").String()] = true
	}
	if len(ids) != 100 {
		t.Errorf("%d ids of 100 answers", len(ids))
	}
}
