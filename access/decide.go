package access

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
)

var errRequestNotFound = latchkey.Errorf(latchkey.NotFound, "access_request_not_found", "there is no such access request")

// errBlocked ends a change, and with it all it did: a task must succeed first.
var errBlocked = errors.New("a task must succeed first")

// Approve gives the caller's vote; with the last of those that the template wants
// the request is approved and the grant made. Where a task must succeed first it
// takes up to TriggerTimeout: a failure is TaskFailed trigger_task_failed or
// TaskTimeout trigger_task_timeout and leaves the request pending; anybody else who
// would decide meanwhile is refused with decision_in_progress.
func (s *Requests) Approve(ctx context.Context, call authz.Call, id string, v Verdict) (Request, error) {
	if err := textAllowed(v.Comment, "/comment"); err != nil {
		return Request{}, err
	}
	r, err := s.approve(ctx, call, id, v, "")
	if !errors.Is(err, errBlocked) {
		return r, err
	}
	holder := uuid.NewString()
	held, err := s.cfg.Record.Lease(ctx, call.Customer.ID, id, holder, call.Now, call.Now.Add(leaseTime))
	if err != nil {
		return Request{}, err
	}
	if !held {
		return Request{}, errInProgress()
	}
	failure := s.runTrigger(ctx, r, call.Now)
	if failure == nil {
		if s.cfg.Now != nil {
			call.Now = max(call.Now, s.cfg.Now())
		}
		r, err = s.approve(ctx, call, id, v, holder)
	} else {
		err = failure
	}
	text := ""
	if failure != nil {
		text = triggerText(failure)
	}
	// The lease would end by itself; whoever was told of a failure may go on at once.
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if lost := s.cfg.Record.Release(release, call.Customer.ID, id, holder, text); lost != nil {
		s.troubled(ctx, "trigger", lost)
	}
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

func errInProgress() error {
	return latchkey.Errorf(latchkey.Conflict, "decision_in_progress", "somebody is deciding on the request; try again in a minute")
}

// runTrigger runs the task that must succeed before an approval.
func (s *Requests) runTrigger(ctx context.Context, r Request, now latchkey.Instant) error {
	if s.cfg.Trigger == nil {
		return latchkey.Errorf(latchkey.TaskFailed, "trigger_task_failed", "the task that must succeed first cannot be run here")
	}
	bounded, cancel := context.WithTimeout(ctx, TriggerTimeout)
	defer cancel()
	err := s.cfg.Trigger.Before(bounded, TriggerEvent{Customer: r.Customer, Event: "approved", Request: r, Now: now})
	switch {
	case err == nil:
		return nil
	case latchkey.KindOf(err) == latchkey.TaskTimeout, errors.Is(err, context.DeadlineExceeded), bounded.Err() != nil:
		err = latchkey.Errorf(latchkey.TaskTimeout, "trigger_task_timeout", "the task that must succeed first took too long; the request is still pending").Because(err)
	default:
		err = latchkey.Errorf(latchkey.TaskFailed, "trigger_task_failed", "the task that must succeed first failed; the request is still pending").Because(err)
	}
	s.troubled(ctx, "trigger", err)
	return err
}

// triggerText is what the record keeps of a failure.
func triggerText(err error) string {
	e, ok := errors.AsType[*latchkey.Error](err)
	if !ok {
		return "trigger_task_failed"
	}
	return e.Code
}

// approve gives a vote. Where a task must succeed first, and nobody holds the lease
// for it, nothing is done; the error is errBlocked and the request what would be
// approved.
func (s *Requests) approve(ctx context.Context, call authz.Call, id string, v Verdict, holder string) (r Request, err error) {
	var granted bool
	var seq int64
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return r }), func(tx Tx) (audit.Draft, error) {
		granted = false
		var present Template
		var err error
		if r, present, err = s.toDecide(ctx, tx, &call, id, holder); err != nil {
			return audit.Draft{}, err
		}
		if err := s.still(ctx, tx, &r, &present); err != nil {
			return audit.Draft{}, err
		}
		if r.Approvals, err = s.standing(ctx, tx, &r, &present); err != nil {
			return audit.Draft{}, err
		}
		before := r
		d, err := s.vote(ctx, tx, &call, &r, Approve{
			By: PartyOf(call.Person), Method: ManualDecision, Comment: v.Comment, Window: v.Window, Grant: uuid.NewString(),
		})
		if granted = r.Status == Approved; err == nil && granted && before.blocks() && holder == "" {
			r = before
			err = errBlocked
		}
		seq = tx.Seq()
		return d, err
	})
	if err != nil {
		return r, err
	}
	if granted {
		s.granted(ctx, &call, seq)
	}
	return r, nil
}

