package server_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/internal/duty"
	"github.com/latchkey-dev/latchkey/notify"
)

// onCallBench is a server that asks a stand-in for incident.io who is on call.
type onCallBench struct {
	*api
	fake       *duty.Fake
	out        atomic.Int64 // status that the stand-in answers with, 0 for its answers
	jane, boss human
	app, group string
}

func startOnCall(t *testing.T) *onCallBench {
	t.Helper()
	b := &onCallBench{fake: &duty.Fake{Key: "k", Secret: "hush"}}
	b.fake.Before = func(w http.ResponseWriter, _ *http.Request) bool {
		status := int(b.out.Load())
		if status > 0 {
			w.WriteHeader(status)
		}
		return status > 0
	}
	provider := httptest.NewServer(b.fake)
	t.Cleanup(provider.Close)
	incidents, err := notify.NewIncidentIO(notify.IncidentIOConfig{URL: provider.URL, Key: "k", Client: provider.Client(), Roles: []string{"DBA", "API"}})
	if err != nil {
		t.Fatal(err)
	}
	webhook, err := notify.NewDecisionWebhook(notify.DecisionWebhookConfig{URL: provider.URL + "/decision", Secret: "hush", Client: provider.Client()})
	if err != nil {
		t.Fatal(err)
	}
	auto, err := notify.NewAutoApproval(notify.NewOnCall(prometheus.NewRegistry(), incidents, webhook), 6*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b.api = start(t, func(o *options) { o.auto = auto })
	b.jane, b.boss = b.person("jane", "user"), b.person("boss", "user")
	b.app = b.do("POST", "/v1/applications", b.root, `{"name":"databases"}`).is(201).text("id")
	b.group = b.do("POST", "/v1/groups", b.root, `{"name":"dba","member_ids":["`+b.boss.id+`","bot"]}`).is(201).text("id")
	b.do("POST", "/v1/resources:bulkUpdate", b.root, `{"resources":[{"kind":"database","id":"payments","labels":{"env":"prod"}},{"kind":"database","id":"play","labels":{"env":"dev"}}]}`).is(200)
	return b
}

// onDuty gives somebody a role in a live incident.
func (b *onCallBench) onDuty(email, role string) {
	b.fake.Set([]duty.Incident{{ID: "01H", Reference: "INC-7", Category: "live", Roles: []duty.Role{{Name: role, Email: email}}}}, nil)
}

func (b *onCallBench) template(name, more string) string {
	b.Helper()
	return b.do("POST", "/v1/access-request-templates", b.root, `{"name":"`+name+`","app_id":"`+b.app+`","approver_group_ids":["`+b.group+`"],"allowed_durations":[480,60],"require_justification":false,`+
		`"resource_selector":{"kind":"database","labels":{}},"resource_access":{"p":2,"a":["*"]}`+more+`}`).is(201).text("id")
}

func (b *onCallBench) ask(who human, template, database string) *reply {
	b.Helper()
	return b.do("POST", "/v1/access-requests", who.token, `{"template_id":"`+template+`","requested_duration_mins":480,"resources":[{"kind":"database","id":"`+database+`"}]}`)
}

func (b *onCallBench) mayRead(who human, database string) bool {
	b.Helper()
	return b.decide(b.root, evaluation(`{"type":"user","id":"`+who.id+`"}`, "read", "database", database)).get("decision").Bool()
}

// The guide from its beginning to its end: somebody has a role in a live incident,
// asks, and is let in at once, for as long as automatic approvals last; the record
// says by which incident and role.
func TestOnCall_AnEngineerOnDutyIsApprovedAtOnce(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	template := b.template("payments", `,"auto_approve_sources":["incidentio"]`)
	b.onDuty("Jane@Example.com", "DBA")
	if b.mayRead(b.jane, "payments") {
		t.Fatal("may read before")
	}
	asked := b.ask(b.jane, template, "payments").is(201)
	for member, want := range map[string]string{
		"status": "approved", "decision": "Approved", "decision_method": "auto", "decided_by": "bot", "approvals.0.by": "bot",
		"approvals.0.comment": "on call: DBA of incident INC-7 (incidentio)",
		"approvals.0.evidence.oncall.incidentio.evidence.0.id":   "01H",
		"approvals.0.evidence.oncall.incidentio.evidence.0.role": "DBA",
		"approvals.0.evidence.oncall.incidentio.evidence.0.kind": "incident",
		"approvals.0.evidence.oncall.incidentio.evidence.0.name": "INC-7",
		"expires_at": b.clock.in(6 * time.Hour),
	} {
		if got := asked.text(member); got != want {
			t.Errorf("%s is %s, want %s", member, got, want)
		}
	}
	if asked.get("notified_approvers.#").Int() != 0 {
		t.Errorf("people were told: %s", asked.body)
	}
	if !b.mayRead(b.jane, "payments") || b.mayRead(b.jane, "play") {
		t.Error("is let in to other things than were asked for")
	}
	all := b.do("GET", "/v1/access-requests/all", b.root, "").is(200)
	if all.text("access_requests.0.decision_method") != "auto" {
		t.Errorf("the list: %s", all.body)
	}
	var approved gjson.Result
	for _, e := range b.events("default") {
		if e.Get("action").String() == "access_request.approve" {
			approved = e
		}
	}
	if approved.Get("actor.id").String() != "bot" || approved.Get("changes.evidence.oncall.incidentio.evidence.0.name").String() != "INC-7" || approved.Get("changes.decision_method").String() != "auto" {
		t.Errorf("the event: %s", approved)
	}
	b.clock.advance(6 * time.Hour)
	if b.mayRead(b.jane, "payments") {
		t.Error("may read after six hours")
	}
}

func TestOnCall_WhoIsNotOnDutyWaitsForPeople(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	template := b.template("payments", `,"auto_approve_sources":["incidentio"]`)
	pending := func(why string) {
		t.Helper()
		r := b.ask(b.jane, template, "payments").is(201)
		if r.text("status") != "pending" || r.text("notified_approvers.0.id") != b.boss.id || b.mayRead(b.jane, "payments") {
			t.Errorf("%s: %s", why, r.body)
		}
		b.do("POST", "/v1/access-requests/"+r.text("id")+"/revoke", b.jane.token, `{}`).is(200)
	}
	pending("nobody is on duty")
	b.onDuty("boss@example.com", "DBA")
	pending("somebody else is")
	b.onDuty("jane@example.com", "Scribe")
	pending("the role does not count")
	b.onDuty("jane@example.com", "dba")
	pending("the role is written otherwise")
	b.onDuty("jane@example.com", "DBA")
	for _, status := range []int{401, 429, 500, 204} {
		b.out.Store(int64(status))
		pending("the provider is out")
	}
	b.out.Store(0)
	b.do("PUT", "/v1/groups/"+b.group, b.root, `{"name":"dba","member_ids":["`+b.boss.id+`"],"entitlement_ids":[]}`).is(200)
	pending("the bot is no approver")
	// And people decide as ever.
	r := b.ask(b.jane, template, "payments").is(201)
	b.do("POST", "/v1/access-requests/"+r.text("id")+"/approve", b.boss.token, `{}`).is(200)
	if !b.mayRead(b.jane, "payments") {
		t.Error("people's approval does not count")
	}
}

// Somebody who is on duty asks for somebody who is not; or a person without an
// address hopes to be anybody without one.
func TestOnCall_OnlyTheBeneficiarysOwnDutyCounts(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	template := b.template("payments", `,"auto_approve_sources":["incidentio"]`)
	service := b.createFor("default", `{"approvals":true}`).secret
	b.onDuty("jane@example.com", "DBA")
	body := `{"template_id":"` + template + `","requested_duration_mins":60,"resources":[{"kind":"database","id":"payments"}],"beneficiary_id":"`
	if r := b.do("POST", "/v1/access-requests", service, body+b.boss.id+`"}`); r.status == 201 && r.text("status") != "pending" {
		t.Errorf("for another: %d %s", r.status, r.body)
	}
	if r := b.do("POST", "/v1/access-requests", service, body+b.jane.id+`"}`).is(201); r.text("status") != "approved" {
		t.Errorf("for the one on duty: %s", r.body)
	}
	nobody := b.do("POST", "/v1/users", b.root, `{"username":"nobody"}`).is(201)
	b.keep(nobody.text("access_key.key"))
	b.keep(nobody.text("claim.code"))
	b.fake.Set([]duty.Incident{{ID: "01H", Category: "live", Roles: []duty.Role{{Name: "DBA"}, {Name: "DBA", Assignee: "nobody"}}}}, nil)
	if r := b.do("POST", "/v1/access-requests", service, body+nobody.text("id")+`"}`).is(201); r.text("status") != "pending" {
		t.Errorf("without an address: %s", r.body)
	}
}

func TestOnCall_TheShortestBoundCounts(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	b.onDuty("jane@example.com", "DBA")
	b.fake.Approve(map[string]string{"indent.com/time/duration": "9000h0m0s", "indent.com/time/indefinite": "true"}, b.jane.id)
	for name, tt := range map[string]struct {
		more string
		want time.Duration
	}{
		"automatic approvals":        {`,"auto_approve_sources":["incidentio"]`, 6 * time.Hour},
		"the template's":             {`,"auto_approve_sources":["incidentio"],"max_auto_duration_mins":30`, 30 * time.Minute},
		"a claim that asks for more": {`,"auto_approve_sources":["http"]`, 6 * time.Hour},
		"a claim and the template's": {`,"auto_approve_sources":["http"],"max_auto_duration_mins":45`, 45 * time.Minute},
	} {
		r := b.ask(b.jane, b.template(name, tt.more), "payments").is(201)
		if r.text("expires_at") != b.clock.in(tt.want) {
			t.Errorf("%s: until %s, want %s", name, r.text("expires_at"), b.clock.in(tt.want))
		}
		b.do("POST", "/v1/access-requests/"+r.text("id")+"/revoke", b.jane.token, `{}`).is(200)
	}
}

// The labels that a condition reads are the record's; who asks cannot send any.
func TestOnCall_TheConditionReadsStoredLabels(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	b.onDuty("jane@example.com", "DBA")
	template := b.template("payments", `,"auto_approve_when":"oncall.incidentio.active && resource.labels.env == 'dev'"`)
	if r := b.ask(b.jane, template, "play").is(201); r.text("status") != "approved" || r.text("approvals.0.evidence.condition") == "" {
		t.Errorf("dev: %s", r.body)
	}
	if r := b.ask(b.jane, template, "payments").is(201); r.text("status") != "pending" {
		t.Errorf("prod: %s", r.body)
	}
	b.do("POST", "/v1/access-requests", b.jane.token, `{"template_id":"`+template+`","requested_duration_mins":60,"resources":[{"kind":"database","id":"payments","labels":{"env":"dev"}}]}`).refused(400, "unknown_member")
	both := `{"template_id":"` + template + `","requested_duration_mins":60,"resources":[{"kind":"database","id":"play"},{"kind":"database","id":"payments"}]}`
	if r := b.do("POST", "/v1/access-requests", b.jane.token, both).is(201); r.text("status") != "pending" {
		t.Errorf("both: %s", r.body)
	}
}

func TestOnCall_TemplatesThatCouldNeverAskAreRefused(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	for more, pointer := range map[string]string{
		`"auto_approve_sources":["pagerduty"]`:                                      "/auto_approve_sources/0",
		`"auto_approve_when":"oncall.pagerduty.active"`:                             "/auto_approve_when",
		`"auto_approve_when":"subject.id == 'x'"`:                                   "/auto_approve_when",
		`"auto_approve_when":"oncall.incidentio.active &&"`:                         "/auto_approve_when",
		`"auto_approve_when":"` + strings.Repeat("resources.all(x, ", 9) + `true)"`: "/auto_approve_when",
	} {
		r := b.do("POST", "/v1/access-request-templates", b.root, `{"name":"x","app_id":"`+b.app+`","approver_group_ids":["`+b.group+`"],`+more+`}`).is(400)
		if r.text("errors.0.pointer") != pointer {
			t.Errorf("%s: %s", more, r.body)
		}
	}
}

// Who goes off duty loses what only duty gave; a provider that is out takes nothing
// away.
func TestOnCall_GoesOffDuty(t *testing.T) {
	t.Parallel()
	b := startOnCall(t)
	b.onDuty("jane@example.com", "DBA")
	template := b.template("payments", `,"auto_approve_sources":["incidentio"],"revoke_when_off_call":5`)
	id := b.ask(b.jane, template, "payments").is(201).text("id")
	recheck := func() {
		t.Helper()
		if _, err := b.requests.Recheck(context.Background(), latchkey.InstantOf(b.clock.now())); err != nil {
			t.Fatal(err)
		}
		b.follow()
	}
	b.clock.advance(5 * time.Minute)
	recheck()
	if !b.mayRead(b.jane, "payments") {
		t.Error("still on duty, and not let in any more")
	}
	b.fake.Set(nil, nil)
	recheck() // not yet
	if !b.mayRead(b.jane, "payments") {
		t.Error("asked again too early")
	}
	b.out.Store(500)
	b.clock.advance(5 * time.Minute)
	recheck()
	if !b.mayRead(b.jane, "payments") {
		t.Error("a provider that is out took it away")
	}
	b.out.Store(0)
	b.clock.advance(5 * time.Minute)
	recheck()
	if b.mayRead(b.jane, "payments") {
		t.Error("off duty, and still let in")
	}
	r := b.do("GET", "/v1/access-requests/"+id, b.jane.token, "").is(200)
	if r.text("status") != string(access.Revoked) || r.text("decision") != "Approved" || r.text("revoke_reason") == "" || r.text("decided_by") != "bot" {
		t.Errorf("revoked: %s", r.body)
	}
}
