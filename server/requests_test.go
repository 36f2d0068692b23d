package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
)

// office is a server with the people of the database template: who asks, who
// decides, who decides later on, and who has nothing to do with it.
type office struct {
	*api
	boss, alice, dora, dan, mona, eve human
	app, entitlement, dbas, managers  string
}

// newOffice makes one; nobody is an admin but boss.
func newOffice(t *testing.T, change ...func(*options)) *office {
	t.Helper()
	o := &office{api: start(t, change...)}
	o.boss = o.person("boss", "admin")
	for name, who := range map[string]*human{"alice": &o.alice, "dora": &o.dora, "dan": &o.dan, "mona": &o.mona, "eve": &o.eve} {
		*who = o.person(name, "user")
	}
	o.app = o.establish("/v1/applications", `{"name":"postgres"}`)
	o.entitlement = o.establish("/v1/entitlements", `{"app_id":"`+o.app+`","name":"readonly","entries":{"database":[{"f":"orders","p":2,"a":["connect"]}]},"claims":{"roles":["db_readonly"]}}`)
	o.dbas = o.group("dbas", o.dora, o.dan)
	o.managers = o.group("managers", o.mona)
	return o
}

// establish makes something as the admin does, and returns its id.
func (o *office) establish(path, body string) string {
	o.Helper()
	return o.do("POST", path, o.boss.token, body).is(http.StatusCreated).text("id")
}

func (o *office) group(name string, members ...human) string {
	o.Helper()
	var ids []string
	for _, m := range members {
		ids = append(ids, `"`+m.id+`"`)
	}
	return o.establish("/v1/groups", `{"name":"`+name+`","member_ids":[`+strings.Join(ids, ",")+`]}`)
}

// template is the body of the database template; more are further members, or
// others in place of its own.
func (o *office) template(more ...string) string {
	o.Helper()
	members := map[string]json.RawMessage{}
	for _, text := range []string{
		`{"name":"Database read-only access","description":"Grants read-only database credentials for up to 8 hours.","app_id":"` + o.app + `",` +
			`"mapping_ids":["` + o.entitlement + `"],"allowed_durations":[60,240,480],"approver_group_ids":["` + o.dbas + `"]}`,
		"{" + strings.Join(more, ",") + "}",
	} {
		if err := json.Unmarshal([]byte(text), &members); err != nil {
			o.Fatal(err)
		}
	}
	body, err := json.Marshal(members)
	if err != nil {
		o.Fatal(err)
	}
	return string(body)
}

func (o *office) newTemplate(more ...string) string {
	o.Helper()
	return o.establish("/v1/access-request-templates", o.template(more...))
}

// namedTemplate makes a further one.
func (o *office) namedTemplate(name string, more ...string) string {
	o.Helper()
	return o.newTemplate(append(more, `"name":"`+name+`"`)...)
}

const why = "Need access to debug the production incident."

func submission(template string, more ...string) string {
	body := `{"template_id":"` + template + `","requested_duration_mins":480,"justification":"` + why + `"`
	for _, m := range more {
		body += "," + m
	}
	return body + "}"
}

// submit asks for access by a template, and returns the request's path.
func (o *office) submit(who human, template string, more ...string) string {
	o.Helper()
	r := o.do("POST", "/v1/access-requests", who.token, submission(template, more...)).is(http.StatusCreated)
	return "/v1/access-requests/" + r.text("id")
}

// may asks whether somebody may connect to the database now.
func (o *office) may(who human) bool {
	o.Helper()
	return o.decide(o.root, evaluation(`{"type":"user","id":"`+who.username+`"}`, "connect", "database", "orders")).get("decision").Bool()
}

func (o *office) status(path string) string {
	o.Helper()
	return o.do("GET", path, o.boss.token, "").is(http.StatusOK).text("status")
}

// facts are the events of access requests, as "action by".
func (o *office) facts() (list []string) {
	o.Helper()
	for _, e := range o.events("default") {
		if action := e.Get("action").String(); strings.HasPrefix(action, "access_request.") && e.Get("outcome").String() == "success" {
			list = append(list, strings.TrimPrefix(action, "access_request."))
		}
	}
	return list
}

// The story of a database role for 8 hours: nobody decides, the managers are asked,
// one of them approves, and it is revoked early.
func TestRequests_DatabaseRoleForEightHours(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate(`"require_justification":true`, `"auto_approve":false`, `"notification_policy":"all"`, `"escalation_after_mins":30`, `"escalation_group_id":"`+o.managers+`"`)

	r := o.do("POST", "/api/v1/access-requests", o.alice.token, submission(template)).is(201)
	path := "/v1/access-requests/" + r.text("id")
	if r.header.Get("Location") != "/api"+path || r.text("status") != "pending" || r.text("requester_email") != "alice@example.com" || r.text("decided_by") != "" || r.text("app_name") != "postgres" ||
		len(r.get("notified_approvers").Array()) != 2 || r.get("not_before").Type != gjson.Null {
		t.Errorf("submitted: %s", r.body)
	}
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template)).refused(409, "pending_request_exists")
	if o.may(o.alice) {
		t.Error("allowed before anybody approved")
	}
	if n := len(o.do("GET", "/v1/access-requests/pending", o.mona.token, "").is(200).get("access_requests").Array()); n != 0 {
		t.Errorf("%d requests await the manager before their time", n)
	}
	o.do("POST", path+"/approve", o.mona.token, "").refused(404, "access_request_not_found") // a stranger as yet

	o.clock.advance(30 * time.Minute)
	if n, err := o.requests.Escalate(context.Background(), latchkey.InstantOf(o.clock.now())); n != 1 || err != nil {
		t.Fatalf("%d escalated: %v", n, err)
	}
	if n := len(o.do("GET", "/api/v1/access-requests/pending", o.mona.token, "").is(200).get("access_requests").Array()); n != 1 {
		t.Errorf("%d requests await the manager", n)
	}
	r = o.do("POST", "/api"+path+"/approve", o.mona.token, `{"comment":"Approved for the incident window."}`).is(200)
	if r.text("status") != "approved" || r.text("decision") != "Approved" || r.text("decided_by") != o.mona.id || r.text("decision_method") != "manual" || r.text("comment") != "Approved for the incident window." ||
		r.text("expires_at") != o.clock.in(8*time.Hour) {
		t.Errorf("approved: %s", r.body)
	}
	if !o.may(o.alice) || o.may(o.eve) {
		t.Error("the next decision does not know of the approval")
	}
	groups := o.do("GET", "/v1/users/"+o.alice.id+"/groups", o.boss.token, "").is(200)
	claims := o.do("GET", "/v1/users/"+o.alice.id+"/claims", o.boss.token, "").is(200)
	if !strings.Contains(groups.body, "__access_req_"+r.text("id")) || claims.text("claims.roles.0") != "db_readonly" {
		t.Errorf("groups %s, claims %s", groups.body, claims.body)
	}

	o.clock.advance(2 * time.Hour)
	r = o.do("POST", path+"/revoke", o.alice.token, `{"reason":"done early"}`).is(200)
	if r.text("status") != "revoked" || r.text("decided_by") != o.mona.id || r.text("decision") != "Approved" || r.text("revoked_by") != o.alice.id || r.text("revoke_reason") != "done early" {
		t.Errorf("revoked: %s", r.body)
	}
	if o.may(o.alice) {
		t.Error("allowed after the revocation")
	}
	if claims := o.do("GET", "/v1/users/"+o.alice.id+"/claims", o.boss.token, "").is(200); strings.Contains(claims.body, "db_readonly") {
		t.Errorf("claims go on: %s", claims.body)
	}
	o.do("POST", path+"/revoke", o.alice.token, "").refused(409, "request_not_pending")
	if got := fmt.Sprint(o.facts()); got != "[submit escalate approve revoke]" {
		t.Errorf("recorded: %s", got)
	}
}