// Deny denies a pending request: one denial is enough, whatever was approved.
func (s *Requests) Deny(ctx context.Context, call authz.Call, id, comment string) (Request, error) {
	if err := textAllowed(comment, "/comment"); err != nil {
		return Request{}, err
	}
	return s.decline(ctx, call, id, func(by Party) (Event, string, string) {
		return Deny{By: by, Comment: comment}, "deny", DeniedEvent
	})
}

// Fail ends a pending request that cannot be carried out; by who may decide.
func (s *Requests) Fail(ctx context.Context, call authz.Call, id, why string) (Request, error) {
	if err := textAllowed(why, ""); err != nil {
		return Request{}, err
	}
	return s.decline(ctx, call, id, func(Party) (Event, string, string) { return Fail{Why: why}, "fail", "" })
}

func (s *Requests) decline(ctx context.Context, call authz.Call, id string, with func(by Party) (e Event, action, event string)) (r Request, err error) {
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return r }), func(tx Tx) (audit.Draft, error) {
		var err error
		if r, _, err = s.toDecide(ctx, tx, &call, id, ""); err != nil {
			return audit.Draft{}, err
		}
		e, action, event := with(PartyOf(call.Person))
		if r, err = s.step(ctx, tx, r, e, call.Now); err != nil {
			return audit.Draft{}, err
		}
		p := r.told(event)
		if action == "deny" {
			p = p.text("decided_by", r.DecidedBy).text("decision_method", r.DecisionMethod)
		}
		return draft(&call, &r, action, p), nil
	})
	if err != nil {
		return Request{}, err
	}
	return r, nil
}

// step takes a request one step on, and writes it down.
func (s *Requests) step(ctx context.Context, tx Tx, r Request, e Event, now latchkey.Instant) (Request, error) {
	next, err := Step(r, e, now)
	if err != nil {
		return r, err
	}
	next.Version = tx.Seq()
	return next, tx.UpdateRequest(ctx, next)
}

// vote writes a vote down, and with the last one makes the grant.
func (s *Requests) vote(ctx context.Context, tx Tx, call *authz.Call, r *Request, e Approve) (audit.Draft, error) {
	next, err := s.step(ctx, tx, *r, e, call.Now)
	if err != nil {
		return audit.Draft{}, err
	}
	*r = next
	if r.Status != Approved {
		return draft(call, r, "vote", r.told("").text("approved_by", e.By.ID)), nil
	}
	entries, err := entriesOf(s.cfg.Parser, r)
	if err != nil {
		return audit.Draft{}, err
	}
	if err := roomToHold(ctx, tx, r, call.Now); err != nil {
		return audit.Draft{}, err
	}
	author := audit.Actor{Type: System, ID: e.By.ID}
	if e.Method == ManualDecision {
		actor := call.Actor()
		author = audit.Actor{Type: actor.Type, ID: actor.ID}
	}
	claims := r.Snapshot.Claims
	if claims == "{}" {
		claims = ""
	}
	return draft(call, r, "approve", r.approved()), tx.InsertGrant(ctx, authz.GrantRecord{
		ID: r.Grant, Customer: r.Customer, Subject: r.holder(), Entries: entries, Reason: "access request: " + r.Snapshot.Template.Name,
		NotBefore: r.NotBefore, ExpiresAt: r.ExpiresAt, RevokedAt: latchkey.Never, CreatedAt: call.Now, Author: author, Version: tx.Seq(),
		Request: r.ID, Entitlements: r.Snapshot.Template.Entitlements, Claims: claims,
	})
}

