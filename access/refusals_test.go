package access_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// Who asked for something else is told what there is.
func TestSubmit_ARefusalSaysWhatTheTemplateAllows(t *testing.T) {
	w := newWorld(t)
	some := w.ledger(func(t *access.Template) {
		t.AllowedDurations, t.AssignmentTypes = []access.Minutes{60, 240, 480}, []access.Assignment{access.Temporary, access.InWindow}
	})
	offers := func(name string, longest access.Minutes) access.Template {
		return w.template(func(t *access.Template) {
			t.Name, t.Entitlements, t.ApproverGroups, t.AllowedDurations = name, some.Entitlements, some.ApproverGroups, nil
			t.MaxDuration = longest
		})
	}
	for name, tt := range map[string]struct {
		by     access.Template
		in     access.Submission
		detail string
	}{
		"a time that is not listed":  {some, access.Submission{Duration: 90}, "the template allows 60, 240, 480 minutes"},
		"no time":                    {some, access.Submission{}, "say for how many minutes: the template allows 60, 240, 480 minutes"},
		"a window that is too long":  {some, access.Submission{Window: &access.Window{Start: w.at, End: w.at + 481*minute}}, "the template allows at most 480 minutes"},
		"a time that is too long":    {offers("an hour", 60), access.Submission{Duration: 61}, "the template allows at most 60 minutes"},
		"more than the only minute":  {offers("a minute", 1), access.Submission{Duration: 2}, "the template allows at most 1 minute"},
		"more than anybody may have": {offers("any time", 0), access.Submission{Duration: access.MaxMinutes + 1}, "the template allows at most 527040 minutes"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.in.Template, tt.in.Justification = tt.by.ID, "x"
			_, err := w.requests.Submit(t.Context(), w.as("ann"), tt.in)
			refused, ok := errors.AsType[*latchkey.Error](err)
			if !ok || len(refused.Faults) != 1 || refused.Faults[0].Detail != tt.detail {
				t.Errorf("%v, want %q", err, tt.detail)
			}
		})
	}
}

