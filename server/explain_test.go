package server_test

import (
	"strings"
	"testing"
)

func TestExplain_IsForOwnVisibleAndSearchableSubjects(t *testing.T) {
	t.Parallel()
	a := start(t)
	own := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	target := a.create(`{"policies":[{"f":"*","p":2}]}`)
	app := a.create(`{"todo":[{"f":"*","p":2}]}`)
	sees := a.create(`{"decision":true,"access_keys":["policies"]}`)
	seesAll := a.create(`{"decision":true,"access_keys":["*"]}`)
	searcher := a.create(`{"decision":true,"search":true}`)
	a.customer("acme")
	foreign := a.createFor("acme", `{"policies":[{"f":"*","p":2}]}`)
	root := key{secret: a.root}
	user := `{"type":"user","id":"alice"}`
	bySecret := func(k key) string { return `{"type":"access_key","properties":{"key":"` + k.secret + `"}}` }
	unknown := subject("9017501f-9fa4-4a88-b657-5bd49c1bb722")
	for _, tt := range []struct {
		name    string
		caller  key
		subject string
		status  int
	}{
		{"own, by id", own, subject(own.id), 200},
		{"own, by handle", own, subject(own.handle), 200},
		{"own, by secret", own, bySecret(own), 200},
		{"another's", own, subject(target.id), 403},
		{"another's, by its secret", own, bySecret(target), 403},
		{"own secret with another's id", own, strings.Replace(bySecret(own), `"properties"`, `"id":"`+target.id+`","properties"`, 1), 403},
		{"a person", own, user, 403},
		{"nobody", own, unknown, 403},
		{"visible", sees, subject(target.id), 200},
		{"own though not visible", sees, subject(sees.id), 200},
		{"not visible", sees, subject(app.id), 403},
		{"own's names are not all listed", sees, subject(own.id), 403},
		{"visible to *", seesAll, subject(app.id), 200},
		{"a person, with *", seesAll, user, 403},
		{"nobody, with *", seesAll, unknown, 403},
		{"another customer's, with *", seesAll, subject(foreign.id), 403},
		{"searcher: any key", searcher, subject(app.id), 200},
		{"searcher: a person", searcher, user, 200},
		{"searcher: nobody", searcher, unknown, 200},
		{"searcher: another customer's", searcher, subject(foreign.id), 200},
		{"root", root, subject(app.id), 200},
		{"root: a person", root, user, 200},
	} {
		r := a.do("POST", "/decision/explain", tt.caller.secret, evaluation(tt.subject, "read", "policies", "x"))
		if r.status != tt.status {
			t.Errorf("%s: %d %s", tt.name, r.status, r.body)
		}
		if strings.Contains(tt.name, "another customer's") && tt.status == 200 &&
			(r.text("context.reasons.0.code") != "key_unknown" || r.get("context.explain.entries.#").Int() != 0 || strings.Contains(r.body, foreign.id)) {
			t.Errorf("%s: tells of the key: %s", tt.name, r.body)
		}
	}
}

func TestExplain_TellsOfEveryEntry(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"sets":[{"f":"a","p":4},{"f":"*","p":2},{"f":"*","p":4,"r":{"filter":"^x"}},{"f":"b*","p":12}]}`)
	body := `{"subject":` + subject(k.id) + `,"action":{"name":"update"},"resource":{"type":"sets","id":"bb","properties":{"entity_type":"string","values":["x1","y1"]}}}`
	r := a.do("POST", "/decision/explain", k.secret, body).is(200)
	if !r.get("decision").Bool() || r.text("context.reasons.#.entry") != "" && r.get("context.reasons.#.entry").Raw != "[2,3]" {
		t.Error(r.body)
	}
	var why []string
	for _, e := range r.get("context.explain.entries").Array() {
		why = append(why, e.Get("why").String())
	}
	if got := strings.Join(why, " "); got != "selector_mismatch permission_missing granted granted" {
		t.Errorf("%s: %s", got, r.body)
	}
	restricted := r.get("context.explain.entries.2")
	if restricted.Get("restriction.refused_values").Raw != "[1]" || restricted.Get("restriction.filter").String() != "^x" || restricted.Get("permissions").Raw != `["read","update"]` {
		t.Error(restricted)
	}
	if r.get("context.explain.policy").Raw != `{"builtin":true,"rule":"scope_permits"}` || r.get("context.explain.scope_types").Raw != `["sets"]` {
		t.Error(r.body)
	}
}
