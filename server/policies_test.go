package server_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// celPolicy is a document with one rule, whose match is given.
func celPolicy(name, match string, more ...string) string {
	body := `{"name":"` + name + `","language":"cel","rules":[{"label":"one","match":` + quoted(match) + `,"action":"allow"}],"default":{"action":"deny"}`
	for _, m := range more {
		body += "," + m
	}
	return body + "}"
}

// quoted escapes quotes, unless that has been done.
func quoted(s string) string {
	if strings.Contains(s, `\`) {
		return `"` + s + `"`
	}
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

func (a *api) putPolicy(name, match string, headers ...string) *reply {
	a.Helper()
	return a.do("PUT", "/v1/policies/"+name, a.root, celPolicy(name, match), headers...)
}

func TestPolicies_AreMadeShownChangedAndDeleted(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/policies", a.root, celPolicy("main", "true", `"description":"first"`)).is(http.StatusCreated)
	if made.text("name") != "main" || made.text("version") != "1" || made.text("language") != "cel" || made.text("description") != "first" ||
		made.text("rules.0.match") != "true" || made.text("default.action") != "deny" || made.text("created_at") == "" || made.text("created_by.type") != "root" {
		t.Errorf("made %s", made.body)
	}
	if made.header.Get("Location") != "/v1/policies/main" {
		t.Errorf("Location %q", made.header.Get("Location"))
	}
	got := a.do("GET", "/v1/policies/main", a.root, "").is(http.StatusOK)
	if got.body != made.body || got.header.Get("ETag") == "" || got.header.Get("ETag") != made.header.Get("ETag") {
		t.Errorf("made %s %s, got %s %s", made.header.Get("ETag"), made.body, got.header.Get("ETag"), got.body)
	}
	changed := a.putPolicy("main", "false").is(http.StatusOK)
	if changed.text("version") != "2" || changed.text("id") != made.text("id") || changed.header.Get("ETag") == made.header.Get("ETag") {
		t.Errorf("changed %s", changed.body)
	}
	a.do("GET", "/v1/policies/main/versions/1", a.root, "").is(http.StatusOK)
	back := a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`).is(http.StatusOK)
	if back.text("version") != "3" || back.text("rules.0.match") != "true" || back.text("description") != "first" {
		t.Errorf("rolled back %s", back.body)
	}
	if v := a.do("GET", "/v1/policies/main/versions", a.root, "").is(200); v.text("total") != "3" || v.text("versions.0.version") != "3" {
		t.Errorf("versions %s", v.body)
	}
	a.do("DELETE", "/v1/policies/main", a.root, "").is(http.StatusNoContent)
	a.do("GET", "/v1/policies/main", a.root, "").refused(404, "policy_not_found")
	again := a.putPolicy("main", "true").is(http.StatusCreated)
	if again.text("version") != "1" || again.text("id") == made.text("id") {
		t.Errorf("made again %s", again.body)
	}
}

// person is a subject without a ceiling: what it gets is the policy's answer.
const person = `{"type":"user","id":"alice"}`

func (a *api) permits(policy, action string) bool {
	a.Helper()
	return a.do("POST", "/decision/"+policy, a.root, evaluation(person, action, "doc", "plan")).is(http.StatusOK).get("decision").Bool()
}