// Each is what somebody might try to come by more than the template gives.
func TestSubmit_Refuses(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) {
		t.AllowedGroups = []string{w.group("staff", "ann", "bob")}
		t.CustomFields = []access.CustomField{
			{Label: "Ticket", Type: access.TextField, Required: true},
			{Label: "Region", Type: access.SelectField, Options: []string{"eu", "us"}},
			{Label: "Read the rules", Type: access.CheckboxField, Required: true},
			{Label: "Systems", Type: access.MultiSelectField, Options: []string{"a", "b"}},
		}
	})
	ticket, region, rules, systems := tm.CustomFields[0].ID, tm.CustomFields[1].ID, tm.CustomFields[2].ID, tm.CustomFields[3].ID
	answered := func(more map[string]access.AnswerValue) map[string]access.AnswerValue {
		all := map[string]access.AnswerValue{ticket: {Text: "T-1"}, rules: {Kind: access.CheckedAnswer, Checked: true}}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	windows := w.template(func(t *access.Template) {
		t.Name, t.AssignmentTypes, t.AllowedDurations = "In a window", []access.Assignment{access.InWindow, access.Permanent}, []access.Minutes{30}
	})
	w.resource("account", "root", map[string]string{"env": "prod", "tier": "1"})
	w.resource("account", "tmp", map[string]string{"env": "test"})
	w.resource("host", "root", map[string]string{"env": "prod"})
	accounts := w.template(func(t *access.Template) {
		t.Name, t.Selector = "Accounts", &access.ResourceSelector{Kind: "account", Labels: map[string]string{"env": "prod"}}
	})
	plain := w.service(`{"decision":true,"access_requests_manage":true}`)
	service := w.service(`{"approvals":true}`)
	on := func(refs ...authz.EntityRef) access.Submission {
		in := ask(accounts)
		in.Resources = refs
		return in
	}
	window := func(start, end latchkey.Instant) access.Submission {
		return access.Submission{Template: windows.ID, Justification: "x", Window: &access.Window{Start: morning + start*minute, End: morning + end*minute}}
	}
	for name, tt := range map[string]struct {
		by   authz.Call
		in   access.Submission
		code string
		at   string // pointer of the fault
	}{
		"a template that is not there":            {w.as("ann"), access.Submission{Template: id("none")}, "template_not_found", ""},
		"by who is in no allowed group":           {w.as("eve"), with(ask(tm), answered(nil)), "requester_not_allowed", ""},
		"for a time that is not offered":          {w.as("ann"), duration(with(ask(tm), answered(nil)), 61), "duration_not_allowed", "/requested_duration_mins"},
		"for less than no time":                   {w.as("ann"), duration(with(ask(tm), answered(nil)), -60), "duration_not_allowed", "/requested_duration_mins"},
		"for no time, which is not for ever":      {w.as("ann"), duration(with(ask(tm), answered(nil)), 0), "duration_required", "/requested_duration_mins"},
		"for ever, by naming another assignment":  {w.as("ann"), assigned(with(ask(tm), answered(nil)), access.Permanent), "assignment_not_allowed", "/assignment_type"},
		"with a blank justification":              {w.as("ann"), justified(with(ask(tm), answered(nil)), " \n "), "justification_required", "/justification"},
		"with a justification of a page too many": {w.as("ann"), justified(with(ask(tm), answered(nil)), strings.Repeat("a", 4097)), "too_long", "/justification"},
		"with a credential in the justification":  {w.as("ann"), justified(with(ask(tm), answered(nil)), "see "+authz.NewAccessKeyToken(authz.Live).Reveal()), "credential_in_text", "/justification"},
		"without a required answer":               {w.as("ann"), with(ask(tm), map[string]access.AnswerValue{rules: {Kind: access.CheckedAnswer, Checked: true}}), "answer_required", "/custom_answers/" + ticket},
		"without having read the rules":           {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{rules: {Kind: access.CheckedAnswer}})), "answer_required", "/custom_answers/" + rules},
		"with an answer to nothing":               {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{id("x"): {Text: "y"}})), "unknown_field", "/custom_answers/" + id("x")},
		"with an option of one's own":             {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{region: {Text: "moon"}})), "unknown_option", "/custom_answers/" + region},
		"with some options of one's own":          {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{systems: {Kind: access.OptionsAnswer, Options: []string{"a", "c"}}})), "unknown_option", "/custom_answers/" + systems + "/1"},
		"with a text where a box is":              {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{rules: {Text: "true"}})), "wrong_type", "/custom_answers/" + rules},
		"with lines where a line is":              {w.as("ann"), with(ask(tm), answered(map[string]access.AnswerValue{ticket: {Text: "a\nb"}})), "control_character", "/custom_answers/" + ticket},
		"for somebody else, as a person":          {w.as("ann"), beneficiary(with(ask(tm), answered(nil)), "bob"), "scope_missing", ""},
		"for somebody else, as an admin":          {w.as("ada"), beneficiary(with(ask(tm), answered(nil)), "bob"), "scope_missing", ""},
		"by a key without the scope approvals":    {plain, beneficiary(with(ask(tm), answered(nil)), "ann"), "person_required", ""},
		"by a service for nobody":                 {service, ask(tm), "missing_member", "/beneficiary_id"},
		"by a service for a stranger":             {service, beneficiary(ask(tm), "zoe"), "unknown_beneficiary", ""},
		"by a service for who may not":            {service, beneficiary(with(ask(tm), answered(nil)), "eve"), "requester_not_allowed", ""},
		"a window where none is offered": {w.as("ann"), func() access.Submission {
			in := window(0, 10)
			in.Template, in.Answers = tm.ID, answered(nil)
			return in
		}(), "window_not_allowed", "/window"},
		"no window":                           {w.as("ann"), access.Submission{Template: windows.ID, Justification: "x"}, "window_required", "/window"},
		"a window that ends before it begins": {w.as("ann"), window(20, 10), "window_empty", "/window/end"},
		"a window that is over":               {w.as("ann"), window(-20, 0), "window_over", "/window/end"},
		"a window that is too long":           {w.as("ann"), window(5, 36), "duration_not_allowed", "/window/end"},
		"a window and a duration":             {w.as("ann"), duration(window(5, 10), 30), "duration_not_allowed", "/requested_duration_mins"},
		"for ever with an end":                {w.as("ann"), assigned(window(5, 10), access.Permanent), "window_not_allowed", "/window"},
		"resources where none are offered": {w.as("ann"), func() access.Submission {
			in := on(authz.EntityRef{Type: "account", ID: "root"})
			in.Template, in.Answers = tm.ID, answered(nil)
			return in
		}(), "resources_not_allowed", "/resources"},
		"no resources where some are wanted": {w.as("ann"), on(), "resources_required", "/resources"},
		"a resource that is not there":       {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "none"}), "resource_not_allowed", "/resources/0"},
		"the same by a service":              {service, beneficiary(on(authz.EntityRef{Type: "account", ID: "none"}), "ann"), "resource_not_found", ""},
		"a resource with other labels":       {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "tmp"}), "resource_not_allowed", "/resources/0"},
		"a resource of another kind":         {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "root"}, authz.EntityRef{Type: "host", ID: "root"}), "resource_not_allowed", "/resources/1"},
		"all of a kind, by a star":           {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "*"}), "invalid_resource_id", "/resources/0/id"},
		"all that begin so, by a star":       {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "roo*"}), "invalid_resource_id", "/resources/0/id"},
		"a resource twice":                   {w.as("ann"), on(authz.EntityRef{Type: "account", ID: "root"}, authz.EntityRef{Type: "account", ID: "root"}), "duplicate_resource", "/resources/1"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := w.requests.Submit(t.Context(), tt.by, tt.in)
			if err == nil {
				t.Fatalf("submitted: %+v", r)
			}
			w.refused(err, tt.code)
			if e, ok := errors.AsType[*latchkey.Error](err); tt.at != "" && (!ok || !slices.ContainsFunc(e.Faults, func(f latchkey.Fault) bool { return f.Pointer == tt.at })) {
				t.Errorf("no fault at %s: %v", tt.at, err)
			}
		})
	}
	if list, err := w.requests.List(t.Context(), w.as("root"), access.Query{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("what was refused is there: %d, %v", len(list), err)
	}
}

