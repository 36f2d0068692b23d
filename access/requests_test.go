package access_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// ledger is a world in which ann asks and bob, ben and cid decide.
func ledger(t *testing.T) (*world, access.Template) {
	t.Helper()
	w := newWorld(t)
	return w, w.ledger(nil)
}

func (w *world) ledger(change func(*access.Template)) access.Template {
	w.Helper()
	w.people("ann", "bob", "ben", "cid", "eve")
	w.person(authz.AdminPerson, "ada")
	approvers := w.group("approvers", "bob", "ben")
	read := w.entitlement("read", `{"account":[{"f":"main","p":2}]}`, `{"roles":["reader"]}`)
	return w.template(func(t *access.Template) {
		t.Entitlements, t.ApproverGroups = []string{read}, []string{approvers}
		if change != nil {
			change(t)
		}
	})
}

func TestRequest_IsApprovedAndBecomesAGrantThatEnds(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		tm := w.ledger(nil)
		r := w.submit("ann", ask(tm))
		if r.Status != access.Pending || r.DecidedBy != "" || len(w.grants("ann")) != 0 {
			t.Fatalf("submitted: %+v", r)
		}
		if got := []access.Party{{ID: id("bob"), Email: "bob@example.com", Name: "BOB"}, {ID: id("ben"), Email: "ben@example.com", Name: "BEN"}}; !cmp.Equal(got, r.Notified) {
			t.Errorf("told: %s", cmp.Diff(got, r.Notified))
		}
		w.at += 10 * minute
		r = w.approve("bob", r)
		if r.Status != access.Approved || r.DecidedBy != id("bob") || r.DecisionMethod != access.ManualDecision || r.Comment != "fine" {
			t.Errorf("approved: %+v", r)
		}
		if r.NotBefore != w.at || r.ExpiresAt != w.at+60*minute {
			t.Errorf("the clock of a temporary grant starts at the approval: %s to %s", r.NotBefore, r.ExpiresAt)
		}
		grants := w.grants("ann")
		if len(grants) != 1 {
			t.Fatalf("grants: %+v", grants)
		}
		g := grants[0]
		want := authz.GrantRecord{
			ID: r.Grant, Customer: w.customer.ID, Subject: authz.EntityRef{Type: "user", ID: id("ann")}, Entries: `{"account":[{"f":"main","p":2}]}`,
			Reason: "access request: Read the ledger", NotBefore: w.at, ExpiresAt: w.at + 60*minute, RevokedAt: latchkey.Never, CreatedAt: w.at,
			Author: g.Author, Version: g.Version, Request: r.ID, Entitlements: tm.Entitlements, Claims: `{"roles":["reader"]}`,
		}
		if diff := cmp.Diff(want, g); diff != "" || g.Author.ID != id("bob") {
			t.Errorf("the grant: %s", diff)
		}
		if len(w.reached) == 0 || w.reached[len(w.reached)-1] < g.Version {
			t.Errorf("decisions of this process were told of %v, the grant is of %d", w.reached, g.Version)
		}
		if diff := cmp.Diff(w.read(r), r); diff != "" {
			t.Errorf("what was answered is not what is written down: %s", diff)
		}

		w.at = r.ExpiresAt - 1
		if got := w.read(r); got.StatusAt(w.at) != access.Approved {
			t.Errorf("before its end it is %s", got.StatusAt(w.at))
		}
		w.at = r.ExpiresAt
		got := w.read(r)
		if got.StatusAt(w.at) != access.Expired || got.Decision(w.at) != "Approved" || len(w.grants("ann")) != 0 {
			t.Errorf("at its end it is %s, decision %s", got.StatusAt(w.at), got.Decision(w.at))
		}
		for i, want := range []int{1, 0} {
			if n, err := w.requests.Sweep(t.Context(), w.at+minute); n != want || err != nil {
				t.Errorf("sweep %d: %d, %v", i, n, err)
			}
		}
		if got := w.read(r); got.Status != access.Expired || got.DecidedBy != id("bob") || got.ClosedAt != r.ExpiresAt {
			t.Errorf("swept: %+v", got)
		}
		if diff := cmp.Diff([]string{"submitted", "approved", "expired"}, w.told(r)); diff != "" {
			t.Error(diff)
		}
		report, err := w.db.VerifyChain(t.Context(), w.customer.ID)
		if err != nil || !report.Holds {
			t.Errorf("the trail: %+v, %v", report, err)
		}
	})
}

