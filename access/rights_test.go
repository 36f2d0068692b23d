package access_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// To whom a request is no concern there is none: its id tells nothing.
func TestRequest_IsThereForWhomItConcerns(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	service, other, manager := w.service(`{"approvals":true}`), w.service(`{"approvals":true}`), w.service(`{"access_requests_manage":true}`)
	in := ask(tm)
	in.Beneficiary = id("ann")
	r, err := w.requests.Submit(t.Context(), service, in)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requester.ID != id("ann") || r.Beneficiary.ID != id("ann") || r.SubmittedBy.ID != service.Key.ID.String() {
		t.Errorf("submitted by a service: %+v", r)
	}
	_, err = w.requests.Approve(t.Context(), w.as("ann"), r.ID, access.Verdict{})
	w.refused(err, "self_approval_forbidden")
	w.approve("ben", r)
	w.group("approvers", "bob") // ben has left, but decided
	for name, tt := range map[string]struct {
		call authz.Call
		sees bool
	}{
		"requester": {w.as("ann"), true}, "approver": {w.as("bob"), true}, "who decided": {w.as("ben"), true}, "admin": {w.as("ada"), true},
		"root": {w.as("root"), true}, "manager": {manager, true}, "the service": {service, true},
		"a stranger": {w.as("eve"), false}, "another service": {other, false},
	} {
		_, err := w.requests.Get(t.Context(), tt.call, r.ID)
		_, also := w.requests.Messages(t.Context(), tt.call, r.ID, access.Message{}, 10)
		if tt.sees != (err == nil) || tt.sees != (also == nil) || !tt.sees && latchkey.CodeOf(err) != "access_request_not_found" {
			t.Errorf("%s: %v, %v", name, err, also)
		}
	}
	for _, bad := range []string{"", "x", strings.ToUpper(r.ID), id("another")} {
		if _, err := w.requests.Get(t.Context(), w.as("root"), bad); latchkey.CodeOf(err) != "access_request_not_found" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for name, want := range map[string]int{"ann": 1, "eve": 0, "root": 0} {
		if list, err := w.requests.Mine(t.Context(), w.as(name), access.Query{Limit: 9}); err != nil || len(list) != want {
			t.Errorf("of %s: %d, %v", name, len(list), err)
		}
	}
	if list, err := w.requests.Mine(t.Context(), service, access.Query{Limit: 9}); err != nil || len(list) != 1 {
		t.Errorf("of the service: %d, %v", len(list), err)
	}
}

func TestRevoke_ByWhomAndWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	manager, portal, other := w.service(`{"access_requests_manage":true}`), w.service(`{"approvals":true}`), w.service(`{"approvals":true}`)
	key := manager.Key.ID.String()
	for name, tt := range map[string]struct {
		call     authz.Call
		approved bool
		code, by string
	}{
		"a pending one by who asked":     {w.as("ann"), false, "", id("ann")},
		"a pending one by an admin":      {w.as("ada"), false, "", id("ada")},
		"a pending one by root":          {w.as("root"), false, "", "root"},
		"a pending one by a service":     {manager, false, "", key},
		"a pending one by an approver":   {w.as("bob"), false, "requester_required", ""},
		"a pending one by a stranger":    {w.as("eve"), false, "access_request_not_found", ""},
		"an approved one by who asked":   {w.as("ann"), true, "", id("ann")},
		"an approved one by an approver": {w.as("ben"), true, "", id("ben")},
		"an approved one by a service":   {manager, true, "", key},
		"an approved one by a stranger":  {w.as("eve"), true, "access_request_not_found", ""},

		"a pending one by the service that asked":   {portal, false, "", portal.Key.ID.String()},
		"an approved one by the service that asked": {portal, true, "", portal.Key.ID.String()},
		"a pending one by another service":          {other, false, "access_request_not_found", ""},
		"an approved one by another service":        {other, true, "access_request_not_found", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := ask(tm)
			in.Beneficiary = id("ann")
			r, err := w.requests.Submit(t.Context(), portal, in)
			if err != nil {
				t.Fatal(err)
			}
			if tt.approved {
				w.approve("bob", r)
			}
			got, err := w.requests.Revoke(t.Context(), tt.call, r.ID, "because")
			if latchkey.CodeOf(err) != tt.code {
				t.Fatalf("want %q, got %v", tt.code, err)
			}
			if tt.code != "" {
				w.revoke("ada", r)
				return
			}
			decision, decidedBy := "Cancelled", ""
			if tt.approved {
				decision, decidedBy = "Approved", id("bob")
			}
			if got.Status != access.Revoked || got.RevokedBy != tt.by || got.RevokeReason != "because" || got.Cancelled() == tt.approved ||
				got.Decision(w.at) != decision || got.DecidedBy != decidedBy || len(w.grants("ann")) != 0 {
				t.Errorf("%+v", got)
			}
			events := w.events(r)
			if last := events[len(events)-1]; last["cancelled"] == tt.approved || last["event"] != access.RevokedEvent {
				t.Errorf("told %v", last)
			}
			_, err = w.requests.Revoke(t.Context(), tt.call, r.ID, "again")
			w.refused(err, "request_not_pending")
		})
	}
}

