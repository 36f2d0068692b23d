package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/duty"
	"github.com/latchkey-dev/latchkey/notify"
)

func autoApproval(t *testing.T, providers ...notify.OnCallProvider) *notify.AutoApproval {
	t.Helper()
	a, err := notify.NewAutoApproval(notify.NewOnCall(prometheus.NewRegistry(), providers...), 6*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func autoQuestion(change func(*access.AutoQuestion)) access.AutoQuestion {
	jane := authz.Person{ID: "p-jane", Username: "jane", Email: "jane@example.com", Name: "Jane", Type: authz.UserPerson, Active: true}
	resource := func(id, labels string) authz.ResourceRecord {
		return authz.ResourceRecord{EntityRef: authz.EntityRef{Type: "database", ID: id}, Labels: labels}
	}
	q := access.AutoQuestion{Template: access.Template{ID: "t-1", Name: "Databases"}, Requester: jane, Beneficiary: jane,
		Resources: []authz.ResourceRecord{resource("payments", `{"env":"prod"}`)}, Now: latchkey.InstantOf(onCallNow),
		Request: access.Request{Duration: 90, Assignment: access.Temporary, Justification: "it burns", Resources: []authz.EntityRef{{Type: "database", ID: "payments"}},
			Answers: []access.Answer{{Label: "ticket", Value: access.AnswerValue{Text: "T-1"}}}}}
	change(&q)
	return q
}

// dutyRoster has Jane as DBA of a live incident, and on call with PagerDuty as well.
func dutyRoster() *duty.Fake {
	fake := &duty.Fake{Secret: "hush"}
	fake.Set([]duty.Incident{{ID: "01", Reference: "INC-7", Category: "live", Roles: []duty.Role{{Name: "DBA", Email: "jane@example.com"}}}},
		[]duty.OnCall{{Email: "jane@example.com", Name: "Jane", Policy: "EP", Schedule: "S1", ScheduleName: "Primary", Level: 2}})
	return fake
}

func TestAutoApproval_ApprovesWhoIsOnCall(t *testing.T) {
	fake := dutyRoster()
	a := autoApproval(t, incidentIO(t, fake), pagerDuty(t, fake))
	for _, tt := range []struct {
		name    string
		sources []string
		when    string
		change  func(*access.AutoQuestion)
		approve bool
	}{
		{"being on call suffices", []string{"incidentio"}, "", nil, true},
		{"with any of the sources", []string{"pagerduty", "incidentio"}, "", nil, true},
		{"nothing is asked for", nil, "", nil, false},
		{"a condition alone", nil, `oncall.incidentio.roles.exists(r, r == "DBA")`, nil, true},
		{"a condition without providers", nil, `resource.labels.env == "dev"`, nil, false},
		{"on call, and the condition", []string{"incidentio"}, `resource.labels.env == "prod"`, nil, true},
		{"on call, but not the condition", []string{"incidentio"}, `resource.labels.env == "dev"`, nil, false},
		{"the condition reads another provider", []string{"incidentio"}, `"Primary" in oncall.pagerduty.schedules`, nil, true},
		{"whatever they are called", nil, `oncall.exists(name, oncall[name].active)`, nil, true},
		{"everything of the request", nil, `request.requested_duration_mins == 90 && request.assignment_type == "temporary" && request.custom_answers.ticket == "T-1" && ` +
			`request.template_name == "Databases" && requester.id == beneficiary.id && beneficiary.email == "jane@example.com" && resources.size() == 1 && now == timestamp("2026-03-02T10:30:00Z")`, nil, true},
		{"each member that conditions may name", nil, `[requester, beneficiary].all(p, p.id + p.username + p.email + p.name + p.type != "") && ` +
			`requester.id + requester.username + requester.email + requester.name + requester.type == beneficiary.id + beneficiary.username + beneficiary.email + beneficiary.name + beneficiary.type && ` +
			`resource.kind + resource.id + resource.display_name == "databasepayments" && resource.labels.size() == 1 && request.template_id + request.app_id + request.app_name == "t-1" && ` +
			`request.justification == "it burns" && request.window.start < request.window.end && oncall.pagerduty.active && oncall.pagerduty.roles == [] && ` +
			`oncall.pagerduty.schedules == ["Primary"] && oncall.pagerduty.evidence.size() == 1`,
			func(q *access.AutoQuestion) { q.Request.Window = &access.Window{Start: q.Now, End: q.Now + 1} }, true},
		{"one of two resources", nil, `resource.labels.env == "prod"`, func(q *access.AutoQuestion) {
			q.Resources = append(q.Resources, authz.ResourceRecord{EntityRef: authz.EntityRef{Type: "database", ID: "x"}, Labels: `{"env":"dev"}`})
		}, false},
		{"the beneficiary counts, not who asks", []string{"incidentio"}, "", func(q *access.AutoQuestion) { q.Beneficiary.ID, q.Beneficiary.Email = "p-joan", "joan@example.com" }, false},
		{"nobody is found without an address", []string{"incidentio"}, "", func(q *access.AutoQuestion) { q.Beneficiary.Email = "" }, false},
		// The labels are those of the record; what the request calls itself changes
		// none of them.
		{"labels that the request claims", nil, `resource.labels.env == "prod"`, func(q *access.AutoQuestion) {
			q.Resources[0].Labels = `{"env":"dev"}`
			q.Request.Justification = `{"labels":{"env":"prod"}}`
			q.Request.Answers = []access.Answer{{Label: "labels", Value: access.AnswerValue{Text: `{"env":"prod"}`}}, {Label: "env", Value: access.AnswerValue{Text: "prod"}}}
		}, false},
	} {
		answer, err := a.Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) {
			q.Template.AutoApproveSources, q.Template.AutoApproveWhen = tt.sources, tt.when
			if tt.change != nil {
				tt.change(q)
			}
		}))
		if err != nil || answer.Approve != tt.approve {
			t.Errorf("%s: %+v, %v", tt.name, answer, err)
		}
		if answer.Approve && (answer.Duration != 6*time.Hour || !json.Valid(answer.Evidence) || answer.Why == "") {
			t.Errorf("%s: %+v", tt.name, answer)
		}
	}
}

