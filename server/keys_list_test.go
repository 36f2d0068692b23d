package server_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// list returns the ids of a page, and the reply.
func (a *api) list(credential, query string) ([]string, *reply) {
	a.Helper()
	r := a.do("GET", "/v1/access_keys"+query, credential, "").is(200)
	var ids []string
	for _, k := range r.get("access_keys").Array() {
		ids = append(ids, k.Get("id").String())
	}
	return ids, r
}

// fiveKeys makes keys a minute apart: 0 active, 1 expired, 2 revoked first, 3
// revoked later, 4 expired and revoked, all seen from after that.
func fiveKeys(a *api) (ids []string) {
	soon := `"expires_at":"` + a.clock.in(6*time.Minute) + `"`
	for _, more := range [][]string{nil, {soon}, nil, nil, {soon}} {
		ids = append(ids, a.create(`{"decision":true}`, more...).id)
		a.clock.advance(time.Minute)
	}
	a.clock.advance(2 * time.Minute)
	for _, i := range []int{2, 4, 3} {
		a.do("DELETE", "/v1/access_keys/"+ids[i], a.root, "").is(204)
		a.clock.advance(time.Minute)
	}
	return ids
}

func TestList_FiltersByStatusAndSorts(t *testing.T) {
	t.Parallel()
	a := start(t)
	ids := fiveKeys(a)
	for query, want := range map[string][]int{
		"":               {0},
		"?status=active": {0},
		"?status=all":    {4, 3, 2, 1, 0},
		"?status=all&sort_field=created_at&sort_direction=desc":    {4, 3, 2, 1, 0},
		"?status=all&sort_direction=asc":                           {0, 1, 2, 3, 4},
		"?status=revoked":                                          {4, 3, 2},
		"?status=revocked":                                         {4, 3, 2},
		"?status=revoked&sort_field=revoked_at":                    {3, 4, 2},
		"?status=revoked&sort_field=revoked_at&sort_direction=asc": {2, 4, 3},
		"?status=all&limit=2&offset=1":                             {3, 2},
		"?status=all&limit=100&offset=4":                           {0},
		"?status=all&offset=5":                                     {},
		"?status=all&limit=1":                                      {4},
	} {
		got, r := a.list(a.root, query)
		var places []int
		for _, id := range got {
			places = append(places, slices.Index(ids, id))
		}
		if !slices.Equal(places, want) {
			t.Errorf("%q lists %v, want %v", query, places, want)
		}
		total := map[bool]int64{true: 5, false: 3}[strings.Contains(query, "all")]
		if !strings.Contains(query, "all") && !strings.Contains(query, "rev") {
			total = 1
		}
		if r.get("total").Int() != total {
			t.Errorf("%q: total %s, want %d", query, r.get("total"), total)
		}
	}
	// Those without revoked_at come last whichever way, ties by id.
	for _, direction := range []string{"asc", "desc"} {
		got, _ := a.list(a.root, "?status=all&sort_field=revoked_at&sort_direction="+direction)
		last := []string{ids[0], ids[1]}
		slices.Sort(last)
		if !slices.Equal(got[3:], last) {
			t.Errorf("%s: unrevoked keys are not last, by id: %v of %v", direction, got, ids)
		}
	}
}

func TestList_BreaksTiesById(t *testing.T) {
	t.Parallel()
	a := start(t)
	var ids []string
	for range 5 {
		ids = append(ids, a.create(`{"decision":true}`).id)
	}
	slices.Sort(ids)
	for _, direction := range []string{"asc", "desc"} {
		var paged []string
		for offset := range 5 {
			page, r := a.list(a.root, "?limit=1&sort_direction="+direction+"&offset="+string(rune('0'+offset)))
			paged = append(paged, page...)
			if r.get("limit").Int() != 1 || r.get("offset").Int() != int64(offset) || r.get("total").Int() != 5 {
				t.Errorf("envelope: %s", r.body)
			}
		}
		if !slices.Equal(paged, ids) {
			t.Errorf("%s: paged %v, want %v", direction, paged, ids)
		}
	}
}