// The attack: a key that may write one policy writes, reads or finds out about
// others; what it may not do is refused by the name alone, whatever the body
// says and whether or not there is such a policy.
func TestPolicies_AreHeldToTheScopesByName(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.putPolicy("main", "true").is(201)
	a.putPolicy("staging", "true").is(201)
	all := a.create(`{"policies":[{"f":"*","p":15}]}`)
	maker := a.create(`{"policies":[{"f":"*","p":1}]}`)
	reader := a.create(`{"policies":[{"f":"st*","p":2}]}`)
	writer := a.create(`{"policies":[{"f":"staging","p":4}]}`)
	ender := a.create(`{"policies":[{"f":"staging","p":8}]}`)
	none := a.create(`{"decision":true,"sets":[{"f":"*","p":15}]}`)
	for _, tt := range []struct {
		who                key
		method, path, body string
		status             int
		code               string
	}{
		{none, "GET", "/v1/policies", "", 403, "scope_missing"},
		{none, "GET", "/v1/policies/main", "", 403, "scope_missing"},
		{none, "GET", "/v1/policies/nosuch", "", 403, "scope_missing"},
		{none, "PUT", "/v1/policies/main", "{", 403, "scope_missing"},
		{none, "POST", "/v1/policies", "{", 403, "scope_missing"},
		{none, "DELETE", "/v1/policies/main?x=1", "", 403, "scope_missing"},
		{reader, "GET", "/v1/policies/staging", "", 200, ""},
		{reader, "GET", "/v1/policies/staging/versions", "", 200, ""},
		{reader, "GET", "/v1/policies/staging/versions/1", "", 200, ""},
		{reader, "POST", "/v1/policies/staging/test", "{", 400, "invalid_json"},
		{reader, "GET", "/v1/policies/main", "", 403, "scope_missing"},
		{reader, "GET", "/v1/policies/nosuch", "", 403, "scope_missing"},
		{reader, "GET", "/v1/policies/stage", "", 404, "policy_not_found"},
		{reader, "GET", "/v1/policies/main/versions", "", 403, "scope_missing"},
		{reader, "GET", "/v1/policies/main/versions/1", "", 403, "scope_missing"},
		{reader, "POST", "/v1/policies/main/test", "{", 403, "scope_missing"},
		{reader, "PUT", "/v1/policies/staging", "{", 403, "scope_missing"},
		{reader, "POST", "/v1/policies/staging/rollback", "{", 403, "scope_missing"},
		{reader, "DELETE", "/v1/policies/staging", "", 403, "scope_missing"},
		{reader, "POST", "/v1/policies", "{", 403, "scope_missing"},
		{writer, "PUT", "/v1/policies/staging", celPolicy("staging", "false"), 200, ""},
		{writer, "GET", "/v1/policies/staging", "", 200, ""}, // implied
		{writer, "POST", "/v1/policies/staging/rollback", `{"version":1}`, 200, ""},
		{writer, "PUT", "/v1/policies/main", "{", 403, "scope_missing"},
		{writer, "POST", "/v1/policies/main/rollback", "{", 403, "scope_missing"},
		{writer, "PUT", "/v1/policies/%73taging2", "{", 403, "scope_missing"},
		{writer, "PUT", "/v1/policies/Staging", "{", 403, "scope_missing"},
		{writer, "PUT", "/v1/policies/staging", celPolicy("main", "false"), 400, "name_conflict"},
		{writer, "DELETE", "/v1/policies/staging", "", 403, "scope_missing"},
		{writer, "POST", "/v1/policies", "{", 403, "scope_missing"},
		{maker, "POST", "/v1/policies", celPolicy("made", "true"), 201, ""},
		{maker, "PUT", "/v1/policies/made", celPolicy("made", "false"), 403, "scope_missing"},
		{maker, "PUT", "/v1/policies/other", "{", 403, "scope_missing"},
		{maker, "GET", "/v1/policies/made", "", 200, ""},
		{ender, "DELETE", "/v1/policies/main", "", 403, "scope_missing"},
		{ender, "DELETE", "/v1/policies/staging", "", 204, ""},
		{ender, "DELETE", "/v1/policies/staging", "", 404, "policy_not_found"},
		{writer, "PUT", "/v1/policies/staging", celPolicy("staging", "true"), 404, "policy_not_found"}, // it may not make one
		{writer, "PUT", "/v1/policies/staging", celPolicy("staging", "nosuch"), 404, "policy_not_found"},
		{writer, "PUT", "/v1/policies/staging", `{"language":"cel"}`, 400, "missing_member"},
		{all, "PUT", "/v1/policies/staging", celPolicy("staging", "true"), 201, ""},
	} {
		r := a.do(tt.method, tt.path, tt.who.secret, tt.body)
		if tt.status < 400 {
			r.is(tt.status)
		} else {
			r.refused(tt.status, tt.code)
		}
	}
	for who, want := range map[key]string{
		all: `["made","main","staging"]`, maker: `["made","main","staging"]`, reader: `["staging"]`, writer: `["staging"]`,
	} {
		r := a.do("GET", "/v1/policies", who.secret, "").is(200)
		if got := r.get("policies.#.name").Raw; got != want || int(r.get("total").Int()) != len(r.get("policies").Array()) {
			t.Errorf("sees %s, want %s, with their number: %s", got, want, r.body)
		}
	}
	if r := a.do("GET", "/v1/policies?limit=1&offset=1", all.secret, "").is(200); r.get("policies.#.name").Raw != `["main"]` || r.text("total") != "3" || r.text("limit") != "1" || r.text("offset") != "1" {
		t.Errorf("second page %s", r.body)
	}
	if r := a.do("GET", "/v1/policies?offset=9", all.secret, "").is(200); r.get("policies").Raw != `[]` || r.text("total") != "3" {
		t.Errorf("past the end %s", r.body)
	}
	for _, bad := range []string{"limit=0", "limit=201", "limit=x", "offset=-1", "sort=name"} {
		a.do("GET", "/v1/policies?"+bad, all.secret, "").is(400)
	}
}

// The attack: another customer's key reads or writes a policy by its name.
func TestPolicies_AreTheCustomersOwn(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("other")
	a.do("POST", "/v1/policies", a.root, celPolicy("main", "true")).refused(400, "customer_required")
	a.do("POST", "/v1/policies", a.root, celPolicy("main", "true"), "X-Customer-ID", "default").is(201)
	theirs := a.createFor("other", `{"decision":true,"policies":[{"f":"*","p":15}]}`)
	a.do("GET", "/v1/policies/main", theirs.secret, "").refused(404, "policy_not_found")
	a.do("GET", "/v1/policies/main/versions/1", theirs.secret, "").refused(404, "policy_not_found")
	a.do("DELETE", "/v1/policies/main", theirs.secret, "").refused(404, "policy_not_found")
	a.do("POST", "/v1/policies/main/rollback", theirs.secret, `{"version":1}`).refused(404, "policy_not_found")
	a.do("POST", "/v1/policies/main/test", theirs.secret, `{"cases":[{"request":`+evaluation(person, "x", "doc", "plan")+`,"expect":{"decision":true}}]}`).refused(404, "policy_not_found")
	a.do("POST", "/decision/main", theirs.secret, evaluation(person, "x", "doc", "plan")).refused(404, "policy_not_found")
	if r := a.do("GET", "/v1/policies", theirs.secret, "").is(200); r.text("total") != "0" {
		t.Errorf("another customer's policies are listed: %s", r.body)
	}
	a.do("PATCH", "/v1/customers/other", a.root, `{"default_policy":"main"}`).refused(400, "policy_not_found", "/default_policy")
	a.do("PUT", "/v1/policies/main", theirs.secret, celPolicy("main", "false")).is(201) // its own
	if !a.permits("main", "x") {
		t.Error("another customer's policy decided")
	}
}

