package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/scopes"
)

func TestAuto_TheTemplateApproves(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) { t.AutoApprove, t.ApprovalsRequired, t.MaxAutoDuration = true, 2, 90 })
	in := ask(tm)
	in.Duration = 240
	r := w.submit("ann", in)
	if r.Status != access.Approved || r.DecidedBy != access.System || r.DecisionMethod != access.AutoDecision || len(r.Notified) != 0 {
		t.Errorf("%+v", r)
	}
	if r.ExpiresAt != w.at+90*minute {
		t.Errorf("it lasts until %s, longer than what is approved so may", r.ExpiresAt)
	}
	if got := w.told(r); !slices.Equal(got, []string{"submitted", "approved"}) {
		t.Errorf("told %v", got)
	}
	events := w.events(r)
	if events[0]["actor"] != "user:"+id("ann") || events[1]["actor"] != "system:system" || events[1]["decision_method"] != "auto" {
		t.Errorf("by %v and %v", events[0]["actor"], events[1]["actor"])
	}
	if g := w.grants("ann"); len(g) != 1 || g[0].Author.ID != access.System {
		t.Errorf("grants: %+v", g)
	}
}

func TestAuto_ProvidersApprove(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "ben")
	group := w.group("approvers", authz.Bot, "bob", "ben")
	w.resource("account", "root", map[string]string{"env": "prod"})
	tm := w.template(func(t *access.Template) {
		t.ApproverGroups, t.AutoApproveWhen, t.MaxDuration, t.RevokeWhenOffCall = []string{group}, "oncall.pagerduty.active", 300, 5
		t.Selector = &access.ResourceSelector{Kind: "account"}
	})
	in := ask(tm)
	in.Duration, in.Resources = 240, []authz.EntityRef{{Type: "account", ID: "root"}}
	asked := 0
	w.auto = func(ctx context.Context, q access.AutoQuestion) (access.AutoAnswer, error) {
		asked++
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("asked for ever")
		}
		want := access.AutoQuestion{
			Customer: w.customer.ID, Template: tm, Resources: []authz.ResourceRecord{{EntityRef: in.Resources[0], Labels: `{"env":"prod"}`, Properties: "{}"}}, Now: w.at,
			Requester: *w.as("ann").Person, Beneficiary: *w.as("ann").Person, Request: q.Request,
		}
		if diff := cmp.Diff(want, q); diff != "" {
			t.Errorf("asked about %s", diff)
		}
		return access.AutoAnswer{Approve: true, Duration: 2 * time.Hour, Evidence: json.RawMessage(`{"schedule":"PABC"}`), Why: "on call: PABC"}, nil
	}
	r := w.submit("ann", in)
	if r.Status != access.Approved || r.DecidedBy != authz.Bot || r.DecisionMethod != access.AutoDecision || r.ExpiresAt != w.at+120*minute {
		t.Errorf("%+v", r)
	}
	if e := w.events(r)[1]; e["actor"] != "system:bot" || e["evidence"].(map[string]any)["schedule"] != "PABC" {
		t.Errorf("the trail does not say why: %v", e)
	}
	if g := w.grants("ann"); len(g) != 1 || g[0].Entries != `{"account":[{"a":["*"],"f":"root","p":2}]}` {
		t.Errorf("grants: %+v", g)
	}

	// It is asked about again, and only a clear no ends it.
	recheck := func(answer access.AutoAnswer, err error, want access.Status) {
		t.Helper()
		w.at += 5 * minute
		w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) { return answer, err }
		if n, err := w.requests.Recheck(t.Context(), w.at-1); n != 0 || err != nil {
			t.Fatalf("asked too early: %d, %v", n, err)
		}
		if n, err := w.requests.Recheck(t.Context(), w.at); n != 1 || err != nil {
			t.Fatalf("asked %d times, %v", n, err)
		}
		if got := w.read(r); got.Status != want {
			t.Fatalf("%+v, %v: it is %s, want %s", answer, err, got.Status, want)
		}
	}
	recheck(access.AutoAnswer{Approve: true}, nil, access.Approved)
	recheck(access.AutoAnswer{}, errors.New("503"), access.Approved)
	recheck(access.AutoAnswer{}, nil, access.Revoked)
	if got := w.read(r); got.RevokedBy != authz.Bot || got.DecidedBy != authz.Bot || len(w.grants("ann")) != 0 {
		t.Errorf("%+v", got)
	}
}

