package server_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// searchBody is a body of a search; an empty member is left out.
func searchBody(subject, action, resource string, more ...string) string {
	var members []string
	add := func(name, value string) {
		if value != "" {
			members = append(members, `"`+name+`":`+value)
		}
	}
	add("subject", subject)
	add("action", action)
	add("resource", resource)
	return "{" + strings.Join(append(members, more...), ",") + "}"
}

const (
	readAction = `{"name":"read"}`
	anyDoc     = `{"type":"doc"}`
	anyKey     = `{"type":"access_key"}`
)

// shelf is a server with documents d000, d001, … and a key that may search.
func shelf(t *testing.T, n int, scopes string) (*api, key) {
	a := start(t)
	items := make([]string, n)
	for i := range items {
		items[i] = entity("doc", fmt.Sprintf("d%04d", i))
	}
	a.do("POST", "/v1/resources:bulkUpdate", a.root, resources(items...)).is(200)
	return a, a.create(scopes)
}

func found(r *reply) string { return strings.ReplaceAll(r.get("results.#.id").Raw, `"`, "") }

func TestSearch_ResourcesASubjectMayReach(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 5, `{"search":true,"doc":[{"f":"d0001","p":2},{"f":"d0003","p":4},{"f":"elsewhere","p":2}]}`)
	for _, tt := range []struct{ body, want string }{
		{searchBody(subject(k.id), readAction, anyDoc), "[d0001,d0003]"},
		{searchBody(subject(k.handle), `{"name":"update"}`, anyDoc), "[d0003]"},
		// The id of what is searched is not looked at, nor is an unknown member.
		{searchBody(subject(k.id), readAction, `{"type":"doc","id":"d0002","x":1}`, `"more":[1]`, `"context":{"time":"now"}`), "[d0001,d0003]"},
		{searchBody(subject(k.id), readAction, `{"type":"doc","id":7}`), "[d0001,d0003]"},
		{searchBody(subject(k.id), `{"name":"fly"}`, anyDoc), "[]"},
		{searchBody(subject(k.id), readAction, `{"type":"spaceship"}`), "[]"},
		{searchBody(`{"type":"user","id":"nobody"}`, readAction, anyDoc), "[]"},
		{searchBody(`{"type":"spaceship","id":"x"}`, readAction, anyDoc), "[]"},
	} {
		r := a.do("POST", "/access/v1/search/resource", k.secret, tt.body).is(200)
		if found(r) != tt.want || r.get("page").Exists() || !r.get("results").IsArray() {
			t.Errorf("%s: got %s, want %s", tt.body, r.body, tt.want)
		}
	}
	if r := a.do("POST", "/access/v1/search/resource", a.root, searchBody(subject(k.id), readAction, anyDoc)).is(200); r.get("results.0").Raw != `{"type":"doc","id":"d0001"}` {
		t.Error(r.body)
	}
}

func TestSearch_SubjectsThatMayReachAResource(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 1, `{"search":true,"access_keys":["search"],"decision":true}`)
	reader := a.create(`{"search":true,"doc":[{"f":"*","p":2}]}`)
	plain := a.create(`{"search":true,"policies":[{"f":"*","p":2}]}`)
	ended := a.create(`{"doc":[{"f":"*","p":2}]}`)
	a.do("DELETE", "/v1/access_keys/"+ended.id, a.root, "").is(204)
	doc := `{"type":"doc","id":"d0000"}`
	ask := func(who, body, want string) {
		t.Helper()
		if r := a.do("POST", "/access/v1/search/subject", who, body).is(200); found(r) != want {
			t.Errorf("%s: got %s, want %s", body, r.body, want)
		}
	}
	ask(a.root, searchBody(anyKey, readAction, doc), "["+reader.id+"]")
	ask(a.root, searchBody(`{"type":"access_key","id":"`+plain.id+`","properties":{"key":"`+plain.secret+`"}}`, readAction, doc), "["+reader.id+"]")
	ask(a.root, searchBody(anyKey, readAction, `{"type":"doc","id":"not stored"}`), "["+reader.id+"]")
	// A key with a type of an application's is not seen by who sees "search" alone.
	ask(k.secret, searchBody(anyKey, readAction, doc), "[]")
	ask(k.secret, searchBody(anyKey, readAction, `{"type":"policies","id":"x"}`), "[]")
	// Its own it sees always.
	ask(reader.secret, searchBody(anyKey, readAction, doc), "["+reader.id+"]")
	ask(k.secret, searchBody(`{"type":"spaceship"}`, readAction, doc), "[]")
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, subjects(`{"type":"user","id":"alice"}`)).is(200)
	ask(k.secret, searchBody(`{"type":"user"}`, readAction, doc), "[]") // without a grant
}