// The attacks: a name that leaves its customer, is taken for another, or hides
// a path of the API.
func TestPolicies_NamesAreBytesOfOneSegment(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, name := range []string{"..%2Fx", "%2e%2e%2fcustomers", "a%2Fb", ".hidden", "-a", "a%00", "a%0Ab", "%C3%A4", "a%20b", strings.Repeat("a", 129), "a*"} {
		a.do("PUT", "/v1/policies/"+name, a.root, celPolicy("x", "true")).refused(400, "invalid_policy_name", "path:name")
		a.do("GET", "/v1/policies/"+name, a.root, "").refused(404, "policy_not_found")
		a.do("GET", "/v1/policies/"+name+"/versions", a.root, "").refused(404, "policy_not_found")
		a.do("GET", "/v1/policies/"+name+"/versions/1", a.root, "").refused(404, "policy_not_found")
		a.do("DELETE", "/v1/policies/"+name, a.root, "").refused(404, "policy_not_found")
		a.do("POST", "/v1/policies/"+name+"/rollback", a.root, `{"version":1}`).refused(404, "policy_not_found")
		a.do("POST", "/v1/policies/"+name+"/test", a.root, `{}`).refused(400, "invalid_policy_name")
	}
	for _, name := range []string{"..", "../x", "a/b", "", "a b", strings.Repeat("a", 129)} {
		a.do("POST", "/v1/policies", a.root, celPolicy(name, "true")).is(400)
	}
	for _, name := range []string{"batch", "explain", "forward"} {
		a.do("PUT", "/v1/policies/"+name, a.root, celPolicy(name, "true")).refused(400, "reserved_name", "path:name")
		a.do("POST", "/v1/policies", a.root, celPolicy(name, "true")).refused(400, "reserved_name", "/name")
	}
	// Different names are different policies, however much they look alike.
	for i, name := range []string{"a.b", "a-b", "a_b", "a:b", "A.b", "a.b.", "Batch", strings.Repeat("a", 128)} {
		a.putPolicy(name, `action.name == "x"`).is(201)
		if r := a.do("GET", "/v1/policies", a.root, "").is(200); int(r.get("total").Int()) != i+1 {
			t.Errorf("%s replaced another: %s", name, r.body)
		}
	}
	a.putPolicy("%61.b", `action.name == "y"`).refused(400, "name_conflict")
	a.do("PUT", "/v1/policies/%61.b", a.root, celPolicy("a.b", `action.name == "y"`)).is(200) // decoded once
	a.do("PUT", "/v1/policies/%2561.b", a.root, celPolicy("a.b", "true")).refused(400, "invalid_policy_name")
	if !a.permits("a.b", "y") || a.permits("a-b", "y") || a.permits("A.b", "y") {
		t.Error("one name's policy answers for another")
	}
	rego := func(name, pkg string) string {
		return `{"name":"` + name + `","language":"rego","rego":"package ` + pkg + `\nallow := true\n"}`
	}
	a.do("POST", "/v1/policies", a.root, rego("r.b", `policies[\"r.b\"]`)).is(201)
	for _, pkg := range []string{`policies.r.c`, `policies[\"r.b\"]`, `policies`, `system`, `policies[\"R.c\"]`} {
		a.do("POST", "/v1/policies", a.root, rego("r.c", pkg)).is(400)
	}
}