func TestRequests_EndOnTimeWhetherOrNotAnybodySweeps(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	path := o.submit(o.alice, o.newTemplate())
	o.do("POST", path+"/approve", o.dora.token, "").is(200)
	o.clock.advance(8*time.Hour - time.Microsecond)
	if !o.may(o.alice) || o.status(path) != "approved" {
		t.Error("it ended before its time")
	}
	o.clock.advance(time.Microsecond)
	if o.may(o.alice) || o.status(path) != "expired" {
		t.Error("it goes on past its time, before the sweep")
	}
	end := o.clock.in(0)
	o.clock.advance(time.Minute) // nobody has swept yet: it was closed when it ended, not when somebody looks
	if r := o.do("GET", path, o.alice.token, "").is(200); r.text("closed_at") != end || r.text("expires_at") != end {
		t.Errorf("expired, not swept: %s", r.body)
	}
	list := o.do("GET", "/v1/access-requests/all?status=expired", o.boss.token, "").is(200)
	if len(list.get("access_requests").Array()) != 1 || len(o.do("GET", "/v1/access-requests/all?status=approved", o.boss.token, "").is(200).get("access_requests").Array()) != 0 {
		t.Errorf("filtered as it is written down, not as it is: %s", list.body)
	}
	o.do("POST", path+"/revoke", o.alice.token, "").refused(409, "request_not_pending")
	o.do("POST", path+"/approve", o.dan.token, "").refused(409, "request_not_pending")
	if n, err := o.requests.Sweep(context.Background(), latchkey.InstantOf(o.clock.now())); n != 1 || err != nil {
		t.Errorf("%d swept: %v", n, err)
	}
	if got := fmt.Sprint(o.facts()); got != "[submit approve expire]" {
		t.Errorf("recorded: %s", got)
	}
	if r := o.do("GET", path, o.alice.token, "").is(200); r.text("status") != "expired" || r.text("decision") != "Approved" || r.text("closed_at") != end {
		t.Errorf("expired: %s", r.body)
	}
}

// The attack: whoever asks, or would have the right, decides; by any path.
func TestRequests_NobodyApprovesForThemselves(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	path := o.submit(o.dora, template) // she is an approver herself
	const forbidden = "self_approval_forbidden"
	o.do("POST", path+"/approve", o.dora.token, "").refused(403, forbidden)
	o.do("POST", "/api"+path+"/approve", o.dora.token, `{"comment":"for me"}`).refused(403, forbidden)
	o.do("POST", path+"/deny", o.dora.token, "").refused(403, forbidden)
	second := o.keep(o.do("POST", "/v1/personal_tokens", o.dora.token, `{"name":"phone"}`).is(201).text("token"))
	o.do("POST", path+"/approve", second, "").refused(403, forbidden)

	// A service asks for her, and she approves what the service asked.
	service := o.create(`{"approvals":true,"access_requests_manage":true}`)
	other := o.namedTemplate("other")
	asked := o.do("POST", "/v1/access-requests", service.secret, submission(other, `"beneficiary_id":"`+o.dora.id+`"`)).is(201)
	onBehalf := "/v1/access-requests/" + asked.text("id")
	if asked.text("requester_id") != o.dora.id || asked.text("beneficiary_id") != o.dora.id || asked.text("submitted_by.type") != "access_key" || asked.text("submitted_by.id") != service.id {
		t.Errorf("submitted for somebody: %s", asked.body)
	}
	o.do("POST", onBehalf+"/approve", o.dora.token, "").refused(403, forbidden)
	// The key that came with her, a manager's key, and root are nobody.
	for _, credential := range []string{service.secret, o.root} {
		o.do("POST", onBehalf+"/approve", credential, "").refused(403, "person_required")
		o.do("POST", onBehalf+"/deny", credential, "").refused(403, "person_required")
	}
	// Somebody who asked and is made an approver meanwhile.
	mine := o.submit(o.alice, template)
	o.do("PUT", "/v1/groups/"+o.dbas+"/members/"+o.alice.id, o.boss.token, "{}").is(200)
	o.do("POST", mine+"/approve", o.alice.token, "").refused(403, forbidden)
	// An admin is no exception, where admins decide and otherwise.
	admins := o.namedTemplate("admins", `"approver_group_ids":[]`)
	o.do("POST", "/v1/access-requests", o.boss.token, submission(admins)).refused(409, "no_eligible_approver")
	o.person("second", "admin")
	boss := o.submit(o.boss, admins)
	o.do("POST", boss+"/approve", o.boss.token, "").refused(403, forbidden)
	// Nor is a grant, which a manager makes without a request.
	expires := o.clock.in(time.Hour)
	o.do("POST", "/v1/grants", o.boss.token, `{"subject":{"type":"user","id":"`+o.boss.id+`"},"entitlement_ids":["`+o.entitlement+`"],"expires_at":"`+expires+`","reason":"r"}`).refused(403, forbidden)
	o.do("POST", "/v1/grants", o.boss.token, `{"subject":{"type":"user","id":"boss"},"entitlement_ids":["`+o.entitlement+`"],"expires_at":"`+expires+`","reason":"r"}`).refused(403, forbidden)
	for _, who := range []human{o.dora, o.alice, o.boss} {
		if o.may(who) {
			t.Errorf("%s has approved for themselves", who.username)
		}
	}
	// Where the template says so, they do.
	selfish := o.namedTemplate("self", `"allow_self_approval":true`)
	o.do("POST", o.submit(o.dora, selfish)+"/approve", o.dora.token, "").is(200)
	if !o.may(o.dora) {
		t.Error("what the template allows is refused")
	}
}

