package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

const askUser = `{"subject":{"type":"user","id":"%s"},"action":{"name":"read"},"resource":{"type":"document","id":"report"}}`

func (a *api) put(path, body string) *reply {
	a.Helper()
	r := a.do("PUT", path, a.root, body)
	if r.status != http.StatusOK && r.status != http.StatusCreated {
		a.Fatalf("PUT %s: %d %s", path, r.status, r.body)
	}
	return r
}

func ask(user string) string { return strings.Replace(askUser, "%s", user, 1) }

const (
	alicesPolicy = `{"language":"cel","rules":[{"label":"alice","match":"subject.id == \"alice\"","action":"allow","obligations":[{"id":"watermark"}]},{"label":"bob","match":"subject.id == \"bob\"","action":"mfa","effect":"deny"}],"default":{"action":"deny"}}`
	regoPolicy   = `{"language":"rego","rego":"package policies.rules\n\ndecision := {\"allow\": input.subject.id == \"alice\", \"reasons\": [\"because\", {\"why\": 1}]}\n"}`
)

func TestPolicy_DecidesByName(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/rules", alicesPolicy)
	for _, path := range []string{"/decision/rules", "/decision"} {
		body := ask("alice")
		if path == "/decision" {
			body = `{"policy":"rules",` + body[1:]
		}
		r := a.do("POST", path, a.root, body)
		if !r.get("decision").Bool() || r.text("context.policy.name") != "rules" || r.text("context.policy.rule") != "alice" || r.get("context.policy.version").Int() != 1 ||
			r.text("context.action") != "allow" || r.get("context.obligations").Raw != `[{"id":"watermark"}]` {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	if r := a.do("POST", "/decision/rules", a.root, ask("bob")); r.get("decision").Bool() || r.text("context.action") != "mfa" || r.text("context.reasons.0.code") != "policy_rule" {
		t.Errorf("bob: %s", r.body)
	}
	if r := a.do("POST", "/decision/rules", a.root, ask("eve")); r.get("decision").Bool() || r.text("context.reasons.0.code") != "policy_default" {
		t.Errorf("eve: %s", r.body)
	}
	// Another name may not be answered by this policy, nor by the built-in one.
	for _, path := range []string{"/decision/Rules", "/decision/rules2", "/decision/rule", "/decision/..%2Frules"} {
		if r := a.do("POST", path, a.root, ask("alice")); r.status != http.StatusNotFound || r.text("code") != "policy_not_found" {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

// What a path brought is kept by the policy: the connection's buffer is not.
func TestPolicy_NameOutlivesItsRequest(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/rules", alicesPolicy)
	for range 3 {
		a.do("GET", "/v1/policies/XXXXX", a.root, "")
	}
	if r := a.do("POST", "/decision/rules", a.root, ask("alice")); !r.get("decision").Bool() {
		t.Errorf("%s", r.body)
	}
}

func TestPolicy_ScopesAreTheCeiling(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/open", `{"language":"cel","rules":[],"default":{"action":"allow"}}`)
	a.put("/v1/policies/shut", `{"language":"cel","rules":[],"default":{"action":"deny"}}`)
	k := a.create(`{"document":[{"f":"report","p":2}]}`)
	q := func(action string) string {
		return `{"subject":{"type":"access_key","id":"` + k.id + `"},"action":{"name":"` + action + `"},"resource":{"type":"document","id":"report"}}`
	}
	if r := a.do("POST", "/decision/open", a.root, q("read")); !r.get("decision").Bool() || r.text("context.reasons.0.code") != "scope_permits" || r.text("context.reasons.1.code") != "policy_default" {
		t.Errorf("within: %s", r.body)
	}
	if r := a.do("POST", "/decision/open", a.root, q("delete")); r.get("decision").Bool() || r.text("context.reasons.0.code") != "scope_missing" || r.get("context.policy").Exists() {
		t.Errorf("a policy that allows all lifted the ceiling: %s", r.body)
	}
	if r := a.do("POST", "/decision/shut", a.root, q("read")); r.get("decision").Bool() || r.text("context.reasons.0.code") != "policy_default" {
		t.Errorf("the policy could not refuse: %s", r.body)
	}
}

func TestPolicy_DefaultDecidesAndNothingStandsInForIt(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/rules", regoPolicy)
	if r := a.do("PATCH", "/v1/customers/default", a.root, `{"default_policy":"rules"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	r := a.do("POST", "/decision", a.root, ask("alice"))
	if !r.get("decision").Bool() || r.text("context.reasons.0.detail") != "because" || r.get("context.reasons.1.detail").Raw != `{"why":1}` {
		t.Errorf("%s", r.body)
	}
	if r := a.do("POST", "/access/v1/evaluation", a.root, ask("eve")); r.get("decision").Bool() || r.text("context.policy.name") != "rules" {
		t.Errorf("%s", r.body)
	}
	a.put("/v1/policies/rules", `{"language":"rego","rego":"package policies.rules\n\nallow if input.subject.id == \"alice\"\n"}`)
	if r := a.do("POST", "/decision", a.root, ask("eve")); r.get("decision").Bool() || r.text("context.reasons.0.code") != "policy_error" || r.text("context.reasons.0.failure") != "undefined" ||
		r.text("context.expires_at") != a.clock.in(0) {
		t.Errorf("%s", r.body)
	}
}

func TestPolicy_AnswerThatReadsTheTimeMayNotBeReused(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/hours", `{"language":"cel","rules":[{"label":"early","match":"now < timestamp(\"`+a.clock.in(time.Minute)+`\")","action":"allow"}],"default":{"action":"deny"}}`)
	r := a.do("POST", "/decision/hours", a.root, ask("alice"))
	if !r.get("decision").Bool() || r.text("context.expires_at") != a.clock.in(0) {
		t.Errorf("%s", r.body)
	}
	a.clock.advance(2 * time.Minute)
	if r := a.do("POST", "/decision/hours", a.root, ask("alice")); r.get("decision").Bool() {
		t.Errorf("%s", r.body)
	}
}

// A key's metadata is its own: a request cannot put another in its place, and
// the secret is never seen.
func TestPolicy_MetadataCannotBeOverlaid(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/names", `{"language":"cel","rules":[{"label":"leak","match":"has(subject.properties.key)","action":"leak","effect":"deny"},{"label":"boss","match":"subject.properties.metadata.username == \"boss\" && subject.properties.team == \"a\"","action":"allow"}],"default":{"action":"deny"}}`)
	k := a.create(`{"document":[{"f":"*","p":2}]}`)
	for _, properties := range []string{
		`{"metadata":{"username":"boss"},"team":"a"}`, `{"team":"a","key":"` + k.secret + `"}`, `{"team":"a","key":"` + k.secret + `","metadata":{"username":"boss"}}`,
	} {
		r := a.do("POST", "/decision/names", a.root, `{"subject":{"type":"access_key","id":"`+k.id+`","properties":`+properties+`},"action":{"name":"read"},"resource":{"type":"document","id":"x"}}`)
		if r.get("decision").Bool() || r.text("context.reasons.0.code") != "policy_default" {
			t.Errorf("%s: %s", properties, r.body)
		}
	}
}

func TestPolicy_ExplainTellsOfEveryRule(t *testing.T) {
	a := start(t)
	a.put("/v1/policies/rules", alicesPolicy)
	r := a.do("POST", "/decision/explain", a.root, `{"policy":"rules",`+ask("bob")[1:])
	if got := r.get("context.explain.policy.rules.#.matched").Raw; got != "[false,true]" {
		t.Errorf("%s", r.body)
	}
}