func with(in access.Submission, answers map[string]access.AnswerValue) access.Submission {
	in.Answers = answers
	return in
}

func duration(in access.Submission, d access.Minutes) access.Submission { in.Duration = d; return in }

func assigned(in access.Submission, a access.Assignment) access.Submission {
	in.Assignment, in.Duration = a, 0
	return in
}

func justified(in access.Submission, text string) access.Submission {
	in.Justification = text
	return in
}

func beneficiary(in access.Submission, name string) access.Submission {
	in.Beneficiary = id(name)
	return in
}

func TestSubmit_NobodyWhoCouldDecide(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "ben")
	for name, tt := range map[string]struct {
		change func(*access.Template)
		code   string
	}{
		"the requester alone approves": {func(t *access.Template) { t.ApproverGroups = []string{w.group("only ann", "ann")} }, "no_eligible_approver"},
		"the bot alone approves":       {func(t *access.Template) { t.ApproverGroups = []string{w.group("only bot", authz.Bot)} }, "no_eligible_approver"},
		"an empty group approves":      {func(t *access.Template) { t.ApproverGroups = []string{w.group("empty")} }, "no_eligible_approver"},
		"there is no admin":            {func(*access.Template) {}, "no_eligible_approver"},
		"two are wanted, one is there": {func(t *access.Template) {
			t.ApproverGroups, t.ApprovalsRequired = []string{w.group("ann and bob", "ann", "bob")}, 2
		}, "no_eligible_approver"},
		"two are wanted, two are there": {func(t *access.Template) {
			t.ApproverGroups, t.ApprovalsRequired = []string{w.group("both", "ben", "bob")}, 2
		}, ""},
		"somebody is there once it escalates": {func(t *access.Template) {
			t.ApproverGroups, t.EscalationGroup, t.EscalationAfter = []string{w.group("empty too")}, w.group("bosses", "bob"), 5
		}, ""},
		"who asks may decide": {func(t *access.Template) {
			t.ApproverGroups, t.AllowSelfApproval = []string{w.group("ann again", "ann")}, true
		}, ""},
		"the template approves by itself": {func(t *access.Template) { t.ApproverGroups, t.AutoApprove = []string{w.group("nobody")}, true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tm := w.template(tt.change)
			_, err := w.requests.Submit(t.Context(), w.as("ann"), ask(tm))
			if latchkey.CodeOf(err) != tt.code {
				t.Errorf("want %q, got %v", tt.code, err)
			}
		})
	}
}