// The attack: a client says itself what was decided.
func TestRequests_WhatIsDecidedIsNotTheClientsToSay(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	for _, member := range []string{`"status":"approved"`, `"decision":"Approved"`, `"decided_by":"` + o.dora.id + `"`, `"decision_method":"auto"`, `"approvals":[{"by":"` + o.dora.id + `"}]`,
		`"requester_id":"` + o.dora.id + `"`, `"submitted_by":{"type":"root","id":"root"}`, `"expires_at":"2099-01-01T00:00:00Z"`, `"notified_approvers":[]`, `"id":"` + o.app + `"`} {
		name := strings.Trim(strings.SplitN(member, ":", 2)[0], `"`)
		o.do("POST", "/v1/access-requests", o.alice.token, submission(template, member)).refused(400, "unknown_member", "/"+name)
	}
	path := o.submit(o.alice, template)
	for _, member := range []string{`"status":"approved"`, `"requested_duration_mins":100000`, `"decided_by":"x"`, `"expires_at":null`} {
		o.do("POST", path+"/approve", o.dora.token, "{"+member+"}").refused(400, "unknown_member")
	}
	o.do("PUT", path, o.boss.token, `{"status":"approved"}`).is(405)
	o.do("PATCH", path, o.boss.token, `{"status":"approved"}`).is(405)
	if o.may(o.alice) || o.status(path) != "pending" {
		t.Error("a client has decided")
	}
	// Asking for somebody else is a service's, and needs its scope.
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"beneficiary_id":"`+o.eve.id+`"`)).refused(403, "scope_missing")
	plain := o.create(`{"decision":true}`)
	o.do("POST", "/v1/access-requests", plain.secret, submission(template, `"beneficiary_id":"`+o.eve.id+`"`)).refused(403, "scope_missing")
	service := o.create(`{"approvals":true}`)
	o.do("POST", "/v1/access-requests", service.secret, submission(template)).refused(400, "missing_member", "/beneficiary_id")
	o.do("POST", "/v1/access-requests", service.secret, submission(template, `"beneficiary_id":"`+o.app+`"`)).refused(404, "unknown_beneficiary")
}

// The attack: a length of time that the template does not give.
func TestRequests_LastAsLongAsTheTemplateSays(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	ask := func(template, members string) *reply {
		return o.do("POST", "/v1/access-requests", o.alice.token, `{"template_id":"`+template+`","justification":"x"`+members+`}`)
	}
	for _, minutes := range []string{"0", "-60", "61", "481", "999999999", "9223372036854775807", "1e300", "0.5"} {
		ask(template, `,"requested_duration_mins":`+minutes).refused(400, "duration_not_allowed", "/requested_duration_mins")
	}
	ask(template, ``).refused(400, "duration_required", "/requested_duration_mins") // never for ever
	ask(template, `,"requested_duration_mins":null`).refused(400, "duration_required")
	ask(template, `,"assignment_type":"permanent"`).refused(400, "assignment_not_allowed")
	ask(template, `,"window":{"start":"`+o.clock.in(0)+`","end":"`+o.clock.in(time.Hour)+`"}`).refused(400, "window_not_allowed", "/window")

	windows := o.namedTemplate("windows", `"assignment_types":["window"]`, `"max_duration_mins":480`)
	window := func(from, to time.Duration) string {
		return `,"window":{"start":"` + o.clock.in(from) + `","end":"` + o.clock.in(to) + `"}`
	}
	ask(windows, window(time.Hour, time.Hour)).refused(400, "end_before_start")
	ask(windows, window(-2*time.Hour, -time.Hour)).refused(400, "window_over")
	ask(windows, window(time.Hour, 10*time.Hour)).refused(400, "duration_not_allowed")
	ask(windows, `,"window":{"start":"`+o.clock.in(0)+`","end":"9999-12-31T23:59:59Z"}`).is(400)
	// Nothing before its start, nothing after its end, and no approval then.
	path := "/v1/access-requests/" + ask(windows, window(time.Hour, 2*time.Hour)).is(201).text("id")
	o.do("POST", path+"/approve", o.dora.token, "").is(200)
	if o.may(o.alice) {
		t.Error("allowed before the window")
	}
	o.clock.advance(time.Hour)
	if !o.may(o.alice) {
		t.Error("not allowed in the window")
	}
	o.clock.advance(time.Hour)
	if o.may(o.alice) {
		t.Error("allowed after the window")
	}
	late := "/v1/access-requests/" + ask(windows, window(0, time.Hour)).is(201).text("id")
	o.clock.advance(time.Hour)
	o.do("POST", late+"/approve", o.dora.token, "").refused(409, "request_not_pending")
	if o.status(late) != "expired" {
		t.Error("a window that is over is still pending")
	}
}

// The attack: an approval of what was asked for before things changed.
func TestRequests_AreCheckedAgainWhenTheyAreApproved(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	allowed := o.group("engineers", o.alice)
	n := 0
	fresh := func(more ...string) (path, template string) {
		n++
		template = o.namedTemplate(fmt.Sprint("template ", n), more...)
		return o.submit(o.alice, template), template
	}
	put := func(template, more string) {
		o.do("PUT", "/v1/access-request-templates/"+template, o.boss.token, o.template(more, `"name":"changed `+template+`"`)).is(200)
	}
	// After its time.
	path, _ := fresh(`"pending_ttl_mins":60`)
	o.clock.advance(time.Hour)
	o.do("POST", path+"/approve", o.dora.token, "").refused(409, "request_not_pending")
	o.do("POST", path+"/deny", o.dora.token, "").refused(409, "request_not_pending")
	// By people who decide by the template as it is now, but did not then.
	path, template := fresh()
	put(template, `"approver_group_ids":["`+o.managers+`"]`)
	o.do("POST", path+"/approve", o.mona.token, "").refused(403, "approver_required")
	o.do("POST", path+"/approve", o.dora.token, "").refused(403, "approver_required")
	o.do("POST", path+"/revoke", o.alice.token, "").is(200)
	// A template that was widened gives what it gave.
	path, template = fresh()
	more := o.establish("/v1/entitlements", `{"app_id":"`+o.app+`","name":"all","entries":{"database":[{"f":"*","p":15}]}}`)
	put(template, `"mapping_ids":["`+more+`"],"allowed_durations":[480,100000],"approvals_required":2`)
	r := o.do("POST", path+"/approve", o.dora.token, "").is(200)
	if grant := o.do("GET", "/v1/grants/"+r.text("grant_id"), o.boss.token, "").is(200); strings.Contains(grant.body, `"f":"*"`) || grant.text("expires_at") != o.clock.in(8*time.Hour) || grant.text("request_id") != r.text("id") {
		t.Errorf("granted %s", grant.body)
	}
	o.do("POST", path+"/revoke", o.alice.token, "").is(200)
	// Somebody who may not ask any more.
	path, template = fresh(`"allowed_group_ids":["` + allowed + `"]`)
	o.do("DELETE", "/v1/groups/"+allowed+"/members/"+o.alice.id, o.boss.token, "").is(204)
	o.do("POST", path+"/approve", o.dora.token, "").refused(409, "requester_not_allowed")
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template)).refused(403, "requester_not_allowed")
	// A template is not deleted from under a request.
	o.do("DELETE", "/v1/access-request-templates/"+template, o.boss.token, "").refused(409, "template_in_use")
	o.do("POST", path+"/revoke", o.alice.token, "").is(200)
	o.do("DELETE", "/v1/access-request-templates/"+template, o.boss.token, "").is(204)
	r = o.do("GET", path, o.alice.token, "").is(200)
	if r.get("template_id").Type != gjson.Null || r.text("template_label") != "(deleted template)" || r.text("justification") != why {
		t.Errorf("of a deleted template: %s", r.body)
	}
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template)).refused(404, "template_not_found")
	// Somebody who has gone.
	path, _ = fresh()
	o.do("DELETE", "/v1/users/"+o.alice.id, o.boss.token, "").is(204)
	o.do("POST", path+"/approve", o.dora.token, "").refused(409, "requester_inactive")
	o.do("GET", path, o.alice.token, "").is(401)
	if o.may(o.alice) {
		t.Error("somebody who has gone is allowed")
	}
}

// The attack: ids are tried out.
func TestRequests_AreNothingToStrangers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	path := o.submit(o.alice, o.newTemplate())
	missing := "/v1/access-requests/" + openapiNone
	o.do("POST", path+"/messages", o.alice.token, `{"body":"hello"}`).is(201)
	key := o.create(`{"decision":true,"approvals":true}`)
	for _, c := range []struct{ method, suffix, body string }{
		{"GET", "", ""}, {"POST", "/approve", ""}, {"POST", "/deny", ""}, {"POST", "/revoke", ""}, {"GET", "/messages", ""}, {"POST", "/messages", `{"body":"x"}`},
	} {
		for _, prefix := range []string{"", "/api"} {
			there := o.do(c.method, prefix+path+c.suffix, o.eve.token, c.body).refused(404, "access_request_not_found")
			gone := o.do(c.method, prefix+missing+c.suffix, o.eve.token, c.body).refused(404, "access_request_not_found")
			if there.told() != gone.told() {
				t.Errorf("%s %s: a stranger can tell: %s and %s", c.method, c.suffix, there.body, gone.body)
			}
		}
	}
	for _, id := range []string{"x", strings.ToUpper(path[len(path)-36:]), "%00", "..%2f", strings.Repeat("a", 300)} {
		o.do("GET", "/v1/access-requests/"+id, o.eve.token, "").is(404)
	}
	o.do("GET", path, key.secret, "").refused(404, "access_request_not_found")
	o.do("GET", "/v1/access-requests/all", o.eve.token, "").refused(403, "not_permitted")
	o.do("GET", "/v1/access-requests/all", key.secret, "").refused(403, "scope_missing")
	for _, list := range []string{"", "/pending", "?requester=alice", "/pending?requester=alice&status=all"} {
		if r := o.do("GET", "/v1/access-requests"+list, o.eve.token, "").is(200); len(r.get("access_requests").Array()) != 0 {
			t.Errorf("a stranger is shown %s", r.body)
		}
	}
	// Nor does another customer's admin see it.
	o.customer("other")
	o.do("GET", path, o.person("spy", "admin", "X-Customer-ID", "other").token, "").refused(404, "access_request_not_found")
}

// What is written for those who decide is shown to them, to who wrote it, and to
// managers, and stands nowhere else.
func TestRequests_JustificationIsForThoseWhoDecide(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate(`"custom_fields":[{"label":"Ticket","type":"text","required":true},{"label":"Where","type":"multi_select","options":["eu","us"]},{"label":"Sure","type":"checkbox"}]`)
	fields := o.do("GET", "/v1/access-request-templates/"+template, o.alice.token, "").is(200).get("custom_fields").Array()
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template)).is(400)
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"custom_answers":{"`+openapiNone+`":"x"}`)).is(400)
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"custom_answers":{"`+fields[0].Get("id").String()+`":"T-1","`+fields[1].Get("id").String()+`":["mars"]}`)).is(400)
	answers := `"custom_answers":{"` + fields[0].Get("id").String() + `":"T-1","` + fields[1].Get("id").String() + `":["eu"],"` + fields[2].Get("id").String() + `":true}`
	service := o.create(`{"approvals":true}`)
	r := o.do("POST", "/v1/access-requests", service.secret, submission(template, answers, `"beneficiary_id":"`+o.alice.id+`"`)).is(201)
	path := "/v1/access-requests/" + r.text("id")
	for name, c := range map[string]struct {
		credential string
		shown      bool
	}{"requester": {o.alice.token, true}, "approver": {o.dan.token, true}, "manager": {o.boss.token, true}, "root": {o.root, true}, "the service": {service.secret, false}} {
		r := o.do("GET", path, c.credential, "").is(200)
		if (r.text("justification") == why) != c.shown || strings.Contains(r.body, "T-1") != c.shown {
			t.Errorf("%s: %s", name, r.body)
		}
	}
	got := o.do("GET", path, o.dan.token, "").get("custom_answers")
	if first := got.Get(fields[0].Get("id").String()); first.Get("label").String() != "Ticket" || first.Get("value").String() != "T-1" || got.Get(fields[2].Get("id").String()+".value").Raw != "true" {
		t.Errorf("answers %s", got)
	}
	for _, e := range o.events("default") {
		if strings.Contains(e.Raw, why) || strings.Contains(e.Raw, "T-1") {
			t.Errorf("an event tells it: %s", e)
		}
	}
	if strings.Contains(o.log.String(), why) {
		t.Error("the log tells it")
	}
}

// The attack: who is made an approver meanwhile reads why people asked for what is
// not theirs to decide; and who approves no more reads on.
func TestRequests_JustificationIsNotForApproversOfAnotherTime(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	path := o.submit(o.alice, template)
	erin := o.person("erin", "user")
	others := o.group("others", erin)
	shown := func(who human, want bool) {
		t.Helper()
		if r := o.do("GET", path, who.token, "").is(200); (r.text("justification") == why) != want || r.get("justification").Exists() != want || r.get("custom_answers").Exists() != want {
			t.Errorf("%s: %s", who.username, r.body)
		}
	}
	approvers := func(groups string) {
		t.Helper()
		o.do("PUT", "/v1/access-request-templates/"+template, o.boss.token, `{"name":"t","app_id":"`+o.app+`","mapping_ids":["`+o.entitlement+`"],"approver_group_ids":[`+groups+`]}`).is(200)
	}
	shown(o.dan, true)
	approvers(`"` + o.dbas + `","` + others + `"`)
	shown(o.dan, true)
	shown(erin, false) // by the template of now alone
	o.do("POST", path+"/approve", erin.token, "").refused(403, "approver_required")
	approvers(`"` + others + `"`)
	shown(o.dan, false) // by that of then alone
	shown(erin, false)
	shown(o.alice, true)
	shown(o.boss, true)
	o.do("POST", path+"/approve", o.dan.token, "").refused(403, "approver_required")
	approvers(`"` + o.dbas + `"`)
	o.do("POST", path+"/approve", o.dan.token, "").is(200)
	approvers(`"` + others + `"`)
	shown(o.dan, true) // who has decided knows it
	if r := o.do("POST", path+"/revoke", erin.token, "").is(200); r.get("justification").Exists() {
		t.Errorf("ended by somebody who could not have decided: %s", r.body)
	}
}

// The attack: what somebody writes becomes a program where it is read: a cell of a
// sheet, a line of a log, a page, a message to a whole channel, a terminal.
func TestRequests_TextOfOthersStaysText(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	for i, text := range []string{`=cmd|'/c calc'!A1`, `<script>alert(1)</script>`, `<!channel> @everyone <https://evil.example|click>`, `"}],"status":"approved","x":[{"`, "line\nlevel=error msg=forged", `\u202e`, "\u202egnp.exe"} {
		encoded := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text)
		r := o.do("POST", "/v1/access-requests", o.alice.token, `{"template_id":"`+template+`","requested_duration_mins":60,"justification":"`+encoded+`"}`).is(201)
		path := "/v1/access-requests/" + r.text("id")
		for _, credential := range []string{o.alice.token, o.dora.token} {
			r := o.do("GET", path, credential, "").is(200)
			if r.text("justification") != text || r.text("status") != "pending" || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%q came back as %s", text, r.body)
			}
		}
		o.do("POST", path+"/messages", o.dora.token, `{"body":"`+encoded+`"}`).is(201)
		if r := o.do("GET", path+"/messages", o.alice.token, "").is(200); r.text("messages.0.body") != text || r.text("messages.0.author.email") != "dora@example.com" {
			t.Errorf("message %d: %s", i, r.body)
		}
		o.do("POST", path+"/deny", o.dora.token, `{"comment":"`+encoded+`"}`).is(200)
	}
	for _, escape := range []string{`\u001b[2J`, `\u0007`, `\u0000`, `\u009b31m`} {
		o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"custom_answers":null`)[:len(submission(template))-1]+`,"justification":"`+escape+`"}`).is(400) // twice, too
		o.do("POST", "/v1/access-requests", o.alice.token, `{"template_id":"`+template+`","requested_duration_mins":60,"justification":"a`+escape+`"}`).is(400)
	}
	for line := range strings.Lines(o.log.String()) {
		if !gjson.Valid(line) || strings.Contains(line, "forged") {
			t.Errorf("the log has %s", line)
		}
	}
}

// Any number of people who decide at once make one decision, and then at most one
// revocation, each told once.
func TestRequests_OneDecisionHoweverManyDecide(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	for round := range 5 {
		path := o.submit(o.alice, template)
		var statuses sync.Map
		var all sync.WaitGroup
		for i := range 12 {
			who, what := o.dora, "/approve"
			switch i % 4 {
			case 1:
				who, what = o.dan, "/deny"
			case 2:
				who, what = o.alice, "/revoke"
			case 3:
				who, what = o.boss, "/revoke"
			}
			all.Go(func() {
				r, err := o.try("POST", path+what, who.token, "")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := statuses.LoadOrStore(fmt.Sprint(what, " ", r.status), new(int))
				_ = n
				if r.status != 200 && r.status != 409 {
					t.Errorf("%s: %d %s", what, r.status, r.body)
				}
			})
		}
		all.Wait()
		decisions, revocations := 0, 0
		for _, e := range o.events("default") {
			if e.Get("resource.id").String() != path[len("/v1/access-requests/"):] || e.Get("outcome").String() != "success" {
				continue
			}
			switch strings.TrimPrefix(e.Get("action").String(), "access_request.") {
			case "approve", "deny":
				decisions++
			case "revoke":
				revocations++
			}
		}
		status := o.status(path)
		if decisions > 1 || revocations > 1 || decisions+revocations == 0 || status == "pending" || o.may(o.alice) != (status == "approved") {
			t.Errorf("round %d: %d decisions, %d revocations, %s", round, decisions, revocations, status)
		}
		if status == "approved" {
			o.do("POST", path+"/revoke", o.alice.token, "").is(200)
		}
	}
}

func TestRequests_KApprovals(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.do("POST", "/v1/access-request-templates", o.boss.token, o.template(`"approvals_required":0`)).refused(400, "out_of_range", "/approvals_required")
	path := o.submit(o.alice, o.newTemplate(`"approvals_required":2`))
	r := o.do("POST", path+"/approve", o.dora.token, `{"comment":"first"}`).is(200)
	if r.text("status") != "pending" || r.text("approvals.0.by") != o.dora.id || r.text("decided_by") != "" || o.may(o.alice) {
		t.Errorf("after one of two: %s", r.body)
	}
	o.do("POST", path+"/approve", o.dora.token, "").refused(409, "already_voted")
	r = o.do("POST", path+"/approve", o.dan.token, "").is(200)
	if r.text("status") != "approved" || r.text("decided_by") != o.dan.id || len(r.get("approvals").Array()) != 2 || !o.may(o.alice) {
		t.Errorf("after two of two: %s", r.body)
	}
}

func TestRequests_CancelIsNoDecision(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	path := o.submit(o.alice, template)
	o.do("POST", path+"/revoke", o.dora.token, "").refused(403, "requester_required") // an approver denies
	r := o.do("POST", path+"/revoke", o.alice.token, "").is(200)
	if r.text("status") != "revoked" || r.get("decided_by").Type != gjson.Null || r.text("decision") != "Cancelled" || r.text("revoked_by") != o.alice.id {
		t.Errorf("cancelled: %s", r.body)
	}
	path = o.submit(o.alice, template) // the next one is not kept back by it
	o.do("POST", path+"/deny", o.dora.token, `{"comment":"not now"}`).is(200)
	r = o.do("GET", path, o.alice.token, "").is(200)
	if r.text("status") != "denied" || r.text("decision") != "Denied" || r.text("decided_by") != o.dora.id || r.text("comment") != "not now" {
		t.Errorf("denied: %s", r.body)
	}
}

// A grant that a request gave ends with the request, and the request with the grant.
func TestRequests_TheGrantIsTheRequests(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	path := o.submit(o.alice, template)
	r := o.do("POST", path+"/approve", o.dora.token, "", "Prefer", "wait=1").is(200)
	if r.header.Get("Preference-Applied") != "wait=1" || r.text("applied.0.node") != "node-1" {
		t.Errorf("approved %s", r.body)
	}
	grant := "/v1/grants/" + r.text("grant_id")
	if g := o.do("GET", grant, o.boss.token, "").is(200); g.text("request_id") != r.text("id") || g.text("entitlement_ids.0") != o.entitlement || g.text("subject.id") != o.alice.id || g.text("status") != "active" {
		t.Errorf("grant %s", g.body)
	}
	o.do("DELETE", grant, o.boss.token, "", "Prefer", "return=representation, wait=1").is(200)
	if o.may(o.alice) || o.status(path) != "revoked" {
		t.Error("the request outlives its grant")
	}
	o.do("DELETE", grant, o.boss.token, "").refused(409, "already_ended")
	if got := fmt.Sprint(o.facts()); got != "[submit approve revoke]" {
		t.Errorf("recorded: %s", got)
	}
	// Two that overlap end each on its own.
	first, second := o.submit(o.alice, template), ""
	o.do("POST", first+"/approve", o.dora.token, "").is(200)
	second = o.submit(o.alice, template)
	o.do("POST", second+"/approve", o.dan.token, "").is(200)
	o.do("POST", first+"/revoke", o.alice.token, "").is(200)
	if !o.may(o.alice) {
		t.Error("one has ended the other")
	}
	o.do("POST", second+"/revoke", o.boss.token, "", "Prefer", "wait=0").is(200)
	if o.may(o.alice) {
		t.Error("both are over, and it goes on")
	}
}

// A client that repeats itself asks once.
func TestRequests_SubmittedOnceWithAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	once := []string{"Idempotency-Key", "submit 1"}
	first := o.do("POST", "/v1/access-requests", o.alice.token, submission(template), once...).is(201)
	again := o.do("POST", "/v1/access-requests", o.alice.token, submission(template), once...).is(201)
	if first.body != again.body || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s and then %s", first.body, again.body)
	}
	o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"resources":null`), once...).refused(422, "idempotency_mismatch")
	if got := o.facts(); len(got) != 1 {
		t.Errorf("recorded: %v", got)
	}
	made := o.do("POST", "/v1/access-request-templates", o.boss.token, strings.Replace(o.template(), "Database", "Other", 1), once...).is(201)
	if o.do("POST", "/v1/access-request-templates", o.boss.token, strings.Replace(o.template(), "Database", "Other", 1), once...).is(201).body != made.body {
		t.Error("a template was made twice")
	}
	path := "/v1/access-requests/" + first.text("id") + "/messages"
	if a, b := o.do("POST", path, o.alice.token, `{"body":"x"}`, once...).is(201), o.do("POST", path, o.alice.token, `{"body":"x"}`, once...).is(201); a.body != b.body {
		t.Error("a message was made twice")
	}
}