// One writer of many wins; a reader is sent what changed only.
func TestPolicies_HoldToTheConditionsOfAClient(t *testing.T) {
	t.Parallel()
	a := start(t)
	first := a.putPolicy("main", "true", "If-None-Match", "*").is(201).header.Get("ETag")
	if !strings.HasPrefix(first, `"`) {
		t.Fatalf("the tag %s is not strong", first)
	}
	a.putPolicy("main", "false", "If-None-Match", "*").refused(412, "precondition_failed")
	a.putPolicy("main", "false", "If-None-Match", first).refused(412, "precondition_failed")
	a.putPolicy("main", "false", "If-None-Match", "W/"+first).refused(412, "precondition_failed") // compared weakly
	a.putPolicy("main", "false", "If-Match", `"other"`).refused(412, "precondition_failed")
	a.putPolicy("main", "false", "If-Match", "W/"+first).refused(412, "precondition_failed") // compared strongly
	a.putPolicy("none", "false", "If-Match", "*").refused(412, "precondition_failed")
	a.putPolicy("main", "false", "If-Match", first[:len(first)-1]).refused(400, "invalid_entity_tag", "header:If-Match")
	a.do("DELETE", "/v1/policies/main", a.root, "", "If-Match", `"other"`).refused(412, "precondition_failed")
	a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`, "If-Match", `"other"`).refused(412, "precondition_failed")
	a.do("POST", "/v1/policies", a.root, celPolicy("new", "true"), "If-Match", "*").refused(412, "precondition_failed")
	if !a.permits("main", "x") {
		t.Fatal("a refused change took effect")
	}
	if r := a.do("GET", "/v1/policies/main", a.root, "", "If-None-Match", `"x", W/`+first).is(304); r.body != "" || r.header.Get("ETag") != first {
		t.Errorf("304 with %q, tag %s", r.body, r.header.Get("ETag"))
	}
	a.do("GET", "/v1/policies/main", a.root, "", "If-None-Match", "*").is(304)
	a.do("GET", "/v1/policies/main", a.root, "", "If-None-Match", `"x"`).is(200)
	a.do("GET", "/v1/policies/main", a.root, "", "If-Match", `"x"`).refused(412, "precondition_failed")
	a.do("GET", "/v1/policies/main/versions/1", a.root, "", "If-None-Match", first).is(304)
	a.do("HEAD", "/v1/policies/main", a.root, "").is(200)

	second := a.putPolicy("main", "false", "If-Match", `"x"`, "If-Match", first).is(200).header.Get("ETag")
	a.putPolicy("main", "true", "If-Match", first).refused(412, "precondition_failed")
	a.do("GET", "/v1/policies/main", a.root, "", "If-None-Match", first).is(200)
	a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`, "If-Match", second).is(200)
	a.do("DELETE", "/v1/policies/main", a.root, "", "If-Match", "*").is(204)
	// The attack: what was read of a deleted policy replaces the one made under
	// its name, which is at the same version.
	a.putPolicy("main", "true").is(201)
	a.putPolicy("main", "false", "If-Match", first).refused(412, "precondition_failed")
}

func TestPolicies_OfWritersWithOneTagOneWins(t *testing.T) {
	t.Parallel()
	a := start(t)
	tag := a.putPolicy("main", "true").is(201).header.Get("ETag")
	const writers = 16
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			r, err := a.try("PUT", "/v1/policies/main", a.root, celPolicy("main", `action.name == "w`+strconv.Itoa(i)+`"`), "If-Match", tag)
			switch {
			case err != nil:
				t.Error(err)
			case r.status == 200:
				won.Add(1)
			case r.status == 412:
				lost.Add(1)
			default:
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != writers-1 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	if v := a.do("GET", "/v1/policies/main", a.root, "").is(200); v.text("version") != "2" {
		t.Errorf("after one change: %s", v.body)
	}
}

// Whatever the order of the writers: the policy that decides is the one that is
// stored last, and each writer's own is in force when it is answered.
func TestPolicies_DecideInTheOrderInWhichTheyAreStored(t *testing.T) {
	t.Parallel()
	a := start(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := "p" + strconv.Itoa(i)
			for j := range 5 {
				act := "w" + strconv.Itoa(i) + "-" + strconv.Itoa(j)
				for _, target := range []string{"main", name} {
					r, err := a.try("PUT", "/v1/policies/"+target, a.root, celPolicy(target, `action.name == "`+act+`"`))
					if err != nil || r.status >= 300 {
						t.Errorf("%v %+v", err, r)
						return
					}
				}
				if r, err := a.try("POST", "/decision/"+name, a.root, evaluation(person, act, "doc", "plan")); err != nil || !r.get("decision").Bool() {
					t.Errorf("a write that was answered is not in force: %v %s", err, r.body)
				}
			}
		})
	}
	wg.Wait()
	stored := a.do("GET", "/v1/policies/main", a.root, "").is(200)
	_, act, _ := strings.Cut(stored.text("rules.0.match"), `"`)
	r := a.do("POST", "/decision/main", a.root, evaluation(person, strings.Trim(act, `"`), "doc", "plan")).is(200)
	if !r.get("decision").Bool() || r.text("context.policy.version") != stored.text("version") || stored.text("version") != "40" {
		t.Errorf("stored %s, decided %s", stored.body, r.body)
	}
}

func TestPolicies_AnIdenticalPutChangesNothing(t *testing.T) {
	t.Parallel()
	a := start(t)
	first := a.putPolicy("main", "true").is(201)
	events := len(a.events("default"))
	a.clock.advance(1e9)
	// The same in another order, without its name and with an effect that is said twice.
	again := a.do("PUT", "/v1/policies/main", a.root, `{"default":{"effect":"deny","action":"deny"}, "rules":[{"action":"allow","match":"true","label":"one"}],"language":"cel"}`).is(200)
	if again.body != first.body || again.header.Get("ETag") != first.header.Get("ETag") {
		t.Errorf("got %s\nwant %s", again.body, first.body)
	}
	if n := len(a.events("default")); n != events {
		t.Errorf("%d events more", n-events)
	}
	a.putPolicy("main", "true", "If-Match", `"x"`).refused(412, "precondition_failed")
}