// holder is who is to hold the grant.
func (r *Request) holder() authz.EntityRef {
	return authz.EntityRef{Type: authz.SubjectUser, ID: r.Beneficiary.ID}
}

// roomToHold refuses one grant more than somebody may hold.
func roomToHold(ctx context.Context, tx Tx, r *Request, now latchkey.Instant) error {
	n, err := tx.CountLiveGrants(ctx, r.holder(), now)
	if err == nil && n >= authz.MaxGrants {
		err = latchkey.Errorf(latchkey.Conflict, "too_many_grants", "the subject already holds %d grants; wait for some to end, or revoke them", n)
	}
	return err
}

// toDecide is a request that the caller may decide on, with its template as it is
// now. To whom it is no concern there is none.
func (s *Requests) toDecide(ctx context.Context, tx Tx, call *authz.Call, id, holder string) (r Request, present Template, err error) {
	if !call.IsPerson() {
		return r, present, errPersonRequired()
	}
	r, present, groups, err := s.found(ctx, tx, call, id)
	if err != nil {
		return r, present, err
	}
	if !r.Snapshot.Template.AllowSelfApproval || !present.AllowSelfApproval {
		if err := authz.NotToOneselfIn(ctx, tx, &call.Caller, r.subjects()...); err != nil {
			return r, present, err
		}
	}
	switch {
	case r.StatusAt(call.Now) != Pending:
		return r, present, errNotPending(&r, call.Now)
	case !r.decides(&present, groups, call.IsAdmin()):
		return r, present, latchkey.Errorf(latchkey.Forbidden, "approver_required", "others decide on this request")
	case r.held(holder, call.Now):
		return r, present, errInProgress()
	}
	return r, present, nil
}

// subjects are whose right it would be.
func (r *Request) subjects() []authz.EntityRef {
	return []authz.EntityRef{{Type: authz.SubjectUser, ID: r.Requester.ID}, r.holder()}
}

// decides reports whether somebody may decide on it by the template as it was when
// it was submitted and as it is now.
func (r *Request) decides(present *Template, groups []string, admin bool) bool {
	escalated := r.EscalatedAt != latchkey.Never
	return r.Snapshot.Template.decides(groups, admin, escalated) && present.decides(groups, admin, escalated)
}

// might reports whether somebody decides by one of the two: as a reader, and to end
// what was approved, that is enough.
func (r *Request) might(present *Template, groups []string, admin bool) bool {
	escalated := r.EscalatedAt != latchkey.Never
	return r.Snapshot.Template.decides(groups, admin, escalated) || r.Template != "" && present.decides(groups, admin, escalated)
}

// held reports whether somebody else runs the task that must succeed first.
func (r *Request) held(holder string, now latchkey.Instant) bool {
	return r.Lease != "" && r.Lease != holder && now < r.LeaseUntil
}

// found is a request that concerns the caller, with its template as it is now, the
// zero one where it was deleted, and the caller's groups.
func (s *Requests) found(ctx context.Context, tx Tx, call *authz.Call, id string) (r Request, present Template, groups []string, err error) {
	if !authz.IsID(id) {
		return r, present, nil, errRequestNotFound
	}
	if r, err = tx.Request(ctx, id); err != nil {
		return r, present, nil, err
	}
	if r.Template != "" {
		if present, err = tx.Template(ctx, r.Template); err != nil {
			return r, present, nil, err
		}
	}
	if call.IsPerson() {
		if groups, err = tx.GroupsOf(ctx, call.Person.ID); err != nil {
			return r, present, nil, err
		}
	}
	if !r.concerns(&call.Caller, &present, groups) {
		return r, present, nil, errRequestNotFound
	}
	r.Withheld = r.withheld(&call.Caller, &present, groups)
	return r, present, groups, nil
}