func TestRequests_ListsPageAndFilter(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	for range 3 {
		path := o.submit(o.alice, template)
		o.clock.advance(time.Second)
		o.do("POST", path+"/deny", o.dora.token, "").is(200)
	}
	last := o.submit(o.eve, o.namedTemplate("other"))
	var ids []string
	cursor := ""
	for range 5 {
		r := o.do("GET", "/api/v1/access-requests/all?limit=2"+cursor, o.boss.token, "").is(200)
		for _, q := range r.get("access_requests").Array() {
			ids = append(ids, q.Get("id").String())
		}
		next := r.get("next_cursor")
		if next.Type == gjson.Null {
			break
		}
		cursor = "&cursor=" + next.String()
	}
	if len(ids) != 4 || "/v1/access-requests/"+ids[0] != last {
		t.Errorf("listed %v", ids)
	}
	for query, want := range map[string]int{"?status=denied": 3, "?status=pending": 1, "?template_id=" + template: 3, "?requester=ALICE@": 3, "?requester=eve&status=pending": 1, "?requester=nobody": 0, "?requester=%25": 0, "?requester=_": 0} {
		if r := o.do("GET", "/v1/access-requests/all"+query, o.boss.token, "").is(200); len(r.get("access_requests").Array()) != want {
			t.Errorf("%s: %s", query, r.body)
		}
	}
	if mine := o.do("GET", "/v1/access-requests?status=denied", o.alice.token, "").is(200); len(mine.get("access_requests").Array()) != 3 {
		t.Errorf("mine: %s", mine.body)
	}
	for _, query := range []string{"?status=gone", "?template_id=x", "?requester=", "?limit=0", "?limit=201", "?cursor=x", "?nosuch=1", "?requester=%00"} {
		o.do("GET", "/v1/access-requests/all"+query, o.boss.token, "").is(400)
	}
	list := o.do("GET", "/v1/access-request-templates?limit=1", o.alice.token, "").is(200)
	next := o.do("GET", "/v1/access-request-templates?limit=1&cursor="+list.text("next_cursor"), o.alice.token, "").is(200)
	if list.text("access_request_templates.0.name") != "Database read-only access" || next.text("access_request_templates.0.name") != "other" || next.get("next_cursor").Type != gjson.Null {
		t.Errorf("templates %s and %s", list.body, next.body)
	}
	o.do("GET", "/v1/access-request-templates?cursor=x", o.alice.token, "").refused(400, "invalid_cursor")
}