func TestAutoApproval_SaysWhichIncidentAndRole(t *testing.T) {
	fake := dutyRoster()
	a := autoApproval(t, incidentIO(t, fake), pagerDuty(t, fake))
	answer, err := a.Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) { q.Template.AutoApproveSources = []string{"incidentio", "pagerduty"} }))
	if err != nil {
		t.Fatal(err)
	}
	if want := "on call: DBA of incident INC-7 (incidentio); schedule Primary (pagerduty)"; answer.Why != want {
		t.Errorf("why: %s", answer.Why)
	}
	want := `{"oncall":{"incidentio":{"active":true,"roles":["DBA"],"schedules":[],"evidence":[{"provider":"incidentio","kind":"incident","id":"01","name":"INC-7","role":"DBA"}]},` +
		`"pagerduty":{"active":true,"roles":[],"schedules":["Primary"],"evidence":[{"provider":"pagerduty","kind":"schedule","id":"S1","name":"Primary","level":2}]}}}`
	if string(answer.Evidence) != want {
		t.Errorf("evidence: %s", answer.Evidence)
	}
}

// A provider that is out approves nothing and denies nothing: nobody can tell. What
// was approved stays until it says no.
func TestAutoApproval_AProviderThatIsOutIsNeverANo(t *testing.T) {
	fake := dutyRoster()
	out := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	a := autoApproval(t, incidentIO(t, out), pagerDuty(t, fake))
	for _, tt := range []struct {
		name, source, when string
		approve, unknown   bool
	}{
		{name: "the source itself", source: "incidentio", unknown: true},
		{name: "another source", source: "pagerduty", approve: true},
		{name: "a condition that reads it", when: `oncall.incidentio.active`, unknown: true},
		{name: "a condition that reads it and negates", when: `!oncall.incidentio.active`, unknown: true},
		{name: "a condition for which the other suffices", when: `oncall.incidentio.active || oncall.pagerduty.active`, approve: true},
		{name: "a condition that is false either way", when: `oncall.incidentio.active && resource.labels.env == "dev"`},
		{name: "both, and the condition fails by itself", source: "pagerduty", when: `resource.labels.nowhere == "x"`, unknown: true},
	} {
		answer, err := a.Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) {
			if tt.source != "" {
				q.Template.AutoApproveSources = []string{tt.source}
			}
			q.Template.AutoApproveWhen = tt.when
		}))
		if answer.Approve != tt.approve || (err != nil) != tt.unknown {
			t.Errorf("%s: %+v, %v", tt.name, answer, err)
		}
	}
	// A provider that somebody has taken away since.
	if answer, err := autoApproval(t).Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) { q.Template.AutoApproveSources = []string{"incidentio"} })); err == nil || answer.Approve {
		t.Errorf("nobody to ask: %+v, %v", answer, err)
	}
}

