package policies_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
)

func conditionFacts() *policies.Facts {
	at, _ := latchkey.ParseInstant("2026-03-02T10:30:00Z")
	resource := map[string]any{"kind": "database", "id": "payments", "labels": map[string]any{"env": "prod", "team": "pay"}}
	return &policies.Facts{
		Requester:   map[string]any{"id": "p1", "username": "jane", "email": "jane@example.com"},
		Beneficiary: map[string]any{"id": "p1", "username": "jane", "email": "jane@example.com"},
		Resource:    resource, Resources: []any{resource},
		Request: map[string]any{"template_name": "db", "requested_duration_mins": int64(90)},
		OnCall: map[string]any{"incidentio": map[string]any{"active": true, "roles": []any{"DBA"}, "schedules": []any{}, "evidence": []any{
			map[string]any{"kind": "incident", "id": "01", "name": "INC-7", "role": "DBA"}}}},
		Now: at,
	}
}

func TestCondition_Holds(t *testing.T) {
	for text, want := range map[string]bool{
		`oncall.incidentio.active`: true,
		`oncall.incidentio.active && "DBA" in oncall.incidentio.roles && resource.labels.env == "prod"`: true,
		`resource.labels.env == "dev"`:                                                            false,
		`request.requested_duration_mins <= 120`:                                                  true,
		`now.getHours() >= 9 && now.getHours() < 17 && now.getDayOfWeek() == 1`:                   true,
		`resources.all(r, r.labels.env == "prod")`:                                                true,
		`requester.id == beneficiary.id && requester.email.endsWith("@example.com")`:              true,
		`oncall.pagerduty.active || oncall.incidentio.active`:                                     true,
		`"oncall" in request`:                                                                     false,
		`oncall.incidentio.evidence.exists(e, e.kind == "incident" && e.name == "INC-7")`:         true,
		`has(resource.labels.tier) && resource.labels.tier == "1" || request.template_name != ""`: true,
	} {
		c, err := policies.CompileCondition("/auto_approve_when", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := c.Holds(conditionFacts()); err != nil || got != want {
			t.Errorf("%s = %v, %v; want %v", text, got, err, want)
		}
	}
}

// A provider that could not be asked must open nothing, however the condition
// turns what it says.
func TestCondition_WhatIsUnknownNeverHolds(t *testing.T) {
	for _, text := range []string{
		`oncall.pagerduty.active`,
		`!oncall.pagerduty.active`,
		`oncall.pagerduty.active == false`,
		`oncall.pagerduty.roles.size() == 0`,
		`!(oncall.pagerduty.active && oncall.incidentio.active)`,
		`oncall["pagerduty"].evidence.all(e, false)`,
		`resource.labels.missing != "secret"`,
		`request.template_name`, // a text
	} {
		c, err := policies.CompileCondition("", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		holds, err := c.Holds(conditionFacts())
		var failed *policies.EvaluationError
		if holds || !errors.As(err, &failed) {
			t.Errorf("%s = %v, %v; want a failure", text, holds, err)
		}
		if err != nil && strings.Contains(err.Error(), "payments") {
			t.Errorf("%s: the error quotes facts: %v", text, err)
		}
	}
	if holds, err := mustCondition(t, `oncall.incidentio.active`).Holds(&policies.Facts{}); holds || err == nil {
		t.Errorf("of no facts: %v, %v", holds, err)
	}
}

func mustCondition(t *testing.T, text string) *policies.Condition {
	t.Helper()
	c, err := policies.CompileCondition("", text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCompileCondition_Refuses(t *testing.T) {
	loops := "resources.all(a, resources.all(b, resources.all(c, resources.all(d, resources.all(e, true)))))"
	for _, tt := range []struct{ name, text, code string }{
		{"nothing", "", "invalid_expression"},
		{"too long", strings.Repeat(" ", policies.MaxCondition) + "true", "invalid_expression"},
		{"no CEL", "oncall.(", "invalid_expression"},
		{"another name", "subject.id == 'x'", "invalid_expression"},
		{"sets, which are of decisions", `in_set("a", "b")`, "invalid_expression"},
		{"no bool", `"yes"`, "not_bool"},
		{"a list", `resources`, "not_bool"},
		{"a name of ours for its own", `resources.all(oncall, true)`, "shadowed_variable"},
		{"too many loops in one another", strings.Repeat("resources.all(x, ", 9) + "true" + strings.Repeat(")", 9), "too_complex"},
		{"costly as it stands", loops, "policy_too_costly"},
		{"an evil regex", `requester.email.matches("((a{0,30}){0,30}){0,30}")`, "invalid_regex"},
	} {
		_, err := policies.CompileCondition("/auto_approve_when", tt.text)
		e, ok := errors.AsType[*latchkey.Error](err)
		if !ok || e.Kind != latchkey.Invalid || len(e.Faults) == 0 || e.Faults[0].Code != tt.code || e.Faults[0].Pointer != "/auto_approve_when" {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
}

// A name that is misspelt would never hold, and nobody would be told of it.
func TestCompileCondition_RefusesMembersThatNoFactHas(t *testing.T) {
	for text, detail := range map[string]string{
		`resource.label.env == "prod"`:                   `resource has no "label"; it has kind, id, display_name, labels`,
		`resource["label"].env == "prod"`:                `resource has no "label"`,
		`requester.mail == "" || beneficiary.id == "p1"`: `requester has no "mail"`,
		`beneficiary.?groups.hasValue()`:                 `beneficiary has no "groups"`,
		`request.duration_mins < 60`:                     `request has no "duration_mins"`,
		`request.window.begin < now`:                     `request.window has no "begin"; it has start, end`,
		`oncall.pagerduty.schedule == "S1"`:              `oncall.pagerduty has no "schedule"; it has active, roles, schedules, evidence`,
		`resources.all(r, r.id == resource.name)`:        `resource has no "name"`,
	} {
		_, err := policies.CompileCondition("/auto_approve_when", text)
		e, ok := errors.AsType[*latchkey.Error](err)
		if !ok || len(e.Faults) != 1 || e.Faults[0].Code != "unknown_member" || !strings.HasPrefix(e.Faults[0].Detail, detail) || e.Faults[0].Line != 1 {
			t.Errorf("%s: %v, want %s", text, err, detail)
		}
	}
	for _, text := range []string{`resource.labels.label == "x"`, `request.custom_answers["Team"] == "pay"`, `has(oncall.pagerduty)`, `resources.exists(resource_, resource_.label == "x")`} {
		mustCondition(t, text)
	}
}

// Who asks may send much: the bound of the work holds at run time too.
func TestCondition_CostsNoMoreThanItMay(t *testing.T) {
	facts := conditionFacts()
	for range 5000 {
		facts.Resources = append(facts.Resources, facts.Resource)
	}
	c := mustCondition(t, `resources.all(a, resources.all(b, a.id == b.id))`)
	holds, err := c.Holds(facts)
	if f, ok := errors.AsType[*policies.EvaluationError](err); holds || !ok || f.Failure != policies.TooCostly && f.Failure != policies.Deadline {
		t.Fatalf("%v, %v", holds, err)
	}
}

func TestCondition_TellsWhichProvidersItReads(t *testing.T) {
	for text, want := range map[string]string{
		`oncall.incidentio.active || oncall["pagerduty"].active || has(oncall.http) && oncall.incidentio.roles.size() > 0`: "[http incidentio pagerduty] false",
		`resource.labels.env == "dev"`:                             "[] false",
		`oncall.all(name, oncall[name].active)`:                    "[] true",
		`oncall[request.template_id].active && oncall.http.active`: "[http] true",
	} {
		names, any := mustCondition(t, text).OnCall()
		if got := fmt.Sprint(names, any); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