func TestTemplates_AreManagersAlone(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	template := o.newTemplate()
	path := "/v1/access-request-templates/" + template
	for credential, code := range map[string]string{o.alice.token: "not_permitted", o.dora.token: "not_permitted", o.create(`{"decision":true,"approvals":true}`).secret: "scope_missing"} {
		o.do("POST", "/v1/access-request-templates", credential, o.template()).refused(403, code)
		o.do("PUT", path, credential, o.template()).refused(403, code)
		o.do("DELETE", path, credential, "").refused(403, code)
	}
	// Which application a template is for never changes, and it is what was read.
	was := o.do("GET", path, o.alice.token, "").is(200)
	if was.text("app_id") != o.app || was.get("allowed_durations").Raw != "[60,240,480]" || was.get("escalation_after_mins").Type != gjson.Null || was.text("notification_policy") != "all" {
		t.Errorf("read %s", was.body)
	}
	other := o.establish("/v1/applications", `{"name":"other"}`)
	o.do("PUT", path, o.boss.token, `{"name":"n","app_id":"`+other+`"}`).refused(400, "immutable_member", "/app_id")
	// What a template names must be there.
	for member, pointer := range map[string]string{`"approver_group_ids":["` + openapiNone + `"]`: "/approver_group_ids/0", `"mapping_ids":["` + openapiNone + `"]`: "/mapping_ids/0",
		`"trigger_task_id":"` + openapiNone + `"`: "/trigger_task_id", `"escalation_after_mins":5,"escalation_group_id":"` + openapiNone + `"`: "/escalation_group_id"} {
		r := o.do("POST", "/v1/access-request-templates", o.boss.token, `{"name":"n","app_id":"`+o.app+`",`+member+`}`).is(400)
		if r.text("errors.0.pointer") != pointer {
			t.Errorf("%s: %s", member, r.body)
		}
	}
	// What get shows, put takes.
	body := was.body
	for _, member := range []string{"id", "created_at", "updated_at"} {
		body = strings.Replace(body, `"`+member+`":`+was.get(member).Raw+`,`, "", 1)
		body = strings.Replace(body, `,"`+member+`":`+was.get(member).Raw, "", 1)
	}
	if is := o.do("PUT", path, o.boss.token, body).is(200); is.get("allowed_durations").Raw != was.get("allowed_durations").Raw || is.text("approver_group_ids.0") != o.dbas {
		t.Errorf("put %s", is.body)
	}
}

