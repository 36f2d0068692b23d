package access_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

var races = flag.Int("races", 5, "how many requests are raced for")

// Whatever fifty people do to one request at once: one decision, then at most one
// revocation, each told once, and a grant only while it is approved.
func TestRace_OneDecisionThenAtMostOneRevocation(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		var names []string
		for i := range 25 {
			names = append(names, fmt.Sprintf("p%02d", i))
		}
		w.people(append(names, "ann")...)
		w.person(authz.AdminPerson, "ada")
		group := w.group("approvers", names...)
		one, two := w.template(func(t *access.Template) { t.ApproverGroups = []string{group} }), w.template(func(t *access.Template) {
			t.Name, t.ApproverGroups, t.ApprovalsRequired = "Two", []string{group}, 2
		})
		calls := map[string]authz.Call{"ann": w.as("ann"), "ada": w.as("ada")}
		for _, name := range names {
			calls[name] = w.as(name)
		}
		for round := range *races {
			tm := one
			if round%2 == 1 {
				tm = two
			}
			r := w.submit("ann", ask(tm))
			var mu sync.Mutex
			done := map[string]int{}
			var start, all sync.WaitGroup
			start.Add(1)
			for i := range 50 {
				all.Go(func() {
					name, what := names[i%25], "approve"
					switch i % 5 {
					case 3:
						what = "deny"
					case 4:
						name, what = []string{"ann", "ada"}[i%2], "revoke"
					}
					start.Wait()
					var got access.Request
					var err error
					switch what {
					case "approve":
						got, err = w.requests.Approve(context.Background(), calls[name], r.ID, access.Verdict{})
					case "deny":
						got, err = w.requests.Deny(context.Background(), calls[name], r.ID, "")
					case "revoke":
						got, err = w.requests.Revoke(context.Background(), calls[name], r.ID, "")
					}
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						done[what+" "+string(got.Status)]++
					case latchkey.KindOf(err) == latchkey.Unavailable: // a machine that is too busy for fifty
						done["unavailable"]++
					case latchkey.KindOf(err) != latchkey.Conflict:
						t.Errorf("%s by %s: %v", what, name, err)
					}
				})
			}
			start.Done()
			all.Wait()

			got := w.read(r)
			told := w.told(r)
			decisions := len(slices.DeleteFunc(slices.Clone(told), func(e string) bool { return e != "approved" && e != "denied" }))
			cancelled := got.Cancelled()
			if decisions > 1 || decisions == 1 == cancelled || done["approve approved"]+done["deny denied"] != decisions || done["revoke revoked"] > 1 {
				t.Fatalf("%v: told %v, %+v", done, told, got)
			}
			var want []string
			switch {
			case cancelled:
				want = []string{"submitted", "revoked"}
			case got.Status == access.Denied:
				want = []string{"submitted", "denied"}
			case got.Status == access.Revoked:
				want = []string{"submitted", "approved", "revoked"}
			default:
				want = []string{"submitted", "approved"}
			}
			if !slices.Equal(told, want) {
				t.Fatalf("%v: told %v, want %v", done, told, want)
			}
			live := 0
			for _, g := range w.grants("ann") {
				if g.Request == r.ID {
					live++
				}
			}
			if (got.Status == access.Approved) != (live == 1) || live > 1 {
				t.Fatalf("%s with %d live grants", got.Status, live)
			}
			if got.Status == access.Approved {
				w.revoke("ada", got)
			}
		}
		if report, err := w.db.VerifyChain(t.Context(), w.customer.ID); err != nil || !report.Holds {
			t.Errorf("the trail: %+v, %v", report, err)
		}
	})
}

func TestRace_OnePendingRequest(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		tm := w.ledger(nil)
		call := w.as("ann")
		for range *races {
			var mu sync.Mutex
			made := map[string]bool{}
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					r, err := w.requests.Submit(context.Background(), call, ask(tm))
					if err == nil {
						mu.Lock()
						defer mu.Unlock()
						made[r.ID] = true
					} else if latchkey.CodeOf(err) != "pending_request_exists" {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if len(made) != 1 {
				t.Fatalf("%d pending requests", len(made))
			}
			for id := range made {
				w.revoke("ann", access.Request{ID: id})
			}
		}
	})
}

// The attack: a submission slips in while its template is deleted, and is decided on
// by nothing.
func TestRace_TemplateDeletionAndSubmission(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.ledger(nil)
		for i := range *races {
			tm := w.template(func(t *access.Template) { t.Name = fmt.Sprint("t", i) })
			var all sync.WaitGroup
			var submitted, deleted error
			ann, ada := w.as("ann"), w.as("ada")
			all.Go(func() { _, submitted = w.requests.Submit(context.Background(), ann, ask(tm)) })
			all.Go(func() { deleted = w.templates.Delete(context.Background(), ada, tm.ID) })
			all.Wait()
			got := latchkey.CodeOf(submitted) + " " + latchkey.CodeOf(deleted)
			if !slices.Contains([]string{"template_not_found ", " template_in_use"}, got) {
				t.Fatalf("submit: %v, delete: %v", submitted, deleted)
			}
		}
	})
}

