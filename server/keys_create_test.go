package server_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

func TestCreate_AnswersTheRecordWithTheSecretOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	r := a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`, `"expires_at":"2027-12-31T23:59:59Z"`)).is(http.StatusCreated)
	k := a.made(r)
	for member, want := range map[string]string{
		"customer_id": `"default"`, "scopes": `{"customer":{"decision":true}}`, "metadata.username": `"dale.cooper"`, "metadata.keyname": `"dale"`,
		"expires_at": `"2027-12-31T23:59:59Z"`, "created_at": `"2026-11-21T22:10:00Z"`, "revoked_at": `null`, "last_used_at": `null`,
	} {
		if got := r.get(member).Raw; got != want {
			t.Errorf("%s = %s, want %s", member, got, want)
		}
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(k.id) {
		t.Errorf("id = %q, want a UUID", k.id)
	}
	if !regexp.MustCompile(`^lk1_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$`).MatchString(k.secret) {
		t.Errorf("key = %q", k.secret)
	}
	if !strings.HasPrefix(k.secret, k.handle+"_") || len(k.handle) != len("lk1_live_")+12 {
		t.Errorf("handle = %q of %q", k.handle, k.secret)
	}
	if got := r.header.Get("Location"); got != "/v1/access_keys/"+k.id {
		t.Errorf("Location = %q", got)
	}
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
	for _, path := range []string{"/v1/access_keys", "/v1/access_keys/" + k.id} { // the secret is never shown again
		if body := a.do("GET", path, a.root, "").is(http.StatusOK).body; a.leaks(body) || strings.Contains(body, `"key"`) {
			t.Errorf("%s shows a secret: %s", path, body)
		}
	}
	if body := a.do("GET", r.header.Get("Location"), a.root, "").is(200).body; gjson.Get(body, "id").String() != k.id {
		t.Errorf("Location leads to %s", body)
	}
}

func TestCreate_MarksKeysWithTheServersMode(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.mode = "test" })
	if k := a.create(`{"decision":true}`); !strings.HasPrefix(k.secret, "lk1_test_") {
		t.Errorf("key = %s…", k.handle)
	}
}

func TestCreate_KeepsFractionsOfSeconds(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.clock.advance(120 * time.Microsecond)
	r := a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`, `"expires_at":"2027-01-01T01:00:00.1234567+01:00"`))
	a.made(r)
	if got := r.text("expires_at") + " " + r.text("created_at"); got != "2027-01-01T00:00:00.123456Z 2026-11-21T22:10:00.00012Z" {
		t.Error(got)
	}
}

func TestCreate_TakesMetadataInsideScopesToo(t *testing.T) {
	t.Parallel()
	a := start(t)
	const meta = `{"username":"dale.cooper","keyname":"dale"}`
	for _, body := range []string{
		`{"scopes":{"customer":{"decision":true},"metadata":` + meta + `}}`,
		`{"scopes":{"customer":{"decision":true},"metadata":` + meta + `},"metadata":{"keyname":"dale", "username":"dale\u002ecooper"}}`,
	} {
		r := a.do("POST", "/v1/access_keys", a.root, body)
		a.made(r)
		if r.get("scopes").Raw != `{"customer":{"decision":true}}` || r.text("metadata.username") != "dale.cooper" || r.get("scopes.metadata").Exists() {
			t.Errorf("%s gave %s", body, r.body)
		}
	}
}

