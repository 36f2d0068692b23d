package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	_ "modernc.org/sqlite" // to forge events behind the server's back
)

func actions(events []gjson.Result) (list []string) {
	for _, e := range events {
		list = append(list, e.Get("action").String())
	}
	return list
}

func TestAudit_OneEventAChangeAndNoneForRefusals(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	k = a.rotate(k, `{"grace":"1h"}`)
	a.do("DELETE", "/v1/access_keys/"+k.id, k.secret, "").is(204)
	for _, tt := range [][3]string{ // refused: nothing of it in the chain
		{"POST", "/v1/access_keys", `{}`}, {"POST", "/v1/access_keys/" + k.id + "/rotate", `{}`}, {"DELETE", "/v1/access_keys/" + k.id, ""},
		{"DELETE", "/v1/access_keys/none", ""}, {"DELETE", "/v1/customers/default", ""}, {"POST", "/v1/customers", `{"id":"default","name":"x"}`},
		{"PATCH", "/v1/customers/nobody", `{"name":"x"}`},
	} {
		if r := a.do(tt[0], tt[1], a.root, tt[2]); r.status < 400 {
			t.Errorf("%v: %d", tt, r.status)
		}
	}
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Us"}`).is(200)
	events := a.events("default")
	if got := actions(events); !slices.Equal(got, []string{"access_key.create", "access_key.rotate", "access_key.revoke", "customer.update"}) {
		t.Errorf("%v", got)
	}
	for i, e := range events {
		if e.Get("seq").Int() != int64(i+1) {
			t.Errorf("event %d has seq %s", i, e.Get("seq"))
		}
		if i > 0 && e.Get("prev_hash").String() != events[i-1].Get("hash").String() {
			t.Errorf("event %d does not follow", i)
		}
	}
	if got := actions(a.events("_system")); !slices.Equal(got, []string{"customer.create", "root_key.create"}) {
		t.Errorf("system: %v", got)
	}
}

func TestAudit_AnEventSaysWhoDidWhat(t *testing.T) {
	t.Parallel()
	a := start(t)
	r := a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "X-Request-ID", "req-1")
	k := a.made(r)
	e := a.events("default")[0]
	for member, want := range map[string]string{
		"at": `"2026-11-21T22:10:00Z"`, "customer_id": `"default"`, "actor.type": `"root"`, "actor.id": `"root"`, "actor.credential": `"` + a.root[:len("lkr1_")+12] + `"`,
		"actor.ip": `"127.0.0.1"`, "resource": `{"type":"access_key","name":"dale","id":"` + k.id + `"}`, "outcome": `"success"`, "request_id": `"req-1"`,
		"changes": `{"handle":"` + k.handle + `","username":"dale.cooper","scopes":{"customer":{"decision":true}},"expires_at":null}`,
	} {
		if got := e.Get(member).Raw; got != want {
			t.Errorf("%s = %s, want %s", member, got, want)
		}
	}
	if got := a.do("GET", "/v1/auditing/"+e.Get("id").String(), a.root, "").is(200).body; got != e.Raw {
		t.Errorf("by id: %s\nlisted: %s", got, e.Raw)
	}
}

func TestAudit_FiltersAndPages(t *testing.T) {
	t.Parallel()
	a := start(t)
	reader := a.create(`{"audit_events":true}`)
	var revoked key
	for i := range 6 {
		a.clock.advance(time.Minute)
		k := a.made(a.do("POST", "/v1/access_keys", a.root, strings.Replace(newKeyBody(`{"decision":true}`), `"dale"`, fmt.Sprintf(`"key-%d"`, i), 1), "X-Request-ID", fmt.Sprint("r", i)))
		if i == 3 {
			revoked = k
			a.do("DELETE", "/v1/access_keys/"+k.id, k.secret, "").is(204)
		}
	}
	count := func(query string) int {
		return len(a.do("GET", "/v1/auditing?"+query, reader.secret, "").is(200).get("events").Array())
	}
	from, to := a.clock.in(-3*time.Minute), a.clock.in(-time.Minute)
	for query, want := range map[string]int{
		"": 8, "limit=1000": 8, "limit=3": 3, "action=access_key.create": 7, "action=access_key.revoke": 1, "action=access_key": 0,
		"actor=root": 7, "actor=" + revoked.id: 1, "resource_type=access_key": 8, "resource_type=customer": 0, "resource_name=key-3": 2,
		"outcome=success": 8, "outcome=refused": 0, "request_id=r4": 1, "from=" + from: 5, "to=" + to: 6, "from=" + from + "&to=" + to: 3,
		"from=" + from + "&action=access_key.revoke": 1, "action=access_key.create&resource_name=key-3&actor=root": 1,
	} {
		if got := count(query); got != want {
			t.Errorf("%q: %d events, want %d", query, got, want)
		}
	}
	var all, paged []string
	for _, e := range a.do("GET", "/v1/auditing", reader.secret, "").get("events").Array() {
		all = append(all, e.Get("id").String())
	}
	for cursor, pages := "", 0; pages < 10; pages++ {
		r := a.do("GET", "/v1/auditing?limit=3"+cursor, reader.secret, "").is(200)
		for _, e := range r.get("events").Array() {
			paged = append(paged, e.Get("id").String())
		}
		if pages == 0 { // what is written meanwhile comes before the first page, and moves nothing
			a.create(`{"decision":true}`)
		}
		if r.get("next_cursor").Type == gjson.Null {
			break
		}
		cursor = "&cursor=" + r.text("next_cursor")
	}
	if !slices.Equal(all, paged) {
		t.Errorf("paged %v\nwant %v", paged, all)
	}
}