func TestSubmit_OnePendingOfAKind(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) { t.PendingTTL = 30 })
	w.resource("account", "a", nil)
	w.resource("account", "b", nil)
	accounts := w.template(func(t *access.Template) {
		t.Name, t.Selector, t.ApproverGroups = "Accounts", &access.ResourceSelector{Kind: "account"}, tm.ApproverGroups
	})
	first := w.submit("ann", ask(tm))
	_, err := w.requests.Submit(t.Context(), w.as("ann"), ask(tm))
	w.refused(err, "pending_request_exists")
	w.submit("eve", ask(tm))

	on := func(ids ...string) access.Submission {
		in := ask(accounts)
		for _, id := range ids {
			in.Resources = append(in.Resources, authz.EntityRef{Type: "account", ID: id})
		}
		return in
	}
	w.submit("ann", on("a"))
	w.submit("ann", on("a", "b"))
	_, err = w.requests.Submit(t.Context(), w.as("ann"), on("b", "a")) // the order says nothing
	w.refused(err, "pending_request_exists")

	w.at = first.PendingUntil // nobody has swept yet
	second := w.submit("ann", ask(tm))
	if got := w.told(first); !slices.Equal(got, []string{"submitted", "expired"}) || w.read(first).Status != access.Expired {
		t.Errorf("the one that ran out: %v, %s", got, w.read(first).Status)
	}
	if last := w.events(first); last[len(last)-1]["pending"] != true {
		t.Errorf("it was never decided: %v", last)
	}
	w.approve("bob", second)
	third := w.submit("ann", ask(tm)) // beside a grant that lives
	w.approve("bob", third)
	if n := len(w.grants("ann")); n != 2 {
		t.Errorf("%d grants, want two that overlap", n)
	}
}