// concerns reports whether a request is anything to the caller: to whom it is of,
// who submitted it, who has decided or might, and managers.
func (r *Request) concerns(c *authz.Caller, present *Template, groups []string) bool {
	switch {
	case c.Manages(), r.asked(c):
		return true
	case c.IsPerson():
		id := c.Person.ID
		return id == r.DecidedBy || slices.ContainsFunc(r.Approvals, func(v Vote) bool { return v.By.ID == id }) ||
			r.might(present, groups, c.IsAdmin())
	}
	return false
}

// asked reports whether a request is the caller's own: of a person, one that it made
// or would gain by; of an access key, one that it submitted for somebody.
func (r *Request) asked(c *authz.Caller) bool {
	if c.IsPerson() {
		return c.Person.ID == r.Requester.ID || c.Person.ID == r.Beneficiary.ID
	}
	return c.Key != nil && r.SubmittedBy.Type == authz.SubjectAccessKey && r.SubmittedBy.ID == c.Key.ID.String()
}

// withheld reports whether a person whom a request concerns has no say in it: an
// approver by its template as it was, or as it is now, and not by both.
func (r *Request) withheld(c *authz.Caller, present *Template, groups []string) bool {
	if !c.IsPerson() || c.Manages() || r.Template == "" {
		return false
	}
	id := c.Person.ID
	return id != r.Requester.ID && id != r.DecidedBy && !slices.ContainsFunc(r.Approvals, func(v Vote) bool { return v.By.ID == id }) &&
		!r.decides(present, groups, c.IsAdmin())
}

// standing are the votes of those who might still give them: of several who are wanted
// none is one whose account was closed, or who decides here no more, authz.Bot neither.
// The others remain in the trail.
func (s *Requests) standing(ctx context.Context, tx Tx, r *Request, present *Template) (list []Vote, err error) {
	for _, v := range r.Approvals {
		person := authz.Person{Active: true} // authz.Bot, which is nobody
		if v.By.ID != authz.Bot {
			if person, err = tx.Person(ctx, v.By.ID); latchkey.KindOf(err) == latchkey.NotFound { // an internal admin, who is of another customer
				person, err = authz.Person{Type: authz.InternalAdminPerson, Active: true}, nil
			}
			if err != nil {
				return nil, err
			}
		}
		groups, err := tx.GroupsOf(ctx, v.By.ID)
		if err != nil {
			return nil, err
		}
		if person.Active && r.decides(present, groups, person.IsAdmin()) {
			list = append(list, v)
		}
	}
	return list, nil
}

// still refuses an approval of what could not be asked for now any more.
func (s *Requests) still(ctx context.Context, tx Tx, r *Request, present *Template) error {
	for _, who := range slices.Compact([]string{r.Requester.ID, r.Beneficiary.ID}) {
		person, err := tx.Person(ctx, who)
		if err == nil && !person.Active || latchkey.KindOf(err) == latchkey.NotFound {
			err = latchkey.Errorf(latchkey.Conflict, "requester_inactive", "who asked for it is not active any more")
		}
		if err != nil {
			return err
		}
		groups, err := tx.GroupsOf(ctx, who)
		if err != nil {
			return err
		}
		if !r.Snapshot.Template.allows(groups) || !present.allows(groups) {
			return latchkey.Errorf(latchkey.Conflict, "requester_not_allowed", "who asked for it may not any more")
		}
	}
	for _, id := range r.Snapshot.Template.Entitlements {
		_, err := tx.Entitlement(ctx, id)
		if latchkey.KindOf(err) == latchkey.NotFound {
			err = latchkey.Errorf(latchkey.Conflict, "entitlement_gone", "an entitlement that was asked for is not there any more")
		}
		if err != nil {
			return err
		}
	}
	for _, ref := range r.Resources {
		resource, found, err := tx.Resource(ctx, ref)
		if err != nil {
			return err
		}
		if !found || !r.Snapshot.Template.selects(resource) {
			return latchkey.Errorf(latchkey.Conflict, "resource_gone", "a resource that was asked for is not there any more, or not one that the template is for")
		}
	}
	return nil
}