// A grant that came of a request ends with it, by whichever of the two it is ended.
func TestGrant_OfARequestIsRevokedAsTheRequest(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	r := w.approve("bob", w.submit("ann", ask(tm)))
	granter := authz.NewGranter(authz.GranterConfig{Record: w.db, Table: w.table, Subjects: w, Requests: w.requests})
	g, err := granter.Revoke(t.Context(), w.as("ada"), r.Grant)
	if err != nil || g.RevokedAt != w.at || g.Request != r.ID {
		t.Fatalf("%+v, %v", g, err)
	}
	if got := w.read(r); got.Status != access.Revoked || got.RevokedBy != id("ada") {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"submitted", "approved", "revoked"}, w.told(r)); diff != "" {
		t.Error(diff)
	}
	_, err = granter.Revoke(t.Context(), w.as("ada"), r.Grant)
	w.refused(err, "already_ended")
}

func TestLeave_EndsWhatThePersonAskedFor(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	again := w.template(func(t *access.Template) { t.Name, t.ApproverGroups = "Again", tm.ApproverGroups })
	approved, pending, others := w.approve("bob", w.submit("ann", ask(tm))), w.submit("ann", ask(again)), w.submit("eve", ask(tm))
	call := w.as("ada")
	leave := w.db.Access().Leaving(w.requests.Leave)
	err := w.db.People().Change(t.Context(), call.Change(nil), func(tx people.Writer) (audit.Draft, error) {
		return call.Draft("person.update", audit.Resource{Type: "person"}), leave(t.Context(), tx, call, *w.as("ann").Person)
	})
	if err != nil {
		t.Fatal(err)
	}
	if a, p, o := w.read(approved), w.read(pending), w.read(others); a.Status != access.Revoked || p.Status != access.Revoked || !p.Cancelled() || o.Status != access.Pending {
		t.Errorf("%s, %s, and of somebody else %s", a.Status, p.Status, o.Status)
	}
	if len(w.grants("ann")) != 0 {
		t.Error("the grant is live")
	}
	if report, err := w.db.VerifyChain(t.Context(), w.customer.ID); err != nil || !report.Holds {
		t.Errorf("the trail: %+v, %v", report, err)
	}
}