func TestList_FiltersByMetadataExactly(t *testing.T) {
	t.Parallel()
	a := start(t)
	make := func(metadata string) string {
		return a.made(a.do("POST", "/v1/access_keys", a.root, `{"scopes":{"customer":{"decision":true}},"metadata":`+metadata+`}`)).id
	}
	alice := make(`{"username":"alice","keyname":"k1","environment":"staging"}`)
	make(`{"username":"Alice","keyname":"k2","environment":"staging"}`)
	make(`{"username":"alice2","keyname":"k3","a b.c":"%_'\""}`)
	odd := make(`{"username":"bob","keyname":"k4","a b.c":"%_'\"é"}`)
	for query, want := range map[string][]string{
		"?metadata.username=alice":                                               {alice},
		"?metadata.username=alice&metadata.environment=staging":                  {alice},
		"?metadata.username=alice&metadata.environment=production":               {},
		"?metadata.username=ali%25":                                              {},
		"?metadata.colour=red":                                                   {},
		"?" + url.QueryEscape("metadata.a b.c") + "=" + url.QueryEscape(`%_'"é`): {odd},
	} {
		got, r := a.list(a.root, query)
		if !slices.Equal(got, want) && len(got)+len(want) > 0 || r.get("total").Int() != int64(len(want)) {
			t.Errorf("%s lists %v of %s, want %v", query, got, r.get("total"), want)
		}
	}
}

func TestList_RefusesBadQueriesAndNamesWhatIsAllowed(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, tt := range []struct{ query, code, pointer, names string }{
		{"status=expired", "invalid_parameter", "query:status", "active, all, revoked, revocked"},
		{"status=", "invalid_parameter", "query:status", "active, all"},
		{"status=ALL", "invalid_parameter", "query:status", "all"},
		{"limit=0", "invalid_parameter", "query:limit", "1 to 100"},
		{"limit=101", "invalid_parameter", "query:limit", "1 to 100"},
		{"limit=-1", "invalid_parameter", "query:limit", "1 to 100"},
		{"limit=ten", "invalid_parameter", "query:limit", "1 to 100"},
		{"limit=99999999999999999999", "invalid_parameter", "query:limit", "1 to 100"},
		{"offset=-1", "invalid_parameter", "query:offset", "from 0"},
		{"offset=1.5", "invalid_parameter", "query:offset", "from 0"},
		{"sort_field=id", "invalid_parameter", "query:sort_field", "created_at, revoked_at"},
		{"sort_direction=up", "invalid_parameter", "query:sort_direction", "desc, asc"},
		{"colour=red", "unknown_parameter", "query:colour", "sort_direction"},
		{"Limit=1", "unknown_parameter", "query:Limit", "limit"},
		{"metadata=x", "unknown_parameter", "query:metadata", "metadata."},
		{"metadata.=x", "unknown_parameter", "query:metadata.", "metadata."},
		{"limit=1&limit=1", "duplicate_parameter", "query:limit", "once"},
		{"limit=1&%6Cimit=2", "duplicate_parameter", "query:limit", "once"},
		{"limit=%zz", "invalid_query", "query:", "malformed"},
	} {
		r := a.do("GET", "/v1/access_keys?"+tt.query, a.root, "").refused(400, tt.code, tt.pointer)
		if !strings.Contains(r.body, tt.names) {
			t.Errorf("%s: does not name %q: %s", tt.query, tt.names, r.body)
		}
	}
}

func TestOwnAPI_RefusesUnknownQueryNamesEverywhere(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	event := a.events("default")[0].Get("id").String()
	for _, tt := range []struct{ method, path, credential, body string }{
		{"GET", "/v1/access_keys", k.secret, ""},
		{"GET", "/v1/access_keys/self", k.secret, ""},
		{"GET", "/v1/access_keys/" + k.id, k.secret, ""},
		{"GET", "/v1/access_keys/" + k.id + "/rego", k.secret, ""},
		{"DELETE", "/v1/access_keys/" + k.id, a.root, ""},
		{"POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`)},
		{"POST", "/v1/access_keys/" + k.id + "/rotate", a.root, `{}`},
		{"POST", "/v1/access_keys/verify", k.secret, `{"key":"x"}`},
		{"GET", "/v1/customers", a.root, ""},
		{"POST", "/v1/customers", a.root, `{"name":"x"}`},
		{"GET", "/v1/customers/default", a.root, ""},
		{"PATCH", "/v1/customers/default", a.root, `{"name":"x"}`},
		{"DELETE", "/v1/customers/default", a.root, ""},
		{"POST", "/v1/root/rotate", a.root, ""},
		{"GET", "/v1/auditing", k.secret, ""},
		{"GET", "/v1/auditing/" + event, k.secret, ""},
		{"POST", "/v1/auditing/verify", k.secret, ""},
		{"POST", "/decision", k.secret, evaluation(subject(k.id), "read", "policies", "x")},
		{"POST", "/decision/batch", k.secret, `{"evaluations":[]}`},
		{"POST", "/decision/explain", k.secret, evaluation(subject(k.id), "read", "policies", "x")},
	} {
		r := a.do(tt.method, tt.path+"?dry_run=1", tt.credential, tt.body)
		if r.status == 201 {
			a.keep(r.text("key"))
		}
		r.refused(400, "unknown_parameter", "query:dry_run")
	}
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200) // nothing has happened
}