// Revoke ends what was approved, by whom it was for, the service that asked for them,
// a manager, or who may decide; and cancels what is pending, by the first three. From
// its return on no decision of this process rests on the grant.
func (s *Requests) Revoke(ctx context.Context, call authz.Call, id, reason string) (Request, error) {
	if err := textAllowed(reason, "/reason"); err != nil {
		return Request{}, err
	}
	return s.revoke(ctx, call, func(ctx context.Context, tx Tx) (Request, Revoke, error) {
		r, present, groups, err := s.found(ctx, tx, &call, id)
		if err != nil {
			return r, Revoke{}, err
		}
		c := &call.Caller
		pending := r.StatusAt(call.Now) == Pending
		switch {
		case !r.asked(c) && !c.Manages() && (pending || !c.IsPerson() || !r.might(&present, groups, c.IsAdmin())):
			return r, Revoke{}, latchkey.Errorf(latchkey.Forbidden, "requester_required", "only who asked, or a manager, may do this")
		case pending && r.held("", call.Now):
			return r, Revoke{}, errInProgress()
		}
		actor := call.Actor()
		return r, Revoke{By: actor.ID, Reason: reason}, nil
	})
}

// revoke makes the change that ends a request and its grant.
func (s *Requests) revoke(ctx context.Context, call authz.Call, with func(context.Context, Tx) (Request, Revoke, error)) (r Request, err error) {
	var seq int64
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return r }), func(tx Tx) (audit.Draft, error) {
		found, e, err := with(ctx, tx)
		if err != nil {
			return audit.Draft{}, err
		}
		if r, err = s.step(ctx, tx, found, e, call.Now); err != nil {
			return audit.Draft{}, err
		}
		if err := s.endGrant(ctx, tx, &r, call.Now); err != nil {
			return audit.Draft{}, err
		}
		seq = tx.Seq()
		return revoked(&call, &r), nil
	})
	if err != nil {
		return Request{}, err
	}
	if r.Grant != "" {
		s.cfg.Subjects.Reach(ctx, call.Customer.ID, seq)
	}
	return r, nil
}

// endGrant ends the grant of a request, unless something else has.
func (s *Requests) endGrant(ctx context.Context, tx Tx, r *Request, now latchkey.Instant) error {
	if r.Grant == "" {
		return nil
	}
	g, err := tx.Grant(ctx, r.Grant)
	if err != nil || g.Status(now) == authz.GrantEnded {
		return err
	}
	return tx.RevokeGrant(ctx, g, now)
}

// Leave ends, within the change that deactivates a person, what the person has asked
// for, or would gain, and that has not ended: each is an event of its own.
func (s *Requests) Leave(ctx context.Context, tx Tx, call authz.Call, p authz.Person) error {
	list, err := tx.OpenRequestsOf(ctx, p.ID, call.Now)
	if err != nil {
		return err
	}
	for _, r := range list {
		r, err := s.step(ctx, tx, r, Revoke{By: call.Actor().ID, Reason: "the person was deactivated"}, call.Now)
		if err == nil {
			err = s.endGrant(ctx, tx, &r, call.Now)
		}
		if err == nil {
			err = tx.Event(ctx, revoked(&call, &r))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func revoked(call *authz.Call, r *Request) audit.Draft {
	return draft(call, r, "revoke", r.told(RevokedEvent).text("revoked_by", r.RevokedBy).flag("cancelled", r.Cancelled()))
}

// RevokeGrant ends the request that a grant came of; it implements
// authz.RequestRevoker.
func (s *Requests) RevokeGrant(ctx context.Context, call authz.Call, g authz.GrantRecord) error {
	_, err := s.Revoke(ctx, call, g.Request, "")
	return err
}

// textAllowed refuses a text that is too long, or holds what nobody may read: a
// credential, or control characters.
func textAllowed(text, at string) error {
	if _, wrong := checkText(text, maxText, notProse); wrong != nil {
		return fault(at, wrong.Code, wrong.Detail)
	}
	return nil
}