// The attack: a document that cannot run takes the place of one that does.
func TestPolicies_WhatDoesNotCompileChangesNothing(t *testing.T) {
	t.Parallel()
	a := start(t)
	before := a.putPolicy("main", "true").is(201)
	events := len(a.events("default"))
	r := a.putPolicy("main", `true &&\n  nosuch`).is(400)
	if f := r.get("errors.0"); f.Get("pointer").String() != "/rules/0/match" || f.Get("line").Int() != 2 || f.Get("column").Int() != 3 {
		t.Errorf("no place: %s", r.body)
	}
	rego := a.do("PUT", "/v1/policies/r", a.root, `{"language":"rego","rego":"package policies.r\n\nallow if nosuch(1)\n"}`).is(400)
	if f := rego.get("errors.0"); f.Get("pointer").String() != "/rego" || f.Get("line").Int() != 3 {
		t.Errorf("no place: %s", rego.body)
	}
	a.do("POST", "/v1/policies", a.root, celPolicy("new", "nosuch")).is(400)
	// The place is the call's, not that of another text that has the name in it.
	none := a.putPolicy("main", `subject.id == \"nosuch\" ||\n in_set(\"nosuch\", subject.id)`).refused(400, "set_not_found", "/rules/0/match")
	if f := none.get("errors.0"); f.Get("line").Int() != 2 || f.Get("column").Int() != 9 {
		t.Errorf("no place: %s", none.body)
	}
	none = a.do("PUT", "/v1/policies/r", a.root, `{"language":"rego","rego":"package policies.r\nimport data.latchkey\nallow if latchkey.in_set(\"nosuch\", input.subject.id)\n"}`).refused(400, "set_not_found", "/rego")
	if f := none.get("errors.0"); f.Get("line").Int() != 3 || f.Get("column").Int() != 10 {
		t.Errorf("no place: %s", none.body)
	}
	a.do("POST", "/v1/policies", a.root, celPolicy("key", "subject.id == '"+a.root+"'")).refused(400, "credential_in_document")
	big := strings.Repeat("x", 33<<10)
	two := `{"name":"big","language":"cel","rules":[{"label":"a","match":"'` + big + `' == subject.id","action":"allow"},{"label":"b","match":"'` + big + `' == subject.id","action":"allow"}],"default":{"action":"deny"}}`
	a.do("POST", "/v1/policies", a.root, two).refused(400, "document_too_large")
	// By what its length says: who goes on sending may never read the answer.
	if status, body := a.raw(fmt.Sprintf("POST /v1/policies HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1<<20+1)); status != 413 || !strings.Contains(body, "body_too_large") {
		t.Errorf("over the limit: %d %s", status, body)
	}
	if got := a.do("GET", "/v1/policies/main", a.root, "").is(200); got.body != before.body || !a.permits("main", "x") {
		t.Errorf("changed to %s", got.body)
	}
	if n := len(a.events("default")); n != events {
		t.Errorf("%d events of refused changes", n-events)
	}
	if list := a.do("GET", "/v1/policies", a.root, "").is(200); list.text("total") != "1" {
		t.Errorf("refused policies are there: %s", list.body)
	}
}

func TestPolicies_KeepAHundredVersions(t *testing.T) {
	t.Parallel()
	a := start(t)
	for i := range 104 {
		a.putPolicy("main", `action.name == "v`+strconv.Itoa(i+1)+`"`)
	}
	list := a.do("GET", "/v1/policies/main/versions?limit=200", a.root, "").is(200)
	if list.text("total") != "100" || list.text("versions.0.version") != "104" || list.text("versions.99.version") != "5" || list.text("versions.0.created_by.id") != "root" {
		t.Errorf("versions %s", list.body)
	}
	if r := a.do("GET", "/v1/policies/main/versions?limit=1&offset=1", a.root, "").is(200); r.text("versions.#") != "1" || r.text("versions.0.version") != "103" {
		t.Errorf("second page %s", r.body)
	}
	for _, n := range []string{"4", "0", "105", "-1", "05", "+5", "x", "9999999999999999999", "%35%20"} {
		a.do("GET", "/v1/policies/main/versions/"+n, a.root, "").refused(404, "version_not_found")
	}
	a.do("GET", "/v1/policies/main/versions/5", a.root, "").is(200)
	a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":4}`).refused(404, "version_not_found")
	for _, bad := range []string{`{}`, `{"version":"5"}`, `{"version":5.0}`, `{"version":0}`, `{"version":null}`, `{"version":5,"x":1}`, `[]`} {
		a.do("POST", "/v1/policies/main/rollback", a.root, bad).is(400)
	}
	if r := a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":5}`).is(200); r.text("version") != "105" || !a.permits("main", "v5") {
		t.Errorf("rolled back %s", r.body)
	}
	a.do("GET", "/v1/policies/main/versions/5", a.root, "").refused(404, "version_not_found")
}

