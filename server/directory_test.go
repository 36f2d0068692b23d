package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

func manager(a *api) key { return a.create(`{"resources_manage":true}`) }

// entity is one element of a bulk update of resources.
func entity(kind, id string, more ...string) string {
	body := `{"kind":"` + kind + `","id":"` + id + `"`
	for _, m := range more {
		body += "," + m
	}
	return body + "}"
}

func resources(items ...string) string { return `{"resources":[` + strings.Join(items, ",") + `]}` }
func subjects(items ...string) string  { return `{"subjects":[` + strings.Join(items, ",") + `]}` }

func TestDirectory_ResourcesAreUpsertedShownListedAndDeleted(t *testing.T) {
	t.Parallel()
	a := start(t)
	m := manager(a)
	bulk := func(items ...string) *reply {
		t.Helper()
		return a.do("POST", "/v1/resources:bulkUpdate", m.secret, resources(items...)).is(200)
	}
	r := bulk(
		entity("customer", "acme", `"displayName":"Acme"`, `"labels":{"plan":"pro","eu":"yes"}`, `"properties":{"z":1,"a":[1.0]}`),
		`{"type":"host","id":"/db/1"}`,
	)
	acme := `{"kind":"customer","id":"acme","displayName":"Acme","labels":{"eu":"yes","plan":"pro"},"properties":{"a":[1.0],"z":1}}`
	host := `{"kind":"host","id":"/db/1","displayName":"","labels":{},"properties":{}}`
	if want := `{"resources":[` + acme + `,` + host + `]}`; r.body != want {
		t.Errorf("got %s, want %s", r.body, want)
	}
	if again := bulk(entity("customer", "acme")); again.body != `{"resources":[`+acme+`]}` {
		t.Errorf("a member that was not sent has changed: %s", again.body)
	}
	changed := bulk(entity("customer", "acme", `"labels":{"plan":"free"}`, `"properties":{}`))
	if want := `{"resources":[{"kind":"customer","id":"acme","displayName":"Acme","labels":{"plan":"free"},"properties":{}}]}`; changed.body != want {
		t.Errorf("a member that was sent was not replaced whole: %s", changed.body)
	}
	if got := a.do("GET", "/v1/resources/host/"+url.PathEscape("/db/1"), m.secret, "").is(200).body; got != host {
		t.Errorf("got %s, want %s", got, host)
	}
	bulk(entity("host", "a"), entity("host", "b", `"labels":{"plan":"free"}`), entity("host", "é1"), entity("host", "%a"))
	for query, want := range map[string]string{
		"":                                   `["acme","%a","/db/1","a","b","é1"]`,
		"?kind=host":                         `["%a","/db/1","a","b","é1"]`,
		"?kind=host&prefix=%25":              `["%a"]`,
		"?prefix=%C3%A9":                     `["é1"]`,
		"?prefix=A":                          `[]`,
		"?label.plan=free":                   `["acme","b"]`,
		"?label.plan=free&kind=host":         `["b"]`,
		"?label.plan=pro":                    `[]`,
		"?label.plan=free&label.eu=yes":      `[]`,
		"?kind=nothing":                      `[]`,
		"?kind=host&prefix=b&label.plan=fre": `[]`,
	} {
		list := a.do("GET", "/v1/resources"+query, m.secret, "").is(200)
		if got := list.get("resources.#.id").Raw; got != want || list.get("next_cursor").Raw != "null" {
			t.Errorf("%s: got %s, want %s", query, list.body, want)
		}
	}
	if r := a.do("GET", "/v1/resources?label=plan", m.secret, "").refused(400, "unknown_parameter"); !strings.Contains(r.body, "label.NAME") {
		t.Errorf("the refusal does not say how labels are asked for: %s", r.body)
	}
	var ids []string
	for path := "/v1/resources?limit=2"; ; {
		page := a.do("GET", path, m.secret, "").is(200)
		for _, id := range page.get("resources.#.id").Array() {
			ids = append(ids, id.String())
		}
		if page.get("next_cursor").Type == gjson.Null {
			break
		}
		path = "/v1/resources?limit=2&cursor=" + page.text("next_cursor")
	}
	if got := strings.Join(ids, " "); got != "acme %a /db/1 a b é1" {
		t.Errorf("paged: %s", got)
	}
	if r := a.do("DELETE", "/v1/resources/host/b", m.secret, "").is(204); r.body != "" {
		t.Error(r.body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		a.do(method, "/v1/resources/host/b", m.secret, "").refused(404, "resource_not_found")
		a.do(method, "/v1/resources/host/%FF", m.secret, "").refused(404, "resource_not_found")
	}
}

func TestDirectory_SubjectsAndResourceTypes(t *testing.T) {
	t.Parallel()
	a := start(t)
	m := manager(a)
	r := a.do("POST", "/v1/subjects:bulkUpdate", m.secret, subjects(
		`{"type":"user","id":"alice","properties":{"role":"admin"}}`, `{"type":"access_key","id":"`+m.id+`","properties":{"team":"x"}}`, `{"type":"user","id":"bob"}`)).is(200)
	if want := `{"subjects":[{"type":"user","id":"alice","properties":{"role":"admin"}},{"type":"access_key","id":"` + m.id + `","properties":{"team":"x"}},{"type":"user","id":"bob","properties":{}}]}`; r.body != want {
		t.Errorf("got %s, want %s", r.body, want)
	}
	if got := a.do("GET", "/v1/subjects?type=user&prefix=a", m.secret, "").is(200).body; got != `{"subjects":[{"type":"user","id":"alice","properties":{"role":"admin"}}],"next_cursor":null}` {
		t.Error(got)
	}
	if got := a.do("GET", "/v1/subjects/user/alice", m.secret, "").is(200).text("properties.role"); got != "admin" {
		t.Error(got)
	}
	a.do("DELETE", "/v1/subjects/user/alice", m.secret, "").is(204)
	a.do("DELETE", "/v1/subjects/user/alice", m.secret, "").refused(404, "subject_not_found")
	a.do("GET", "/v1/subjects/user/alice", m.secret, "").refused(404, "subject_not_found")

	put := a.do("PUT", "/v1/resource_types/todo", m.secret, `{"actions":["view","edit","read"]}`).is(200)
	if put.body != `{"type":"todo","actions":["view","edit","read"]}` || a.do("GET", "/v1/resource_types/todo", m.secret, "").is(200).body != put.body {
		t.Error(put.body)
	}
	a.do("PUT", "/v1/resource_types/todo", m.secret, `{"type":"todo","actions":["view"]}`).is(200)
	if got := a.do("GET", "/v1/resource_types", m.secret, "").is(200).body; got != `{"resource_types":[{"type":"todo","actions":["view"]}],"next_cursor":null}` {
		t.Error(got)
	}
	a.do("DELETE", "/v1/resource_types/todo", m.secret, "").is(204)
	a.do("DELETE", "/v1/resource_types/todo", m.secret, "").refused(404, "resource_type_not_found")
	a.do("GET", "/v1/resource_types/todo", m.secret, "").refused(404, "resource_type_not_found")
	for _, tt := range []struct{ body, code, pointer string }{
		{`{}`, "missing_member", "/actions"},
		{`{"actions":"x"}`, "wrong_type", "/actions"},
		{`{"actions":[]}`, "invalid_actions", "/actions"},
		{`{"actions":["a",1]}`, "wrong_type", "/actions/1"},
		{`{"actions":["*"]}`, "invalid_action", "/actions/0"},
		{`{"actions":["a","a"]}`, "duplicate_action", "/actions/1"},
		{`{"actions":["a"],"type":"other"}`, "type_conflict", "/type"},
		{`{"actions":["a"],"x":1}`, "unknown_member", "/x"},
	} {
		a.do("PUT", "/v1/resource_types/todo", m.secret, tt.body).refused(400, tt.code, tt.pointer)
	}
	a.do("PUT", "/v1/resource_types/latchkey_x", m.secret, `{"actions":["a"]}`).refused(400, "invalid_kind", "path:type")
}

// One bad entity among ten thousand is answered in its place, and the others
// are stored.
func TestDirectory_OneBadItemAmongTenThousandIsAnsweredInItsPlace(t *testing.T) {
	t.Parallel()
	a := start(t)
	m := manager(a)
	items := make([]string, 10_001)
	for i := range items {
		items[i] = entity("host", fmt.Sprintf("h%05d", i), `"properties":{"n":`+fmt.Sprint(i)+`}`)
	}
	items[5000] = entity("host", "h*")
	r := a.do("POST", "/v1/resources:bulkUpdate", m.secret, resources(items...)).is(200)
	list := r.get("resources").Array()
	if len(list) != len(items) {
		t.Fatalf("%d answers", len(list))
	}
	for i, e := range list {
		switch wrong := e.Get("error"); {
		case i == 5000:
			if wrong.Get("status").Int() != 400 || wrong.Get("code").String() != "invalid_resource_id" || !strings.Contains(wrong.Get("message").String(), "/resources/5000/id") {
				t.Errorf("%s", e.Raw)
			}
		case wrong.Exists() || e.Get("properties.n").Int() != int64(i):
			t.Fatalf("%d: %s", i, e.Raw)
		}
	}
	if p := a.entities.Resource("default", "host", "h10000"); p.Value().Get("n").Raw() != "10000" || a.entities.Len() != 10_000 {
		t.Errorf("memory has %v, %d in all", p, a.entities.Len())
	}
	events := a.events("default")
	last := events[len(events)-1]
	if last.Get("action").String() != "resource.bulk_update" || last.Get("changes.count").Int() != 10_000 || last.Get("changes.ids.#").Int() != 100 || last.Get("changes.ids.0").String() != "host:h00000" {
		t.Errorf("%s", last.Raw)
	}
}

func TestDirectory_RefusesWhatIsWrongWithAnItem(t *testing.T) {
	t.Parallel()
	a := start(t)
	m := manager(a)
	long := strings.Repeat("x", 1025)
	for _, tt := range []struct{ list, item, code, pointer string }{
		{"resources", `7`, "wrong_type", "/resources/0"},
		{"resources", `{"id":"x"}`, "missing_member", "/resources/0/kind"},
		{"resources", `{"kind":"host"}`, "missing_member", "/resources/0/id"},
		{"resources", `{"kind":"host","type":"host","id":"x"}`, "two_kinds", "/resources/0/type"},
		{"resources", entity("Host", "x"), "invalid_kind", "/resources/0/kind"},
		{"resources", entity("latchkey_x", "x"), "invalid_kind", "/resources/0/kind"},
		{"resources", entity("host", ""), "empty_string", "/resources/0/id"},
		{"resources", entity("host", long), "too_long", "/resources/0/id"},
		// As an entry of a grant's scopes it would select every host.
		{"resources", entity("host", "*"), "invalid_resource_id", "/resources/0/id"},
		{"resources", entity("host", "prod*"), "invalid_resource_id", "/resources/0/id"},
		{"resources", entity("host", `a\u0007`), "control_character", "/resources/0/id"},
		{"resources", entity("host", a.root), "credential_in_name", "/resources/0/id"},
		{"resources", entity("host", "x", `"displayName":null`), "wrong_type", "/resources/0/displayName"},
		{"resources", entity("host", "x", `"displayName":"`+strings.Repeat("é", 501)+`"`), "too_long", "/resources/0/displayName"},
		{"resources", entity("host", "x", `"labels":[]`), "wrong_type", "/resources/0/labels"},
		{"resources", entity("host", "x", `"labels":{"a":1}`), "wrong_type", "/resources/0/labels/a"},
		{"resources", entity("host", "x", `"labels":{"":"a"}`), "invalid_label", "/resources/0/labels/"},
		// JavaScript would write it in another place than we have signed it in.
		{"resources", entity("host", "x", `"labels":{"a":"b","7":"x"}`), "invalid_label", "/resources/0/labels/7"},
		{"resources", entity("host", "x", `"labels":{"é":"x"}`), "invalid_label", "/resources/0/labels/é"},
		{"resources", entity("host", "x", `"labels":{"a":"`+a.root+`"}`), "credential_in_label", "/resources/0/labels/a"},
		{"resources", entity("host", "x", `"properties":"a"`), "wrong_type", "/resources/0/properties"},
		{"resources", entity("host", "x", `"properties":{"a":{"b":"`+a.root+`"}}`), "credential_in_properties", "/resources/0/properties"},
		{"resources", entity("host", "x", `"properties":{"a":"`+strings.Repeat("x", 17<<10)+`"}`), "properties_too_large", "/resources/0/properties"},
		{"resources", entity("host", "x", `"owner":"a"`), "unknown_member", "/resources/0/owner"},
		{"subjects", `{"type":"user"}`, "missing_member", "/subjects/0/id"},
		// A policy would take it for a key's.
		{"subjects", `{"type":"Access-Key","id":"x"}`, "confusable_subject_type", "/subjects/0/type"},
		{"subjects", `{"type":"access_key","id":"` + m.handle + `"}`, "invalid_key_id", "/subjects/0/id"},
		{"subjects", `{"type":"access_key","id":"` + m.id + `","properties":{"metadata":{"username":"root"}}}`, "reserved_property", "/subjects/0/properties/metadata"},
		{"subjects", `{"type":"access_key","id":"` + m.id + `","properties":{"key":"x"}}`, "reserved_property", "/subjects/0/properties/key"},
	} {
		r := a.do("POST", "/v1/"+tt.list+":bulkUpdate", m.secret, `{"`+tt.list+`":[`+tt.item+`]}`).is(200)
		e := r.get(tt.list + ".0.error")
		if e.Get("status").Int() != 400 || e.Get("code").String() != tt.code || !strings.HasPrefix(e.Get("message").String(), tt.pointer+": ") {
			t.Errorf("%.200s: got %s, want %s at %s", tt.item, r.body, tt.code, tt.pointer)
		}
		if a.leaks(r.body) {
			t.Errorf("a refusal shows a secret: %s", r.body)
		}
	}
	if n := len(a.do("GET", "/v1/resources", m.secret, "").get("resources").Array()); n != 0 {
		t.Errorf("%d were stored", n)
	}
	for _, e := range a.events("default") {
		if strings.HasPrefix(e.Get("action").String(), "resource") {
			t.Errorf("nothing was changed, and yet: %s", e.Raw)
		}
	}
	for _, tt := range []struct{ body, code, pointer string }{
		{`[]`, "wrong_type", ""},
		{`{}`, "missing_member", "/resources"},
		{`{"resources":{}}`, "wrong_type", "/resources"},
		{`{"resources":[],"more":1}`, "unknown_member", "/more"},
		{`{"resources":[` + strings.Repeat("1,", 20_000) + `1]}`, "too_many_items", "/resources"},
	} {
		a.do("POST", "/v1/resources:bulkUpdate", m.secret, tt.body).refused(400, tt.code, tt.pointer)
	}
	for _, path := range []string{"/v1/resources/host/*", "/v1/resources/host/prod%2A"} {
		a.do("GET", path, m.secret, "").refused(400, "invalid_resource_id", "path:id")
		a.do("DELETE", path, m.secret, "").refused(400, "invalid_resource_id", "path:id")
	}
	for _, query := range []string{"limit=0", "limit=1001", "cursor=x", "cursor=AAAA", "label.=x", "prefix=%FF", "name=x"} {
		a.do("GET", "/v1/resources?"+query, m.secret, "").is(400)
	}
}

func TestDirectory_NeedsItsScopeAndStaysWithItsCustomer(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	theirs, other := a.createFor("acme", `{"resources_manage":true}`), a.createFor("default", `{"decision":true,"search":true,"approvals":true,"access_requests_manage":true,"access_keys":["*"],"host":[{"f":"*","p":15}]}`)
	mine := a.createFor("default", `{"resources_manage":true}`)
	a.do("POST", "/v1/resources:bulkUpdate", mine.secret, resources(entity("host", "secret-host", `"properties":{"n":1}`))).is(200)
	a.do("POST", "/v1/subjects:bulkUpdate", mine.secret, subjects(`{"type":"user","id":"alice","properties":{"n":1}}`)).is(200)
	a.do("PUT", "/v1/resource_types/host", mine.secret, `{"actions":["a"]}`).is(200)
	for _, call := range []struct{ method, path, body string }{
		{"POST", "/v1/resources:bulkUpdate", resources(entity("host", "x"))},
		{"GET", "/v1/resources", ""},
		{"GET", "/v1/resources/host/secret-host", ""},
		{"DELETE", "/v1/resources/host/secret-host", ""},
		{"POST", "/v1/subjects:bulkUpdate", subjects(`{"type":"user","id":"x"}`)},
		{"GET", "/v1/subjects", ""},
		{"GET", "/v1/subjects/user/alice", ""},
		{"DELETE", "/v1/subjects/user/alice", ""},
		{"PUT", "/v1/resource_types/host", `{"actions":["a"]}`},
		{"GET", "/v1/resource_types", ""},
		{"GET", "/v1/resource_types/host", ""},
		{"DELETE", "/v1/resource_types/host", ""},
	} {
		a.do(call.method, call.path, other.secret, call.body).refused(403, "scope_missing")
		a.do(call.method, call.path, theirs.secret, call.body, "X-Customer-ID", "default").refused(403, "wrong_customer")
		if call.method == "GET" || call.method == "DELETE" {
			if r := a.do(call.method, call.path, theirs.secret, ""); r.status != 404 && r.status != 200 || strings.Contains(r.body, "secret-host") && r.status == 200 || strings.Contains(r.body, "alice") && r.status == 200 {
				t.Errorf("another customer's entity is seen: %s %s: %s", call.method, call.path, r.body)
			}
		}
	}
	// The same names, another customer: neither sees nor changes the other's.
	a.do("POST", "/v1/resources:bulkUpdate", theirs.secret, resources(entity("host", "secret-host", `"properties":{"n":2}`))).is(200)
	if got := a.do("GET", "/v1/resources/host/secret-host", mine.secret, "").is(200).get("properties.n").Int(); got != 1 {
		t.Errorf("got %d", got)
	}
	if a.entities.Resource("default", "host", "secret-host").Text() != `{"n":1}` || a.entities.Resource("acme", "host", "secret-host").Text() != `{"n":2}` {
		t.Error("memory mixes customers up")
	}
	a.do("DELETE", "/v1/resources/host/secret-host", theirs.secret, "").is(204)
	if a.entities.Resource("default", "host", "secret-host") == nil || a.entities.Resource("acme", "host", "secret-host") != nil {
		t.Error("a deletion reached another customer")
	}
}

// What decisions read is what is stored: after each change, and after a start.
func TestDirectory_MemoryHasWhatIsStored(t *testing.T) {
	t.Parallel()
	a := start(t)
	m := manager(a)
	a.do("POST", "/v1/subjects:bulkUpdate", m.secret, subjects(`{"type":"user","id":"alice","properties":{"a":1}}`, `{"type":"user","id":"bob","properties":{"b":1}}`, `{"type":"user","id":"alice","properties":{"a":2}}`)).is(200)
	a.do("POST", "/v1/resources:bulkUpdate", m.secret, resources(entity("host", "x", `"properties":{"a":1}`))).is(200)
	a.do("POST", "/v1/subjects:bulkUpdate", m.secret, subjects(`{"type":"user","id":"bob","properties":{}}`)).is(200)
	check := func(a *api) {
		t.Helper()
		a.do("GET", "/health/ready", "", "").is(200)
		if got := a.entities.Subject("default", "user", "alice").Text(); got != `{"a":2}` {
			t.Errorf("alice has %s", got)
		}
		if a.entities.Subject("default", "user", "bob") != nil || a.entities.Resource("default", "user", "alice") != nil || a.entities.Len() != 2 {
			t.Error("memory has more than is stored")
		}
	}
	check(a)
	a.stop()
	check(start(t, func(o *options) { o.dir, o.clock = a.dir, a.clock }))
}

func TestDirectory_AChangeThatFailsLeavesMemoryAsItWas(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, subjects(`{"type":"user","id":"alice","properties":{"a":1}}`)).is(200)
	a.loseDatabase()
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, subjects(`{"type":"user","id":"alice","properties":{"a":2}}`)).is(500)
	a.do("DELETE", "/v1/subjects/user/alice", a.root, "").is(500)
	if got := a.entities.Subject("default", "user", "alice").Text(); got != `{"a":1}` {
		t.Errorf("alice has %s", got)
	}
}