// visibility: who sees which of the keys made from the scopes.
func TestKeys_AreSeenOnlyWhereAllTheirScopeNamesAreListed(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.maxActive = 50 })
	made := map[string]key{}
	for name, scope := range map[string]string{
		"decision": `{"decision":true}`, "policies": `{"policies":[{"f":"*","p":2}]}`, "both": `{"decision":true,"policies":[{"f":"a","p":2}]}`,
		"app": `{"todo":[{"f":"*","p":2}]}`, "app and decision": `{"todo":[{"f":"*","p":2}],"decision":true}`,
		"false boolean": `{"decision":true,"search":false}`, "empty list": `{"decision":true,"sets":[]}`,
	} {
		made[name] = a.create(scope)
	}
	everything := []string{"decision", "policies", "both", "app", "app and decision", "false boolean", "empty list"}
	for listed, want := range map[string][]string{
		`["*"]`:                        everything,
		`["decision"]`:                 {"decision"},
		`["policies"]`:                 {"policies"},
		`["decision","policies"]`:      {"decision", "policies", "both"},
		`["decision","search"]`:        {"decision", "false boolean"},
		`["decision","sets"]`:          {"decision", "empty list"},
		`["audit_events"]`:             {},
		`["access_keys","decision"]`:   {"decision"},
		`["bundles","sets","sidecar"]`: {},
	} {
		viewer := a.create(`{"access_keys":` + listed + `}`)
		seen, r := a.list(viewer.secret, "?limit=100")
		var own []string // viewers see one another through access_keys or *
		for _, id := range seen {
			for name, k := range made {
				if k.id == id {
					own = append(own, name)
				}
			}
		}
		slices.Sort(own)
		slices.Sort(want)
		if !slices.Equal(own, want) {
			t.Errorf("%s sees %v, want %v", listed, own, want)
		}
		if r.get("total").Int() != int64(len(seen)) {
			t.Errorf("%s: total %s counts what is hidden: %d seen", listed, r.get("total"), len(seen))
		}
		for name, k := range made {
			for _, suffix := range []string{"", "/rego"} {
				r := a.do("GET", "/v1/access_keys/"+k.id+suffix, viewer.secret, "")
				if slices.Contains(want, name) {
					r.is(200)
				} else {
					r.refused(404, "key_not_found")
				}
			}
		}
	}
}

func TestKeys_CannotBeListedWithoutTheScope(t *testing.T) {
	t.Parallel()
	a := start(t)
	for _, scope := range []string{`{"decision":true}`, `{"decision":true,"access_keys":[]}`, `{"audit_events":true,"search":true}`} {
		k := a.create(scope)
		for _, path := range []string{"", "/" + k.id, "/" + k.id + "/rego"} {
			a.do("GET", "/v1/access_keys"+path, k.secret, "").refused(403, "scope_missing")
		}
	}
}

