package access_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

func TestTemplate_Refuses(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob")
	read := w.entitlement("read", `{"account":[{"f":"main","p":2}]}`, `{}`)
	w.write(func(tx people.Writer) error {
		if err := tx.InsertApplication(t.Context(), people.Application{ID: id("other app"), Customer: w.customer.ID, Name: "Other", CreatedAt: morning}); err != nil {
			return err
		}
		return tx.InsertEntitlement(t.Context(), people.Entitlement{ID: id("elsewhere"), Customer: w.customer.ID, Application: id("other app"), Name: "x", Entries: "{}", Claims: "{}"})
	})
	for name, tt := range map[string]struct {
		change   func(*access.Template)
		code, at string
	}{
		"no name":                               {func(t *access.Template) { t.Name = " " }, "empty_string", "/name"},
		"no votes, which would approve at once": {func(t *access.Template) { t.ApprovalsRequired = 0 }, "out_of_range", "/approvals_required"},
		"fewer votes than none":                 {func(t *access.Template) { t.ApprovalsRequired = -1 }, "out_of_range", "/approvals_required"},
		"nobody told":                           {func(t *access.Template) { t.NotificationCount = 0 }, "out_of_range", "/notification_count"},
		"a duration of nothing":                 {func(t *access.Template) { t.AllowedDurations = []access.Minutes{60, 0} }, "out_of_range", "/allowed_durations/1"},
		"a duration over its own maximum":       {func(t *access.Template) { t.MaxDuration = 90; t.AllowedDurations = []access.Minutes{60, 120} }, "duration_not_allowed", "/allowed_durations/1"},
		"a default that it does not allow":      {func(t *access.Template) { t.DefaultDuration = 61 }, "duration_not_allowed", "/default_duration_mins"},
		"a time that runs out before it begins": {func(t *access.Template) { t.PendingTTL = -1 }, "out_of_range", "/pending_ttl_mins"},
		"an application that is not there":      {func(t *access.Template) { t.Application = id("none") }, "application_not_found", "/app_id"},
		"an entitlement that is not there":      {func(t *access.Template) { t.Entitlements = []string{read, id("none")} }, "entitlement_not_found", "/mapping_ids/1"},
		"an entitlement of another application": {func(t *access.Template) { t.Entitlements = []string{id("elsewhere")} }, "other_application", "/mapping_ids/0"},
		"an approver group that is not there":   {func(t *access.Template) { t.ApproverGroups = []string{id("none")} }, "group_not_found", "/approver_group_ids/0"},
		"an allowed group that is not there":    {func(t *access.Template) { t.AllowedGroups = []string{id("none")} }, "group_not_found", "/allowed_group_ids/0"},
		"an escalation group that is not there": {func(t *access.Template) { t.EscalationGroup, t.EscalationAfter = id("none"), 5 }, "group_not_found", "/escalation_group_id"},
		"an escalation to nobody":               {func(t *access.Template) { t.EscalationAfter = 5 }, "missing_member", "/escalation_group_id"},
		"a task that is not there":              {func(t *access.Template) { t.TriggerTask = id("none") }, "task_not_found", "/trigger_task_id"},
		"a condition that does not compile":     {func(t *access.Template) { t.AutoApproveWhen = "((" }, "invalid_condition", "/auto_approve_when"},
		"a field with an id that it never had":  {func(t *access.Template) { t.CustomFields = nil; t.Name = "\x00" }, "control_character", "/name"},
		"access that means nothing": {func(t *access.Template) {
			t.Selector, t.Access = &access.ResourceSelector{Kind: "account"}, access.ResourceAccess{}
		}, "no_access", "/resource_access"},
		"access that is no access": {func(t *access.Template) {
			t.Selector, t.Access = &access.ResourceSelector{Kind: "account"}, access.ResourceAccess{Permission: 99}
		}, "invalid_access", "/resource_access"},
		"access to what is latchkey's own":      {func(t *access.Template) { t.Selector = &access.ResourceSelector{Kind: "policies"} }, "invalid_access", "/resource_access"},
		"assignments of which there are none":   {func(t *access.Template) { t.AssignmentTypes = nil }, "empty_list", "/assignment_types"},
		"an assignment that there is not":       {func(t *access.Template) { t.AssignmentTypes = []access.Assignment{"eternal"} }, "invalid_value", "/assignment_types/0"},
		"a policy of telling that there is not": {func(t *access.Template) { t.NotificationPolicy = "whoever" }, "invalid_value", "/notification_policy"},
		"a way to fail that there is not":       {func(t *access.Template) { t.TriggerFailureMode = "panic" }, "invalid_value", "/trigger_task_failure_mode"},
	} {
		t.Run(name, func(t *testing.T) {
			tm := access.DefaultTemplate()
			tm.Name, tm.Application, tm.AllowedDurations = "Read", w.app, []access.Minutes{60}
			tt.change(&tm)
			_, _, err := w.templates.Create(t.Context(), w.as("root"), tm)
			w.refused(err, tt.code)
			if e, ok := errors.AsType[*latchkey.Error](err); !ok || !slices.ContainsFunc(e.Faults, func(f latchkey.Fault) bool { return f.Pointer == tt.at }) {
				t.Errorf("no fault at %s: %v", tt.at, err)
			}
		})
	}
	tm := w.template(nil)
	plain := w.service(`{"decision":true}`)
	for code, call := range map[string]authz.Call{"not_permitted": w.as("ann"), "scope_missing": plain} {
		_, _, err := w.templates.Create(t.Context(), call, tm)
		w.refused(err, code)
		_, _, err = w.templates.Update(t.Context(), call, tm.ID, tm)
		w.refused(err, code)
		if err := w.templates.Delete(t.Context(), call, tm.ID); latchkey.CodeOf(err) != code {
			t.Errorf("deleted, want %s: %v", code, err)
		}
	}
	_, err := w.templates.Get(t.Context(), plain, tm.ID)
	w.refused(err, "scope_missing")
	if _, err := w.templates.Get(t.Context(), w.as("ann"), tm.ID); err != nil {
		t.Errorf("a person reads it: %v", err)
	}
	moved := tm
	moved.Application = id("other app")
	_, _, err = w.templates.Update(t.Context(), w.as("root"), tm.ID, moved)
	w.refused(err, "immutable_member")
}

