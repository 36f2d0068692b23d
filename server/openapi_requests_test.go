package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

// openapiTask is a task that succeeds but for the error that it holds.
type openapiTask struct {
	fails atomic.Pointer[latchkey.Error]
}

func (o *openapiTask) Before(context.Context, access.TriggerEvent) error {
	if err := o.fails.Load(); err != nil {
		return err
	}
	return nil
}

// person makes a person of acme with a token.
func (s *openapiServer) person(username, typ string) (id, token string) {
	s.t.Helper()
	made := s.send(openapiCall{operation: "POST /v1/users", key: s.root, headers: openapiAcme, body: `{"username":"` + username + `","email":"` + username + `@acme.example","type":"` + typ + `"}`}, 201)
	code := openapiField(s.t, made, "claim", "code")
	token = openapiField(s.t, s.send(openapiCall{operation: "POST /v1/personal_tokens", body: `{"claim_code":"` + code + `","name":"laptop"}`}, 201), "token")
	return openapiField(s.t, made, "id"), token
}

// accessRequests returns a template, and a request by it.
func (s *openapiServer) accessRequests(people openapiPeople, task string) (template, request string) {
	s.t.Helper()
	_, boss := s.person("req-boss", "admin")
	dora, approver := s.person("req-dora", "user")
	s.approver = approver
	alice, requester := s.person("req-alice", "user")
	_, stranger := s.person("req-eve", "user")
	send := func(operation, path, key, body string, want int, headers ...string) []byte {
		s.t.Helper()
		h := map[string]string{"X-Customer-ID": "acme"}
		for i := 0; i < len(headers); i += 2 {
			h[headers[i]] = headers[i+1]
		}
		return s.send(openapiCall{operation: operation, path: path, key: key, headers: h, body: body}, want)
	}
	dbas := openapiField(s.t, send("POST /v1/groups", "", boss, `{"name":"req-dbas","member_ids":["`+dora+`"]}`, 201), "id")

	const templates, oneTemplate = "/v1/access-request-templates", "/v1/access-request-templates/{id}"
	of := func(name string, more ...string) string {
		return `{"name":"` + name + `","app_id":"` + people.application + `","mapping_ids":["` + people.entitlement + `"],"allowed_durations":[60,480],"approver_group_ids":["` + dbas + `"]` + strings.Join(more, "") + `}`
	}
	whole := of("database", `,"description":"d","allowed_group_ids":null,"escalation_after_mins":30,"escalation_group_id":"`+dbas+`","pending_ttl_mins":600,"resource_selector":null,"resource_access":{"p":2,"a":["*"]},`+
		`"custom_fields":[{"label":"Ticket","type":"text"},{"label":"Where","type":"multi_select","options":["eu","us"]},{"label":"Sure","type":"checkbox"}],"assignment_types":["temporary","window"]`)
	made := send("POST "+templates, "", boss, whole, 201, "Idempotency-Key", "template 1")
	send("POST "+templates, "/api"+templates, boss, of("another"), 201)
	send("POST "+templates, "", boss, whole, 201, "Idempotency-Key", "template 1")
	send("POST "+templates, "", boss, of("other"), 422, "Idempotency-Key", "template 1")
	send("POST "+templates, "", boss, `{}`, 400)
	template = openapiField(s.t, made, "id")
	path := templates + "/" + template
	page := send("GET "+templates, templates+"?limit=1", requester, "", 200)
	send("GET "+templates, "/api"+templates+"?cursor="+openapiField(s.t, page, "next_cursor"), requester, "", 200)
	send("GET "+templates, templates+"?limit=0", requester, "", 400)
	send("GET "+oneTemplate, "/api"+path, requester, "", 200)
	send("GET "+oneTemplate, templates+"/"+openapiNone, requester, "", 404)
	send("PUT "+oneTemplate, path, boss, whole, 200)
	send("PUT "+oneTemplate, path, boss, `{}`, 400)
	send("PUT "+oneTemplate, templates+"/"+openapiNone, boss, whole, 404)
	gone := openapiField(s.t, send("POST "+templates, "", boss, of("gone", `,"custom_fields":"[{\"label\":\"x\",\"type\":\"checkbox\"}]","resource_selector":{"kind":"host","labels":{"plan":"pro"}}`), 201), "id")
	send("DELETE "+oneTemplate, templates+"/"+gone, boss, "", 204)
	send("DELETE "+oneTemplate, templates+"/"+gone, boss, "", 404)

	s.manyTemplates(openapiField(s.t, s.send(openapiCall{operation: "POST /v1/applications", key: s.root, headers: map[string]string{"X-Customer-ID": "default"}, body: `{"name":"many"}`}, 201), "id"))
	s.send(openapiCall{operation: "POST " + templates, key: s.root, headers: map[string]string{"X-Customer-ID": "default"}, body: whole}, 409)

	const requests, one, messages = "/v1/access-requests", "/v1/access-requests/{id}", "/v1/access-requests/{id}/messages"
	ask := func(template string, more ...string) string {
		return `{"template_id":"` + template + `","requested_duration_mins":480,"justification":"incident"` + strings.Join(more, "") + `}`
	}
	field := openapiField(s.t, made, "custom_fields", "id") // the first
	body := ask(template, `,"custom_answers":{"`+field+`":"T-1"},"resources":[]`)
	first := send("POST "+requests, "/api"+requests, requester, body, 201, "Idempotency-Key", "request 1")
	send("POST "+requests, "/api"+requests, requester, body, 201, "Idempotency-Key", "request 1")
	send("POST "+requests, "/api"+requests, requester, ask(template), 422, "Idempotency-Key", "request 1")
	send("POST "+requests, "", requester, ask(template), 409)
	send("POST "+requests, "", requester, ask(template, `,"status":"approved"`), 400)
	send("POST "+requests, "", requester, ask(openapiNone), 404)
	request = openapiField(s.t, first, "id")
	at := requests + "/" + request
	for _, list := range []string{requests, requests + "/pending", requests + "/all"} {
		who := map[string]string{requests: requester, requests + "/pending": approver, requests + "/all": boss}[list]
		send("GET "+list, "/api"+list+"?status=pending&template_id="+template+"&requester=ALICE&limit=1", who, "", 200)
		send("GET "+list, list+"?status=gone", who, "", 400)
	}
	send("GET "+one, at, requester, "", 200)
	send("GET "+one, at+"?wait=0", approver, "", 200)
	send("GET "+one, at+"?wait=61", approver, "", 400)
	send("GET "+one, at, stranger, "", 404)
	send("POST "+messages, at+"/messages", requester, `{"body":"please"}`, 201, "Idempotency-Key", "message 1")
	send("POST "+messages, at+"/messages", requester, `{"body":"please"}`, 201, "Idempotency-Key", "message 1")
	send("POST "+messages, at+"/messages", requester, `{"body":"other"}`, 422, "Idempotency-Key", "message 1")
	send("POST "+messages, at+"/messages", approver, `{"body":"why?"}`, 201)
	send("POST "+messages, at+"/messages", approver, `{}`, 400)
	send("POST "+messages, at+"/messages", stranger, `{"body":"x"}`, 404)
	page = send("GET "+messages, "/api"+at+"/messages?limit=1", approver, "", 200)
	send("GET "+messages, at+"/messages?cursor="+openapiField(s.t, page, "next_cursor"), approver, "", 200)
	send("GET "+messages, at+"/messages?cursor=x", approver, "", 400)
	send("GET "+messages, at+"/messages", stranger, "", 404)

	// Everything that may be decided, each once more than it can be.
	send("DELETE "+oneTemplate, path, boss, "", 409)
	for _, c := range []struct{ what, who, body, wrong string }{
		{"/approve", approver, `{"comment":"ok"}`, `{"status":"approved"}`}, {"/revoke", requester, `{"reason":"done"}`, `{"reason":7}`},
	} {
		op := "POST " + one + c.what
		send(op, at+c.what, c.who, c.wrong, 400)
		send(op, at+c.what, stranger, "", 404)
		send(op, "/api"+at+c.what, c.who, c.body, 200, "Prefer", "wait=0")
		send(op, at+c.what, c.who, "", 409)
	}
	denied := requests + "/" + openapiField(s.t, send("POST "+requests, "", requester, ask(template), 201), "id")
	send("POST "+one+"/deny", denied+"/deny", approver, `[]`, 400)
	send("POST "+one+"/deny", denied+"/deny", stranger, "", 404)
	send("POST "+one+"/deny", denied+"/deny", approver, `{"comment":"no"}`, 200, "Prefer", "wait=0")
	send("POST "+one+"/deny", denied+"/deny", approver, "", 409)

	blocked := openapiField(s.t, send("POST "+templates, "", boss, of("blocked", `,"trigger_task_id":"`+task+`","trigger_task_failure_mode":"block"`), 201), "id")
	waits := requests + "/" + openapiField(s.t, send("POST "+requests, "", requester, ask(blocked), 201), "id")
	for _, failure := range []*latchkey.Error{latchkey.Errorf(latchkey.TaskFailed, "trigger_task_failed", "no"), latchkey.Errorf(latchkey.TaskTimeout, "trigger_task_timeout", "slow")} {
		s.task.fails.Store(failure)
		send("POST "+one+"/approve", waits+"/approve", approver, "", map[latchkey.Kind]int{latchkey.TaskFailed: http.StatusBadGateway, latchkey.TaskTimeout: http.StatusGatewayTimeout}[failure.Kind])
	}
	s.task.fails.Store(nil)
	granted := send("POST "+one+"/approve", waits+"/approve", approver, "", 200)
	send("GET /v1/grants/{id}", "/v1/grants/"+openapiField(s.t, granted, "grant_id"), boss, "", 200)
	send("DELETE /v1/grants/{id}", "/v1/grants/"+openapiField(s.t, granted, "grant_id"), boss, "", 204)
	send("POST /v1/grants", "", boss, `{"subject":{"type":"user","id":"`+alice+`"},"entitlement_ids":["`+people.entitlement+`"],"expires_at":"2099-01-01T00:00:00Z","reason":"on call"}`, 201)

	// A discussion ends a week after its request.
	s.closed(func() { send("POST "+messages, denied+"/messages", requester, `{"body":"late"}`, 409) })
	return template, request
}

// manyTemplates gives another customer as many as there may be.
func (s *openapiServer) manyTemplates(app string) {
	s.t.Helper()
	err := s.db.Access().Change(context.Background(), authz.Change{Chain: authz.DefaultCustomer, At: 1}, func(tx access.Tx) (audit.Draft, error) {
		for i := range access.MaxTemplates {
			t := access.DefaultTemplate()
			t.ID, t.Customer, t.Name, t.Application = fmt.Sprintf("00000000-0000-4000-9000-%012d", i), authz.DefaultCustomer, fmt.Sprint(i), app
			if err := tx.InsertTemplate(context.Background(), t); err != nil {
				return audit.Draft{}, err
			}
		}
		return audit.Draft{ID: openapiNone, At: 1, Actor: audit.Actor{Type: "system", ID: "system"}, Action: "test.write", Resource: audit.Resource{Type: "test"}, Outcome: "success"}, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// closed does something more than a week later, and goes back in time.
func (s *openapiServer) closed(do func()) {
	const week = int64(8 * 24 * 3600 * 1e9)
	s.ahead.Add(week)
	do()
	s.ahead.Add(-week)
}