// Whoever compares what it wrote with what it reads, as Terraform does, sees no
// change: the lists keep the order in which they were given, in every reply.
func TestTemplates_AnswerWithWhatIsKept(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	second := o.establish("/v1/entitlements", `{"app_id":"`+o.app+`","name":"second","entries":{"database":[{"f":"orders","p":4}]}}`)
	for _, list := range [][]string{{o.entitlement, second}, {second, o.entitlement}} {
		body := o.template(`"mapping_ids":["` + strings.Join(list, `","`) + `"]`)
		made := o.do("POST", "/v1/access-request-templates", o.boss.token, body).is(201)
		path := "/v1/access-request-templates/" + made.text("id")
		for _, wrote := range []*reply{made, o.do("PUT", path, o.boss.token, body).is(200)} {
			read := o.do("GET", path, o.boss.token, "").is(200)
			for member, value := range read.get("@this").Map() {
				if got := wrote.get(member).Raw; got != value.Raw && member != "updated_at" {
					t.Errorf("%s: wrote %s, read %s", member, got, value.Raw)
				}
			}
			if got := read.get("mapping_ids").Raw; got != `["`+strings.Join(list, `","`)+`"]` {
				t.Errorf("gave %q, read %s", list, got)
			}
		}
	}
}

// The least that a template says: what is left out is as the document has it, and
// admins decide.
func TestTemplates_OfAnApplicationAndATaskAlone(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.exec(`INSERT INTO tasks VALUES ('` + openapiNone + `', 'default', 'logger', 'webhook', '', 'https://example.com/log', '[]', 0, 1, 1, 1)`)
	r := o.do("POST", "/api/v1/access-request-templates", o.boss.token, `{"name":"Database Read Access","app_id":"`+o.app+`","trigger_task_id":"`+openapiNone+`","trigger_task_failure_mode":"ignore"}`).is(201)
	for member, want := range map[string]string{
		"description": `""`, "mapping_ids": `[]`, "allowed_durations": `[]`, "approver_group_ids": `[]`, "allowed_group_ids": `[]`, "prefer_requester_groups": `false`, "require_justification": `true`,
		"auto_approve": `false`, "notification_policy": `"all"`, "notification_count": `1`, "escalation_after_mins": `null`, "escalation_group_id": `null`, "custom_fields": `[]`, "trigger_task_failure_mode": `"ignore"`,
	} {
		if got := r.get(member).Raw; got != want {
			t.Errorf("%s is %s, want %s", member, got, want)
		}
	}
	path := o.submit(o.alice, r.text("id"))
	o.do("POST", path+"/approve", o.dora.token, "").refused(404, "access_request_not_found")
	o.do("POST", path+"/approve", o.boss.token, "").is(200)
}