func TestTemplate_FieldsKeepTheirIDs(t *testing.T) {
	w := newWorld(t)
	tm := w.template(func(t *access.Template) {
		t.CustomFields = []access.CustomField{{ID: id("chosen by the client"), Label: "Ticket", Type: access.TextField}, {Label: "Region", Type: access.TextField}}
	})
	ticket, region := tm.CustomFields[0].ID, tm.CustomFields[1].ID
	if ticket == id("chosen by the client") || ticket == "" || ticket == region {
		t.Fatalf("%+v", tm.CustomFields)
	}
	tm.CustomFields = []access.CustomField{{Label: "Region", Type: access.TextField}, {ID: ticket, Label: "Case", Type: access.TextField}, {Label: "Ticket", Type: access.TextField}}
	tm = w.update(tm)
	if tm.CustomFields[0].ID != region || tm.CustomFields[1].ID != ticket || slices.Contains([]string{ticket, region, ""}, tm.CustomFields[2].ID) {
		t.Errorf("by label, by id, and a new one: %+v", tm.CustomFields)
	}
	for _, bad := range [][]access.CustomField{{{ID: id("none"), Label: "x", Type: access.TextField}}, {{ID: ticket, Label: "a"}, {ID: ticket, Label: "b"}}} {
		again := tm
		again.CustomFields = bad
		_, _, err := w.templates.Update(t.Context(), w.as("root"), tm.ID, again)
		w.refused(err, "unknown_field")
	}
	got, err := w.templates.Get(t.Context(), w.as("root"), tm.ID)
	if diff := cmp.Diff(tm, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestTemplate_WarnsOfWhatDoesNothing(t *testing.T) {
	w := newWorld(t)
	w.people("bob")
	with, without := w.group("with", authz.Bot, "bob"), w.group("without", "bob")
	read := w.entitlement("read", `{"account":[{"f":"main","p":2}]}`, `{}`)
	for want, change := range map[string]func(*access.Template){
		"acts as ignore":        func(t *access.Template) { t.TriggerTask, t.TriggerFailureMode = w.task(), access.Block },
		"until bot is a member": func(t *access.Template) { t.AutoApproveWhen, t.ApproverGroups = "true", []string{without} },
		"gives nothing":         func(t *access.Template) { t.Entitlements = nil },
		"are not asked":         func(t *access.Template) { t.AutoApproveWhen, t.AutoApprove = "true", true },
		"":                      func(t *access.Template) { t.AutoApproveWhen, t.ApproverGroups = "true", []string{with} },
	} {
		tm := access.DefaultTemplate()
		tm.Name, tm.Application, tm.Entitlements, tm.AllowedDurations = "Read", w.app, []string{read}, []access.Minutes{60, 30}
		change(&tm)
		tm, warnings, err := w.templates.Create(t.Context(), w.as("root"), tm)
		if err != nil || want == "" && len(warnings) > 0 || !strings.Contains(strings.Join(warnings, " "), want) {
			t.Errorf("want %q, got %q, %v", want, warnings, err)
		}
		if tm.DefaultDuration != 30 {
			t.Errorf("by default %d minutes, want the smallest", tm.DefaultDuration)
		}
	}
}

func TestTemplate_DeletionKeepsWhatIsClosed(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	remove := func() error { return w.templates.Delete(t.Context(), w.as("ada"), tm.ID) }
	closed, cancelled := w.submit("ann", ask(tm)), w.submit("eve", ask(tm))
	if err := remove(); latchkey.CodeOf(err) != "template_in_use" {
		t.Fatalf("two are pending: %v", err)
	}
	w.revoke("eve", cancelled)
	closed = w.approve("bob", closed)
	if err := remove(); latchkey.CodeOf(err) != "template_in_use" {
		t.Fatalf("one is live: %v", err)
	}
	w.at = closed.ExpiresAt // and nobody has swept
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if err := remove(); latchkey.CodeOf(err) != "template_not_found" {
		t.Errorf("again: %v", err)
	}
	got, err := w.requests.Get(t.Context(), w.as("bob"), closed.ID)
	if err != nil || got.Template != "" || got.Snapshot.Template.Name != tm.Name || got.Status != access.Approved || got.StatusAt(w.at) != access.Expired {
		t.Errorf("%+v, %v", got, err)
	}
	if n, err := w.requests.Sweep(t.Context(), w.at); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := w.read(closed); got.Template != "" || got.Status != access.Expired {
		t.Errorf("%+v", got)
	}
	_, err = w.requests.Approve(t.Context(), w.as("bob"), closed.ID, access.Verdict{})
	w.refused(err, "request_not_pending")
	if list, err := w.requests.List(t.Context(), w.as("ada"), access.Query{Template: tm.ID, Limit: 9}); err != nil || len(list) != 0 {
		t.Errorf("by a template that is gone: %d, %v", len(list), err)
	}
}

// What a template names cannot be deleted under it.
func TestTemplate_KeepsWhatItNames(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) {
		t.AllowedGroups, t.EscalationGroup, t.EscalationAfter, t.TriggerTask = []string{w.group("staff", "ann")}, w.group("bosses", "cid"), 5, w.task()
	})
	named := func(want string, ids map[string]string) {
		t.Helper()
		w.write(func(tx people.Writer) error {
			for id, kind := range ids {
				if by, err := tx.UsedBy(t.Context(), kind, id); by != want || err != nil {
					t.Errorf("%s is used by %q, want %q; %v", kind, by, want, err)
				}
			}
			return nil
		})
	}
	all := map[string]string{tm.ApproverGroups[0]: "group", tm.AllowedGroups[0]: "group", tm.EscalationGroup: "group", tm.Entitlements[0]: "entitlement", tm.TriggerTask: "task"}
	named("a template", all)
	tm.ApproverGroups, tm.AllowedGroups, tm.Entitlements, tm.EscalationGroup, tm.EscalationAfter, tm.TriggerTask = nil, nil, nil, "", 0, ""
	w.update(tm)
	named("", all)
}

func TestTemplates_AreListedByName(t *testing.T) {
	w := newWorld(t)
	w.people("ann")
	var want, got []string
	for _, name := range []string{"b", "a", "é", "a", "B", "c"} {
		tm := w.template(func(t *access.Template) { t.Name = name })
		want = append(want, name+" "+tm.ID)
	}
	slices.Sort(want)
	var last access.Template
	for range 4 {
		page, err := w.templates.List(t.Context(), w.as("ann"), last.Name, last.ID, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, tm := range page {
			got, last = append(got, tm.Name+" "+tm.ID), tm
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