// Of several servers one asks again about an approval, however slowly the providers
// answer: they count what they are asked. Where it ends meanwhile another one asks.
func TestAuto_OneServerAsksAgain(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.people("ann", "bob")
		group := w.group("approvers", authz.Bot, "bob")
		tm := w.template(func(t *access.Template) {
			t.ApproverGroups, t.AutoApproveWhen, t.RevokeWhenOffCall = []string{group}, "oncall.pagerduty.active", 5
		})
		w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
			return access.AutoAnswer{Approve: true}, nil
		}
		r := w.submit("ann", ask(tm))
		w.at += 5 * minute
		other := access.NewRequests(access.RequestsConfig{Record: w.db.Access(), Parser: scopes.NewParser(8), Subjects: w, Auto: w, Now: func() latchkey.Instant { return w.at }})
		asked := 0
		w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
			if asked++; asked == 1 {
				if _, err := other.Recheck(t.Context(), w.at); err != nil {
					t.Error(err)
				}
			}
			return access.AutoAnswer{Approve: true}, nil
		}
		if n, err := w.requests.Recheck(t.Context(), w.at); n != 1 || err != nil || asked != 1 {
			t.Fatalf("of %d that were due, providers were asked %d times: %v", n, asked, err)
		}

		// Who read the time before the one that asks wrote its own is too late, too.
		due := w.read(r).RecheckAt
		for _, first := range []bool{true, false} {
			if mine, err := w.db.Access().Postpone(t.Context(), w.customer.ID, r.ID, due, due+1); mine != first || err != nil {
				t.Errorf("it is mine: %v, %v; want %v", mine, err, first)
			}
		}

		w.at += 5*minute + 1
		dying, dies := context.WithCancel(t.Context())
		w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
			dies()
			return access.AutoAnswer{}, nil
		}
		if _, err := w.requests.Recheck(dying, w.at); err == nil || w.read(r).Status != access.Approved {
			t.Fatalf("the server that ends: %v", err)
		}
		if n, err := other.Recheck(t.Context(), w.at); n != 0 || err != nil {
			t.Errorf("asked at once by the other: %d, %v", n, err)
		}
		w.at += minute
		if n, err := other.Recheck(t.Context(), w.at); n != 1 || err != nil || w.read(r).Status != access.Revoked {
			t.Errorf("asked by the other: %d, %v: %s", n, err, w.read(r).Status)
		}
	})
}

// What providers do not say, say too late or say in no words is never a no, nor a
// yes: the request stays for people.
func TestAuto_StaysForPeople(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "ben")
	group, without := w.group("approvers", authz.Bot, "bob"), w.group("without", "bob", "ben")
	for name, tt := range map[string]struct {
		answer access.AutoAnswer
		err    error
		change func(*access.Template)
	}{
		"no":                               {answer: access.AutoAnswer{}},
		"a failure":                        {answer: access.AutoAnswer{Approve: true}, err: errors.New("401")},
		"evidence that is none":            {answer: access.AutoAnswer{Approve: true, Evidence: json.RawMessage(`{`)}},
		"the bot is in no approver group":  {answer: access.AutoAnswer{Approve: true}, change: func(t *access.Template) { t.ApproverGroups = []string{without} }},
		"the bot may ask, but not approve": {answer: access.AutoAnswer{Approve: true}, change: func(t *access.Template) { t.ApproverGroups, t.AllowedGroups = []string{without}, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) { return tt.answer, tt.err }
			tm := w.template(func(t *access.Template) {
				t.ApproverGroups, t.AutoApproveSources = []string{group}, []string{"pagerduty"}
				if tt.change != nil {
					tt.change(t)
				}
			})
			r := w.submit("ann", ask(tm))
			if r.Status != access.Pending || len(r.Notified) == 0 || len(r.Approvals) != 0 {
				t.Errorf("%+v", r)
			}
			w.revoke("ann", r)
		})
	}
	if len(w.trouble) != 2 {
		t.Errorf("the operator was told of %q", w.trouble)
	}
	// The bot is one of two.
	w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
		return access.AutoAnswer{Approve: true, Duration: time.Minute}, nil
	}
	tm := w.template(func(t *access.Template) {
		t.ApproverGroups, t.AutoApproveSources, t.ApprovalsRequired = []string{group}, []string{"pagerduty"}, 2
	})
	r := w.submit("ann", ask(tm))
	if r.Status != access.Pending || len(r.Approvals) != 1 || r.Approvals[0].By.ID != authz.Bot || names(r.Notified) != "bob" {
		t.Errorf("one of two: %+v", r)
	}
	if r = w.approve("bob", r); r.Status != access.Approved || r.DecidedBy != id("bob") || r.ExpiresAt != w.at+60*minute {
		t.Errorf("both: %+v", r)
	}
	// It is switched off by taking it out of the group, its earlier votes too.
	r = w.submit("ann", ask(tm))
	w.group("approvers", "bob", "ben")
	if r = w.approve("bob", r); r.Status != access.Pending || len(r.Approvals) != 1 || r.Approvals[0].By.ID != id("bob") {
		t.Errorf("one and a bot that is switched off: %+v", r)
	}
}

