package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/authz"
)

// staff makes a person and returns the id and the token.
func (a *api) staff(username, typ string) (id, token string) {
	a.Helper()
	h := a.person(username, typ)
	return h.id, h.token
}

// madeAt makes something and returns its id.
func (a *api) madeAt(path, body string) string {
	a.Helper()
	return a.do("POST", path, a.root, body, inDefault...).is(201).text("id")
}

func TestRights_GroupsAndClaimsForWhomTheyConcern(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, alices := a.staff("alice", "user")
	bob, bobs := a.staff("bob", "user")
	_, admins := a.staff("ada", "admin")
	app := a.madeAt("/v1/applications", `{"name":"db"}`)
	login := a.madeAt("/v1/entitlements", `{"app_id":"`+app+`","name":"login","entries":{"host":[{"f":"db-*","a":["login"]}]},"claims":{"role":["dba","all"],"team":["db"]}}`)
	extra := a.madeAt("/v1/entitlements", `{"app_id":"`+app+`","name":"extra","entries":{"host":[{"f":"db-*","p":2}]},"claims":{"role":["all","night"]}}`)
	group := a.madeAt("/v1/groups", `{"name":"ops","member_ids":["`+alice+`"],"entitlement_ids":["`+login+`"]}`)
	until := a.clock.in(time.Hour)
	a.do("POST", "/v1/grants", a.root, `{"subject":{"type":"user","id":"alice"},"entitlement_ids":["`+extra+`"],"reason":"tonight","expires_at":"`+until+`"}`, inDefault...).is(201)

	manager := a.createFor(authz.DefaultCustomer, `{"access_requests_manage":true}`).secret
	stranger := a.createFor(authz.DefaultCustomer, `{"decision":true,"search":true}`).secret
	groups := `[{"id":"` + group + `","name":"ops","system":false,"expires_at":null}]`
	claims := `{"role":["all","dba","night"],"team":["db"]}`
	for name, ask := range map[string][]string{"root": {a.root, alice}, "an admin": {admins, alice}, "a manager": {manager, alice}, "herself": {alices, alice}, "by self": {alices, "self"}} {
		var header []string
		if name == "root" {
			header = inDefault
		}
		got := a.do("GET", "/v1/users/"+ask[1]+"/groups", ask[0], "", header...).is(200)
		if diff := cmp.Diff(groups, got.get("groups").Raw); diff != "" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s", name, diff)
		}
		got = a.do("GET", "/v1/users/"+ask[1]+"/claims", ask[0], "", header...).is(200)
		if diff := cmp.Diff(claims, got.get("claims").Raw); diff != "" || got.text("expires_at") != until {
			t.Errorf("%s: %s, until %s", name, diff, got.text("expires_at"))
		}
	}
	// Whoever it does not concern is told that there is no such person.
	a.customer("elsewhere")
	elsewhere := a.createFor("elsewhere", `{"access_requests_manage":true}`).secret
	for _, ask := range map[string][]string{"bob about alice": {bobs, alice}, "alice about bob": {alices, bob}, "another customer's": {elsewhere, alice},
		"by username": {a.root, "alice"}, "nobody": {a.root, "9017501f-9fa4-4a88-b657-5bd49c1bb722"}} {
		var header []string
		if ask[0] == a.root {
			header = inDefault
		}
		for _, what := range []string{"/groups", "/claims"} {
			a.do("GET", "/v1/users/"+ask[1]+what, ask[0], "", header...).refused(404, "user_not_found")
		}
	}
	for _, who := range []string{alice, "self", "9017501f-9fa4-4a88-b657-5bd49c1bb722"} { // a key concerns no person, whoever is named
		for _, what := range []string{"/groups", "/claims"} {
			a.do("GET", "/v1/users/"+who+what, stranger, "").refused(403, "scope_missing")
		}
	}
	// A moment later it is otherwise, though nothing has been swept.
	a.clock.advance(time.Hour)
	if got := a.do("GET", "/v1/users/"+alice+"/claims", a.root, "", inDefault...).is(200).body; gjson.Get(got, "claims").Raw != `{"role":["all","dba"],"team":["db"]}` || gjson.Get(got, "expires_at").Raw != "null" {
		t.Error(got)
	}
	a.do("DELETE", "/v1/users/"+alice, a.root, "", inDefault...).is(204)
	if got := a.do("GET", "/v1/users/"+alice+"/claims", a.root, "", inDefault...).is(200).body; gjson.Get(got, "claims").Raw != `{}` {
		t.Error(got)
	}
	if got := a.do("GET", "/v1/users/"+alice+"/groups", a.root, "", inDefault...).is(200).body; gjson.Get(got, "groups").Raw != `[]` {
		t.Error(got)
	}
}