// Each is an attempt to decide by who may not, or on what is not as it was.
func TestApprove_Refuses(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "ben", "cid", "eve")
	w.person(authz.AdminPerson, "ada")
	read := w.entitlement("read", `{"account":[{"f":"main","p":2}]}`, `{}`)
	gone := w.entitlement("gone", `{"account":[{"f":"main","p":2}]}`, `{}`)
	n := 0
	begin := func(change func(*access.Template)) (access.Template, access.Request) {
		n++
		tm := w.template(func(t *access.Template) {
			t.Name += string(rune('a' + n))
			t.ApproverGroups, t.Entitlements = []string{w.group("approvers", "ann", "bob", "ben")}, []string{read}
			if change != nil {
				change(t)
			}
		})
		return tm, w.submit("ann", ask(tm))
	}
	plain := func() (access.Template, access.Request) { return begin(nil) }
	manager := w.service(`{"access_requests_manage":true,"approvals":true}`)
	for name, tt := range map[string]struct {
		by    string
		call  *authz.Call
		setup func() (access.Template, access.Request)
		then  func(access.Template, access.Request) // after the submission
		code  string
	}{
		"by who asked":                {by: "ann", setup: plain, code: "self_approval_forbidden"},
		"by root":                     {by: "root", setup: plain, code: "person_required"},
		"by a key that manages":       {call: &manager, setup: plain, code: "person_required"},
		"by a stranger":               {by: "eve", setup: plain, code: "access_request_not_found"},
		"by an admin among approvers": {by: "ada", setup: plain, code: "approver_required"},
		"by an approver where admins decide": {by: "bob", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.ApproverGroups = nil })
		}, code: "access_request_not_found"},
		"by who is an approver since an edit": {by: "cid", setup: plain, then: func(tm access.Template, _ access.Request) {
			tm.ApproverGroups = []string{w.group("others", "cid", "bob")}
			w.update(tm)
		}, code: "approver_required"},
		"by who is no approver since an edit": {by: "ben", setup: plain, then: func(tm access.Template, _ access.Request) {
			tm.ApproverGroups = []string{w.group("others", "cid", "bob")}
			w.update(tm)
		}, code: "approver_required"},
		"by who has left the group": {by: "ben", setup: plain, then: func(access.Template, access.Request) { w.group("approvers", "ann", "bob") }, code: "access_request_not_found"},
		"by the escalation group too early": {by: "cid", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.EscalationGroup, t.EscalationAfter = w.group("bosses", "cid"), 5 })
		}, code: "access_request_not_found"},
		"by who asked, since the template allows it now": {by: "ann", setup: plain, then: func(tm access.Template, _ access.Request) {
			tm.AllowSelfApproval = true
			w.update(tm)
		}, code: "self_approval_forbidden"},
		"by who asked, since the template did allow it": {by: "ann", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.AllowSelfApproval = true })
		}, then: func(tm access.Template, _ access.Request) {
			tm.AllowSelfApproval = false
			w.update(tm)
		}, code: "self_approval_forbidden"},
		"after it ran out": {by: "bob", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.PendingTTL = 5 })
		}, then: func(access.Template, access.Request) { w.at += 5 * minute }, code: "request_not_pending"},
		"after it was denied":    {by: "bob", setup: plain, then: func(_ access.Template, r access.Request) { w.deny("ben", r) }, code: "request_not_pending"},
		"after it was cancelled": {by: "bob", setup: plain, then: func(_ access.Template, r access.Request) { w.revoke("ann", r) }, code: "request_not_pending"},
		"after it was approved":  {by: "bob", setup: plain, then: func(_ access.Template, r access.Request) { w.approve("ben", r) }, code: "request_not_pending"},
		"a second time": {by: "bob", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.ApprovalsRequired = 2 })
		}, then: func(_ access.Template, r access.Request) { w.approve("bob", r) }, code: "already_voted"},
		"once who asked is not allowed any more": {by: "bob", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.AllowedGroups = []string{w.group("staff", "ann")} })
		}, then: func(access.Template, access.Request) { w.group("staff") }, code: "requester_not_allowed"},
		"once the template is for others": {by: "bob", setup: plain, then: func(tm access.Template, _ access.Request) {
			tm.AllowedGroups = []string{w.group("elsewhere", "eve")}
			w.update(tm)
		}, code: "requester_not_allowed"},
		"once a resource has other labels": {by: "bob", setup: func() (access.Template, access.Request) {
			w.resource("account", "x", map[string]string{"env": "prod"})
			n++
			tm := w.template(func(t *access.Template) {
				t.Name, t.ApproverGroups, t.Selector = "Accounts", []string{w.group("approvers", "ann", "bob", "ben")}, &access.ResourceSelector{Kind: "account", Labels: map[string]string{"env": "prod"}}
			})
			in := ask(tm)
			in.Resources = []authz.EntityRef{{Type: "account", ID: "x"}}
			return tm, w.submit("ann", in)
		}, then: func(access.Template, access.Request) { w.resource("account", "x", map[string]string{"env": "test"}) }, code: "resource_gone"},
		"once an entitlement is gone": {by: "bob", setup: func() (access.Template, access.Request) {
			return begin(func(t *access.Template) { t.Entitlements = []string{gone} })
		}, then: func(tm access.Template, _ access.Request) {
			tm.Entitlements = nil
			w.update(tm)
			w.write(func(tx people.Writer) error { return tx.DeleteEntitlement(w.Context(), gone) })
		}, code: "entitlement_gone"},
	} {
		t.Run(name, func(t *testing.T) {
			w.at = morning
			tm, r := tt.setup()
			if tt.then != nil {
				tt.then(tm, r)
			}
			before := w.read(r)
			call := tt.call
			if call == nil {
				c := w.as(tt.by)
				call = &c
			}
			_, err := w.requests.Approve(t.Context(), *call, r.ID, access.Verdict{})
			if latchkey.CodeOf(err) != tt.code {
				t.Errorf("want %q, got %v", tt.code, err)
			}
			if after := w.read(r); tt.code != "" && after.Version != before.Version {
				t.Error("a refused approval changed the request")
			}
		})
	}
}