func TestSearch_ActionsOnAResource(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 1, `{"search":true,"doc":[{"f":"d0000","p":4,"a":["lock","share"]},{"f":"x","a":["*"]}]}`)
	ask := func(body, want string) {
		t.Helper()
		if r := a.do("POST", "/access/v1/search/action", k.secret, body).is(200); r.get("results.#.name").Raw != want || r.get("results.0.type").Exists() {
			t.Errorf("%s: got %s, want %s", body, r.body, want)
		}
	}
	doc := `{"type":"doc","id":"d0000"}`
	ask(searchBody(subject(k.id), "", doc), `["read","update","lock","share"]`)
	ask(searchBody(subject(k.id), `{"name":"lock"}`, doc), `["read","update","lock","share"]`) // is not looked at
	ask(searchBody(`{"type":"user","id":"alice"}`, "", doc), `[]`)
	ask(searchBody(subject(k.id), "", `{"type":"spaceship","id":"x"}`), `[]`)
	a.do("PUT", "/v1/resource_types/doc", a.root, `{"actions":["share","delete","update"]}`).is(200)
	ask(searchBody(subject(k.id), "", doc), `["share","update"]`)
	ask(searchBody(subject(k.id), "", `{"type":"doc","id":"x"}`), `["share"]`)
	// Page by page, in the order of the catalogue.
	first := a.do("POST", "/access/v1/search/action", k.secret, searchBody(subject(k.id), "", doc, `"page":{"limit":1}`)).is(200)
	next := `"page":{"token":"` + first.text("page.next_token") + `"}`
	second := a.do("POST", "/access/v1/search/action", k.secret, searchBody(subject(k.id), "", doc, next)).is(200)
	if first.text("results.0.name") != "share" || second.text("results.0.name") != "update" || second.get("page.next_token").String() != "" {
		t.Error(first.body, second.body)
	}
	a.do("PUT", "/v1/resource_types/doc", a.root, `{"actions":["view"]}`).is(200)
	if r := a.do("POST", "/access/v1/search/action", k.secret, searchBody(subject(k.id), "", doc, next)).is(400); gjson.Parse(r.body).Type != gjson.String {
		t.Error(r.body)
	}
}

func TestSearch_PagesHoldEverythingOnce(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 2200, `{"search":true,"doc":[{"f":"d0*","p":2},{"f":"d2199","p":2}]}`)
	ask := func(page string) *reply {
		t.Helper()
		return a.do("POST", "/access/v1/search/resource", k.secret, searchBody(subject(k.id), readAction, anyDoc, `"page":`+page)).is(200)
	}
	if r := ask(`{}`); r.get("results.#").Int() != 50 || r.get("page.count").Int() != 50 || r.text("page.next_token") == "" || r.get("page.total").Exists() {
		t.Errorf("%s", r.get("page").Raw)
	}
	var ids []string
	pages, looked := 0, `{"limit":600}`
	for {
		r := ask(looked)
		pages++
		for _, id := range r.get("results.#.id").Array() {
			ids = append(ids, id.String())
		}
		if r.get("page.count").Int() != r.get("results.#").Int() || pages > 10 {
			t.Fatalf("%s", r.get("page").Raw)
		}
		if r.text("page.next_token") == "" {
			break
		}
		looked = `{"limit":600,"token":"` + r.text("page.next_token") + `"}`
	}
	// 600 in as many looks; 400 in a thousand, which is all that a page may look
	// at; and d2199.
	if len(ids) != 1001 || ids[0] != "d0000" || ids[999] != "d0999" || ids[1000] != "d2199" || pages != 3 {
		t.Errorf("%d ids on %d pages", len(ids), pages)
	}
	// A limit is what a page has at most: one that is larger than a page ever is
	// gives pages of that size.
	if r := ask(`{"limit":5000}`); r.get("results.#").Int() != 1000 || r.text("page.next_token") == "" {
		t.Errorf("%s", r.get("page").Raw)
	}
	few := a.do("POST", "/access/v1/search/resource", k.secret, searchBody(subject(k.id), readAction, `{"type":"none"}`, `"page":{"limit":1}`)).is(200)
	if few.body != `{"page":{"next_token":"","count":0,"total":0},"results":[]}` {
		t.Error(few.body)
	}
}