// The attack: two who approve while a task must succeed first, to have it run twice
// or to decide around it.
func TestTrigger_HoldsUpEverybodyElse(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, nil)
	r := w.submit("ann", ask(tm))
	running, finish := make(chan access.TriggerEvent), make(chan error)
	w.trigger = func(_ context.Context, e access.TriggerEvent) error {
		running <- e
		return <-finish
	}
	bob := w.as("bob")
	result := make(chan error, 1)
	go func() {
		_, err := w.requests.Approve(context.Background(), bob, r.ID, access.Verdict{})
		result <- err
	}()
	e := <-running
	if e.Event != "approved" || e.Request.ID != r.ID || e.Request.Status != access.Pending {
		t.Errorf("the task was told of %+v", e)
	}
	if held := w.read(r); held.Lease == "" || held.LeaseUntil != w.at+45*minute/60 { // what a crash leaves behind
		t.Errorf("held by %q until %s", held.Lease, held.LeaseUntil)
	}
	_, err := w.requests.Approve(t.Context(), w.as("ben"), r.ID, access.Verdict{})
	w.refused(err, "decision_in_progress")
	_, err = w.requests.Deny(t.Context(), w.as("ben"), r.ID, "")
	w.refused(err, "decision_in_progress")
	_, err = w.requests.Revoke(t.Context(), w.as("ann"), r.ID, "")
	w.refused(err, "decision_in_progress")
	w.at += minute / 2 // the task took its time: the clock starts when it is approved
	finish <- nil
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	got := w.read(r)
	if got.Status != access.Approved || got.NotBefore != w.at || got.Lease != "" || got.TriggerFailure != "" {
		t.Errorf("%+v", got)
	}
}

func TestTrigger_FailureLeavesItPending(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, nil)
	r := w.submit("ann", ask(tm))
	for code, failure := range map[string]error{
		"trigger_task_failed":  fmt.Errorf("exit 1, token lkp1_secret"),
		"trigger_task_timeout": fmt.Errorf("task: %w", context.DeadlineExceeded),
	} {
		w.trigger = func(context.Context, access.TriggerEvent) error { return failure }
		_, err := w.requests.Approve(t.Context(), w.as("bob"), r.ID, access.Verdict{})
		w.refused(err, code)
		if e, ok := errors.AsType[*latchkey.Error](err); !ok || strings.Contains(e.Public, "lkp1_") {
			t.Errorf("the failure is shown: %v", err)
		}
		got := w.read(r)
		if got.Status != access.Pending || len(got.Approvals) != 0 || got.TriggerFailure != code || len(w.grants("ann")) != 0 {
			t.Errorf("%+v", got)
		}
	}
	w.trigger = nil
	if got := w.approve("ben", r); got.Status != access.Approved || w.read(r).TriggerFailure != "" {
		t.Errorf("a later try: %+v", got)
	}
	if got := w.told(r); !slices.Equal(got, []string{"submitted", "approved"}) {
		t.Errorf("told %v", got)
	}
}

// The process that ran the task went away: its lease ends by itself.
func TestTrigger_ALeaseEnds(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, nil)
	r := w.submit("ann", ask(tm))
	held, err := w.db.Access().Lease(t.Context(), w.customer.ID, r.ID, "gone", w.at, w.at+45*minute/60)
	if err != nil || !held {
		t.Fatal(held, err)
	}
	w.at += 44 * minute / 60
	_, err = w.requests.Approve(t.Context(), w.as("bob"), r.ID, access.Verdict{})
	w.refused(err, "decision_in_progress")
	w.at += minute / 60
	w.approve("bob", r)
}

func TestTrigger_UnderAutoApproval(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, func(t *access.Template) { t.AutoApprove = true })
	runs := 0
	w.trigger = func(context.Context, access.TriggerEvent) error {
		runs++
		if runs == 1 {
			return errors.New("no")
		}
		return nil
	}
	r := w.submit("ann", ask(tm))
	if r.Status != access.Pending || w.read(r).TriggerFailure != "trigger_task_failed" || len(r.Notified) != 2 {
		t.Errorf("a failed task: %+v", r)
	}
	_, err := w.requests.Submit(t.Context(), w.as("ann"), ask(tm))
	w.refused(err, "pending_request_exists")
	if runs != 1 {
		t.Errorf("a task ran for what was refused anyway: %d runs", runs)
	}
	w.revoke("ann", r)
	if r := w.submit("ann", ask(tm)); r.Status != access.Approved || runs != 2 || len(w.grants("ann")) != 1 {
		t.Errorf("after %d runs: %+v", runs, r)
	}
}

