package server_test

import (
	"strings"
	"testing"
)

// TestSecrets_AppearNowhereInAWholeScenario puts secrets in every place where
// a client may put them by mistake. What must not hold them is searched when
// the server stops: log, metrics, events, the bytes of the database.
func TestSecrets_AppearNowhereInAWholeScenario(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.config.LogDecisions, o.config.AuthFailureRate = 1, 1000 })
	k, victim := a.create(everyScope), a.create(everyScope)
	s := victim.secret
	encoded := strings.ReplaceAll(s, "_", "%5F")
	refused := func(r *reply) {
		t.Helper()
		if r.status < 400 {
			t.Errorf("%s: taken: %d %s", r.request, r.status, r.body)
		}
	}
	for _, path := range []string{"/" + s, "/v1/access_keys/" + s, "/v1/access_keys/" + encoded, "/decision/" + s, "/decision/" + encoded,
		"/v1/access_keys/" + s + "/rego", "/v1/customers/" + s, "/v1/auditing/" + s, "/v1/auditing/" + encoded, "/access/v1/" + s} {
		for _, method := range []string{"GET", "POST", "DELETE", "PATCH"} {
			body := map[string]string{"POST": evaluation(subject(k.id), "read", "policies", "x"), "PATCH": `{"name":"x"}`}[method]
			refused(a.do(method, path, a.root, body))
		}
	}
	for _, body := range []string{
		`{"` + s + `":1}`, `{"scopes":{"` + s + `":1}}`, `{"scopes":{"customer":{"` + s + `":true}}}`, `{"scopes":{"customer":{"access_keys":["` + s + `"]}}}`,
		newKeyBody(`{"policies":[{"f":"` + s + `","p":2}]}`), newKeyBody(`{"doc":[{"f":"` + s + `*","p":2}]}`), newKeyBody(`{"sets":[{"f":"*","p":2,"r":{"filter":"` + s + `"}}]}`),
		newKeyBody(`{"doc":[{"f":"*","a":["` + s + `"]}]}`), newKeyBody(`{"decision":true}`, `"expires_at":"`+s+`"`), `{"metadata":{"` + s + `":"x"}}`,
		`{"scopes":{"customer":{"decision":true}},"metadata":{"username":"u","keyname":"` + s + `"}}`,
		`{"scopes":{"customer":{"decision":true}},"metadata":{"username":"u","keyname":"` + strings.Replace(s, "lk1", `lk\u0031`, 1) + `"}}`,
		`{"a":1,"` + s + `":[}`, `{"` + s + `":1,"` + s + `":2}`, `"` + s + `"`, s,
	} {
		refused(a.do("POST", "/v1/access_keys", a.root, body))
		refused(a.do("POST", "/decision", k.secret, body))
		refused(a.do("POST", "/decision/batch", k.secret, body))
		refused(a.do("POST", "/access/v1/evaluation", k.secret, body))
		refused(a.do("POST", "/v1/customers", a.root, body))
	}
	refused(a.do("POST", "/v1/customers", a.root, `{"id":"`+s+`","name":"x"}`))
	refused(a.do("POST", "/v1/customers", a.root, `{"name":"`+s+`"}`))
	refused(a.do("PATCH", "/v1/customers/default", a.root, `{"name":"our `+s+`"}`))
	refused(a.do("GET", "/v1/access_keys?metadata.username="+s, k.secret, ""))
	refused(a.do("GET", "/v1/auditing?actor="+encoded, k.secret, ""))
	refused(a.do("GET", "/v1/access_keys", k.secret, "", "X-Customer-ID", s))
	refused(a.do("GET", "/v1/access_keys", a.root, "", "X-Customer-ID", s))
	refused(a.do("DELETE", "/v1/access_keys/"+victim.id, a.root, "", "Prefer", "wait="+s))
	refused(a.do("GET", "/v1/access_keys", "", "", "Authorization", s))
	refused(a.do("GET", "/v1/access_keys", "", "", "X-Api-Key", s, "Cookie", "key="+s))
	a.do("GET", selfPath, k.secret, "", "User-Agent", s, "Referer", "https://x/?k="+s, "X-Request-ID", s).is(200)
	a.made(a.do("POST", "/v1/access_keys", a.root, newKeyBody(`{"decision":true}`), "Idempotency-Key", s))
	ask := func(body string) { a.decide(k.secret, body) }
	ask(evaluation(subject(s), "read", "policies", "x"))
	ask(evaluation(subject(k.id), s, "policies", "x"))
	ask(evaluation(subject(k.id), "read", s, s))
	ask(strings.TrimSuffix(evaluation(subject(k.id), "read", "policies", "x"), "}") + `,"context":{"note":"` + s + `"}}`)
	ask(evaluation(`{"type":"access_key","id":"`+victim.id+`","properties":{"key":"`+s+`","x":"`+s+`"}}`, "read", "policies", "x"))
	items := codes(a.do("POST", "/decision/batch", k.secret, `{"evaluations":[{"`+s+`":1},{"policy":"`+s+`"}]}`).is(200))
	if strings.Join(items, " ") != "400 400" && strings.Join(items, " ") != "400 404" {
		t.Errorf("%v", items)
	}
	if r := a.do("POST", "/decision/batch", k.secret, `{"evaluations":[{"`+s+`":1}]}`); a.leaks(r.body) {
		t.Errorf("an item's error repeats a secret: %s", r.body)
	}
	a.rotate(victim, `{"grace":"1h"}`)
	a.do("GET", selfPath, s, "").is(200)
	a.root = a.keep(a.do("POST", "/v1/root/rotate", a.root, "").is(201).text("key"))
	for _, chain := range []string{"default", "_system"} {
		for _, e := range a.events(chain) {
			if a.leaks(e.Raw) {
				t.Errorf("an event holds a secret: %s", e)
			}
		}
	}
	if !strings.Contains(a.log.String(), k.handle) {
		t.Error("the log does not name the credential by its handle")
	}
}