func TestCreate_RefusesWhatIsWrongAndSaysWhere(t *testing.T) {
	t.Parallel()
	a := start(t)
	meta := func(m string) string { return `{"scopes":{"customer":{"decision":true}},"metadata":` + m + `}` }
	fields := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"f%d":"x"`, i)
		}
		return b.String()
	}
	with := func(m string) string { return newKeyBody(`{"decision":true}`, m) }
	const who = `"username":"u","keyname":"k"`
	for _, tt := range []struct{ name, body, code, pointer string }{
		{"no scopes", `{"metadata":{` + who + `}}`, "missing_scopes", "/scopes"},
		{"null scopes", `{"scopes":null,"metadata":{` + who + `}}`, "missing_scopes", "/scopes"},
		{"no customer", `{"scopes":{},"metadata":{` + who + `}}`, "missing_scopes", "/scopes/customer"},
		{"empty scopes", newKeyBody(`{}`), "empty_scopes", "/scopes/customer"},
		{"scopes that give nothing", newKeyBody(`{"decision":false,"policies":[],"access_keys":[]}`), "empty_scopes", "/scopes/customer"},
		{"scopes as a list", `{"scopes":[],"metadata":{` + who + `}}`, "wrong_type", "/scopes"},
		{"unknown member", with(`"colour":"red"`), "unknown_member", "/colour"},
		{"unknown member of scopes", `{"scopes":{"customer":{"decision":true},"tenant":{}},"metadata":{` + who + `}}`, "unknown_member", "/scopes/tenant"},
		{"the id is ours to choose", with(`"id":"9017501f-9fa4-4a88-b657-5bd49c1bb722"`), "unknown_member", "/id"},
		{"body as a list", `[]`, "wrong_type", ""},

		{"capital F", newKeyBody(`{"policies":[{"F":"*","p":2}]}`), "unknown_member", "/scopes/customer/policies/0/F"},
		{"capital P", newKeyBody(`{"policies":[{"f":"*","P":2}]}`), "unknown_member", "/scopes/customer/policies/0/P"},
		{"capital scope name", newKeyBody(`{"Decision":true}`), "invalid_scope_name", "/scopes/customer/Decision"},
		{"reserved name", newKeyBody(`{"latchkey_x":[{"f":"*","p":2}]}`), "invalid_scope_name", "/scopes/customer/latchkey_x"},
		{"boolean as a string", newKeyBody(`{"decision":"true"}`), "wrong_type", "/scopes/customer/decision"},
		{"p 0", newKeyBody(`{"policies":[{"f":"*","p":0}]}`), "invalid_permission", "/scopes/customer/policies/0/p"},
		{"p 16", newKeyBody(`{"policies":[{"f":"*","p":2},{"f":"a","p":16}]}`), "invalid_permission", "/scopes/customer/policies/1/p"},
		{"p -1", newKeyBody(`{"sets":[{"f":"*","p":-1}]}`), "invalid_permission", "/scopes/customer/sets/0/p"},
		{"p 7.0", newKeyBody(`{"sets":[{"f":"*","p":7.0}]}`), "invalid_permission", "/scopes/customer/sets/0/p"},
		{"p 1e1", newKeyBody(`{"sets":[{"f":"*","p":1e1}]}`), "invalid_permission", "/scopes/customer/sets/0/p"},
		{"p as a string", newKeyBody(`{"sets":[{"f":"*","p":"7"}]}`), "invalid_permission", "/scopes/customer/sets/0/p"},
		{"no p", newKeyBody(`{"sets":[{"f":"*"}]}`), "missing_permission", "/scopes/customer/sets/0/p"},
		{"no f", newKeyBody(`{"sets":[{"p":2}]}`), "missing_selector", "/scopes/customer/sets/0/f"},
		{"star in the middle", newKeyBody(`{"policies":[{"f":"a*b","p":2}]}`), "invalid_selector", "/scopes/customer/policies/0/f"},
		{"create on a name", newKeyBody(`{"policies":[{"f":"staging","p":3}]}`), "create_needs_all", "/scopes/customer/policies/0/f"},
		{"r on policies", newKeyBody(`{"policies":[{"f":"*","p":2,"r":{"filter":"a"}}]}`), "restriction_not_allowed", "/scopes/customer/policies/0/r"},
		{"empty r", newKeyBody(`{"sets":[{"f":"*","p":4,"r":{}}]}`), "empty_restriction", "/scopes/customer/sets/0/r"},
		{"a on policies", newKeyBody(`{"policies":[{"f":"*","p":2,"a":["x"]}]}`), "actions_not_allowed", "/scopes/customer/policies/0/a"},
		{"a gives read", newKeyBody(`{"doc":[{"f":"*","a":["read"]}]}`), "invalid_action", "/scopes/customer/doc/0/a/0"},
		{"11 entries", newKeyBody(`{"sets":[` + strings.Repeat(`{"f":"*","p":2},`, 10) + `{"f":"*","p":2}]}`), "too_many_entries", "/scopes/customer/sets"},
		{"access_keys names a type", newKeyBody(`{"access_keys":["todo"]}`), "invalid_access_keys", "/scopes/customer/access_keys/0"},
		{"access_keys holds a number", newKeyBody(`{"access_keys":["*",1]}`), "wrong_type", "/scopes/customer/access_keys/1"},
		{"a credential in a selector", newKeyBody(`{"doc":[{"f":"` + a.root + `","p":2}]}`), "credential_in_scopes", "/scopes"},

		{"no metadata", `{"scopes":{"customer":{"decision":true}}}`, "missing_metadata", "/metadata"},
		{"no username", meta(`{"keyname":"k"}`), "missing_metadata", "/metadata/username"},
		{"no keyname", meta(`{"username":"u"}`), "missing_metadata", "/metadata/keyname"},
		{"blank keyname", meta(`{"username":"u","keyname":" \t"}`), "missing_metadata", "/metadata/keyname"},
		{"number", meta(`{` + who + `,"n":1}`), "wrong_type", "/metadata/n"},
		{"null username", meta(`{"username":null,"keyname":"k"}`), "wrong_type", "/metadata/username"},
		{"51 fields", meta(`{` + who + fields(49) + `}`), "metadata_too_large", "/metadata"},
		{"long name", meta(`{` + who + `,"` + strings.Repeat("é", 41) + `":"x"}`), "metadata_too_large", "/metadata/" + strings.Repeat("é", 41)},
		{"empty name", meta(`{` + who + `,"":"x"}`), "metadata_too_large", "/metadata/"},
		{"long value", meta(`{` + who + `,"x":"` + strings.Repeat("é", 501) + `"}`), "metadata_too_large", "/metadata/x"},
		{"8 KiB in all", meta(`{` + who + strings.ReplaceAll(fields(17), `"x"`, `"`+strings.Repeat("x", 500)+`"`) + `}`), "metadata_too_large", "/metadata"},
		{"a credential in metadata", meta(`{` + who + `,"note":"` + a.root + `"}`), "credential_in_metadata", "/metadata/note"},
		{"metadata twice, different", `{"scopes":{"customer":{"decision":true},"metadata":{"username":"x","keyname":"k"}},"metadata":{` + who + `}}`, "metadata_conflict", "/scopes/metadata"},
		{"metadata inside, bad", `{"scopes":{"customer":{"decision":true},"metadata":{"username":"x"}}}`, "missing_metadata", "/scopes/metadata/keyname"},

		{"expiry in the past", with(`"expires_at":"` + a.clock.in(-time.Second) + `"`), "expiry_in_past", "/expires_at"},
		{"expiry now", with(`"expires_at":"` + a.clock.in(0) + `"`), "expiry_in_past", "/expires_at"},
		{"expiry without a zone", with(`"expires_at":"2027-01-01T00:00:00"`), "invalid_timestamp", "/expires_at"},
		{"expiry as a date", with(`"expires_at":"2027-01-01"`), "invalid_timestamp", "/expires_at"},
		{"expiry on 30 February", with(`"expires_at":"2027-02-30T00:00:00Z"`), "invalid_timestamp", "/expires_at"},
		{"expiry as a number", with(`"expires_at":1798761600`), "wrong_type", "/expires_at"},
	} {
		t.Run(tt.name, func(*testing.T) {
			a.do("POST", "/v1/access_keys", a.root, tt.body).refused(400, tt.code, tt.pointer)
		})
	}
	if n := a.do("GET", "/v1/access_keys?status=all", a.root, "").get("total").Int(); n != 0 {
		t.Errorf("%d keys were made", n)
	}
}

func TestCreate_TakesWhatIsJustAllowed(t *testing.T) {
	t.Parallel()
	a := start(t)
	for name, body := range map[string]string{
		"expiry in a microsecond": newKeyBody(`{"decision":true}`, `"expires_at":"`+a.clock.in(time.Microsecond)+`"`),
		"null expiry":             newKeyBody(`{"decision":true}`, `"expires_at":null`),
		"ten entries":             newKeyBody(`{"sets":[` + strings.Repeat(`{"f":"*","p":2},`, 9) + `{"f":"*","p":15}]}`),
		"long metadata": `{"scopes":{"customer":{"decision":true}},"metadata":{"username":"u","keyname":"k","` +
			strings.Repeat("é", 40) + `":"` + strings.Repeat("é", 500) + `"}}`,
		"application type": newKeyBody(`{"todo":[{"f":"/todos/{todoId}","p":2,"a":["complete","*"]}]}`),
	} {
		t.Run(name, func(*testing.T) { a.made(a.do("POST", "/v1/access_keys", a.root, body)) })
	}
}

func TestCreate_IsNotForAccessKeys(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(everyScope)
	a.do("POST", "/v1/access_keys", k.secret, newKeyBody(`{"decision":true}`)).refused(403, "access_keys_cannot_create")
	a.do("POST", "/v1/access_keys/"+k.id+"/rotate", k.secret, `{}`).refused(403, "access_keys_cannot_create")
	if n := len(a.events("default")); n != 1 {
		t.Errorf("%d events, want the one of the key itself", n)
	}
}