func TestTexts_AreMeasuredInCharacters(t *testing.T) {
	w, tm := ledger(t)
	in := ask(tm)
	in.Justification = strings.Repeat("я", 4096) // two bytes each
	r := w.submit("ann", in)
	if _, err := w.requests.AddMessage(t.Context(), w.as("bob"), r.ID, in.Justification); err != nil {
		t.Error(err)
	}
	_, err := w.requests.Deny(t.Context(), w.as("bob"), r.ID, in.Justification+"я")
	w.refused(err, "too_long")
	if _, err := w.requests.Deny(t.Context(), w.as("bob"), r.ID, in.Justification); err != nil {
		t.Error(err)
	}
}

func TestSubmit_WhatIsNotSaidIsNeverForEver(t *testing.T) {
	w := newWorld(t)
	soon := &access.Window{Start: w.at + minute, End: w.at + 30*minute}
	tm := w.ledger(nil)
	offers := func(types ...access.Assignment) access.Template {
		return w.template(func(t *access.Template) {
			t.Entitlements, t.ApproverGroups, t.AllowedDurations = tm.Entitlements, tm.ApproverGroups, []access.Minutes{60, 30}
			t.Name, t.AssignmentTypes, t.MaxDuration = "offers "+fmt.Sprint(types), types, 60
		})
	}
	type submission = access.Submission
	for name, tt := range map[string]struct {
		by   access.Template
		in   submission
		want access.Assignment // "" is refused
		code string
	}{
		"no duration where for ever is offered first": {offers(access.Permanent, access.Temporary), submission{}, "", "duration_required"},
		"no window where for ever is offered first":   {offers(access.Permanent, access.InWindow), submission{}, "", "window_required"},
		"a duration where for ever is offered first":  {offers(access.Permanent, access.InWindow, access.Temporary), submission{Duration: 30}, access.Temporary, ""},
		"a duration where a window is offered first":  {offers(access.InWindow, access.Temporary), submission{Duration: 60}, access.Temporary, ""},
		"a window where a duration is offered first":  {offers(access.Temporary, access.InWindow), submission{Window: soon}, access.InWindow, ""},
		"the template's duration":                     {offers(access.Permanent, access.InWindow, access.Temporary), submission{DefaultDuration: true}, access.Temporary, ""},
		"for ever, said":                              {offers(access.Temporary, access.Permanent), submission{Assignment: access.Permanent}, access.Permanent, ""},
		"nothing where nothing else is offered":       {offers(access.Permanent), submission{}, access.Permanent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.in.Template, tt.in.Justification = tt.by.ID, "x"
			r, err := w.requests.Submit(t.Context(), w.as("ann"), tt.in)
			if tt.want == "" {
				w.refused(err, tt.code)
			} else if err != nil || r.Assignment != tt.want {
				t.Errorf("%q, %v; want %s", r.Assignment, err, tt.want)
			}
		})
	}
}

// Attack on who decides: somebody asks for one thing after the other, and each of
// them is told to all approvers.
func TestSubmit_NobodyFloodsWhoDecides(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) {
		t.Selector, t.PendingTTL = &access.ResourceSelector{Kind: "account"}, 60
	})
	of := func(i int) access.Submission {
		in := ask(tm)
		in.Resources = []authz.EntityRef{{Type: "account", ID: fmt.Sprint("a", i)}}
		return in
	}
	w.resource("account", fmt.Sprint("a", access.MaxPending), nil)
	var last access.Request
	for i := range access.MaxPending {
		w.resource("account", fmt.Sprint("a", i), nil)
		last = w.submit("ann", of(i))
	}
	_, err := w.requests.Submit(t.Context(), w.as("ann"), of(access.MaxPending))
	w.refused(err, "too_many_pending")
	w.submit("eve", of(access.MaxPending)) // others may
	w.revoke("ann", last)
	w.submit("ann", of(access.MaxPending)) // there is room again
	_, err = w.requests.Submit(t.Context(), w.as("ann"), of(access.MaxPending-1))
	w.refused(err, "too_many_pending")
	w.at += 60 * minute // nobody has decided, and no sweep was made
	w.submit("ann", of(access.MaxPending-1))
}

// Whoever decides is shown a name, whatever the person was made with: an id alone
// tells nobody who it is that asks.
func TestSubmit_WhoHasNoNameGoesByTheUsername(t *testing.T) {
	w, tm := ledger(t)
	w.write(func(tx people.Writer) error {
		was, err := tx.Person(t.Context(), id("ann"))
		if err != nil {
			return err
		}
		is := was
		is.Name, is.Email = "", ""
		return tx.UpdatePerson(t.Context(), was, is)
	})
	r := w.submit("ann", ask(tm))
	if r.Requester.Name != "ann" || r.Beneficiary.Name != "ann" {
		t.Errorf("requester %+v, beneficiary %+v", r.Requester, r.Beneficiary)
	}
	if events := w.events(r); len(events) != 1 || events[0]["requester_name"] != "ann" {
		t.Errorf("told: %v", events)
	}
}
