package server_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/server"
)

// openRoutes need no credential.
var openRoutes = []string{"GET /.well-known/authzen-configuration", "GET /health/live", "GET /health/ready", "GET /openapi.yaml"}

// decisionRoutes are for a key with the scope decision, and any key may ask
// about itself.
var decisionRoutes = []string{
	"POST /decision", "POST /decision/batch", "POST /decision/explain", "POST /decision/{policy}",
	"POST /access/v1/evaluation", "POST /access/v1/evaluations",
	"POST /v1/access_keys/verify", "POST /v1/introspect", "GET /v1/access_keys/self",
}

// The attack: on one route among many, which was added last, nobody asks who
// calls. Every route of the server is tried as a stranger, with a key that may
// only decide, and with another customer's key that may do everything; so a new
// one is held to its scope before it has a test of its own.
func TestAccess_EveryRouteRefusesWhoMayNot(t *testing.T) {
	a := startForward(t).api
	everything := strings.TrimSuffix(everyScope, "}") + `,"resources_manage":true,"access_requests_manage":true}`
	decider, powerless, victim := a.create(`{"decision":true}`), a.create(`{"search":true}`), a.create(everything)
	a.customer("foreign")
	foreign := a.createFor("foreign", everything)
	a.putPolicy("secret-policy", "true", "X-Customer-ID", "default").is(http.StatusCreated)
	a.do("POST", "/v1/sets", a.root, `{"name":"secret-set","entity_type":"string","values":["v"]}`, "X-Customer-ID", "default").is(http.StatusCreated)
	a.do("POST", "/v1/subjects:bulkUpdate", a.root, `{"subjects":[{"type":"user","id":"laura","properties":{"room":"red"}}]}`, "X-Customer-ID", "default").is(http.StatusOK)
	a.do("POST", "/v1/resources:bulkUpdate", a.root, `{"resources":[{"kind":"doc","id":"diary"}]}`, "X-Customer-ID", "default").is(http.StatusOK)
	a.do("PUT", "/v1/resource_types/doc", a.root, `{"actions":["read"]}`, "X-Customer-ID", "default").is(http.StatusOK)
	event := a.do("GET", "/v1/auditing?limit=1", a.root, "", "X-Customer-ID", "default").is(http.StatusOK).text("events.0.id")
	if event == "" {
		t.Fatal("no event to ask for")
	}
	grant := a.grant("user", "laura", "reason", `"the \"red\" room"`)
	boss, asker := a.person("boss", "admin"), a.person("asker", "user")
	app := a.do("POST", "/v1/applications", boss.token, `{"name":"red room"}`).is(http.StatusCreated).text("id")
	template := a.do("POST", "/v1/access-request-templates", boss.token, `{"name":"red room","app_id":"`+app+`","allowed_durations":[60]}`).is(http.StatusCreated).text("id")
	request := a.do("POST", "/v1/access-requests", asker.token, `{"template_id":"`+template+`","requested_duration_mins":60,"justification":"the \"red\" room"}`).is(http.StatusCreated).text("id")
	entitlement := a.do("POST", "/v1/entitlements", boss.token, `{"app_id":"`+app+`","name":"red room","entries":{"host":[{"f":"*","p":2}]}}`).is(http.StatusCreated).text("id")
	group := a.do("POST", "/v1/groups", boss.token, `{"name":"red room","member_ids":["`+asker.id+`"]}`).is(http.StatusCreated).text("id")
	token := a.do("GET", "/v1/personal_tokens", asker.token, "").is(http.StatusOK).text("personal_tokens.0.id")
	task := a.do("POST", "/v1/tasks", boss.token, `{"name":"red","task_type":"webhook","url":"https://example.com/"}`).is(http.StatusCreated).text("id")
	a.do("PUT", "/v1/secrets/RED", boss.token, `{"value":"the \"red\" room"}`).is(http.StatusOK)
	webhook := a.do("POST", "/v1/webhooks", boss.token, `{"url":"https://example.com/","events":["access_request.approved"]}`).is(http.StatusCreated).text("id")
	before := len(a.events("default"))

	// Names that exist, so that a refusal is one of the caller and not of the name.
	name := func(path string) string {
		for _, r := range []struct{ under, names string }{
			{"/v1/access_keys/", "{id} " + victim.id}, {"/v1/policies/", "{name} secret-policy {version} 1"}, {"/v1/sets/", "{name} secret-set {value} v"},
			{"/v1/subjects/", "{type} user {id} laura"}, {"/v1/resources/", "{kind} doc {id} diary"}, {"/v1/resource_types/", "{type} doc"},
			{"/v1/auditing/", "{id} " + event}, {"/v1/grants/", "{id} " + grant},
			{"/v1/users/", "{id} " + asker.id}, {"/v1/personal_tokens/", "{id} " + token}, {"/v1/groups/", "{id} " + group + " {user_id} " + asker.id},
			{"/v1/tasks/", "{id} " + task}, {"/v1/secrets/", "{name} RED"}, {"/v1/webhooks/", "{id} " + webhook + " {delivery} " + task},
			{"/v1/applications/", "{id} " + app}, {"/v1/entitlements/", "{id} " + entitlement},
			{"/v1/access-requests/", "{id} " + request}, {"/v1/access-request-templates/", "{id} " + template}, {"/api/v1/access-requests/", "{id} " + request}, {"/api/v1/access-request-templates/", "{id} " + template}, {"/v1/bundles/", "{name} default.tar.gz"}, {"/v1/customers/", "{id} foreign"}, {"/decision/", "{policy} secret-policy {path} x"},
		} {
			if strings.HasPrefix(path, r.under) {
				path = strings.NewReplacer(strings.Fields(r.names)...).Replace(path)
			}
		}
		return path
	}
	tried := 0
	for _, route := range server.OpenAPIRoutes(a.server) {
		method, path, _ := strings.Cut(route, " ")
		of := strings.Replace(route, "HEAD ", "GET ", 1) // one route
		if slices.Contains(openRoutes, of) {
			continue
		}
		tried++
		path = name(path)
		if strings.Contains(path, "{") {
			t.Errorf("%s: give its parameters names that exist", route)
			continue
		}
		body := ""
		if method != "GET" && method != "HEAD" && method != "DELETE" {
			body = `{}`
		}
		refused := func(who string, r *reply, statuses ...int) {
			t.Helper()
			if !slices.Contains(statuses, r.status) {
				t.Errorf("%s, %s: %d, want one of %v: %s", route, who, r.status, statuses, r.body)
			}
			if strings.Contains(r.body, `"red"`) || strings.Contains(r.body, "dale.cooper") {
				t.Errorf("%s, %s: a refusal tells of what it refuses: %s", route, who, r.body)
			}
		}
		if strings.HasPrefix(path, "/decision/forward/") {
			check := []string{method + " " + path + " HTTP/1.1", "Host: x", "X-Original-Method: GET", "X-Original-URI: /public/x", "X-Forwarded-Method: GET",
				"X-Forwarded-Proto: https", "X-Forwarded-Host: x", "X-Forwarded-Uri: /public/x"}
			refused("a stranger", rawTo(a, "tcp", a.addr, check...), 401)
			check = append(check, "Authorization: Bearer "+victim.secret)
			refused("a stranger with a user's key", rawTo(a, "tcp", a.addr, check...), 401)
			refused("a proxy without the scope", rawTo(a, "tcp", a.addr, append(check, "X-Latchkey-Caller: "+powerless.secret)...), 403)
			refused("another customer's proxy", rawTo(a, "tcp", a.addr, append(check, "X-Latchkey-Caller: "+foreign.secret, "X-Customer-ID: default")...), 401)
			continue
		}
		refused("a stranger", a.do(method, path, "", body), 401)
		refused("another customer's key", a.do(method, path, foreign.secret, body, "X-Customer-ID", "default"), 403)
		switch {
		case slices.Contains(decisionRoutes, of):
			if r := a.do(method, path, decider.secret, body); r.status == 401 || r.status == 403 && !strings.HasSuffix(path, "explain") {
				t.Errorf("%s: a key that may decide is refused: %d %s", route, r.status, r.body)
			}
		case of == "DELETE /v1/access_keys/{id}": // a key may revoke itself, and sees no other
			refused("a key that may only decide", a.do(method, path, decider.secret, body), 403, 404)
		default:
			refused("a key that may only decide", a.do(method, path, decider.secret, body), 403)
		}
	}
	if tried < 60 {
		t.Errorf("%d routes were tried", tried)
	}
	if after := len(a.events("default")); after != before {
		t.Errorf("%d changes were made by those who may not", after-before)
	}
}
