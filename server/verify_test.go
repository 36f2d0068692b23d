package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestVerify_TellsWhatASecretIsGoodFor(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true}`)
	k := a.create(`{"policies":[{"f":"*","p":2}],"todo":[{"f":"*","a":["close"]}]}`)
	r := a.do("POST", "/v1/access_keys/verify", asker.secret, `{"key":"`+k.secret+`","checks":[`+
		`{"resource":{"type":"policies","id":"x"},"permission":"read"},{"resource":{"type":"policies","id":"x"},"permission":"update"},`+
		`{"resource":{"type":"todo","id":"x"},"permission":"close"}]}`).is(200)
	if !r.get("valid").Bool() || r.text("code") != "valid" || r.text("key.id") != k.id || r.text("key.metadata.username") != "dale.cooper" {
		t.Error(r.body)
	}
	want := `[{"permitted":true,"code":"scope_permits"},{"permitted":false,"code":"scope_missing"},{"permitted":true,"code":"scope_permits"}]`
	if got := r.get("results").Raw; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if a.leaks(r.body) {
		t.Error("the answer repeats the secret")
	}
	if !a.do("POST", "/v1/access_keys/verify", a.root, `{"key":"`+k.secret+`"}`).is(200).get("valid").Bool() {
		t.Error("root may verify too")
	}
}

func TestVerify_AlwaysAnswersAndTellsOfEndedKeys(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true}`)
	expired, revoked := a.create(everyScope, `"expires_at":"`+a.clock.in(time.Second)+`"`), a.create(everyScope)
	a.do("DELETE", "/v1/access_keys/"+revoked.id, a.root, "").is(204)
	a.customer("acme")
	foreign := a.createFor("acme", everyScope)
	a.clock.advance(time.Second)
	const check = `,"checks":[{"resource":{"type":"policies","id":"x"},"permission":"read"}]}`
	for secret, want := range map[string][2]string{
		expired.secret: {"key_expired", expired.id}, revoked.secret: {"key_revoked", revoked.id}, foreign.secret: {"key_unknown", ""},
		a.root: {"key_unknown", ""}, "x": {"key_unknown", ""}, reseal(revoked.handle + "_" + strings.Repeat("0", 43) + "_x"): {"key_unknown", ""},
	} {
		r := a.do("POST", "/v1/access_keys/verify", asker.secret, `{"key":"`+secret+`"`+check).is(200)
		if r.get("valid").Bool() || r.text("code") != want[0] || r.text("key.id") != want[1] ||
			r.get("results").Raw != `[{"permitted":false,"code":"`+want[0]+`"}]` {
			t.Errorf("%v: %s", want, r.body)
		}
	}
	for body, pointer := range map[string]string{
		`{}`: "/key", `{"key":7}`: "/key", `{"key":"x","checks":{}}`: "/checks", `{"key":"x","Checks":[]}`: "/Checks",
		`{"key":"x","checks":[{"resource":{"type":"a","id":"b"}}]}`:                           "/checks/0/permission",
		`{"key":"x","checks":[{"resource":{"type":"a","id":"b","x":1},"permission":"read"}]}`: "/checks/0/resource/x",
		`{"key":"x","checks":[` + strings.TrimSuffix(strings.Repeat(`{},`, 101), ",") + `]}`:  "/checks",
	} {
		if r := a.do("POST", "/v1/access_keys/verify", asker.secret, body).is(400); r.text("errors.0.pointer") != pointer {
			t.Errorf("%s: %s", body, r.body)
		}
	}
}

func TestIntrospect_FollowsRFC7662(t *testing.T) {
	t.Parallel()
	a := start(t)
	asker := a.create(`{"decision":true}`)
	end := a.clock.now().Add(time.Hour)
	k := a.create(`{"decision":true,"access_keys":["*"],"policies":[{"f":"*","p":2}]}`, `"expires_at":"`+end.UTC().Format(time.RFC3339)+`"`)
	form := func(body string) *reply {
		return a.do("POST", "/v1/introspect", asker.secret, body, "Content-Type", "application/x-www-form-urlencoded")
	}
	r := form(url.Values{"token": {k.secret}, "token_type_hint": {"access_token"}}.Encode()).is(200)
	for member, want := range map[string]string{
		"active": "true", "sub": `"` + k.id + `"`, "client_id": `"` + k.handle + `"`, "username": `"dale.cooper"`, "token_type": `"access_key"`,
		"scope": `"decision access_keys policies"`, "exp": fmt.Sprint(end.Unix()), "iat": fmt.Sprint(a.clock.now().Unix()), "customer_id": `"default"`,
	} {
		if got := r.get(member).Raw; got != want {
			t.Errorf("%s = %s, want %s", member, got, want)
		}
	}
	if r.header.Get("Cache-Control") != "no-store" || a.leaks(r.body) {
		t.Errorf("%v %s", r.header, r.body)
	}
	a.clock.advance(time.Hour)
	for _, token := range []string{k.secret, a.root, "x"} { // nothing but that it is not
		if r := form("token=" + token).is(200); r.body != `{"active":false}` {
			t.Error(r.body)
		}
	}
	for _, body := range []string{"x=1", "token=", "token=a&token=b", "token=%zz", " "} {
		form(body).refused(400, "missing_token", "form:token")
	}
	a.do("POST", "/v1/introspect", asker.secret, `{"token":"x"}`).refused(415, "unsupported_media_type")
}