func TestPolicies_AreLimitedInNumber(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("other")
	head := []string{"X-Customer-ID", "other"}
	for i := range 199 {
		a.do("PUT", "/v1/policies/p"+strconv.Itoa(i), a.root, celPolicy("p"+strconv.Itoa(i), "true"), head...).is(201)
	}
	// Two at the limit: one gets in.
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r, err := a.try("POST", "/v1/policies", a.root, celPolicy("q"+strconv.Itoa(i), "true"), head...)
			if err == nil && r.status == 201 {
				made.Add(1)
			} else if err != nil || r.status != 409 || r.text("code") != "too_many_policies" {
				t.Errorf("%v %+v", err, r)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d got in", made.Load())
	}
	a.do("PUT", "/v1/policies/more", a.root, celPolicy("more", "true"), head...).refused(409, "too_many_policies")
	a.do("PUT", "/v1/policies/p1", a.root, celPolicy("p1", "false"), head...).is(200)
	a.do("DELETE", "/v1/policies/p1", a.root, "", head...).is(204)
	a.do("POST", "/v1/policies", a.root, celPolicy("p2", "true"), head...).refused(409, "policy_exists")
	a.do("POST", "/v1/policies", a.root, celPolicy("more", "true"), head...).is(201)
}

// The attack: what denies by default is taken away, and the built-in policy or
// none answers in its place.
func TestPolicies_TheDefaultOfACustomerStays(t *testing.T) {
	t.Parallel()
	a := start(t)
	ask := func() *reply { return a.decide(a.root, evaluation(person, "x", "doc", "plan")) }
	a.putPolicy("main", "true").is(201)
	a.putPolicy("strict", "false").is(201)
	if ask().get("decision").Bool() {
		t.Error("the built-in policy permits a person without grants")
	}
	if r := a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"main"}`).is(200); r.text("default_policy") != "main" {
		t.Errorf("patched %s", r.body)
	}
	if r := ask(); !r.get("decision").Bool() || r.text("context.policy.name") != "main" {
		t.Errorf("the default did not decide: %s", r.body)
	}
	a.do("DELETE", "/v1/policies/main", a.root, "").refused(409, "policy_in_use")
	for _, bad := range []string{"nosuch", "Main", "", "batch", "../main", "main "} {
		a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"`+bad+`","name":"changed"}`).refused(400, "policy_not_found", "/default_policy")
	}
	if r := a.do("GET", "/v1/customers/default", a.root, "").is(200); r.text("default_policy") != "main" || r.text("name") == "changed" {
		t.Errorf("a refused change took effect: %s", r.body)
	}
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Acme"}`).is(200)
	if r := ask(); r.text("context.policy.name") != "main" {
		t.Errorf("another change took the default away: %s", r.body)
	}
	// A restart keeps it.
	a.stop()
	b := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	if r := b.decide(b.root, evaluation(person, "x", "doc", "plan")); !r.get("decision").Bool() || r.text("context.policy.name") != "main" {
		t.Errorf("after a restart: %s", r.body)
	}
	b.do("PATCH", "/v1/customers/default", b.root, `{"default_policy":"strict"}`).is(200)
	b.do("DELETE", "/v1/policies/main", b.root, "").is(204)
	b.do("PATCH", "/v1/customers/default", b.root, `{"default_policy":null}`).is(200)
	b.do("DELETE", "/v1/policies/strict", b.root, "").is(204)
	b.do("PATCH", "/v1/customers/nosuch", b.root, `{"default_policy":null}`).refused(404, "customer_not_found")
	b.do("PATCH", "/v1/customers/_system", b.root, `{"default_policy":null}`).refused(404, "customer_not_found")
	last := b.events("default")
	if got := last[len(last)-2].Get("changes").Raw; got != `{"default_policy":null}` {
		t.Errorf("the event tells %s", got)
	}
	b.customer("gone")
	b.do("DELETE", "/v1/customers/gone", b.root, "").is(204)
	b.do("PATCH", "/v1/customers/gone", b.root, `{"default_policy":"main"}`).refused(404, "customer_not_found")
}

// A default that is deleted and one that is made the default, at once, never
// both happen.
func TestPolicies_DefaultAndDeleteDoNotPassEachOther(t *testing.T) {
	t.Parallel()
	a := start(t)
	for i := range 10 {
		name := "p" + strconv.Itoa(i)
		a.putPolicy(name, "true").is(201)
		var wg sync.WaitGroup
		var patched, deleted int
		wg.Go(func() {
			if r, err := a.try("PATCH", "/v1/customers/default", a.root, `{"default_policy":"`+name+`"}`); err == nil {
				patched = r.status
			}
		})
		wg.Go(func() {
			if r, err := a.try("DELETE", "/v1/policies/"+name, a.root, ""); err == nil {
				deleted = r.status
			}
		})
		wg.Wait()
		switch [2]int{patched, deleted} {
		case [2]int{200, 409}, [2]int{400, 204}:
		default:
			t.Fatalf("patched %d, deleted %d", patched, deleted)
		}
	}
}