// The attack: of two people who are wanted one is a thief with somebody's token. The
// token's owner is deactivated, and the thief's vote is still one of two.
func TestApprove_ByTwoWhoBothStillMay(t *testing.T) {
	for name, leaves := range map[string]func(w *world, tm access.Template){
		"deactivated":      func(w *world, _ access.Template) { w.deactivate("bob") },
		"out of the group": func(w *world, _ access.Template) { w.group("approvers", "ben", "cid") },
		"another group decides": func(w *world, tm access.Template) {
			tm.ApproverGroups = []string{w.group("others", "ben", "cid")}
			w.update(tm)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tm := w.ledger(func(t *access.Template) { t.ApprovalsRequired = 2 })
			w.group("approvers", "bob", "ben", "cid")
			r := w.submit("ann", ask(tm))
			w.approve("bob", r)
			leaves(w, tm)
			if r := w.approve("ben", r); r.Status != access.Pending || len(r.Approvals) != 1 || len(w.grants("ann")) != 0 {
				t.Errorf("after a vote that stands and one that does not: %+v", r)
			}
			if name == "another group decides" {
				w.group("others", "bob", "ben", "cid")
				w.approve("bob", r) // who may again
			} else {
				w.approve("cid", r)
			}
			r = w.read(r)
			if r.Status != access.Approved || len(r.Approvals) != 2 || r.Approvals[0].By.ID != id("ben") {
				t.Errorf("after two votes that stand: %+v", r)
			}
			votes := slices.DeleteFunc(w.events(r), func(e map[string]any) bool { return e["action"] != "access_request.vote" })
			if len(votes) != 2 || votes[0]["approved_by"] != id("bob") {
				t.Errorf("the trail has %v", votes)
			}
		})
	}
}

func (w *world) update(t access.Template) access.Template {
	w.Helper()
	t, _, err := w.templates.Update(w.Context(), w.as("root"), t.ID, t)
	if err != nil {
		w.Fatal(err)
	}
	return t
}

func (w *world) deny(name string, r access.Request) access.Request {
	w.Helper()
	r, err := w.requests.Deny(w.Context(), w.as(name), r.ID, "no")
	if err != nil {
		w.Fatal(err)
	}
	return r
}

func (w *world) revoke(name string, r access.Request) access.Request {
	w.Helper()
	r, err := w.requests.Revoke(w.Context(), w.as(name), r.ID, "done")
	if err != nil {
		w.Fatal(err)
	}
	return r
}