func TestMessages_UntilAWeekAfterTheEnd(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	r := w.submit("ann", ask(tm))
	say := func(name, body string) error {
		_, err := w.requests.AddMessage(t.Context(), w.as(name), r.ID, body)
		return err
	}
	for _, name := range []string{"ann", "bob", "ada", "root"} {
		if err := say(name, "hello from "+name); err != nil {
			t.Fatal(err)
		}
		w.at += minute
	}
	w.refused(say("eve", "hello"), "access_request_not_found")
	service := w.service(`{"approvals":true}`)
	_, err := w.requests.AddMessage(t.Context(), service, r.ID, "hello")
	w.refused(err, "person_required")
	w.refused(say("ann", " \n"), "blank_message")
	w.refused(say("ann", strings.Repeat("a", 4097)), "too_long")
	w.refused(say("ann", "bell \a"), "control_character")
	w.refused(say("ann", authz.NewAccessKeyToken(authz.Live).Reveal()), "credential_in_text")

	var after access.Message
	var got []string
	for range 5 {
		page, err := w.requests.Messages(t.Context(), w.as("bob"), r.ID, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			got, after = append(got, m.Author.Name+": "+m.Body), m
			if m.Author.Name == "" && m.Author.ID != "root" {
				t.Errorf("by %+v", m.Author)
			}
		}
	}
	if diff := cmp.Diff([]string{"ANN: hello from ann", "BOB: hello from bob", "ADA: hello from ada", ": hello from root"}, got); diff != "" {
		t.Error(diff)
	}
	for _, e := range w.events(r) {
		if text, _ := json.Marshal(e); strings.Contains(string(text), "hello from") || strings.Contains(string(text), "the incident") {
			t.Errorf("the trail tells what is for those who decide: %s", text)
		}
	}
	r = w.approve("bob", r)
	w.at = r.ExpiresAt + 7*24*60*minute - 1 // nobody has swept
	if err := say("ann", "thanks"); err != nil {
		t.Errorf("within the week: %v", err)
	}
	w.at++
	w.refused(say("ann", "too late"), "discussion_closed")
	if page, err := w.requests.Messages(t.Context(), w.as("ann"), r.ID, access.Message{}, 10); err != nil || len(page) != 5 {
		t.Errorf("it is read for ever: %d, %v", len(page), err)
	}
}

func TestPending_WaitsForTheCaller(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) { t.ApprovalsRequired = 2 })
	admins := w.template(func(t *access.Template) { t.Name = "By admins" })
	var mine []string
	for i := range 7 {
		w.at += minute
		name := []string{"ann", "bob", "eve"}[i%3]
		r := w.submit(name, ask(w.template(func(t *access.Template) {
			t.ApproverGroups, t.ApprovalsRequired = []string{w.group("bob and more", "bob", "ben", "cid", "ann")}, 2
		})))
		if name != "bob" {
			mine = append([]string{r.ID}, mine...)
		}
	}
	voted := w.submit("eve", ask(tm))
	w.group("approvers", "bob", "ben")
	w.approve("bob", voted)
	forAdmins := w.submit("eve", ask(admins))
	var got []string
	q := access.Query{Limit: 2}
	for range 10 {
		page, err := w.requests.Pending(t.Context(), w.as("bob"), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			got = append(got, page[i].ID)
			q.AfterCreated, q.AfterID = page[i].CreatedAt, page[i].ID
		}
		if len(page) < q.Limit {
			break
		}
	}
	if diff := cmp.Diff(mine, got); diff != "" {
		t.Errorf("waiting for bob: %s", diff)
	}
	if list, err := w.requests.Pending(t.Context(), w.as("ada"), access.Query{Limit: 9}); err != nil || len(list) != 1 || list[0].ID != forAdmins.ID {
		t.Errorf("waiting for an admin: %d, %v", len(list), err)
	}
}

func TestGrants_AtMostSoManyASubject(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	w.write(func(tx people.Writer) error {
		for i := range authz.MaxGrants {
			g := authz.GrantRecord{ID: id("grant" + string(rune(i))), Subject: authz.EntityRef{Type: "user", ID: id("ann")}, Entries: "{}", ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}
			if err := tx.InsertGrant(t.Context(), g); err != nil {
				return err
			}
		}
		return nil
	})
	r := w.submit("ann", ask(tm))
	_, err := w.requests.Approve(t.Context(), w.as("bob"), r.ID, access.Verdict{})
	w.refused(err, "too_many_grants")
	if got := w.read(r); got.Status != access.Pending {
		t.Errorf("%+v", got)
	}
}