// The attack: a document edited in the database, or one that an earlier release
// took, comes up as no policy at all and something else answers.
func TestPolicies_AStoredOneThatDoesNotCompileDenies(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.putPolicy("main", "true").is(201)
	a.putPolicy("good", "true").is(201)
	a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"main"}`).is(200)
	a.stop()
	a.exec(`UPDATE policy_versions SET document = replace(document, '"match":"true"', '"match":"nosuch"') WHERE policy_id = (SELECT id FROM policies WHERE name = 'main')`)
	b := start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock })
	for _, path := range []string{"/decision", "/decision/main"} {
		if r := b.do("POST", path, b.root, evaluation(person, "x", "doc", "plan")).is(200); r.get("decision").Bool() || r.text("context.reasons.0.code") != "policy_error" {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	if !b.permits("good", "x") {
		t.Error("a policy beside it does not work")
	}
	if b.unusable != 1 {
		t.Errorf("%d are told of, want 1", b.unusable)
	}
	b.do("POST", "/v1/policies/main/rollback", b.root, `{"version":1}`).is(400) // no more than before
	b.putPolicy("main", "true").is(200)
	if !b.permits("main", "x") {
		t.Error("it does not work after it was mended")
	}
}

// The attack: a policy is slipped in beside those that the customer's bundle
// brings.
func TestPolicies_OfABundleAreNotWritten(t *testing.T) {
	t.Parallel()
	var bundled atomic.Bool
	a := start(t, func(o *options) {
		o.origin = func(customer string) string {
			if bundled.Load() && customer == "default" {
				return "bundle"
			}
			return ""
		}
	})
	a.customer("local")
	head := []string{"X-Customer-ID", "default"}
	a.putPolicy("main", "true", head...).is(201)
	bundled.Store(true)
	a.putPolicy("main", "false", head...).refused(409, "policies_from_bundle")
	a.do("POST", "/v1/policies", a.root, celPolicy("new", "true"), head...).refused(409, "policies_from_bundle")
	a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`, head...).refused(409, "policies_from_bundle")
	a.do("DELETE", "/v1/policies/main", a.root, "", head...).refused(409, "policies_from_bundle")
	a.do("GET", "/v1/policies/main", a.root, "", head...).is(200)
	if !a.permits("main", "x") {
		t.Error("a refused change took effect")
	}
	a.putPolicy("main", "true", "X-Customer-ID", "local").is(201)
}