func TestAudit_RefusesBadQueries(t *testing.T) {
	t.Parallel()
	a := start(t)
	for query, code := range map[string]string{
		"limit=0": "invalid_parameter", "limit=1001": "invalid_parameter", "from=yesterday": "invalid_parameter", "to=2026-01-01": "invalid_parameter",
		"cursor=x": "invalid_cursor", "outcome=failure": "invalid_parameter", "cursor=c2VxOi0x": "invalid_cursor", "cursor=": "invalid_cursor", "chain=default": "invalid_parameter", "colour=red": "unknown_parameter",
		"action=a&action=b": "duplicate_parameter",
	} {
		a.do("GET", "/v1/auditing?"+query, a.root, "").refused(400, code)
	}
	for _, id := range []string{"x", "00000000-0000-4000-8000-000000000000", "verify2", "%00"} {
		a.do("GET", "/v1/auditing/"+id, a.root, "").refused(404, "event_not_found")
	}
}

func TestAudit_LimitedCallersSeeEventsAboutKeysAlone(t *testing.T) {
	t.Parallel()
	a := start(t)
	star, named, full := a.create(`{"access_keys":["*"]}`), a.create(`{"access_keys":["audit_events"]}`), a.create(`{"audit_events":true}`)
	a.do("PATCH", "/v1/customers/default", a.root, `{"name":"Us"}`).is(200)
	other := ""
	for _, e := range a.events("default") {
		if e.Get("resource.type").String() == "customer" {
			other = e.Get("id").String()
		}
	}
	for _, k := range []key{star, named} {
		for query, want := range map[string]int{"": 3, "?resource_type=customer": 0, "?resource_type=access_key": 3, "?action=customer.update": 0} {
			if got := len(a.do("GET", "/v1/auditing"+query, k.secret, "").is(200).get("events").Array()); got != want {
				t.Errorf("%q: %d events, want %d", query, got, want)
			}
		}
		a.do("GET", "/v1/auditing/"+other, k.secret, "").refused(404, "event_not_found")
	}
	if got := len(a.do("GET", "/v1/auditing", full.secret, "").get("events").Array()); got != 4 {
		t.Errorf("%d events", got)
	}
	a.do("GET", "/v1/auditing/"+other, full.secret, "").is(200)
	for _, scope := range []string{`{"decision":true,"search":true}`, `{"access_keys":["decision","access_keys"]}`, `{"audit_events":false,"search":true}`} {
		k := a.create(scope)
		a.do("GET", "/v1/auditing", k.secret, "").refused(403, "scope_missing")
		a.do("GET", "/v1/auditing/"+other, k.secret, "").refused(403, "scope_missing")
		a.do("POST", "/v1/auditing/verify", k.secret, "").refused(403, "scope_missing")
	}
}

func TestAudit_ChainsAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	a := start(t)
	full := a.create(`{"audit_events":true}`)
	a.customer("acme")
	theirs := a.createFor("acme", `{"audit_events":true}`)
	if got := len(a.do("GET", "/v1/auditing", full.secret, "").get("events").Array()); got != 1 {
		t.Errorf("%d events", got)
	}
	foreign := a.events("acme")[0].Get("id").String()
	a.do("GET", "/v1/auditing/"+foreign, full.secret, "").refused(404, "event_not_found")
	a.do("GET", "/v1/auditing/"+foreign, theirs.secret, "").is(200)
	for _, path := range []string{"/v1/auditing", "/v1/auditing/" + foreign} {
		a.do("GET", path+"?chain=system", full.secret, "").refused(403, "not_permitted")
	}
	a.do("POST", "/v1/auditing/verify?chain=system", full.secret, "").refused(403, "not_permitted")
	r := a.do("POST", "/v1/auditing/verify?chain=system", a.root, "").is(200)
	if !r.get("holds").Bool() || r.text("chain") != "_system" || r.get("events").Int() != 3 {
		t.Error(r.body)
	}
	if got := actions(a.events("_system")); !slices.Equal(got, []string{"customer.create", "root_key.create", "customer.create"}) {
		t.Errorf("%v", got)
	}
}

func TestAudit_VerifyNamesAForgedEvent(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.tamper = true })
	k := a.create(`{"audit_events":true}`)
	a.create(`{"decision":true}`)
	r := a.do("POST", "/v1/auditing/verify", k.secret, "").is(200)
	if r.body != `{"chain":"default","events":2,"head":2,"holds":true,"findings":[]}` {
		t.Error(r.body)
	}
	a.exec(`UPDATE audit_events SET actor_id = 'nobody' WHERE chain = 'default' AND seq = 1`)
	r = a.do("POST", "/v1/auditing/verify", k.secret, "").is(200)
	if r.get("holds").Bool() || r.get("findings.0.seq").Int() != 1 || r.text("findings.0.code") != "edited" {
		t.Error(r.body)
	}
}