func TestApprove_WindowAndPermanent(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) {
		t.AssignmentTypes, t.MaxDuration = []access.Assignment{access.InWindow, access.Permanent}, 240
	})
	begun := access.Window{Start: w.at - 30*minute, End: w.at + 30*minute}
	r := w.submit("ann", access.Submission{Template: tm.ID, Justification: "x", Window: &begun})
	w.at += 10 * minute
	if r = w.approve("bob", r); r.NotBefore != w.at || r.ExpiresAt != begun.End {
		t.Errorf("a window that has begun: %s to %s", r.NotBefore, r.ExpiresAt)
	}
	later := access.Window{Start: w.at + 60*minute, End: w.at + 120*minute}
	r = w.submit("ann", access.Submission{Template: tm.ID, Justification: "x", Window: &later})
	if r = w.approve("bob", r); r.NotBefore != later.Start || r.ExpiresAt != later.End {
		t.Errorf("a window to come: %s to %s", r.NotBefore, r.ExpiresAt)
	}
	r = w.submit("ann", access.Submission{Template: tm.ID, Justification: "x", Window: &later})
	w.at = later.End
	_, err := w.requests.Approve(t.Context(), w.as("bob"), r.ID, access.Verdict{})
	w.refused(err, "request_not_pending")
	r = w.submit("ann", access.Submission{Template: tm.ID, Justification: "x", Assignment: access.Permanent})
	if r = w.approve("bob", r); r.ExpiresAt != latchkey.Never || r.NotBefore != w.at {
		t.Errorf("for ever: %s to %s", r.NotBefore, r.ExpiresAt)
	}
	if got := r.StatusAt(latchkey.Never - 1); got != access.Approved {
		t.Errorf("it ends some day: %s", got)
	}
	w.revoke("ben", r)
	if len(w.grants("ann")) != 0 {
		t.Error("a permanent grant outlives its request")
	}
}

// An e-mail is for who would be shown the request at the moment it is written: the
// justification for those who decide, nothing for whom it concerns no more.
func TestReader_IsWhoWouldBeShownIt(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(nil)
	r := w.submit("ann", ask(tm))
	mine := w.submit("bob", ask(tm)) // an approver's own
	for name, tt := range map[string]struct {
		person, request string
		reads, decides  bool
	}{
		"who asked": {"ann", r.ID, true, false}, "who decides": {"bob", r.ID, true, true}, "an admin": {"ada", r.ID, true, false}, "a stranger": {"eve", r.ID, false, false},
		"an approver, of what is for the approver": {"bob", mine.ID, true, false}, "nobody": {"zoe", r.ID, false, false}, "a request that is not there": {"bob", id("none"), false, false},
	} {
		got, err := w.requests.Reader(t.Context(), w.customer.ID, id(tt.person), tt.request)
		if tt.reads != (err == nil) || got.Decides != tt.decides || !tt.reads && (latchkey.KindOf(err) != latchkey.NotFound || got.Request.ID != "" || got.Person.ID != "") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	w.group("approvers", "ben") // bob has left
	if got, err := w.requests.Reader(t.Context(), w.customer.ID, id("bob"), r.ID); latchkey.KindOf(err) != latchkey.NotFound || got.Decides {
		t.Errorf("who has left: %+v, %v", got, err)
	}
	w.write(func(tx people.Writer) error {
		ann := *w.as("ann").Person
		gone := ann
		gone.Active = false
		return tx.UpdatePerson(t.Context(), ann, gone)
	})
	if _, err := w.requests.Reader(t.Context(), w.customer.ID, id("ann"), r.ID); latchkey.KindOf(err) != latchkey.NotFound {
		t.Errorf("who is not active any more: %v", err)
	}
	for _, bad := range []string{"", "bob", strings.ToUpper(id("bob"))} {
		if _, err := w.requests.Reader(t.Context(), w.customer.ID, bad, r.ID); latchkey.KindOf(err) != latchkey.NotFound {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