func TestPolicies_EveryChangeHasItsEventWithoutTheDocument(t *testing.T) {
	t.Parallel()
	a := start(t)
	writer := a.create(`{"policies":[{"f":"*","p":15}]}`)
	id := a.do("POST", "/v1/policies", writer.secret, celPolicy("main", `subject.id == 'the author`+"`"+`s own words'`)).is(201).text("id")
	a.putPolicy("main", "true").is(200)
	a.do("POST", "/v1/policies/main/rollback", writer.secret, `{"version":1}`).is(200)
	a.do("DELETE", "/v1/policies/main", a.root, "").is(204)
	var got []string
	for _, e := range a.events("default") {
		if e.Get("resource.type").String() != "policy" {
			continue
		}
		got = append(got, e.Get("action").String()+" "+e.Get("actor.type").String()+" "+e.Get("changes.version").Raw+e.Get("changes.rolled_back_to").Raw)
		if e.Get("resource.name").String() != "main" || e.Get("resource.id").String() != id || len(e.Get("changes.document_sha256").String()) != 64 {
			t.Errorf("event %s", e.Raw)
		}
		if strings.Contains(e.Raw, "own words") {
			t.Errorf("the document is in the event: %s", e.Raw)
		}
	}
	if want := []string{"policy.create access_key 1", "policy.update root 2", "policy.rollback access_key 31", "policy.delete root 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestPolicies_AreMadeOnceByOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	first := a.do("POST", "/v1/policies", a.root, celPolicy("main", "true"), "Idempotency-Key", "k1").is(201)
	again := a.do("POST", "/v1/policies", a.root, celPolicy("main", "true"), "Idempotency-Key", "k1").is(201)
	if again.body != first.body || again.header.Get("ETag") != first.header.Get("ETag") || again.header.Get("ETag") == "" {
		t.Errorf("%v %s\nwant %v %s", again.header, again.body, first.header, first.body)
	}
	for range 2 {
		if r := a.do("POST", "/v1/policies/main/rollback", a.root, `{"version":1}`, "Idempotency-Key", "k2").is(200); r.text("version") != "2" {
			t.Errorf("a repeated rollback: %s", r.body)
		}
	}
	a.do("POST", "/v1/policies", a.root, celPolicy("main", "true")).refused(409, "policy_exists")
}

func TestPolicies_TestRunsCasesAndPublishesNothing(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.putPolicy("main", `subject.type == \"user\" && action.name == \"read\"`).is(201)
	events := len(a.events("default"))
	tester := a.create(`{"policies":[{"f":"main","p":2}]}`)
	read, write := evaluation(person, "read", "doc", "plan"), evaluation(person, "write", "doc", "plan")
	r := a.do("POST", "/v1/policies/main/test", tester.secret, `{"cases":[
		{"name":"reads","request":`+read+`,"expect":{"decision":true,"action":"allow","rule":"one","obligations":[]}},
		{"request":`+write+`,"expect":{"decision":true}}]}`).is(200)
	if r.text("passed") != "1" || r.text("failed") != "1" || r.text("policy.version") != "1" ||
		r.get("results.0").Raw != `{"name":"reads","passed":true,"got":{"decision":true,"action":"allow","rule":"one","obligations":[]},"differences":[]}` ||
		r.get("results.1").Raw != `{"name":"case 2","passed":false,"got":{"decision":false,"action":"deny","rule":null,"obligations":[]},"differences":["decision: want true, got false"]}` ||
		r.get("coverage").Raw != `{"rules":[{"label":"one","hits":1}],"default":1,"percent":100}` {
		t.Errorf("got %s", r.body)
	}
	key := `{"type":"access_key","id":"k","properties":{"metadata":{"username":"bob"},"key":"ignored"}}`
	body := func(match, expect string, more ...string) string {
		return `{"document":` + celPolicy("main", match) + `,"cases":[{"request":` + evaluation(key, "read", "doc", "plan") + `,"expect":` + expect + strings.Join(append([]string{""}, more...), ",") + `}]}`
	}
	for _, tt := range []struct{ name, body string }{
		{"a key's ceiling permits where nothing is said", body("scope_permits == true", `{"decision":true}`)},
		{"or as said", body("scope_permits == true", `{"decision":false}`, `"scope_permits":false`)},
		{"its metadata is the request's", body(`subject.properties.metadata.username == \"bob\"`, `{"decision":true}`)},
		{"its secret is not seen", body(`has(subject.properties.key)`, `{"decision":false}`)},
		{"the time", body(`now == timestamp(\"2030-01-01T00:00:00Z\")`, `{"decision":true}`, `"now":"2030-01-01T00:00:00Z"`)},
		{"the grants", body(`grants.size() == 1 && grants[0].entitlement == \"e\"`, `{"decision":true}`, `"grants":[{"id":"g","entitlement":"e"}]`)},
		{"a failure that is expected", body(`subject.properties.nosuch == true`, `{"decision":false,"error":"error"}`)},
	} {
		if r := a.do("POST", "/v1/policies/main/test", tester.secret, tt.body).is(200); r.text("passed") != "1" || r.get("policy.version").Raw != "null" {
			t.Errorf("%s: %s", tt.name, r.body)
		}
	}
	if r := a.do("POST", "/v1/policies/main/test", tester.secret, body(`subject.properties.nosuch == true`, `{"decision":false}`)).is(200); r.text("failed") != "1" || r.text("results.0.got.error.code") != "error" {
		t.Errorf("an error that nobody expects passes: %s", r.body)
	}
	for _, tt := range []struct{ body, code, pointer string }{
		{`{}`, "missing_member", "/cases"},
		{`{"cases":[]}`, "no_cases", "/cases"},
		{`{"cases":{}}`, "wrong_type", "/cases"},
		{`{"cases":[{"request":` + read + `,"expect":{}}]}`, "expects_nothing", "/cases/0/expect"},
		{`{"cases":[{"request":` + read + `}]}`, "missing_member", "/cases/0/expect"},
		{`{"cases":[{"request":` + read + `,"expect":{"decide":true}}]}`, "unknown_member", "/cases/0/expect/decide"},
		{`{"cases":[{"request":` + read + `,"expect":{"error":"no"}}]}`, "unknown_failure", "/cases/0/expect/error"},
		{`{"cases":[{"request":{"subject":{"type":"user"}},"expect":{"decision":true}}]}`, "missing_member", "/cases/0/request/subject/id"},
		{`{"cases":[{"request":` + read + `,"now":"yesterday","expect":{"decision":true}}]}`, "invalid_time", "/cases/0/now"},
		{`{"cases":[` + strings.Repeat(`{},`, 500) + `{}]}`, "too_many_cases", "/cases"},
		{`{"document":` + celPolicy("other", "true") + `,"cases":[]}`, "name_conflict", "/document/name"},
		{body("nosuch", `{"decision":true}`), "invalid_expression", "/document/rules/0/match"},
		{body(`in_set(\"nosuch\", subject.id)`, `{"decision":true}`), "set_not_found", "/document/rules/0/match"},
	} {
		a.do("POST", "/v1/policies/main/test", tester.secret, tt.body).refused(400, tt.code, tt.pointer)
	}
	a.do("POST", "/v1/policies/nosuch/test", a.root, `{"cases":[{"request":`+read+`,"expect":{"decision":true}}]}`).refused(404, "policy_not_found")
	a.do("POST", "/v1/policies/nosuch/test", a.root, `{"document":`+celPolicy("nosuch", "true")+`,"cases":[{"request":`+read+`,"expect":{"decision":true}}]}`).is(200)
	a.do("GET", "/v1/policies/nosuch", a.root, "").refused(404, "policy_not_found")
	if n := len(a.events("default")); n != events+1 { // the tester's key
		t.Errorf("%d events of tests", n-events-1)
	}
	if got := a.do("GET", "/v1/policies/main", a.root, "").is(200); got.text("version") != "1" {
		t.Errorf("a test changed the policy: %s", got.body)
	}
}