func TestKeys_OfOtherCustomersAndOddIdsAreNotFound(t *testing.T) {
	t.Parallel()
	a := start(t)
	own := a.create(everyScope)
	a.customer("acme")
	other := a.createFor("acme", everyScope)
	for _, id := range []string{other.id, "00000000-0000-4000-8000-000000000000", "x", "..", "%2e%2e", strings.ToUpper(own.id),
		"{" + own.id + "}", "urn:uuid:" + own.id, strings.ReplaceAll(own.id, "-", ""), own.id + "%00", own.handle, strings.Repeat("a", 3000)} {
		for _, credential := range []string{own.secret, a.root} {
			r := a.do("GET", "/v1/access_keys/"+id, credential, "", "X-Customer-ID", "default")
			if r.status != 404 {
				t.Errorf("GET %s: %d %s", id, r.status, r.body)
			}
		}
		if r := a.do("DELETE", "/v1/access_keys/"+id, a.root, "", "X-Customer-ID", "default"); r.status != 404 {
			t.Errorf("DELETE %s: %d %s", id, r.status, r.body)
		}
	}
	if ids, _ := a.list(own.secret, "?status=all"); !slices.Equal(ids, []string{own.id}) {
		t.Errorf("the list crosses customers: %v", ids)
	}
	if got := a.do("GET", "/v1/access_keys/"+other.id, a.root, "", "X-Customer-ID", "acme").is(200).text("customer_id"); got != "acme" {
		t.Errorf("customer_id = %s", got)
	}
}

func TestSelf_ShowsTheCallersRecordAndRights(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2},{"f":"staging","p":4}],"todo":[{"f":"t-*","a":["close"]}]}`)
	r := a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	for path, want := range map[string]string{
		"id": `"` + k.id + `"`, "handle": `"` + k.handle + `"`, "rights.booleans": `["decision"]`, "rights.access_keys": `[]`,
		"rights.resources.policies": `[{"selector":"*","permissions":["read"],"actions":[],"restricted":false},{"selector":"staging","permissions":["read","update"],"actions":[],"restricted":false}]`,
		"rights.resources.todo":     `[{"selector":"t-*","permissions":[],"actions":["close"],"restricted":false}]`,
	} {
		if got := r.get(path).Raw; got != want {
			t.Errorf("%s = %s, want %s", path, got, want)
		}
	}
	a.do("GET", "/v1/access_keys/self", a.root, "").refused(404, "key_not_found")
}

func TestLastUse_IsRecordedOnceAMinuteOutsideTheRequest(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	record := func() gjson.Result {
		if _, err := a.uses.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		return a.do("GET", "/v1/access_keys/"+k.id, a.root, "").get("last_used_at")
	}
	if got := record(); got.Type != gjson.Null {
		t.Errorf("last used %s before any use", got)
	}
	first := a.clock.in(0)
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	a.clock.advance(59 * time.Second)
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	if got := record().String(); got != first {
		t.Errorf("last used %s, want %s", got, first)
	}
	a.clock.advance(time.Second)
	second := a.clock.in(0)
	a.do("GET", "/v1/access_keys/self", k.secret, "").is(200)
	if got := record().String(); got != second {
		t.Errorf("last used %s, want %s", got, second)
	}
}

// TestExamples_TheWorkedExamplePermitsItsFiveBullets is the access-key document's key.
func TestExamples_TheWorkedExamplePermitsItsFiveBullets(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.made(a.do("POST", "/v1/access_keys", a.root, `{"scopes":{"customer":{"decision":true,"access_keys":["*"],`+
		`"policies":[{"f":"*","p":2},{"f":"staging","p":4}]},"metadata":{"username":"dale.cooper","keyname":"dashboard_dale.cooper"}}}`))
	for _, path := range []string{"/decision", "/decision/explain", "/access/v1/evaluation", "/decision/batch"} {
		a.do("POST", path, k.secret, evaluation(subject(k.id), "update", "policies", "staging")).is(200)
	}
	a.do("GET", "/v1/access_keys", k.secret, "").is(200)
	events := a.do("GET", "/v1/auditing", k.secret, "").is(200).get("events").Array()
	a.do("GET", "/v1/auditing/"+events[0].Get("id").String(), k.secret, "").is(200)
	a.do("POST", "/v1/auditing/verify", k.secret, "").is(200)
	for question, want := range map[[2]string]bool{
		{"read", "x"}: true, {"read", "staging"}: true, {"update", "staging"}: true,
		{"update", "x"}: false, {"create", "x"}: false, {"delete", "staging"}: false, {"update", "staging2"}: false,
	} {
		if got := a.decide(k.secret, evaluation(subject(k.id), question[0], "policies", question[1])).get("decision").Bool(); got != want {
			t.Errorf("%v: %v, want %v", question, got, want)
		}
	}
	a.do("DELETE", "/v1/access_keys/"+a.create(`{"decision":true}`).id, k.secret, "").refused(403, "not_permitted")
}
