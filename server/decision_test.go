package server_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

var decisionID = regexp.MustCompile(`"decision_id":"dec_[0-9A-Za-z_-]{22}"`)

// shape is an answer with its fresh id blanked.
func shape(body string) string { return decisionID.ReplaceAllString(body, `"decision_id":"dec_"`) }

func TestDecision_HasItsExactShape(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2},{"f":"sta*","p":4}]}`)
	allow := a.decide(k.secret, evaluation(subject(k.id), "update", "policies", "staging"))
	want := `{"decision":true,"context":{"decision_id":"dec_","action":"allow","reasons":[{"code":"scope_permits","source":"access_key","id":"` + k.id +
		`","entry":1,"selector":"sta*","permission":"update"}],"obligations":[],"expires_at":"2026-11-21T22:10:30Z"}}`
	if got := shape(allow.body); got != want || allow.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s\nwant %s", got, want)
	}
	deny := a.decide(k.secret, evaluation(`{"type":"user","id":"alice"}`, "read", "doc", "1"))
	want = `{"decision":false,"context":{"decision_id":"dec_","action":"deny","reasons":[{"code":"no_grant"}],"obligations":[],"expires_at":"2026-11-21T22:10:30Z"}}`
	if got := shape(deny.body); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if again := a.decide(k.secret, evaluation(subject(k.id), "update", "policies", "staging")); again.text("context.decision_id") == allow.text("context.decision_id") {
		t.Error("two answers share an id")
	}
}

func TestDecision_IsGoodUntilWhatItRestsOnEnds(t *testing.T) {
	t.Parallel()
	a := start(t)
	lasting := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	soon := a.clock.in(20 * time.Second)
	ending := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`, `"expires_at":"`+soon+`"`)
	until := func(body string) string { return a.decide(lasting.secret, body).text("context.expires_at") }
	ask := func(k key, action string) string { return evaluation(subject(k.id), action, "policies", "x") }
	for _, action := range []string{"read", "update"} { // a denial rests on the key as well
		if got := until(ask(ending, action)); got != soon {
			t.Errorf("%s: until %s, want the key's end %s", action, got, soon)
		}
	}
	if got := until(ask(lasting, "read")); got != a.clock.in(30*time.Second) {
		t.Errorf("until %s", got)
	}
	if got := a.decide(ending.secret, ask(lasting, "read")).text("context.expires_at"); got != a.clock.in(30*time.Second) {
		t.Errorf("the caller's own end counts: %s", got)
	}
	next := a.rotate(lasting, `{"grace":"10s"}`) // the old secret, and its handle, end before the key does
	old := `{"type":"access_key","properties":{"key":"` + lasting.secret + `"}}`
	for _, s := range []string{old, subject(lasting.handle)} {
		if got := a.decide(next.secret, evaluation(s, "read", "policies", "x")).text("context.expires_at"); got != a.clock.in(10*time.Second) {
			t.Errorf("until %s, want the end of the grace", got)
		}
	}
	a.clock.advance(10 * time.Second)
	for _, s := range []string{old, subject(lasting.handle)} {
		if r := a.decide(next.secret, evaluation(s, "read", "policies", "x")); r.get("decision").Bool() {
			t.Error(r.body)
		}
	}
	a.clock.advance(10 * time.Second)
	if r := a.decide(next.secret, ask(ending, "read")); r.text("context.reasons.0.code") != "key_expired" {
		t.Error(r.body)
	}
}

func TestDecision_RefusesSubjectTypesThatOnlyLookLikeAccessKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true}`)
	for _, typ := range []string{"Access_Key", "ACCESS_KEY", "access-key", "ACCESSKEY", "accesskey", "access key", " access_key", "access_key ", "access__key",
		"access_\u212Aey", "acce\u017F\u017F_key", "access\u2010key", "access\u00A0key", "access\u200Bkey", "a-c-c-e-s-s-k-e-y", "access\u00ADkey", "access\uFEFF_key"} {
		body := evaluation(`{"type":"`+typ+`","id":"`+k.id+`"}`, "read", "policies", "x")
		a.do("POST", "/decision", k.secret, body).refused(400, "confusable_subject_type", "/subject/type")
		if r := a.do("POST", "/access/v1/evaluation", k.secret, body); r.status != 400 {
			t.Errorf("%q: %d %s", typ, r.status, r.body)
		}
	}
	for _, typ := range []string{"access_keys", "access_key2", "key", "user"} {
		if r := a.decide(k.secret, evaluation(`{"type":"`+typ+`","id":"x"}`, "read", "policies", "x")); r.text("context.reasons.0.code") != "no_grant" {
			t.Errorf("%q: %s", typ, r.body)
		}
	}
}

func TestDecision_UnknownPoliciesFailClosed(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	ask := evaluation(subject(k.id), "read", "policies", "x")
	named := strings.TrimSuffix(ask, "}") + `,"policy":"main"}`
	for _, path := range []string{"/decision/main", "/decision/nothing", "/decision/a%2Fb", "/decision/%20", "/decision/..", "/decision/Batch", "/decision/%62atch"} {
		a.do("POST", path, k.secret, ask).is(404)
	}
	a.do("POST", "/decision/main", k.secret, ask).refused(404, "policy_not_found")
	a.do("POST", "/decision", k.secret, named).refused(404, "policy_not_found")
	a.do("POST", "/decision/main", k.secret, named).refused(404, "policy_not_found")
	a.do("POST", "/decision/explain", k.secret, named).refused(404, "policy_not_found")
	a.do("POST", "/decision/other", k.secret, named).refused(400, "policy_conflict", "/policy")
	for _, bad := range []string{`""`, `null`, `7`, `"a b"`, `"-x"`} {
		a.do("POST", "/decision", k.secret, strings.TrimSuffix(ask, "}")+`,"policy":`+bad+`}`).refused(400, "invalid_policy_name", "/policy")
	}
}

// TestDecision_APolicyNameThatDoesNotDecodeIsNoPolicy: it was once taken for
// none, and the built-in policy answered.
func TestDecision_APolicyNameThatDoesNotDecodeIsNoPolicy(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	for _, name := range []string{"%zz", "%", "main%", "%4"} {
		status, body := a.raw("POST /decision/" + name + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + k.secret +
			"\r\nContent-Type: application/json\r\n" + withLength(evaluation(subject(k.id), "read", "policies", "x")))
		if status != 404 && status != 400 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

func TestDecision_NeedsTheScope(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":false,"search":true,"audit_events":true,"access_keys":["*"],"policies":[{"f":"*","p":15}]}`)
	ask := evaluation(subject(k.id), "read", "policies", "x")
	for _, path := range []string{"/decision", "/decision/main", "/decision/batch", "/decision/explain", "/v1/access_keys/verify"} {
		a.do("POST", path, k.secret, ask).refused(403, "scope_missing")
		a.do("POST", path, "", ask).refused(401, "invalid_credential")
	}
	a.do("POST", "/v1/introspect", k.secret, "token=x", "Content-Type", "application/x-www-form-urlencoded").refused(403, "scope_missing")
	for _, path := range []string{"/access/v1/evaluation", "/access/v1/evaluations"} {
		a.do("POST", path, k.secret, ask).is(403)
	}
	if !a.decide(a.root, ask).get("decision").Bool() { // root may ask
		t.Error("denied")
	}
}

// TestDecision_IsStrictAndAuthZENIsNot: each body is a fault of the call on
// latchkey's own path; AuthZEN wants unknown members ignored.
func TestDecision_IsStrictAndAuthZENIsNot(t *testing.T) {
	t.Parallel()
	a := start(t)
	k := a.create(`{"decision":true,"policies":[{"f":"*","p":2}]}`)
	const subj, act, res = `"subject":{"type":"user","id":"u"}`, `"action":{"name":"read"}`, `"resource":{"type":"doc","id":"1"}`
	long := strings.Repeat("x", 1025)
	for _, tt := range []struct {
		body, code, pointer string
		authzen             int
	}{
		{`{` + subj + `,` + act + `,` + res + `,"extra":1}`, "unknown_member", "/extra", 200},
		{`{"subject":{"type":"user","id":"u","name":"x"},` + act + `,` + res + `}`, "unknown_member", "/subject/name", 200},
		{`{` + subj + `,"action":{"name":"read","x":1},` + res + `}`, "unknown_member", "/action/x", 200},
		{`{` + subj + `,` + act + `,"resource":{"type":"doc","id":"1","x":1}}`, "unknown_member", "/resource/x", 200},
		{`{` + subj + `,` + act + `,` + res + `,"Policy":"main"}`, "unknown_member", "/Policy", 200},
		{`{` + subj + `,` + act + `,` + res + `,"evaluations":[]}`, "unknown_member", "/evaluations", 200},
		{`{` + act + `,` + res + `}`, "missing_member", "/subject", 400},
		{`{` + subj + `,` + res + `}`, "missing_member", "/action", 400},
		{`{` + subj + `,` + act + `}`, "missing_member", "/resource", 400},
		{`{"subject":"u",` + act + `,` + res + `}`, "wrong_type", "/subject", 400},
		{`{"subject":null,` + act + `,` + res + `}`, "wrong_type", "/subject", 400},
		{`{"Subject":{},` + act + `,` + res + `}`, "unknown_member", "/Subject", 400},
		{`{"subject":{"type":"user"},` + act + `,` + res + `}`, "missing_member", "/subject/id", 400},
		{`{"subject":{"id":"u"},` + act + `,` + res + `}`, "missing_member", "/subject/type", 400},
		{`{"subject":{"type":"","id":"u"},` + act + `,` + res + `}`, "empty_string", "/subject/type", 400},
		{`{"subject":{"type":"user","id":7},` + act + `,` + res + `}`, "wrong_type", "/subject/id", 400},
		{`{"subject":{"type":"user","id":"u","properties":[]},` + act + `,` + res + `}`, "wrong_type", "/subject/properties", 400},
		{`{"subject":{"type":"access_key","id":"u","properties":{"key":7}},` + act + `,` + res + `}`, "wrong_type", "/subject/properties/key", 400},
		{`{"subject":{"type":"access_key","id":"u","properties":{"key":""}},` + act + `,` + res + `}`, "wrong_type", "/subject/properties/key", 400},
		{`{` + subj + `,"action":{},` + res + `}`, "missing_member", "/action/name", 400},
		{`{` + subj + `,"action":"read",` + res + `}`, "wrong_type", "/action", 400},
		{`{` + subj + `,` + act + `,"resource":{"type":"doc","id":""}}`, "empty_string", "/resource/id", 400},
		{`{` + subj + `,` + act + `,"resource":{"type":"doc","id":"` + long + `"}}`, "too_long", "/resource/id", 400},
		{`{` + subj + `,` + act + `,` + res + `,"context":[]}`, "wrong_type", "/context", 400},
		{`[]`, "wrong_type", "", 400},
		{`"x"`, "wrong_type", "", 400},
	} {
		a.do("POST", "/decision", k.secret, tt.body).refused(400, tt.code, tt.pointer)
		if r := a.do("POST", "/access/v1/evaluation", k.secret, tt.body); r.status != tt.authzen {
			t.Errorf("AuthZEN %s: %d %s", tt.body, r.status, r.body)
		}
	}
	// The id may be absent beside the secret, but not for AuthZEN.
	bySecret := evaluation(`{"type":"access_key","properties":{"key":"`+k.secret+`"}}`, "read", "policies", "x")
	if !a.decide(k.secret, bySecret).get("decision").Bool() {
		t.Error("denied")
	}
	a.do("POST", "/access/v1/evaluation", k.secret, bySecret).is(400)
	for _, context := range []string{"", `,"context":{}`, `,"context":{"ip":"10.0.0.1"}`} {
		a.decide(k.secret, `{`+subj+`,`+act+`,`+res+context+`}`)
	}
	a.decide(k.secret, `{`+subj+`,`+act+`,"resource":{"type":"doc","id":"`+long[1:]+`"}}`)
}

func TestDecision_LogsNothingUnlessAsked(t *testing.T) {
	t.Parallel()
	for share, want := range map[float64]int{0: 0, 1: 5} {
		a := start(t, func(o *options) { o.config.LogDecisions = share })
		k := a.create(`{"decision":true}`)
		for range 5 {
			a.decide(k.secret, evaluation(subject(k.id), "read", "policies", "x"))
		}
		if got := strings.Count(a.log.String(), `"route":"/decision"`); got != want {
			t.Errorf("share %v: %d lines, want %d", share, got, want)
		}
		a.do("POST", "/decision", k.secret, `{}`).is(400) // failures are always logged
		if got := strings.Count(a.log.String(), `"route":"/decision"`); got != want+1 {
			t.Errorf("a failure is not logged: %s", a.log)
		}
		if !strings.Contains(a.metrics(), `latchkey_decisions_total{reason="scope_missing",result="deny"} 5`) {
			t.Error("decisions are not counted")
		}
	}
}