// Explaining names the group and the entitlement; a search finds persons once, by
// their ids.
func TestRights_AreExplainedAndFound(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, _ := a.staff("alice", "user")
	bob, _ := a.staff("bob", "user")
	carol, _ := a.staff("carol", "user")
	_, admin := a.staff("ada", "admin")
	app := a.madeAt("/v1/applications", `{"name":"db"}`)
	login := a.madeAt("/v1/entitlements", `{"app_id":"`+app+`","name":"login","entries":{"host":[{"f":"db-*","a":["login"]}]}}`)
	group := a.madeAt("/v1/groups", `{"name":"ops","member_ids":["`+alice+`","`+carol+`"],"entitlement_ids":["`+login+`"]}`)
	soon := `"reason":"r","expires_at":"` + a.clock.in(time.Hour) + `"`
	a.madeAt("/v1/grants", `{"subject":{"type":"user","id":"bob@example.com"},"entries":{"host":[{"f":"db-1","a":["login"]}]},`+soon+`}`)
	a.madeAt("/v1/grants", `{"subject":{"type":"user","id":"guest"},"entries":{"host":[{"f":"db-1","a":["login"]}]},`+soon+`}`)
	a.do("DELETE", "/v1/users/"+carol, a.root, "", inDefault...).is(204)

	q := `{"subject":{"type":"user","id":"x","properties":{"email":"ALICE@example.com"}},"action":{"name":"login"},"resource":{"type":"host","id":"db-1"}}`
	got := a.do("POST", "/decision/explain", admin, q).is(200)
	e := got.get("context.explain.grants.0")
	if e.Get("id").String() != login || e.Get("group").String() != group || e.Get("why").String() != "granted" || e.Get("reason").String() != "entitlement login of group ops" || e.Get("expires_at").Raw != "null" {
		t.Error(got.body)
	}
	found := a.do("POST", "/access/v1/search/subject", admin, `{"subject":{"type":"user"},"action":{"name":"login"},"resource":{"type":"host","id":"db-1"}}`).is(200)
	var ids []string
	for _, r := range found.get("results.#.id").Array() {
		ids = append(ids, r.String())
	}
	want := map[string]bool{alice: true, bob: true, "guest": true}
	for _, id := range ids {
		if !want[id] {
			t.Errorf("%s is found", id)
		}
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	// A person has no key of its own among those that it searches.
	a.do("POST", "/access/v1/search/subject", admin, `{"subject":{"type":"access_key"},"action":{"name":"login"},"resource":{"type":"host","id":"db-1"}}`).is(200)
	actions := a.do("POST", "/access/v1/search/action", admin, `{"subject":{"type":"user","id":"alice"},"resource":{"type":"host","id":"db-1"}}`).is(200)
	if names := actions.get("results.#.name").Raw; names != `["login"]` {
		t.Error(names)
	}
}

// A grant is given to the person that a name is of, never to oneself by any name,
// and not to who is not active.
func TestGrants_ArePersonsByEachName(t *testing.T) {
	t.Parallel()
	a := start(t)
	alice, _ := a.staff("alice", "user")
	ada, admin := a.staff("ada", "admin")
	body := func(id string) string {
		return `{"subject":{"type":"user","id":"` + id + `"},"entries":{"host":[{"f":"*","p":2}]},"reason":"r","expires_at":"` + a.clock.in(time.Hour) + `"}`
	}
	for _, name := range []string{alice, "alice", "alice@example.com"} {
		made := a.do("POST", "/v1/grants", admin, body(name)).is(201)
		if made.text("subject.id") != alice {
			t.Errorf("to %s: %s", name, made.body)
		}
		if n := a.do("GET", "/v1/grants?subject_type=user&subject_id="+strings.ReplaceAll(name, "@", "%40"), admin, "").is(200).get("grants.#").Int(); n == 0 {
			t.Errorf("none is listed of %s", name)
		}
	}
	for _, name := range []string{ada, "ada", "ada@example.com"} {
		a.do("POST", "/v1/grants", admin, body(name)).refused(403, "self_approval_forbidden")
	}
	// An address that differs in case is a bare name: it gives the admin nothing.
	if made := a.do("POST", "/v1/grants", admin, body("ADA@example.com")); made.status == 201 {
		r := a.do("POST", "/decision", admin, `{"subject":{"type":"user","id":"x","properties":{"email":"ADA@example.com"}},"action":{"name":"read"},"resource":{"type":"host","id":"h"}}`).is(200)
		if r.get("decision").Bool() {
			t.Error("an admin came by a right of its own")
		}
	}
	a.do("DELETE", "/v1/users/"+alice, admin, "").is(204)
	a.do("POST", "/v1/grants", a.root, body("alice"), inDefault...).refused(409, "person_inactive")
	if n := a.do("GET", "/v1/grants?status=active&subject_type=user&subject_id=alice", admin, "").is(200).get("grants.#").Int(); n != 0 {
		t.Errorf("%d grants outlive the person", n)
	}
}