func TestSearch_ATokenIsForOneCallerAndOneQuestion(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 5, `{"search":true,"doc":[{"f":"*","p":2}]}`)
	a.customer("acme")
	other, acme := a.createFor("default", `{"search":true}`), a.createFor("acme", `{"search":true}`)
	question := searchBody(subject(k.id), readAction, anyDoc, `"context":{"a":1}`)
	with := func(body, page string) string { return strings.TrimSuffix(body, "}") + `,"page":` + page + "}" }
	token := a.do("POST", "/access/v1/search/resource", k.secret, with(question, `{"limit":2}`)).is(200).text("page.next_token")
	page := `{"token":"` + token + `"}`
	ask := func(who, path, body string, headers ...string) *reply {
		t.Helper()
		return a.do("POST", "/access/v1/search/"+path, who, body, headers...)
	}
	if got := found(ask(k.secret, "resource", with(question, page)).is(200)); got != "[d0002,d0003,d0004]" {
		t.Errorf("got %s", got)
	}
	if decoded, err := base64.RawURLEncoding.DecodeString(token); err != nil || strings.Contains(string(decoded), "d0001") {
		t.Errorf("the token shows where it stands: %q %v", decoded, err)
	}
	forged := []byte(token)
	forged[len(forged)-3] ^= 1
	for name, r := range map[string]*reply{
		"another caller":     ask(other.secret, "resource", with(question, page)),
		"root":               ask(a.root, "resource", with(question, page), "X-Customer-ID", "default"),
		"another customer":   ask(acme.secret, "resource", with(question, page)),
		"root of another":    ask(a.root, "resource", with(question, page), "X-Customer-ID", "acme"),
		"another search":     ask(k.secret, "subject", with(searchBody(`{"type":"doc","id":"x"}`, readAction, `{"type":"doc","id":"x"}`), page)),
		"another subject":    ask(k.secret, "resource", with(strings.Replace(question, k.id, k.handle, 1), page)),
		"another action":     ask(k.secret, "resource", with(strings.Replace(question, `"read"`, `"update"`, 1), page)),
		"another type":       ask(k.secret, "resource", with(strings.Replace(question, `"doc"`, `"docs"`, 1), page)),
		"another context":    ask(k.secret, "resource", with(strings.Replace(question, `"a":1`, `"a":2`, 1), page)),
		"without a context":  ask(k.secret, "resource", with(strings.Replace(question, `,"context":{"a":1}`, ``, 1), page)),
		"a forged token":     ask(k.secret, "resource", with(question, `{"token":"`+string(forged)+`"}`)),
		"an invented token":  ask(k.secret, "resource", with(question, `{"token":"ZDAwMDE"}`)),
		"not even base64":    ask(k.secret, "resource", with(question, `{"token":"*"}`)),
		"a number as token":  ask(k.secret, "resource", with(question, `{"token":7}`)),
		"a page that is not": ask(k.secret, "resource", with(question, `[]`)),
		"null as page":       ask(k.secret, "resource", with(question, `null`)),
		"limit 0":            ask(k.secret, "resource", with(question, `{"limit":0}`)),
		"limit below 0":      ask(k.secret, "resource", with(question, `{"limit":-1}`)),
		"limit 1.5":          ask(k.secret, "resource", with(question, `{"limit":1.5}`)),
		"limit as text":      ask(k.secret, "resource", with(question, `{"limit":"5"}`)),
	} {
		if r.status != 400 || gjson.Parse(r.body).Type != gjson.String {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	// Of the rest, spelling and the number of results may differ.
	same := `{"page":{"token":"` + token + `","limit":1,"more":1},"context":{ "a" : 1 },"resource":{"type":"doc"},"action":{"name":"read"},"subject":` + subject(k.id) + `}`
	if got := found(ask(k.secret, "resource", same).is(200)); got != "[d0002]" {
		t.Errorf("got %s", got)
	}
}

func TestSearch_NeedsItsScopeAndStaysWithItsCustomer(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 2, `{"decision":true,"resources_manage":true,"access_keys":["*"],"doc":[{"f":"*","p":2}]}`)
	a.customer("acme")
	theirs := a.createFor("acme", `{"search":true,"access_keys":["*"],"doc":[{"f":"*","p":2}]}`)
	for path, body := range map[string]string{
		"resource": searchBody(subject(theirs.id), readAction, anyDoc),
		"subject":  searchBody(anyKey, readAction, `{"type":"doc","id":"d0000"}`),
		"action":   searchBody(subject(k.id), "", `{"type":"doc","id":"d0000"}`),
	} {
		r := a.do("POST", "/access/v1/search/"+path, k.secret, body).is(403)
		if gjson.Parse(r.body).Type != gjson.String || !strings.Contains(r.body, "search") {
			t.Error(r.body)
		}
		got := a.do("POST", "/access/v1/search/"+path, theirs.secret, body).is(200)
		want := map[string]string{"resource": "[]", "subject": "[" + theirs.id + "]", "action": "[]"}[path]
		if found(got) != want && path != "action" || path == "action" && got.get("results.#").Int() != 0 {
			t.Errorf("%s: another customer's are found: %s", path, got.body)
		}
	}
}