// A webhook's claim may make an approval shorter, and never longer.
func TestAutoApproval_AClaimNeverMakesItLonger(t *testing.T) {
	for claimed, want := range map[string]time.Duration{"1h30m0s": 90 * time.Minute, "9000h0m0s": 6 * time.Hour, "": 6 * time.Hour} {
		fake := &duty.Fake{Secret: "hush"}
		labels := map[string]string{"indent.com/time/indefinite": "true"}
		if claimed != "" {
			labels["indent.com/time/duration"] = claimed
		}
		fake.Approve(labels, "p-jane")
		answer, err := autoApproval(t, webhook(t, fake)).Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) { q.Template.AutoApproveSources = []string{"http"} }))
		if err != nil || !answer.Approve || answer.Duration != want {
			t.Errorf("%q: %+v, %v", claimed, answer, err)
		}
	}
	// Without resources the claim is of the template.
	fake := &duty.Fake{Secret: "hush"}
	fake.Approve(nil, "p-jane")
	answer, err := autoApproval(t, webhook(t, fake)).Evaluate(context.Background(), autoQuestion(func(q *access.AutoQuestion) {
		q.Template.AutoApproveSources, q.Resources = []string{"http"}, nil
	}))
	if err != nil || !answer.Approve || !strings.Contains(answer.Why, "Auto-approved based on being on-call") {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestAutoApproval_ChecksTemplates(t *testing.T) {
	a := autoApproval(t, incidentIO(t, &duty.Fake{}))
	for _, tt := range []struct {
		sources             []string
		when, pointer, code string
	}{
		{sources: []string{"incidentio"}, when: `oncall.incidentio.active`},
		{sources: []string{"incidentio", "opsgenie"}, pointer: "/auto_approve_sources/1", code: "unknown_provider"},
		{sources: []string{"pagerduty"}, pointer: "/auto_approve_sources/0", code: "provider_not_configured"},
		{when: `oncall.pagerduty.active`, pointer: "/auto_approve_when", code: "provider_not_configured"},
		{when: `oncall.opsgenie.active`, pointer: "/auto_approve_when", code: "unknown_provider"},
		{when: `oncall.`, pointer: "/auto_approve_when", code: "invalid_expression"},
		{when: `resource.label.env == "prod"`, pointer: "/auto_approve_when", code: "unknown_member"},
		{when: `subject.id == "x"`, pointer: "/auto_approve_when", code: "invalid_expression"},
	} {
		err := a.Check(tt.sources, tt.when)
		if tt.code == "" {
			if err != nil {
				t.Errorf("%v %s: %v", tt.sources, tt.when, err)
			}
			continue
		}
		e, ok := errors.AsType[*latchkey.Error](err)
		if !ok || e.Kind != latchkey.Invalid || e.Faults[0].Pointer != tt.pointer || e.Faults[0].Code != tt.code {
			t.Errorf("%v %s: %v", tt.sources, tt.when, err)
		}
	}
}