// The attack: a resource's id that a scope entry would read as a prefix.
func TestRequests_ResourcesAreNamedExactly(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.do("POST", "/v1/resources:bulkUpdate", o.root, `{"resources":[{"kind":"account","id":"db-1/admin","labels":{"env":"prod"}},{"kind":"account","id":"db-2/admin","labels":{"env":"test"}}]}`).is(200)
	template := o.namedTemplate("accounts", `"resource_selector":{"kind":"account","labels":{"env":"prod"}}`, `"resource_access":{"a":["login"]}`)
	ask := func(resources string) *reply {
		return o.do("POST", "/v1/access-requests", o.alice.token, submission(template, `"resources":`+resources))
	}
	for _, id := range []string{"*", "db-*", "db-1/*"} {
		ask(`[{"kind":"account","id":"`+id+`"}]`).refused(400, "invalid_resource_id", "/resources/0/id")
	}
	ask(`[{"kind":"account","id":"db-2/admin"}]`).refused(400, "resource_not_allowed")
	ask(`[{"kind":"account","id":"db-3/admin"}]`).refused(400, "resource_not_allowed")
	ask(`[{"kind":"policies","id":"main"}]`).refused(400, "invalid_kind")
	ask(`[]`).refused(400, "resources_required")
	path := "/v1/access-requests/" + ask(`[{"kind":"account","id":"db-1/admin"}]`).is(201).text("id")
	o.do("POST", path+"/approve", o.dora.token, "").is(200)
	login := func(id string) bool {
		return o.decide(o.root, evaluation(`{"type":"user","id":"`+o.alice.id+`"}`, "login", "account", id)).get("decision").Bool()
	}
	if !login("db-1/admin") || login("db-2/admin") || login("db-1/admin2") {
		t.Error("granted something else than was asked for")
	}
	// One whose labels have changed is not the one that was asked for.
	path = "/v1/access-requests/" + o.do("POST", "/v1/access-requests", o.eve.token, submission(template, `"resources":[{"kind":"account","id":"db-1/admin"}]`)).is(201).text("id")
	o.do("POST", "/v1/resources:bulkUpdate", o.root, `{"resources":[{"kind":"account","id":"db-1/admin","labels":{"env":"test"}}]}`).is(200)
	o.do("POST", path+"/approve", o.dora.token, "").refused(409, "resource_gone")
}