// A policy sees what is stored, under what the request brings; of an access key
// by its id, however the request names it, and never another customer's.
func TestDirectory_PoliciesSeeWhatIsStoredUnderTheRequest(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	k := a.createFor("default", `{"decision":true,"doc":[{"f":"*","p":2}]}`)
	theirs := a.createFor("acme", `{"decision":true}`)
	policy := `{"language":"cel","rules":[{"label":"match","match":"subject.properties.?team.orValue('none') == resource.properties.?team.orValue('nobody')","action":"allow"}],"default":{"action":"deny"}}`
	for _, customer := range []string{"default", "acme"} {
		a.do("PUT", "/v1/policies/teams", a.root, policy, "X-Customer-ID", customer).is(201)
		a.do("PATCH", "/v1/customers/"+customer, a.root, `{"default_policy":"teams"}`).is(200)
	}
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, subjects(`{"type":"user","id":"alice","properties":{"team":"red","more":1}}`, `{"type":"access_key","id":"`+k.id+`","properties":{"team":"red"}}`), "X-Customer-ID", "default").is(200)
	a.do("POST", "/v1/resources:bulkUpdate", a.root, resources(entity("doc", "x", `"properties":{"team":"red"}`), entity("doc", "bare")), "X-Customer-ID", "default").is(200)
	with := func(typ, id, properties string) string {
		if properties == "" {
			return `{"type":"` + typ + `","id":"` + id + `"}`
		}
		return `{"type":"` + typ + `","id":"` + id + `","properties":` + properties + `}`
	}
	for _, tt := range []struct {
		subject, resource string
		permit            bool
	}{
		{with("user", "alice", ""), with("doc", "x", ""), true},
		{with("user", "alice", ""), with("doc", "bare", ""), false},
		{with("user", "alice", ""), with("doc", "unknown", `{"team":"red"}`), true},
		{with("user", "alice", `{"team":"blue"}`), with("doc", "x", ""), false},
		{with("user", "alice", `{"other":1}`), with("doc", "x", ""), true},
		{with("user", "Alice", ""), with("doc", "x", ""), false},
		{with("service", "alice", ""), with("doc", "x", ""), false},
		{with("access_key", k.id, ""), with("doc", "x", ""), true},
		{with("access_key", k.handle, ""), with("doc", "x", ""), true},
	} {
		body := `{"subject":` + tt.subject + `,"action":{"name":"read"},"resource":` + tt.resource + `}`
		if r := a.decide(k.secret, body); r.get("decision").Bool() != tt.permit {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	if r := a.decide(theirs.secret, evaluation(with("user", "alice", ""), "read", "doc", "x")); r.get("decision").Bool() {
		t.Errorf("another customer's properties were seen: %s", r.body)
	}
	a.do("DELETE", "/v1/resources/doc/x", a.root, "", "X-Customer-ID", "default").is(204)
	if r := a.decide(k.secret, evaluation(with("user", "alice", ""), "read", "doc", "x")); r.get("decision").Bool() {
		t.Errorf("what was deleted is seen: %s", r.body)
	}
}

// All properties lie in memory: a customer that writes without end would take
// that of the others.
func TestDirectory_ACustomerHasAShareOfMemory(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxDirectory = 100 << 10 })
	key := manager(a)
	a.customer("elsewhere")
	big := func(id string) string {
		return entity("host", id, `"properties":{"x":"`+strings.Repeat("x", 15000)+`"}`)
	}
	bulk := func(items ...string) *reply {
		return a.do("POST", "/v1/resources:bulkUpdate", key.secret, resources(items...))
	}
	bulk(big("1"), big("2")).is(200)
	if r := bulk(entity("host", "small"), big("3"), big("4")); r.status != 409 || r.text("code") != "directory_full" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	a.do("GET", "/v1/resources/host/small", key.secret, "").is(404) // nothing of the call
	bulk(entity("host", "bare"), big("3")).is(200)
	bulk(big("4")).is(409)
	bulk(big("3")).is(200) // takes no more than it did
	bulk(entity("host", "1", `"properties":{}`), entity("host", "2", `"properties":{}`)).is(200)
	bulk(big("4")).is(200)
	a.do("POST", "/v1/resources:bulkUpdate", a.root, resources(big("1")), "X-Customer-ID", "elsewhere").is(200)
}