// What a provider has approved and the task that must succeed first has not let pass
// stays, though nobody but the bot decides: why it failed is not lost.
func TestTrigger_FailedUnderTheBotAlone(t *testing.T) {
	w := newWorld(t)
	w.people("ann")
	group := w.group("approvers", authz.Bot)
	tm := w.blocking(w.template(func(t *access.Template) {
		t.ApproverGroups, t.AutoApproveWhen = []string{group}, "oncall.pagerduty.active"
	}), func(*access.Template) {})
	w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) {
		return access.AutoAnswer{Approve: true}, nil
	}
	w.trigger = func(context.Context, access.TriggerEvent) error { return errors.New("no") }
	if r := w.submit("ann", ask(tm)); r.Status != access.Pending || w.read(r).TriggerFailure != "trigger_task_failed" {
		t.Errorf("%+v", r)
	}
	w.auto = func(context.Context, access.AutoQuestion) (access.AutoAnswer, error) { return access.AutoAnswer{}, nil }
	w.people("eve")
	_, err := w.requests.Submit(t.Context(), w.as("eve"), ask(tm))
	w.refused(err, "no_eligible_approver")
}

// The attack: somebody has the task of a template that approves by itself run for a
// request that is then refused. What the task opens outside nobody would close: no
// event tells of the end of a request that never was.
func TestTrigger_IsNotRunForWhatIsRefusedAfterwards(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, func(t *access.Template) {
		t.AutoApprove, t.AssignmentTypes = true, []access.Assignment{access.Temporary, access.InWindow}
	})
	runs := 0
	var meanwhile func()
	w.trigger = func(context.Context, access.TriggerEvent) error {
		runs++
		w.at += minute / 3 // it takes a while
		if meanwhile != nil {
			meanwhile()
		}
		return nil
	}
	window := func(d latchkey.Instant) access.Submission {
		in := ask(tm)
		in.Assignment, in.Duration, in.Window = access.InWindow, 0, &access.Window{Start: w.at, End: w.at + d}
		return in
	}
	r := w.submit("ann", window(minute/6)) // which is over before the task is done
	if runs != 0 || r.Status != access.Pending {
		t.Errorf("a short window: %d runs, %+v", runs, r)
	}
	w.revoke("ann", r)
	if r := w.submit("ann", window(5*minute)); runs != 1 || r.Status != access.Approved {
		t.Errorf("a window: %d runs, %+v", runs, r)
	}
	meanwhile = func() { // she ends the token that she asks with
		w.write(func(tx people.Writer) error {
			_, err := tx.EndSecrets(t.Context(), id("eve"), false, "", w.at)
			return err
		})
	}
	if r := w.submit("eve", ask(tm)); runs != 2 || r.Status != access.Approved || len(w.grants("eve")) != 1 {
		t.Errorf("a token that ends: %d runs, %+v", runs, r)
	}
	meanwhile = nil
	w.write(func(tx people.Writer) error {
		for i := range authz.MaxGrants - 1 {
			g := authz.GrantRecord{ID: id(fmt.Sprint("grant", i)), Subject: authz.EntityRef{Type: "user", ID: id("ann")}, Entries: "{}", ExpiresAt: latchkey.Never, RevokedAt: latchkey.Never}
			if err := tx.InsertGrant(t.Context(), g); err != nil {
				return err
			}
		}
		return nil
	})
	_, err := w.requests.Submit(t.Context(), w.as("ann"), ask(tm))
	w.refused(err, "too_many_grants")
	if runs != 2 {
		t.Errorf("the task ran for a grant that there was no room for: %d runs", runs)
	}
}

// The attack: a manager makes the template run another task while that of before is
// running for a submission. What is approved by itself has passed the task of the
// template that it is approved by.
func TestTrigger_UnderAutoApprovalIsThatOfTheTemplateAsItIs(t *testing.T) {
	w, tm := ledger(t)
	tm = w.blocking(tm, func(t *access.Template) { t.AutoApprove = true })
	var ran []string
	w.trigger = func(_ context.Context, e access.TriggerEvent) error {
		ran = append(ran, e.Request.Snapshot.Template.Description)
		if len(ran) == 1 {
			changed := tm
			changed.Description = "stricter"
			w.update(changed)
			return nil
		}
		return errors.New("no")
	}
	r := w.submit("ann", ask(tm))
	if r.Status != access.Pending || w.read(r).TriggerFailure != "trigger_task_failed" || !slices.Equal(ran, []string{tm.Description, "stricter"}) {
		t.Errorf("ran %q: %+v", ran, r)
	}
}

// blocking gives a template a task that must succeed first.
func (w *world) blocking(tm access.Template, change func(*access.Template)) access.Template {
	w.Helper()
	tm.TriggerTask, tm.TriggerFailureMode = w.task(), access.Block
	if change != nil {
		change(&tm)
	}
	return w.update(tm)
}