// Answers about a template that was changed meanwhile are about another one.
func TestAuto_IsAskedAboutWhatIsSubmitted(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob")
	tm := w.template(func(t *access.Template) {
		t.ApproverGroups, t.AutoApproveWhen = []string{w.group("approvers", authz.Bot, "bob")}, "requester.active"
	})
	asked := 0
	w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
		if asked++; asked == 1 {
			changed := tm
			changed.AutoApproveWhen = "false"
			w.update(changed)
			return access.AutoAnswer{Approve: true}, nil
		}
		return access.AutoAnswer{}, nil
	}
	if r := w.submit("ann", ask(tm)); r.Status != access.Pending || asked != 2 {
		t.Errorf("asked %d times: %+v", asked, r)
	}
	// Nor are those about a resource that was another one.
	w.resource("account", "root", map[string]string{"env": "test"})
	tm = w.template(func(t *access.Template) {
		t.ApproverGroups, t.AutoApproveWhen = tm.ApproverGroups, `resource.env == "test"`
		t.Selector = &access.ResourceSelector{Kind: "account"}
	})
	asked = 0
	w.auto = func(_ context.Context, q access.AutoQuestion) (access.AutoAnswer, error) {
		if asked++; asked == 1 {
			w.resource("account", "root", map[string]string{"env": "prod"})
		}
		return access.AutoAnswer{Approve: q.Resources[0].Labels == `{"env":"test"}`}, nil
	}
	in := ask(tm)
	in.Resources = []authz.EntityRef{{Type: "account", ID: "root"}}
	if r := w.submit("ann", in); r.Status != access.Pending || asked != 2 {
		t.Errorf("asked %d times: %+v", asked, r)
	}
	w.auto = nil
	if _, err := w.requests.Submit(t.Context(), w.as("bob"), access.Submission{Template: tm.ID, Duration: 60, Resources: in.Resources}); latchkey.CodeOf(err) != "justification_required" {
		t.Errorf("%v", err)
	}
}

// The attack: whoever is on call asks for ever, where the template allows that and
// bounds everything else.
func TestAuto_WhatIsForEverEndsWithTheLongestThatTheTemplateKnows(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob")
	group := w.group("approvers", authz.Bot, "bob")
	w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
		return access.AutoAnswer{Approve: true, Duration: 6 * time.Hour}, nil
	}
	for _, tt := range []struct {
		most, mostAuto access.Minutes
		want           latchkey.Instant
	}{{0, 0, 360}, {120, 0, 120}, {120, 30, 30}, {600, 480, 360}} {
		tm := w.template(func(t *access.Template) {
			t.ApproverGroups, t.AutoApproveSources = []string{group}, []string{"pagerduty"}
			t.AssignmentTypes, t.AllowedDurations = []access.Assignment{access.Permanent}, nil
			t.MaxDuration, t.MaxAutoDuration = tt.most, tt.mostAuto
		})
		r := w.submit("ann", access.Submission{Template: tm.ID, Justification: "x", Assignment: access.Permanent})
		if r.Status != access.Approved || r.ExpiresAt != w.at+tt.want*minute {
			t.Errorf("%+v: %s until %s", tt, r.Status, r.ExpiresAt)
		}
	}
}