// taskThat is a task that must succeed first.
type taskThat func(ctx context.Context) error

func (f taskThat) Before(ctx context.Context, _ access.TriggerEvent) error { return f(ctx) }

func TestRequests_TaskThatMustSucceedFirst(t *testing.T) {
	t.Parallel()
	began, outcome := make(chan struct{}), make(chan error)
	o := newOffice(t, func(o *options) {
		o.requests = func(c *access.RequestsConfig) {
			c.Trigger = taskThat(func(ctx context.Context) error {
				began <- struct{}{}
				select {
				case err := <-outcome:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}
	})
	task := openapiNone
	o.exec(`INSERT INTO tasks VALUES ('` + task + `', 'default', 'check', 'webhook', '', 'https://example.com/check', '[]', 0, 1, 1, 1)`)
	path := o.submit(o.alice, o.newTemplate(`"trigger_task_id":"`+task+`"`, `"trigger_task_failure_mode":"block"`))
	for _, c := range []struct {
		outcome error
		status  int
		code    string
	}{
		{latchkey.Errorf(latchkey.TaskFailed, "trigger_task_failed", "no"), 502, "trigger_task_failed"},
		{latchkey.Errorf(latchkey.TaskTimeout, "trigger_task_timeout", "slow"), 504, "trigger_task_timeout"},
		{nil, 200, ""},
	} {
		approved := make(chan *reply, 1)
		go func() {
			r, err := o.try("POST", path+"/approve", o.dora.token, "")
			if err != nil {
				t.Error(err)
			}
			approved <- r
		}()
		select {
		case <-began:
		case r := <-approved:
			t.Fatalf("approved without the task: %s", r.body)
		}
		o.do("POST", path+"/approve", o.dan.token, "").refused(409, "decision_in_progress")
		o.do("POST", path+"/deny", o.dan.token, "").refused(409, "decision_in_progress")
		if o.may(o.alice) {
			t.Error("allowed while the task runs")
		}
		outcome <- c.outcome
		r := <-approved
		if c.outcome == nil {
			r.is(200)
			break
		}
		r.refused(c.status, c.code)
		if r := o.do("GET", path, o.alice.token, "").is(200); r.text("status") != "pending" || r.text("trigger_failure") != c.code {
			t.Errorf("after a failure: %s", r.body)
		}
	}
	if !o.may(o.alice) {
		t.Error("not allowed though the task succeeded")
	}
}