func TestSearch_BadRequests(t *testing.T) {
	t.Parallel()
	a, k := shelf(t, 0, `{"search":true}`)
	doc, user := `{"type":"doc","id":"x"}`, `{"type":"user","id":"alice"}`
	for _, tt := range []struct{ path, body string }{
		{"subject", searchBody(`{"type":"user"}`, "", doc)},
		{"subject", searchBody(`{"type":"user"}`, readAction, "")},
		{"subject", searchBody("", readAction, doc)},
		{"subject", searchBody(`{}`, readAction, doc)},
		{"subject", searchBody(`"user"`, readAction, doc)},
		{"subject", searchBody(`{"type":"user"}`, readAction, anyDoc)},
		{"subject", searchBody(`{"type":"user"}`, `{"name":1}`, doc)},
		{"subject", searchBody(`{"type":"Access_Key"}`, readAction, doc)},
		{"subject", searchBody(`{"type":"user","properties":7}`, readAction, doc)},
		{"resource", searchBody("", readAction, anyDoc)},
		{"resource", searchBody(`{"type":"user"}`, readAction, anyDoc)},
		{"resource", searchBody(user, "", anyDoc)},
		{"resource", searchBody(user, readAction, `{"id":"x"}`)},
		{"action", searchBody(user, "", "")},
		{"action", searchBody(user, "", anyDoc)},
		{"action", searchBody(`{"type":"user"}`, "", doc)},
		{"action", searchBody(user, "", doc, `"context":[]`)},
		{"action", `[]`}, {"action", `{`}, {"action", ` `},
	} {
		r := a.do("POST", "/access/v1/search/"+tt.path, k.secret, tt.body).is(400)
		if gjson.Parse(r.body).Type != gjson.String || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s", tt.body, r.body)
		}
	}
}
